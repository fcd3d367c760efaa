"""Webhooks of the Stripe stand-in, verified by the real library: signatures, snapshots, order, retries, and the
control API with which tests hold, drop and deliver events.
"""

import json
import time
from typing import Any

import httpx
import pytest
import stripe

from infra.local.stripe.webhooks import sign
from tests.local.stripe.kit import DAY, HOUR, SECRET, START, Fake, running, schema_errors, unknown_fields

MONTH = 31 * DAY


@pytest.fixture
def fake(fake: Fake) -> Fake:
    fake.register_webhook()
    return fake


def buy(fake: Fake) -> stripe.checkout.Session:
    session = fake.checkout("subscription", fake.price(999).id, client_reference_id="user-1")
    fake.press(session, "good_card")
    fake.wait_for_webhooks()
    return session


# --- events ----------------------------------------------------------------------------------------------------------


def test_events_arrive_signed_and_in_order(fake: Fake) -> None:
    session = buy(fake)
    assert fake.receiver.types == fake.event_types()
    assert len(fake.receiver.types) > 10
    event = json.loads(fake.receiver.bodies[-1])
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
    assert b'\n  "id": "evt_' in fake.receiver.bodies[-1]
    assert fake.receiver.headers[-1]["user-agent"].startswith("Stripe/1.0")
    assert fake.receiver.headers[-1]["content-type"] == "application/json; charset=utf-8"


def test_every_event_matches_the_description(fake: Fake) -> None:
    """Covers every event type of ordinary use."""
    session = buy(fake)
    customer = str(fake.v1.checkout.sessions.retrieve(session.id).customer)
    fake.control(f"/_customers/{customer}/card", works=False)
    fake.advance(MONTH + HOUR)
    fake.control(f"/_customers/{customer}/card", works=True)
    fake.advance(3 * DAY)
    charge = fake.v1.charges.list().data[0].id
    fake.v1.refunds.create({"charge": charge, "amount": 1})
    fake.control("/_disputes", charge=charge, status="lost")
    fake.v1.invoice_items.create({"customer": customer, "amount": 100, "currency": "usd"})
    fake.press(fake.checkout("payment", fake.price(500, interval=None).id), "later_fails")
    fake.checkout("payment", fake.price(500, interval=None).id)
    fake.advance(DAY)
    fake.v1.customers.delete(customer)
    fake.wait_for_webhooks()
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
    assert kinds <= {*fake.receiver.types}
    for body in map(json.loads, fake.receiver.bodies):
        thing = body["data"]["object"]
        name = {"checkout.session": "checkout.session"}.get(thing["object"], thing["object"])
        schema = {"$ref": f"#/components/schemas/{name}"}
        assert schema_errors(schema, thing, body["type"], "") == []
        assert schema_errors({"$ref": "#/components/schemas/event"}, body, "event", "") == []
        assert unknown_fields(body, None, body["type"]) == []
        assert ("previous_attributes" in body["data"]) is (
            body["type"].endswith(".updated") or body["type"] in ("charge.refunded", "charge.dispute.closed")
        ), body["type"]


def test_event_names_the_request_that_caused_it(fake: Fake) -> None:
    fake.v1.customers.create({}, {"idempotency_key": "mine"})
    fake.wait_for_webhooks()
    (event,) = fake.receiver.events
    assert event.request
    assert event.request.id
    assert event.request.id.startswith("req_")
    assert event.request.idempotency_key == "mine"


def test_event_is_a_snapshot_even_when_delivered_late(fake: Fake) -> None:
    fake.control("/_webhooks/mode", hold=True)
    customer = fake.v1.customers.create({"name": "before"})
    fake.v1.customers.update(customer.id, {"name": "after"})
    assert fake.receiver.events == []
    fake.control("/_webhooks/mode", hold=False)
    fake.wait_for_webhooks()
    created, updated = (event.data.to_dict() for event in fake.receiver.events)
    assert created["object"]["name"] == "before"
    assert (updated["object"]["name"], updated["previous_attributes"]) == ("after", {"name": "before"})
    assert fake.v1.events.retrieve(fake.receiver.events[0].id).data.object["name"] == "before"


def test_retries_are_held_while_events_are_held(fake: Fake) -> None:
    fake.receiver.respond = lambda event: 500
    fake.v1.customers.create({})
    fake.wait_for_webhooks()
    fake.receiver.respond = lambda event: 200
    fake.control("/_webhooks/mode", hold=True)
    fake.advance(HOUR)
    assert len(fake.receiver.events) == 1
    fake.control("/_webhooks/mode", hold=False)
    fake.wait_for_webhooks()
    assert len(fake.receiver.events) == 2


def test_events_can_be_held_from_the_start() -> None:
    with running(hold=True) as fake:
        fake.register_webhook()
        fake.v1.customers.create({})
        fake.wait_for_webhooks()
        assert fake.receiver.events == []
        fake.control("/_webhooks/mode", hold=False)
        fake.wait_for_webhooks()
        assert fake.receiver.types == ["customer.created"]


def test_pending_webhooks_is_zero_after_delivery(fake: Fake) -> None:
    fake.control("/_webhooks/mode", hold=True)
    fake.v1.customers.create({})
    (event,) = fake.v1.events.list().data
    assert event.pending_webhooks == 1
    fake.control("/_webhooks/mode", hold=False)
    fake.wait_for_webhooks()
    assert fake.v1.events.retrieve(event.id).pending_webhooks == 0
    assert [event.id for event in fake.v1.events.list({"delivery_success": True}).data] == [event.id]


# --- signatures ------------------------------------------------------------------------------------------------------


def test_signature_matches_the_library() -> None:
    now = int(time.time())
    assert sign("{}", "whsec_a", now) == stripe.WebhookSignature.generate_signature_header("{}", "whsec_a", now)
    both = sign("{}", "whsec_a,whsec_b", now)
    for secret in ("whsec_a", "whsec_b"):
        assert stripe.WebhookSignature.verify_header("{}", both, secret, 300)
    with pytest.raises(stripe.SignatureVerificationError):
        stripe.WebhookSignature.verify_header("{}", both, "whsec_c", 300)


def test_signature_uses_real_time(fake: Fake) -> None:
    fake.advance(90 * DAY)
    fake.v1.customers.create({})
    fake.wait_for_webhooks()
    body, header = fake.receiver.bodies[-1], fake.receiver.headers[-1]["stripe-signature"]
    assert fake.client.construct_event(body, header, SECRET).created == START + 90 * DAY
    with pytest.raises(stripe.SignatureVerificationError):
        fake.client.construct_event(body + b" ", header, SECRET)


# --- delivery --------------------------------------------------------------------------------------------------------


def deliveries(fake: Fake) -> list[tuple[str, int]]:
    """State and number of attempts of every event."""
    listed = fake.http.get("/_events").json()
    return [(event["delivery"]["state"], len(event["delivery"]["attempts"])) for event in listed]


def test_failed_delivery_is_retried_with_growing_intervals(fake: Fake) -> None:
    fake.receiver.respond = lambda event: 500
    fake.v1.customers.create({})
    fake.wait_for_webhooks()
    assert deliveries(fake) == [("failed", 1)]
    fake.advance(59)
    assert deliveries(fake) == [("failed", 1)]
    fake.advance(1)
    assert deliveries(fake) == [("failed", 2)]
    fake.advance(HOUR)
    assert deliveries(fake) == [("failed", 4)]
    fake.receiver.respond = lambda event: 200
    fake.advance(2 * HOUR)
    assert deliveries(fake) == [("delivered", 5)]
    assert len({event.id for event in fake.receiver.events}) == 1


def test_delivery_stops_after_three_days(fake: Fake) -> None:
    fake.receiver.respond = lambda event: 302
    fake.v1.customers.create({})
    fake.advance(4 * DAY)
    ((state, tries),) = deliveries(fake)
    assert (state, tries) == ("failed", 11)
    fake.advance(30 * DAY)
    assert deliveries(fake) == [("failed", 11)]
    assert fake.v1.events.list().data[0].pending_webhooks == 0


def test_unreachable_endpoint_counts_as_a_failed_delivery(fake: Fake) -> None:
    fake.control("/_webhooks", url="http://127.0.0.1:1/unreachable")
    fake.v1.customers.create({})
    fake.wait_for_webhooks()
    assert deliveries(fake) == [("failed", 1)]
    fake.register_webhook()
    assert [delivery["status"] for delivery in fake.control("/_deliver")] == [200]
    assert deliveries(fake) == [("delivered", 2)]


def test_only_selected_types_are_sent(fake: Fake) -> None:
    fake.control("/_webhooks", url=f"{fake.receiver_url}/hook", types=["customer.updated"])
    fake.v1.customers.update(fake.v1.customers.create({}).id, {"name": "x"})
    fake.wait_for_webhooks()
    assert fake.receiver.types == ["customer.updated"]


def test_events_can_be_delivered_repeatedly_in_any_order(fake: Fake) -> None:
    fake.control("/_webhooks/mode", hold=True)
    for name in "abc":
        fake.v1.customers.create({"name": name})
    ids = [event["id"] for event in fake.http.get("/_events").json()]
    first, second, third = ids
    assert [delivery["status"] for delivery in fake.control("/_deliver", ids=[third, first, first])] == [200, 200, 200]
    assert [event.id for event in fake.receiver.events] == [third, first, first]
    assert fake.http.post("/_deliver", json={"ids": ["evt_0"]}).status_code == 404
    fake.control("/_webhooks/mode", hold=False)
    fake.wait_for_webhooks()
    assert [event.id for event in fake.receiver.events][3:] == [second]
    fake.control("/_replay_all")
    assert [event.id for event in fake.receiver.events][4:] == ids


def test_deliveries_together_are_concurrent(fake: Fake) -> None:
    fake.control("/_webhooks/mode", hold=True)
    fake.v1.customers.create({})
    (event,) = fake.http.get("/_events").json()

    def until_two(_: stripe.Event) -> int:
        deadline = time.monotonic() + 30
        while fake.receiver.most_at_once < 2:
            if time.monotonic() > deadline:
                return 500
            time.sleep(0.01)
        return 200

    fake.receiver.respond = until_two
    statuses = [delivery["status"] for delivery in fake.control("/_deliver", ids=[event["id"]] * 2, together=True)]
    assert 200 in statuses
    assert fake.receiver.most_at_once == 2
    assert len(fake.receiver.events) == 2


def test_dropped_event_is_sent_only_by_name(fake: Fake) -> None:
    fake.control("/_webhooks/mode", drop=True)
    fake.v1.customers.create({})
    fake.control("/_webhooks/mode", drop=False, hold=True)
    fake.v1.customers.create({})
    lost, held = [event["id"] for event in fake.http.get("/_events").json()]
    fake.control("/_drop", ids=[held])
    fake.control("/_webhooks/mode", hold=False)
    fake.advance(5 * DAY)
    assert fake.receiver.events == []
    fake.control("/_deliver", ids=[lost])
    assert [event.id for event in fake.receiver.events] == [lost]


# --- delivery and invoices -------------------------------------------------------------------------------------------


def test_draft_is_finalized_an_hour_after_acknowledgement(fake: Fake) -> None:
    fake.subscribe(fake.customer().id, fake.price(999).id)
    refuse = {"invoice.created": 503}
    fake.receiver.respond = lambda event: refuse.get(event.type, 200)
    fake.advance(MONTH + 4 * HOUR)
    draft = fake.invoices()[0]
    assert (draft.status, draft.webhooks_delivered_at) == ("draft", None)
    refuse.clear()
    fake.control("/_deliver")
    acknowledged_at = fake.now
    assert fake.v1.invoices.retrieve(draft.id).webhooks_delivered_at == acknowledged_at
    fake.advance(HOUR - 1)
    assert fake.v1.invoices.retrieve(draft.id).status == "draft"
    fake.advance(HOUR)
    assert fake.v1.invoices.retrieve(draft.id).status == "paid"


def test_unacknowledged_draft_is_finalized_after_three_days(fake: Fake) -> None:
    fake.subscribe(fake.customer().id, fake.price(999).id)
    fake.wait_for_webhooks()
    fake.control("/_webhooks/mode", hold=True)
    fake.advance(MONTH + 72 * HOUR - 1)
    assert fake.invoices()[0].status == "draft"
    fake.advance(1)
    assert fake.invoices()[0].status == "paid"


def test_receiver_can_add_an_item_to_each_draft(fake: Fake) -> None:
    """Also in one move over two renewals, because every step waits for its webhooks."""
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

    fake.receiver.respond = add
    fake.advance(MONTH + 28 * DAY + HOUR)
    assert [(invoice.status, invoice.total) for invoice in fake.invoices()] == [
        ("paid", 1099),
        ("paid", 1099),
        ("paid", 999),
    ]
    assert set(deliveries(fake)) == {("delivered", 1)}
    created = [event["id"] for event in fake.http.get("/_events").json() if event["type"] == "invoice.created"]
    # The idempotency key of the first renewal has expired, so its paid invoice refuses; the second key is still valid.
    assert [delivery["status"] for delivery in fake.control("/_deliver", ids=created)] == [200, 400, 200]
    assert len(fake.v1.invoice_items.list().data) == 2


def test_failed_finalization_emits_an_event(fake: Fake) -> None:
    fake.subscribe(fake.customer().id, fake.price(999).id)
    fake.advance(MONTH)
    draft = fake.invoices()[0]
    fake.control(f"/_invoices/{draft.id}/finalization", fails=True)
    fake.advance(HOUR)
    failed = fake.v1.invoices.retrieve(draft.id)
    assert failed.status == "draft"
    assert failed.last_finalization_error
    (event,) = fake.receiver.events_of("invoice.finalization_failed")
    assert event["data"]["object"]["id"] == draft.id
    with pytest.raises(stripe.InvalidRequestError):
        fake.v1.invoices.finalize_invoice(draft.id)
    fake.control(f"/_invoices/{draft.id}/finalization", fails=False)
    fake.advance(HOUR)
    assert fake.v1.invoices.retrieve(draft.id).status == "paid"


def test_buyer_returns_after_the_webhook_was_answered(fake: Fake) -> None:
    """As at Stripe: the browser returns once `checkout.session.completed` was answered."""
    answered: list[Any] = []

    def slow(event: stripe.Event) -> int:
        time.sleep(0.05)
        answered.append(event.type)
        return 200

    fake.receiver.respond = slow
    session = fake.checkout("payment", fake.price(500, interval=None).id)
    assert fake.press(session, "good_card").status_code == 303
    assert "checkout.session.completed" in answered


def test_reset_clears_everything(fake: Fake) -> None:
    fake.control("/_webhooks/mode", hold=True)
    fake.v1.customers.create({})
    fake.control("/_faults", method="GET", path="/v1/customers", status=500)
    assert fake.http.delete("/_state").json()["now"] == START
    assert fake.v1.customers.list().data == []
    assert fake.http.get("/_events").json() == []
    assert fake.http.get("/_webhooks").json() == {"url": "", "types": ["*"], "hold": False, "drop": False}


def test_the_endpoint_receives_the_events_that_it_enables(fake: Fake) -> None:
    (endpoint,) = fake.v1.webhook_endpoints.list().data
    assert (endpoint.enabled_events, endpoint.status) == (["*"], "enabled")
    fake.v1.webhook_endpoints.update(endpoint.id, {"enabled_events": ["customer.deleted"]})
    customer = fake.customer()
    fake.v1.customers.delete(customer.id)
    fake.control("/_settle")
    assert fake.receiver.types == ["customer.deleted"]
    fake.v1.webhook_endpoints.update(endpoint.id, {"disabled": True})
    fake.v1.customers.delete(fake.customer().id)
    fake.control("/_settle")
    assert len(fake.receiver.types) == 1
