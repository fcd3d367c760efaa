"""The API of the Stripe stand-in: errors, idempotency, lists, customers, products and prices.

The tests use the real StripeClient. It compares every answer with Stripe's own description (kit.py).
"""

import asyncio
import re
from typing import Any

import pytest
import stripe

from infra.local.stripe import API_VERSION
from infra.local.stripe.endpoints import ENDPOINTS
from tests.local.stripe.kit import DAY, START, CheckedClient, Fake, error_fields, operation

# --- requests and errors ---------------------------------------------------------------------------------------------


def test_version_matches_the_client() -> None:
    assert stripe.api_version == API_VERSION


def test_every_endpoint_exists_at_stripe() -> None:
    for endpoint in ENDPOINTS:
        assert operation(endpoint.method.lower(), re.sub(r"\{\w+\}", "some_id", endpoint.path))


def test_every_parameter_exists_in_the_client() -> None:
    from infra.local.stripe.forms import fields_of

    for endpoint in ENDPOINTS:
        known, _ = fields_of(endpoint.param_type)
        assert {use.partition(".")[0] for use in endpoint.supported} - known.keys() <= {"expand", "created"}, (
            endpoint.path
        )


@pytest.mark.parametrize("key", ["sk_test_other", ""])
def test_wrong_key_is_refused(fake: Fake, key: str) -> None:
    answer = fake.http.get("/v1/customers", headers={"authorization": f"Bearer {key}".strip()})
    assert answer.status_code == 401
    assert answer.json()["error"]["type"] == "invalid_request_error"
    with pytest.raises(stripe.AuthenticationError):
        fake.connect("sk_test_other").v1.customers.list()


def test_key_works_as_basic_username(fake: Fake) -> None:
    assert fake.http.get("/v1/customers", auth=("sk_test_local", "")).status_code == 200


def test_other_version_is_refused(fake: Fake) -> None:
    with pytest.raises(stripe.InvalidRequestError, match=re.escape(API_VERSION)):
        fake.v1.customers.list(options={"stripe_version": "2024-06-20"})


def test_answers_carry_request_id_and_version(fake: Fake) -> None:
    customer = fake.v1.customers.create({})
    response = customer.last_response
    assert response
    assert response.request_id
    assert response.request_id.startswith("req_")
    assert response.headers["stripe-version"] == API_VERSION


@pytest.mark.parametrize(
    ("call", "expected"),
    [
        (lambda v1: v1.customers.create({"emial": "x"}), (400, "parameter_unknown", "emial")),
        (
            lambda v1: v1.subscriptions.create({"customer": "c", "items": [{"prize": "p"}]}),
            (400, "parameter_unknown", "items[0][prize]"),
        ),
        (lambda v1: v1.prices.create({"unit_amount": 5}), (400, "parameter_missing", "currency")),
        (lambda v1: v1.prices.create({"currency": "usd", "unit_amount": 5}), (400, "parameter_missing", "product")),
        (lambda v1: v1.products.create({}), (400, "parameter_missing", "name")),
        (lambda v1: v1.subscriptions.create({}), (400, "parameter_missing", "customer")),
        (lambda v1: v1.checkout.sessions.create({}), (400, "parameter_missing", "mode")),
        (lambda v1: v1.invoices.create({}), (400, "parameter_missing", "customer")),
        (lambda v1: v1.refunds.create({}), (400, "parameter_missing", "payment_intent")),
        (lambda v1: v1.customers.create({"balance": "much"}), (400, "parameter_invalid_integer", "balance")),
        (lambda v1: v1.customers.create({"email": ""}), (400, "parameter_invalid_empty", "email")),
        (lambda v1: v1.invoices.list({"status": "lost"}), (400, None, "status")),
        (lambda v1: v1.invoices.create({"customer": "c", "auto_advance": "maybe"}), (400, None, "auto_advance")),
        (lambda v1: v1.subscriptions.create({"items": "p"}), (400, None, "items")),
        (lambda v1: v1.customers.list({"limit": 101}), (400, None, "limit")),
        (lambda v1: v1.events.list({"types": ["invoice.paid"] * 21}), (400, None, "types")),
        (lambda v1: v1.customers.create({"tax_exempt": "reverse"}), (400, "not_in_this_stand_in", "tax_exempt")),
        (
            lambda v1: v1.checkout.sessions.create({"subscription_data": {"trial_period_days": 3}}),
            (400, "not_in_this_stand_in", "subscription_data.trial_period_days"),
        ),
        (lambda v1: v1.customers.retrieve("cus_0"), (404, "resource_missing", "id")),
        (lambda v1: v1.subscriptions.update("sub_0", {}), (404, "resource_missing", "id")),
        (lambda v1: v1.subscriptions.create({"customer": "cus_0"}), (404, "resource_missing", "customer")),
        (lambda v1: v1.customers.list({"starting_after": "cus_0"}), (404, "resource_missing", "starting_after")),
        (lambda v1: v1.customers.list({"expand": ["data.email"]}), (400, None, "expand")),
        (lambda v1: v1.coupons.list(), (404, None, None)),
    ],
)
def test_invalid_request_gets_the_error_that_stripe_gives(fake: Fake, call: Any, expected: tuple[Any, ...]) -> None:
    fake.v1.customers.create({"email": "x@example.test"})
    with pytest.raises(stripe.InvalidRequestError) as error:
        call(fake.v1)
    assert error_fields(error) == expected


# --- idempotency -----------------------------------------------------------------------------------------------------


def test_repeated_idempotency_key_returns_the_first_answer(fake: Fake) -> None:
    first = fake.v1.customers.create({"email": "a@example.test"}, {"idempotency_key": "k1"})
    again = fake.v1.customers.create({"email": "a@example.test"}, {"idempotency_key": "k1"})
    assert again.id == first.id
    assert first.last_response
    assert again.last_response
    assert "idempotent-replayed" not in first.last_response.headers
    assert again.last_response.headers["idempotent-replayed"] == "true"
    assert len(fake.v1.customers.list().data) == 1


def test_idempotency_key_with_other_parameters_is_refused(fake: Fake) -> None:
    fake.v1.customers.create({"email": "a@example.test"}, {"idempotency_key": "k1"})
    with pytest.raises(stripe.IdempotencyError) as error:
        fake.v1.customers.create({"email": "b@example.test"}, {"idempotency_key": "k1"})
    assert error.value.http_status == 400
    with pytest.raises(stripe.IdempotencyError):
        fake.v1.products.create({"name": "a"}, {"idempotency_key": "k1"})


def test_idempotency_key_expires_after_a_day(fake: Fake) -> None:
    first = fake.v1.customers.create({}, {"idempotency_key": "k1"})
    fake.advance(DAY)
    assert fake.v1.customers.create({}, {"idempotency_key": "k1"}).id != first.id


def test_idempotency_key_stores_card_errors_but_not_invalid_requests(fake: Fake) -> None:
    customer = fake.customer(works=False)
    fake.v1.invoice_items.create({"customer": customer.id, "amount": 500, "currency": "usd"})
    invoice = fake.v1.invoices.create({"customer": customer.id, "pending_invoice_items_behavior": "include"})
    for _ in range(2):
        with pytest.raises(stripe.CardError):
            fake.v1.invoices.pay(invoice.id, {}, {"idempotency_key": "k1"})
    assert fake.event_types().count("invoice.payment_failed") == 1
    with pytest.raises(stripe.InvalidRequestError):
        fake.v1.products.create({}, {"idempotency_key": "k2"})
    assert fake.v1.products.create({"name": "now"}, {"idempotency_key": "k2"}).name == "now"


async def test_idempotency_key_in_use_is_refused_with_409(fake: Fake) -> None:
    fake.control("/_faults", method="POST", path="/v1/customers", seconds=2)
    http = CheckedClient()
    client = fake.connect(http=http)
    options: Any = {"idempotency_key": "k1"}
    results = await asyncio.gather(
        *(client.v1.customers.create_async({}, options) for _ in range(2)), return_exceptions=True
    )
    (error,) = [result for result in results if isinstance(result, stripe.StripeError)]
    assert error.error
    assert (error.http_status, error.error.code) == (409, "idempotency_key_in_use")
    assert len(fake.v1.customers.list().data) == 1
    await http.close_async()


@pytest.mark.parametrize("lost", [False, True])
def test_retry_of_the_client_takes_effect_once(fake: Fake, lost: bool) -> None:
    """The request fails before or after it took effect; the client repeats it with the same key."""
    fake.control("/_faults", method="POST", path="/v1/customers", status=503, lost=lost)
    http = CheckedClient(allow_sync_methods=True)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(stripe.HTTPClient, "_sleep_time_seconds", lambda *_, **__: 0)
        fake.connect(http=http, retries=2).v1.customers.create({"email": "a@example.test"})
    http.close()
    assert len(fake.v1.customers.list().data) == 1
    first, second = [request for request in fake.http.get("/_requests").json() if request["method"] == "POST"]
    assert (first["status"], second["status"]) == (503, 200)
    assert first["idempotency_key"] == second["idempotency_key"]


# --- customers, products, prices -------------------------------------------------------------------------------------


def test_customers_are_created_updated_searched_and_deleted(fake: Fake) -> None:
    v1 = fake.v1
    made = v1.customers.create({"email": "a@example.test", "name": "Ada", "metadata": {"user": "1", "old": "x"}})
    assert (made.email, made.name, made.created, made.livemode) == ("a@example.test", "Ada", START, False)
    changed = v1.customers.update(made.id, {"name": "Lovelace", "metadata": {"user": "2", "old": ""}})
    assert changed.name == "Lovelace"
    assert changed.metadata
    assert changed.metadata.to_dict() == {"user": "2"}
    assert v1.customers.update(made.id, {"metadata": ""}).to_dict()["metadata"] == {}
    v1.customers.create({"email": "b@example.test"})
    assert [customer.id for customer in v1.customers.list({"email": "a@example.test"}).data] == [made.id]
    v1.customers.update(made.id, {"metadata": {"user": "2"}})
    assert [customer.id for customer in v1.customers.search({"query": "metadata['user']:'2'"}).data] == [made.id]
    assert [
        customer.id for customer in v1.customers.search({"query": 'email:"a@example.test" AND name:"x"'}).data
    ] == []
    assert v1.customers.delete(made.id).deleted
    assert v1.customers.retrieve(made.id).deleted
    with pytest.raises(stripe.InvalidRequestError):
        v1.customers.update(made.id, {"name": "x"})
    assert fake.event_types()[0] == "customer.created"
    assert fake.event_types()[-1] == "customer.deleted"


def test_update_event_carries_previous_attributes(fake: Fake) -> None:
    customer = fake.v1.customers.create({"email": "a@example.test", "metadata": {"a": "1", "b": "2"}})
    fake.v1.customers.update(customer.id, {"email": "b@example.test", "metadata": {"a": "3"}})
    fake.v1.customers.update(customer.id, {"email": "b@example.test"})  # no change, no event
    (event,) = fake.v1.events.list({"type": "customer.updated"}).data
    data = event.data.to_dict()
    assert data["previous_attributes"] == {"email": "a@example.test", "metadata": {"a": "1"}}
    assert data["object"]["email"] == "b@example.test"


def test_lists_are_paged_newest_first(fake: Fake) -> None:
    ids = [fake.v1.customers.create({"name": str(number)}).id for number in range(7)]
    first = fake.v1.customers.list({"limit": 3})
    assert [customer.id for customer in first.data] == ids[:3:-1]
    assert first.has_more
    second = fake.v1.customers.list({"limit": 3, "starting_after": first.data[-1].id})
    assert [customer.id for customer in second.data] == ids[3:0:-1]
    back = fake.v1.customers.list({"limit": 2, "ending_before": second.data[-1].id})
    assert [customer.id for customer in back.data] == [ids[3], ids[2]]
    assert [customer.id for customer in fake.v1.customers.list({"limit": 3}).auto_paging_iter()] == ids[::-1]
    assert not fake.v1.customers.list({"created": {"gt": START}}).data
    assert len(fake.v1.customers.list({"created": START, "limit": 100}).data) == 7


async def test_async_client_works(fake: Fake) -> None:
    http = CheckedClient()
    v1 = fake.connect(http=http).v1
    for number in range(3):
        await v1.customers.create_async({"name": str(number)})
    page = await v1.customers.list_async({"limit": 2})
    assert [customer.name async for customer in page.auto_paging_iter()] == ["2", "1", "0"]
    await http.close_async()


def test_lookup_key_finds_a_price_and_can_move(fake: Fake) -> None:
    first = fake.price(999, lookup_key="basic")
    with pytest.raises(stripe.InvalidRequestError, match="already uses that lookup key"):
        fake.price(1099, lookup_key="basic")
    second = fake.price(1099, lookup_key="basic", transfer_lookup_key=True)
    other = fake.price(2999, lookup_key="pro")
    found = fake.v1.prices.list({"lookup_keys": ["basic", "pro"], "expand": ["data.product"]}).data
    assert [(price.id, price.unit_amount) for price in found] == [(other.id, 2999), (second.id, 1099)]
    assert isinstance(found[0].product, stripe.Product)
    assert fake.v1.prices.retrieve(first.id).lookup_key is None
    assert fake.v1.prices.update(first.id, {"active": False}).active is False
    assert [price.id for price in fake.v1.prices.list({"active": False}).data] == [first.id]


def test_default_price_is_not_archived(fake: Fake) -> None:
    first = fake.price(999)
    product = str(first.product)
    second = fake.price(1099, product=product)
    fake.v1.products.update(product, {"default_price": first.id})
    with pytest.raises(stripe.InvalidRequestError, match="cannot be archived"):
        fake.v1.prices.update(first.id, {"active": False})
    with pytest.raises(stripe.InvalidRequestError, match="of another product"):
        fake.v1.products.update(product, {"default_price": fake.price(100).id})
    assert fake.v1.products.update(product, {"default_price": second.id}).default_price == second.id
    assert fake.v1.prices.update(first.id, {"active": False}).active is False


def test_price_can_be_a_fraction_of_a_cent(fake: Fake) -> None:
    price = fake.price("2.50", interval=None)
    assert (price.unit_amount, str(price.unit_amount_decimal), price.type) == (None, "2.5", "one_time")
    whole = fake.price(1000)
    assert (whole.unit_amount, str(whole.unit_amount_decimal), whole.type) == (1000, "1000", "recurring")


def test_product_has_the_given_id_and_can_change(fake: Fake) -> None:
    product = fake.v1.products.create({"id": "prod_basic", "name": "Basic"})
    assert product.id == "prod_basic"
    assert fake.v1.products.update("prod_basic", {"name": "Base", "active": False}).name == "Base"
    assert fake.v1.products.list({"active": True}).data == []
    with pytest.raises(stripe.InvalidRequestError, match="already exists"):
        fake.v1.products.create({"id": "prod_basic", "name": "Basic"})
