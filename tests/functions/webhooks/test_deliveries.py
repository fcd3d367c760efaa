"""Repeated, concurrent, failing and ignored deliveries of events."""

import json
from collections.abc import Callable
from uuid import UUID

import pytest

from functions.common.billing import events as processing
from functions.common.database import Database
from functions.common.observe import ALLOWED
from functions.webhooks.handler import create
from infra.local.stripe import Settings, create_app
from tests.billing_kit import (
    SITE,
    BillingStack,
    captured_log,
    function_with,
    stripe_get,
    stripe_post,
)
from tests.conftest import Person
from tests.functions.maintenance.kit import command, findings
from tests.functions.webhooks.kit import (
    UNAVAILABLE,
    as_time,
    check_finished,
    clear_requests,
    credits_of,
    event_row,
    failed,
    newest,
    outcome,
    plan_of,
    post,
    press_portal_button,
    price_id,
    send,
    stored,
    stripe_requests,
    subscriber,
)
from tests.local.stripe.kit import KEY, SECRET, serve

COMPLETED = "checkout.session.completed"

pytestmark = pytest.mark.usefixtures("clean_up")


@pytest.mark.parametrize("kind", ["made.up", "customer.created", "payment_intent.succeeded", "", "invoice.PAID"])
def test_an_unhandled_event_is_acknowledged_and_not_stored(billing: BillingStack, victim: Person, kind: str) -> None:
    event = billing.make_event(kind, {"customer": billing.customer_id(victim)})
    clear_requests(billing)
    assert outcome(send(billing, event)) == "ignored"
    assert stripe_requests(billing) == []
    assert event_row(billing, event["id"]) is None


def test_an_event_of_a_deleted_user_changes_nothing(billing: BillingStack) -> None:
    user = billing.new_user()
    billing.buy(user, pack="pack_100")
    billing.buy(user, plan="basic")
    customer = billing.customer_id(user)
    billing.db.execute("delete from auth.users where id = %s", (user.id,))
    assert set(billing.deliver()) == {200}
    row = event_row(billing, newest(billing, "checkout.session.completed"))
    assert row is not None
    assert (row["attempts"], row["last_error"]) == (1, None)
    assert row["processed_at"] is not None
    for table, column, of in (
        ("user_subscriptions", "stripe_customer_id", customer),
        ("credit_packs", "user_id", user.id),
    ):
        assert billing.db.execute(f"select 1 from public.{table} where {column} = %s", (of,)).fetchall() == []


def test_an_event_of_an_unknown_customer_changes_nothing(billing: BillingStack) -> None:
    checksum = "select md5(string_agg(s::text, ',' order by id)) as sum from public.user_subscriptions s"
    before = billing.db.execute(checksum).fetchone()
    customer = stripe_post(billing, "customers", email="stranger@example.test", payment_method="pm_card_visa")["id"]
    cards = stripe_get(billing, f"customers/{customer}/payment_methods")["data"]
    stripe_post(
        billing,
        "subscriptions",
        customer=customer,
        default_payment_method=cards[0]["id"],
        **{"items[0][price]": price_id(billing, "plan_pro")},
    )
    assert newest(billing, "customer.subscription.created") in billing.undelivered()
    assert set(billing.deliver()) == {200}
    assert billing.db.execute(checksum).fetchone() == before


@pytest.mark.parametrize(
    ("kind", "thing"),
    [
        ("invoice.paid", {"customer": "cus_of_another_mode"}),
        ("charge.refunded", {"payment_intent": "pi_of_another_mode"}),
        ("charge.dispute.closed", {"payment_intent": "pi_of_another_mode"}),
    ],
)
def test_an_event_about_what_stripe_does_not_have_is_noted_once(
    billing: BillingStack, kind: str, thing: dict[str, str]
) -> None:
    event = billing.make_event(kind, thing)
    with captured_log("webhooks") as lines:
        assert [outcome(send(billing, event)) for _ in range(3)] == ["ignored", "repeated", "repeated"]
        noted = [line for line in lines() if line["message"] == "stripe does not have what an event is about"]
    assert [line["event_id"] for line in noted] == [event["id"]]
    row = event_row(billing, event["id"])
    assert row is not None
    assert (row["attempts"], row["last_error"]) == (1, "NotAtStripe")
    assert row["processed_at"] is not None


@pytest.mark.parametrize("bought", [{"plan": "basic"}, {"pack": "pack_100"}])
def test_a_session_without_a_mode_is_understood(billing: BillingStack, bought: dict[str, str]) -> None:
    """As an endpoint of an old version sends it."""
    user = billing.new_user()
    billing.buy(user, **bought)
    billing.fake.control("/_drop", ids=billing.undelivered())
    (session,) = stripe_get(billing, "checkout/sessions", customer=billing.customer_id(user))["data"]
    del session["mode"]
    assert outcome(send(billing, billing.make_event("checkout.session.completed", session))) == "processed"
    assert billing.subscription_row(user)["tier"] == ("basic" if "plan" in bought else "usage_only")


OTHER_METADATA: list[dict[str, str]] = [
    {},
    {"user_id": "42", "pack": "mug", "credits": "7"},
    {"user_id": str(UUID(int=7)), "plan_of_travel": "by train"},
    {"user_id": str(UUID(int=7))},
    {"pack": "mug", "credits": "many"},
]


def test_sales_of_other_products_of_the_account_are_no_orphans(billing: BillingStack) -> None:
    user, mug = billing.new_user(), billing.fake.price(1500, interval=None, name="A mug")
    club = billing.fake.price(700, name="A club")
    for metadata in OTHER_METADATA:
        for mode, price in (("payment", mug), ("subscription", club)):
            session = billing.fake.checkout(mode, price.id, metadata=metadata)
            assert billing.fake.press(session, "good_card").status_code < 400
    with captured_log("webhooks") as lines:
        assert set(billing.deliver()) == {200}
        assert [line for line in lines() if line["message"] == "stripe has a payment without a user"] == []
    assert findings(billing, user) == set()


def test_a_key_of_another_account_loses_no_event(billing: BillingStack) -> None:
    user = billing.new_user()
    billing.buy(user, plan="pro")
    billing.buy(user, pack="pack_100")
    page = stripe_get(billing, "checkout/sessions", customer=billing.customer_id(user))["data"][0]
    bought = [stored(billing, one["id"]) for one in stripe_get(billing, "events", type=COMPLETED, limit=2)["data"]]
    assert page["id"] in [event["data"]["object"]["id"] for event in bought]
    with (
        serve(lambda url: create_app(Settings(public_url=url, api_key=KEY, webhook_secret=SECRET))) as other,
        function_with(billing, create, STRIPE_API_BASE=other) as http,
    ):
        for event in bought:
            assert failed(send(billing, event, http)) == UNAVAILABLE
        billing.db.execute("update public.stripe_events set created_at = created_at - interval '10 minutes'")
        assert "without our catalogue" in command(billing, "retry-events", STRIPE_API_BASE=other).stderr
    rows = [event_row(billing, event["id"]) for event in bought]
    assert [(row["last_error"], row["processed_at"]) for row in rows if row] == [("NotAtStripe", None)] * 2
    assert set(billing.deliver()) == {200}
    assert plan_of(billing, user) == ("pro", None, "active")
    assert credits_of(billing, user) == [(100, 0, 0, False)]


@pytest.mark.parametrize("differs", [{"livemode": True}, {"account": "acct_connected"}])
def test_an_event_of_another_mode_or_account_is_ignored(
    billing: BillingStack, victim: Person, differs: dict[str, object]
) -> None:
    event = billing.make_event("customer.subscription.deleted", {"customer": billing.customer_id(victim)})
    clear_requests(billing)
    assert outcome(send(billing, {**event, **differs})) == "ignored"
    assert stripe_requests(billing) == []
    assert event_row(billing, event["id"]) is None
    with function_with(billing, create, STRIPE_SECRET_KEY="rk_live_other") as http:  # and the other way round
        assert outcome(send(billing, {**event, "livemode": False}, http)) == "ignored"


def test_a_refund_that_is_not_for_a_pack_changes_nothing(billing: BillingStack) -> None:
    user = subscriber(billing)
    before = billing.subscription_row(user)
    charge = stripe_get(billing, "charges", customer=billing.customer_id(user))["data"][0]["id"]
    stripe_post(billing, "refunds", charge=charge, amount="100")
    assert set(billing.deliver()) == {200}
    read_again = {"updated_at": None, "stripe_sequence": None}
    assert {**billing.subscription_row(user), **read_again} == {**before, **read_again}
    assert billing.packs(user) == []


def test_a_repeated_event_is_acknowledged_without_reading_stripe(billing: BillingStack) -> None:
    user = billing.new_user()
    billing.buy(user, pack="pack_100")
    bought = newest(billing, "checkout.session.completed")
    event = stored(billing, bought)
    assert outcome(send(billing, event)) == "processed"
    first, packs, row = event_row(billing, bought), billing.packs(user), billing.subscription_row(user)
    clear_requests(billing)
    assert [outcome(send(billing, event)) for _ in range(3)] == ["repeated"] * 3
    assert stripe_requests(billing) == []
    assert (event_row(billing, bought), billing.packs(user), billing.subscription_row(user)) == (first, packs, row)
    assert first is not None
    assert (first["type"], first["attempts"], first["last_error"]) == ("checkout.session.completed", 1, None)


def test_concurrent_deliveries_of_an_event_apply_it_once(billing: BillingStack, faults: Callable[..., None]) -> None:
    user = billing.new_user()
    billing.buy(user, pack="pack_100")
    bought = newest(billing, "checkout.session.completed")
    faults(method="GET", path="/v1/payment_intents/", seconds=0.2, times=8)  # all deliveries start before one ends
    assert billing.deliver(*[bought] * 8, together=True) == [200] * 8
    assert credits_of(billing, user) == [(100, 0, 0, False)]
    assert plan_of(billing, user) == ("usage_only", None, "active")


def test_events_may_arrive_concurrently_in_reverse_order(billing: BillingStack) -> None:
    user = billing.new_user()
    billing.buy(user, plan="pro")
    billing.buy(user, pack="pack_100")
    press_portal_button(billing, user, "cancel")
    assert set(billing.deliver(*billing.undelivered()[::-1], together=True)) == {200}
    row = billing.subscription_row(user)
    assert plan_of(billing, user) == ("pro", None, "canceled")
    assert row["canceled_at"] == as_time(billing.fake.now)
    assert credits_of(billing, user) == [(100, 0, 0, False)]


NOWHERE = "http://127.0.0.1:9"


def test_an_unreachable_database_makes_stripe_retry(billing: BillingStack, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(Database.call.__kwdefaults__, "timeout_s", 0.3)
    user = billing.new_user()
    billing.buy(user, plan="basic")
    bought = newest(billing, "checkout.session.completed")
    clear_requests(billing)
    with function_with(billing, create, SUPABASE_URL=NOWHERE) as http:
        assert failed(send(billing, stored(billing, bought), http)) == (503, "unavailable")
    assert stripe_requests(billing) == [f"/v1/events/{bought}"]  # read by this test
    assert event_row(billing, bought) is None
    assert billing.deliver(bought) == [200]
    check_finished(billing, bought, attempts=1)
    assert plan_of(billing, user) == ("basic", None, "active")


def test_the_next_delivery_completes_after_a_database_failure(
    billing: BillingStack, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(Database.call.__kwdefaults__, "timeout_s", 1)
    user = billing.new_user()
    billing.buy(user, plan="basic")
    bought = newest(billing, "checkout.session.completed")
    queue = (user.id,)
    billing.db.execute("select pg_advisory_lock(uuid_hash_extended(%s::uuid, 0))", queue)
    try:
        assert failed(send(billing, stored(billing, bought))) == (503, "unavailable")
        row = event_row(billing, bought)
    finally:
        billing.db.execute("select pg_advisory_unlock(uuid_hash_extended(%s::uuid, 0))", queue)
    assert row is not None
    assert (row["attempts"], row["last_error"], row["processed_at"]) == (1, "Unavailable", None)
    monkeypatch.undo()
    assert outcome(send(billing, stored(billing, bought))) == "processed"
    check_finished(billing, bought, attempts=2)
    assert plan_of(billing, user) == ("basic", None, "active")


STRIPE_READS = {
    "the customer": ("plan", "/v1/customers/", 500, "APIError"),
    "the invoices": ("plan", "/v1/invoices", 503, "APIError"),
    "the session": ("pack", "/v1/checkout/sessions", 500, "APIError"),
    "the payment": ("pack", "/v1/payment_intents/", 429, "RateLimitError"),
    "the disputes": ("pack", "/v1/disputes", 500, "APIError"),
}


@pytest.mark.parametrize(("what", "path", "status", "error"), STRIPE_READS.values(), ids=STRIPE_READS)
def test_the_next_delivery_completes_after_a_stripe_failure(
    billing: BillingStack, faults: Callable[..., None], what: str, path: str, status: int, error: str
) -> None:
    user = billing.new_user()
    billing.buy(user, **{what: "basic" if what == "plan" else "pack_100"})
    bought = newest(billing, "checkout.session.completed")
    event = stored(billing, bought)
    # Three attempts of each request: the two lists of invoices are read at once.
    faults(method="GET", path=path, status=status, times=1 if status == 429 else 6 if path == "/v1/invoices" else 3)
    assert failed(send(billing, event)) == UNAVAILABLE
    row = event_row(billing, bought)
    assert row is not None
    assert (row["attempts"], row["last_error"], row["processed_at"]) == (1, error, None)
    assert (plan_of(billing, user), billing.packs(user)) == (("free", None, "active"), [])
    assert outcome(send(billing, event)) == "processed"
    check_finished(billing, bought, attempts=2)
    assert plan_of(billing, user)[0] == ("basic" if what == "plan" else "usage_only")


@pytest.mark.parametrize(
    ("changed", "error"),
    [
        ({"STRIPE_API_BASE": NOWHERE}, "APIConnectionError"),
        ({"STRIPE_SECRET_KEY": "sk_test_another"}, "AuthenticationError"),
    ],
    ids=["out of reach", "a wrong key"],
)
def test_an_unreachable_stripe_is_recorded_with_the_event(
    billing: BillingStack, faults: Callable[..., None], changed: dict[str, str], error: str
) -> None:
    user = billing.new_user()
    billing.buy(user, pack="pack_100")
    bought = newest(billing, "checkout.session.completed")
    with function_with(billing, create, **changed) as http:
        response = send(billing, stored(billing, bought), http)
    assert failed(response) == UNAVAILABLE
    row = event_row(billing, bought)
    assert row is not None
    assert (row["last_error"], row["processed_at"]) == (error, None)
    assert billing.deliver(bought) == [200]
    check_finished(billing, bought, attempts=2)


def test_a_timeout_is_recorded_as_a_failure(
    billing: BillingStack, faults: Callable[..., None], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(processing, "TIMEOUT_S", 0.2)
    user = billing.new_user()
    billing.buy(user, pack="pack_100")
    bought = newest(billing, "checkout.session.completed")
    faults(method="GET", path="/v1/payment_intents/", seconds=0.5)
    assert failed(send(billing, stored(billing, bought))) == UNAVAILABLE
    row = event_row(billing, bought)
    assert row is not None
    assert (row["attempts"], row["last_error"], row["processed_at"]) == (1, "TimeoutError", None)
    monkeypatch.undo()
    assert billing.deliver(bought) == [200]
    check_finished(billing, bought, attempts=2)
    assert credits_of(billing, user) == [(100, 0, 0, False)]


def test_the_log_has_id_type_and_outcome_of_each_event(
    billing: BillingStack, faults: Callable[..., None], eventually: Callable[[Callable[[], bool]], None]
) -> None:
    user = billing.new_user()
    billing.buy(user, pack="pack_100")
    bought = newest(billing, "checkout.session.completed")
    event, unknown = stored(billing, bought), billing.make_event("made.up", {"email": user.email})
    with captured_log("webhooks") as lines:
        faults(method="GET", path="/v1/payment_intents/", status=500, times=3)
        for one in (event, event, event, unknown):
            send(billing, one)
        post(billing, b'{"canary": 1}', "t=1,v1=canary")
        eventually(lambda: len([line for line in lines() if line["message"] == "request"]) == 5)
        written = lines()
    logged = [line for line in written if line["message"] == "stripe event"]
    assert [(line["event_id"], line["event_type"], line["outcome"]) for line in logged] == [
        (bought, "checkout.session.completed", "processed"),
        (bought, "checkout.session.completed", "repeated"),
        (unknown["id"], "made.up", "ignored"),
    ]
    always = {"level", "message", "timestamp", "service"}
    assert all({*line} == {*always, "event_id", "event_type", "outcome", "signed_by"} for line in logged)
    requests = [line for line in written if line["message"] == "request"]
    assert [(line["status"], line.get("code")) for line in requests] == [
        UNAVAILABLE,
        (200, None),
        (200, None),
        (200, None),
        (400, "invalid_signature"),
    ]
    assert {line["route"] for line in requests} == {"/webhooks/stripe"}
    assert {name for line in written for name in line} <= ALLOWED
    session = event["data"]["object"]
    private = [user.id, user.email, billing.customer_id(user), session["id"], session["payment_intent"], SITE, "://"]
    secret = [SECRET, KEY, billing.stack.info["secret_key"], "v1=", "canary"]
    assert [one for one in private + secret if one in json.dumps(written)] == []


def test_an_invoice_that_cannot_be_finalized_is_counted(
    billing: BillingStack, capsys: pytest.CaptureFixture[str]
) -> None:
    user = subscriber(billing)
    capsys.readouterr()
    for kind in ("invoice.finalization_failed", "invoice.paid"):
        assert outcome(send(billing, billing.make_event(kind, {"customer": billing.customer_id(user)}))) == "processed"
    (counted,) = [json.loads(line) for line in capsys.readouterr().out.splitlines() if "CloudWatchMetrics" in line]
    assert (counted["InvoicesNotFinalized"], counted["service"]) == ([1.0], "webhooks")
    assert plan_of(billing, user) == ("basic", None, "active")
