"""The Stripe stand-in's webhooks, verified by the real library in a shop on a real socket: signatures, snapshots,
order, redelivery, and all that a test may do to an event on its way.
"""

import json
import time
from collections.abc import Iterator
from typing import Any

import httpx
import pytest
import stripe

from infra.local.stripe.webhooks import sign
from tests.local.stripe_kit import DAY, HOUR, SECRET, START, Fake, problems, running, strangers

MONTH = 31 * DAY


@pytest.fixture(scope="module")
def served() -> Iterator[Fake]:
    with running() as fake:
        yield fake


@pytest.fixture
def fake(served: Fake) -> Fake:
    served.reset()
    served.listen()
    return served


def bought(fake: Fake) -> stripe.checkout.Session:
    session = fake.checkout("subscription", fake.price(999).id, client_reference_id="user-1")
    fake.leave(session, "good_card")
    fake.settle()
    return session


# --- what arrives ----------------------------------------------------------------------------------------------------


def test_events_arrive_in_order_signed_and_as_stripe_writes_them(fake: Fake) -> None:
    session = bought(fake)
    assert fake.shop.types == fake.happened()
    assert len(fake.shop.types) > 10
    event = json.loads(fake.shop.bodies[-1])
    assert list(event) == [
        "id",
        "object",
        "api_version",
        "created",
        "data",
        "livemode",
        "pending_webhooks",
        "request",
        "type",
    ]
    assert (event["type"], event["api_version"], event["created"]) == (
        "checkout.session.completed",
        stripe.api_version,
        START,
    )
    assert event["data"]["object"]["id"] == session.id
    assert event["data"]["object"]["client_reference_id"] == "user-1"
    assert event["request"] == {"id": None, "idempotency_key": None}
    assert b'\n  "id": "evt_' in fake.shop.bodies[-1]
    assert fake.shop.headers[-1]["user-agent"].startswith("Stripe/1.0")
    assert fake.shop.headers[-1]["content-type"] == "application/json; charset=utf-8"


def test_every_event_is_as_described(fake: Fake) -> None:
    """One of every kind that the stand-in sends in ordinary life."""
    session = bought(fake)
    customer = str(fake.v1.checkout.sessions.retrieve(session.id).customer)
    fake.control(f"/_customers/{customer}/card", works=False)
    fake.advance(MONTH + HOUR)
    fake.control(f"/_customers/{customer}/card", works=True)
    fake.advance(3 * DAY)
    charge = fake.v1.charges.list().data[0].id
    fake.v1.refunds.create({"charge": charge, "amount": 1})
    fake.control("/_disputes", charge=charge, status="lost")
    fake.v1.invoice_items.create({"customer": customer, "amount": 100, "currency": "usd"})
    fake.leave(fake.checkout("payment", fake.price(500, interval=None).id), "later_fails")
    fake.checkout("payment", fake.price(500, interval=None).id)
    fake.advance(DAY)
    fake.v1.customers.delete(customer)
    fake.settle()
    kinds = {
        "charge.dispute.closed",
        "charge.dispute.created",
        "charge.failed",
        "charge.refunded",
        "charge.succeeded",
        "checkout.session.async_payment_failed",
        "checkout.session.completed",
        "checkout.session.expired",
        "customer.created",
        "customer.deleted",
        "customer.subscription.created",
        "customer.subscription.deleted",
        "customer.subscription.updated",
        "customer.updated",
        "invoice.created",
        "invoice.finalized",
        "invoice.paid",
        "invoice.payment_failed",
        "invoiceitem.created",
        "payment_intent.payment_failed",
        "payment_intent.succeeded",
    }
    assert kinds <= {*fake.shop.types}
    for body in map(json.loads, fake.shop.bodies):
        thing = body["data"]["object"]
        name = {"checkout.session": "checkout.session"}.get(thing["object"], thing["object"])
        schema = {"$ref": f"#/components/schemas/{name}"}
        assert problems(schema, thing, body["type"], "") == []
        assert problems({"$ref": "#/components/schemas/event"}, body, "event", "") == []
        assert strangers(body, None, body["type"]) == []
        assert ("previous_attributes" in body["data"]) is (
            body["type"].endswith(".updated") or body["type"] in ("charge.refunded", "charge.dispute.closed")
        ), body["type"]


def test_an_event_tells_of_the_request_that_caused_it(fake: Fake) -> None:
    fake.v1.customers.create({}, {"idempotency_key": "mine"})
    fake.settle()
    (event,) = fake.shop.heard
    assert event.request
    assert event.request.id
    assert event.request.id.startswith("req_")
    assert event.request.idempotency_key == "mine"


def test_an_event_is_a_snapshot_however_late_it_comes(fake: Fake) -> None:
    fake.control("/_webhooks/mode", hold=True)
    customer = fake.v1.customers.create({"name": "before"})
    fake.v1.customers.update(customer.id, {"name": "after"})
    assert fake.shop.heard == []
    fake.control("/_webhooks/mode", hold=False)
    fake.settle()
    created, updated = (event.data.to_dict() for event in fake.shop.heard)
    assert created["object"]["name"] == "before"
    assert (updated["object"]["name"], updated["previous_attributes"]) == ("after", {"name": "before"})
    assert fake.v1.events.retrieve(fake.shop.heard[0].id).data.object["name"] == "before"


def test_what_is_due_again_while_events_are_held_is_held_too(fake: Fake) -> None:
    fake.shop.answer = lambda event: 500
    fake.v1.customers.create({})
    fake.settle()
    fake.shop.answer = lambda event: 200
    fake.control("/_webhooks/mode", hold=True)
    fake.advance(HOUR)
    assert len(fake.shop.heard) == 1
    fake.control("/_webhooks/mode", hold=False)
    fake.settle()
    assert len(fake.shop.heard) == 2


def test_a_stand_in_may_begin_with_held_events() -> None:
    with running(hold=True) as fake:
        fake.listen()
        fake.v1.customers.create({})
        fake.settle()
        assert fake.shop.heard == []
        fake.control("/_webhooks/mode", hold=False)
        fake.settle()
        assert fake.shop.types == ["customer.created"]


def test_pending_webhooks_says_whether_it_has_arrived(fake: Fake) -> None:
    fake.control("/_webhooks/mode", hold=True)
    fake.v1.customers.create({})
    (event,) = fake.v1.events.list().data
    assert event.pending_webhooks == 1
    fake.control("/_webhooks/mode", hold=False)
    fake.settle()
    assert fake.v1.events.retrieve(event.id).pending_webhooks == 0
    assert [one.id for one in fake.v1.events.list({"delivery_success": True}).data] == [event.id]


# --- signatures ------------------------------------------------------------------------------------------------------


def test_a_signature_is_what_the_library_itself_would_make() -> None:
    now = int(time.time())
    assert sign("{}", "whsec_a", now) == stripe.WebhookSignature.generate_signature_header("{}", "whsec_a", now)
    both = sign("{}", "whsec_a,whsec_b", now)
    for secret in ("whsec_a", "whsec_b"):
        assert stripe.WebhookSignature.verify_header("{}", both, secret, 300)
    with pytest.raises(stripe.SignatureVerificationError):
        stripe.WebhookSignature.verify_header("{}", both, "whsec_c", 300)


def test_a_signature_is_of_real_time_whatever_the_clock_says(fake: Fake) -> None:
    fake.advance(90 * DAY)
    fake.v1.customers.create({})
    fake.settle()
    body, header = fake.shop.bodies[-1], fake.shop.headers[-1]["stripe-signature"]
    assert fake.client.construct_event(body, header, SECRET).created == START + 90 * DAY
    with pytest.raises(stripe.SignatureVerificationError):
        fake.client.construct_event(body + b" ", header, SECRET)


# --- delivery --------------------------------------------------------------------------------------------------------


def deliveries(fake: Fake) -> list[tuple[str, int]]:
    """State and number of attempts of every event."""
    listed = fake.http.get("/_events").json()
    return [(one["delivery"]["state"], len(one["delivery"]["attempts"])) for one in listed]


def test_a_failed_delivery_is_tried_again_further_and_further_apart(fake: Fake) -> None:
    fake.shop.answer = lambda event: 500
    fake.v1.customers.create({})
    fake.settle()
    assert deliveries(fake) == [("failed", 1)]
    fake.advance(59)
    assert deliveries(fake) == [("failed", 1)]
    fake.advance(1)
    assert deliveries(fake) == [("failed", 2)]
    fake.advance(HOUR)
    assert deliveries(fake) == [("failed", 4)]
    fake.shop.answer = lambda event: 200
    fake.advance(2 * HOUR)
    assert deliveries(fake) == [("delivered", 5)]
    assert len({event.id for event in fake.shop.heard}) == 1


def test_after_three_days_stripe_gives_up(fake: Fake) -> None:
    fake.shop.answer = lambda event: 302
    fake.v1.customers.create({})
    fake.advance(4 * DAY)
    ((state, tries),) = deliveries(fake)
    assert (state, tries) == ("failed", 11)
    fake.advance(30 * DAY)
    assert deliveries(fake) == [("failed", 11)]
    assert fake.v1.events.list().data[0].pending_webhooks == 0


def test_an_endpoint_out_of_reach_is_a_failed_delivery(fake: Fake) -> None:
    fake.control("/_webhooks", url="http://127.0.0.1:1/nobody")
    fake.v1.customers.create({})
    fake.settle()
    assert deliveries(fake) == [("failed", 1)]
    fake.listen()
    assert [one["status"] for one in fake.control("/_deliver")] == [200]
    assert deliveries(fake) == [("delivered", 2)]


def test_only_chosen_types_are_sent(fake: Fake) -> None:
    fake.control("/_webhooks", url=f"{fake.shop_url}/hook", types=["customer.updated"])
    fake.v1.customers.update(fake.v1.customers.create({}).id, {"name": "x"})
    fake.settle()
    assert fake.shop.types == ["customer.updated"]


def test_events_are_delivered_in_any_order_as_often_as_asked(fake: Fake) -> None:
    fake.control("/_webhooks/mode", hold=True)
    for name in "abc":
        fake.v1.customers.create({"name": name})
    ids = [one["id"] for one in fake.http.get("/_events").json()]
    first, second, third = ids
    assert [one["status"] for one in fake.control("/_deliver", ids=[third, first, first])] == [200, 200, 200]
    assert [event.id for event in fake.shop.heard] == [third, first, first]
    assert fake.http.post("/_deliver", json={"ids": ["evt_0"]}).status_code == 404
    fake.control("/_webhooks/mode", hold=False)
    fake.settle()
    assert [event.id for event in fake.shop.heard][3:] == [second]
    fake.control("/_replay_all")
    assert [event.id for event in fake.shop.heard][4:] == ids


def test_together_means_at_the_same_time(fake: Fake) -> None:
    fake.control("/_webhooks/mode", hold=True)
    fake.v1.customers.create({})
    (event,) = fake.http.get("/_events").json()

    def until_two(_: stripe.Event) -> int:
        for _ in range(500):
            if fake.shop.most_at_once >= 2:
                return 200
            time.sleep(0.01)
        return 500

    fake.shop.answer = until_two
    statuses = [one["status"] for one in fake.control("/_deliver", ids=[event["id"]] * 2, together=True)]
    assert 200 in statuses
    assert fake.shop.most_at_once == 2
    assert len(fake.shop.heard) == 2


def test_a_dropped_event_never_comes_unless_it_is_named(fake: Fake) -> None:
    fake.control("/_webhooks/mode", drop=True)
    fake.v1.customers.create({})
    fake.control("/_webhooks/mode", drop=False, hold=True)
    fake.v1.customers.create({})
    lost, held = [one["id"] for one in fake.http.get("/_events").json()]
    fake.control("/_drop", ids=[held])
    fake.control("/_webhooks/mode", hold=False)
    fake.advance(5 * DAY)
    assert fake.shop.heard == []
    fake.control("/_deliver", ids=[lost])
    assert [event.id for event in fake.shop.heard] == [lost]


# --- what delivery means to invoices ---------------------------------------------------------------------------------


def test_a_draft_waits_an_hour_after_it_was_acknowledged(fake: Fake) -> None:
    fake.subscribe(fake.customer().id, fake.price(999).id)
    refuse = {"invoice.created": 503}
    fake.shop.answer = lambda event: refuse.get(event.type, 200)
    fake.advance(MONTH + 4 * HOUR)
    draft = fake.invoices()[0]
    assert (draft.status, draft.webhooks_delivered_at) == ("draft", None)
    refuse.clear()
    fake.control("/_deliver")
    heard = fake.now
    assert fake.v1.invoices.retrieve(draft.id).webhooks_delivered_at == heard
    fake.advance(HOUR - 1)
    assert fake.v1.invoices.retrieve(draft.id).status == "draft"
    fake.advance(HOUR)
    assert fake.v1.invoices.retrieve(draft.id).status == "paid"


def test_a_draft_waits_no_longer_than_three_days(fake: Fake) -> None:
    fake.subscribe(fake.customer().id, fake.price(999).id)
    fake.settle()
    fake.control("/_webhooks/mode", hold=True)
    fake.advance(MONTH + 72 * HOUR - 1)
    assert fake.invoices()[0].status == "draft"
    fake.advance(1)
    assert fake.invoices()[0].status == "paid"


def test_a_shop_that_adds_its_item_when_it_hears_of_the_draft(fake: Fake) -> None:
    """In one move over two renewals, because every step waits for the shop."""
    customer = fake.customer()
    subscription = fake.subscribe(customer.id, fake.price(999).id)

    def add(event: stripe.Event) -> int:
        invoice = event.data.object
        if event.type == "invoice.created" and invoice["billing_reason"] == "subscription_cycle":
            with httpx.Client(base_url=fake.url, headers={"authorization": "Bearer sk_test_local"}) as http:
                form = {"customer": invoice["customer"], "invoice": invoice["id"], "currency": "usd"}
                key = f"overage:{subscription.id}:{invoice['period_start']}"
                answer = http.post(
                    "/v1/invoiceitems",
                    data={**form, "unit_amount_decimal": "2.5", "quantity": "40"},
                    headers={"idempotency-key": key},
                )
                return answer.status_code
        return 200

    fake.shop.answer = add
    fake.advance(MONTH + 28 * DAY + HOUR)
    assert [(one.status, one.total) for one in fake.invoices()] == [("paid", 1099), ("paid", 1099), ("paid", 999)]
    assert set(deliveries(fake)) == {("delivered", 1)}
    created = [event["id"] for event in fake.http.get("/_events").json() if event["type"] == "invoice.created"]
    # A month later the first key is forgotten, and it is the paid invoice that refuses; the second key still answers.
    assert [one["status"] for one in fake.control("/_deliver", ids=created)] == [200, 400, 200]
    assert len(fake.v1.invoice_items.list().data) == 2


def test_an_invoice_that_cannot_be_finalized_says_so(fake: Fake) -> None:
    fake.subscribe(fake.customer().id, fake.price(999).id)
    fake.advance(MONTH)
    draft = fake.invoices()[0]
    fake.control(f"/_invoices/{draft.id}/finalization", fails=True)
    fake.advance(HOUR)
    failed = fake.v1.invoices.retrieve(draft.id)
    assert failed.status == "draft"
    assert failed.last_finalization_error
    (event,) = fake.shop.of("invoice.finalization_failed")
    assert event["data"]["object"]["id"] == draft.id
    with pytest.raises(stripe.InvalidRequestError):
        fake.v1.invoices.finalize_invoice(draft.id)
    fake.control(f"/_invoices/{draft.id}/finalization", fails=False)
    fake.advance(HOUR)
    assert fake.v1.invoices.retrieve(draft.id).status == "paid"


def test_the_buyer_returns_when_the_shop_has_heard(fake: Fake) -> None:
    """As at Stripe: the browser goes back once checkout.session.completed has been answered."""
    heard: list[Any] = []

    def slow(event: stripe.Event) -> int:
        time.sleep(0.05)
        heard.append(event.type)
        return 200

    fake.shop.answer = slow
    session = fake.checkout("payment", fake.price(500, interval=None).id)
    assert fake.leave(session, "good_card").status_code == 303
    assert "checkout.session.completed" in heard


def test_starting_over_forgets_everything(fake: Fake) -> None:
    fake.control("/_webhooks/mode", hold=True)
    fake.v1.customers.create({})
    fake.control("/_faults", method="GET", path="/v1/customers", status=500)
    assert fake.http.delete("/_state").json()["now"] == START
    assert fake.v1.customers.list().data == []
    assert fake.http.get("/_events").json() == []
    assert fake.http.get("/_webhooks").json() == {"url": "", "types": ["*"], "hold": False, "drop": False}
