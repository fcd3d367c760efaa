"""Which requests count as events of Stripe: signatures, secrets, bodies and routes."""

import json
import os
import subprocess
import sys
import time
from base64 import b64encode
from collections.abc import Callable
from types import SimpleNamespace

import pytest
from stripe import StripeClient
from stripe.v2.core import EventNotification

from functions.common.settings import SettingsError, load
from functions.webhooks import handler
from functions.webhooks.handler import create
from functions.webhooks.settings import WebhooksSettings
from infra.local.postgres import ROOT
from tests.billing_kit import (
    DAY,
    BillingStack,
    captured_log,
    environment,
    function_with,
)
from tests.conftest import Person
from tests.functions.webhooks import kit
from tests.functions.webhooks.kit import (
    clear_requests,
    event_row,
    failed,
    newest,
    now,
    outcome,
    plan_of,
    post,
    send,
    signature,
    stored,
    stripe_requests,
)
from tests.local.stripe.kit import SECRET


@pytest.fixture(autouse=True)
def stopped_clock(monkeypatch: pytest.MonkeyPatch) -> None:
    """Signing and verification use one fixed time, so that a slow machine changes nothing."""
    started = float(int(time.time()))
    clock = SimpleNamespace(time=lambda: started)
    monkeypatch.setattr(handler, "time", clock)
    monkeypatch.setattr(kit, "time", clock)


def signed_at(at: int) -> Callable[[bytes], tuple[bytes, str]]:
    """A correct signature, `at` seconds from now."""
    return lambda body: (body, signature(body, now() + at))


def old_signature_with_new_time(body: bytes) -> tuple[bytes, str]:
    old = signature(body, now() - 3600)
    return body, f"t={now()},{old.partition(',')[2]}"


def other_scheme_beside_forged(body: bytes) -> tuple[bytes, str]:
    forged, other = signature(body, now(), "whsec_forged"), signature(body, now(), scheme="v0")
    return body, f"{forged},{other.partition(',')[2]}"


Forgery = Callable[[bytes], tuple[bytes, str | None]]
FORGERIES: dict[str, Forgery] = {
    "no signature": lambda body: (body, None),
    "an empty signature": lambda body: (body, ""),
    "a word": lambda body: (body, "signed"),
    "another secret": lambda body: (body, signature(body, now(), "whsec_another")),
    "an empty secret": lambda body: (body, signature(body, now(), "")),
    "301 seconds old": signed_at(-301),
    "301 seconds ahead": signed_at(301),
    "a day old": signed_at(-DAY),
    "a day ahead": signed_at(DAY),
    "an old signature with a new time": old_signature_with_new_time,
    "another scheme": lambda body: (body, signature(body, now(), scheme="v0")),
    "another scheme beside a forged one": other_scheme_beside_forged,
    "no time": lambda body: (body, signature(body, now()).partition(",")[2]),
    "a time that is not a number": lambda body: (body, signature(body, now()).replace("t=", "t=x")),
    "a very long time": lambda body: (body, f"t={'9' * 5000},v1=0"),
    "only a time": lambda body: (body, f"t={now()}"),
    "a signature of nothing": lambda body: (body, f"t={now()},v1="),
    "the signature of another body": lambda body: (body, signature(b"{}", now())),
    "a truncated body": lambda body: (body[:-1], signature(body, now())),
    "half a body": lambda body: (body[: len(body) // 2], signature(body, now())),
    "a longer body": lambda body: (body + b"\n", signature(body, now())),
    "an empty body": lambda body: (b"", signature(body, now())),
    "a body that is not UTF-8": lambda body: (b"\xff" + body, signature(b"\xff" + body, now())),
    "a body in base64": lambda body: (b64encode(body), signature(body, now())),
    "a non-ASCII character": lambda body: (body, signature(body, now()).replace(",v1=", ",v1=\xe9")),
    "a time with a suffix": lambda body: (body, signature(body, now()).replace(",v1", "=0,v1")),
}


@pytest.mark.parametrize(
    "forge",
    [pytest.param(forge, id=name) for name, forge in FORGERIES.items()],
)
def test_a_forged_or_old_signature_changes_nothing(billing: BillingStack, victim: Person, forge: Forgery) -> None:
    before = billing.subscription_row(victim)
    event = billing.make_event("customer.subscription.updated", {"customer": billing.customer_id(victim)})
    clear_requests(billing)
    body, signed = forge(json.dumps(event).encode())
    assert failed(post(billing, body, signed)) == (400, "invalid_signature")
    assert stripe_requests(billing) == []
    assert (event_row(billing, event["id"]), billing.subscription_row(victim)) == (None, before)


def test_a_changed_byte_invalidates_the_signature(billing: BillingStack, victim: Person) -> None:
    before = billing.subscription_row(victim)
    event = billing.make_event("customer.subscription.updated", {"customer": billing.customer_id(victim)})
    body = json.dumps(event).encode()
    signed = signature(body, now())
    clear_requests(billing)
    for at in range(0, len(body), 5):
        altered = bytearray(body)
        altered[at] ^= 1
        assert failed(post(billing, bytes(altered), signed)) == (400, "invalid_signature")
    assert stripe_requests(billing) == []
    assert (event_row(billing, event["id"]), billing.subscription_row(victim)) == (None, before)


@pytest.mark.parametrize("at", [-300, 0, 300])
def test_signatures_of_the_last_five_minutes_are_accepted(billing: BillingStack, at: int) -> None:
    body = json.dumps(billing.make_event("made.up", {})).encode()
    assert outcome(post(billing, body, signature(body, now() + at))) == "ignored"


def test_a_valid_signature_among_others_is_accepted(billing: BillingStack) -> None:
    body = json.dumps(billing.make_event("made.up", {})).encode()
    signed, other = signature(body, now()), signature(body, now(), "whsec_old").partition(",")[2]
    stamp, digest = signed.split(",")
    for header in (f"{stamp},{other},{digest}", f"{stamp},{digest},{other}", f"{signed},v2=1", f"v0=1,{signed}"):
        assert outcome(post(billing, body, header)) == "ignored"


def test_old_and_new_secret_are_accepted_during_rotation(billing: BillingStack) -> None:
    """The log has the place of the secret: an operator must know when the first one is in use."""
    body = json.dumps(billing.make_event("made.up", {})).encode()
    with (
        captured_log("webhooks") as lines,
        function_with(billing, create, STRIPE_WEBHOOK_SECRET="whsec_old, whsec_new") as http,
    ):
        for secret in ("whsec_old", "whsec_new"):
            assert outcome(post(billing, body, signature(body, now(), secret), http)) == "ignored"
        both = signature(body, now(), "whsec_old") + "," + signature(body, now(), "whsec_new").partition(",")[2]
        assert outcome(post(billing, body, both, http)) == "ignored"
        for secret in (SECRET, "whsec_old, whsec_new", "whsec_"):
            response = post(billing, body, signature(body, now(), secret), http)
            assert failed(response) == (400, "invalid_signature")
        written = [line["signed_by"] for line in lines() if line["message"] == "stripe event"]
    assert written == [0, 1, 0]


NOT_EVENTS = {
    "a word": b"hello",
    "only spaces": b"  ",
    "half an object": b'{"id": "evt_1"',
    "null": b"null",
    "a number": b"1",
    "a text": b'"evt_1"',
    "a list": b'[{"id": "evt_1"}]',
    "deeply nested": b"[" * 100_000,
    "no id": b'{"type": "invoice.paid", "data": {"object": {}}}',
    "no type": b'{"id": "evt_1", "data": {"object": {}}}',
    "no data": b'{"id": "evt_1", "type": "invoice.paid"}',
    "a number for an id": b'{"id": 1, "type": "invoice.paid", "data": {"object": {}}}',
    "a list for a type": b'{"id": "evt_1", "type": ["invoice.paid"], "data": {"object": {}}}',
    "no object": b'{"id": "evt_1", "type": "invoice.paid", "data": {}}',
    "null for an object": b'{"id": "evt_1", "type": "invoice.paid", "data": {"object": null}}',
    "NaN": b'{"id": "evt_1", "type": "invoice.paid", "data": {"object": {"amount": NaN}}}',
}


@pytest.mark.parametrize("body", NOT_EVENTS.values(), ids=NOT_EVENTS)
def test_a_signed_body_that_is_not_an_event_is_refused(billing: BillingStack, body: bytes) -> None:
    count = "select count(*) from public.stripe_events"
    before = billing.db.execute(count).fetchone()
    assert failed(post(billing, body, signature(body, now()))) == (400, "invalid_json")
    assert billing.db.execute(count).fetchone() == before


# https://docs.stripe.com/api/v2/core/events/event-types
THIN_EVENT = {
    "id": "evt_test_65R9Ijk8dKEYZcXeRWn16R9A7j1FSQ3w3TGDPLLGSM4CW0",
    "object": "v2.core.event",
    "type": "v1.billing.meter.error_report_triggered",
    "livemode": False,
    "created": "2024-09-17T06:20:52.246Z",
    "context": None,
    "related_object": {"id": "mtr_test_1", "type": "billing.meter", "url": "/v1/billing/meters/mtr_test_1"},
}
REASON = {"type": "request", "request": {"id": "req_1", "idempotency_key": "key_1"}}
PING = {**THIN_EVENT, "type": "v2.core.event_destination.ping", "reason": REASON}
DEEP = b"[" * 1000 + b'"\\u0000"' + b"]" * 1000
IGNORED = {
    "a thin event": json.dumps(THIN_EVENT).encode(),
    "a ping of an event destination": json.dumps(PING).encode(),
    "a made-up type": b'{"id": "evt_1", "type": "made.up", "data": {"object": {"id": "x"}}}',
    "a made-up type without data": b'{"id": "evt_1", "type": "made.up"}',
    "a deeply nested object": b'{"id": "evt_1", "type": "made.up", "data": {"object": {"nested": %s}}}' % DEEP,
}


@pytest.mark.parametrize("body", IGNORED.values(), ids=IGNORED)
def test_an_event_that_is_not_used_is_acknowledged(billing: BillingStack, body: bytes) -> None:
    count = "select count(*) from public.stripe_events"
    before = billing.db.execute(count).fetchone()
    assert outcome(post(billing, body, signature(body, now()))) == "ignored"
    assert billing.db.execute(count).fetchone() == before


def test_the_sdk_reads_the_thin_events() -> None:
    for event in (THIN_EVENT, PING):
        assert EventNotification.from_json(event, StripeClient("sk_test_1")).type == event["type"]


def test_an_event_may_have_one_mebibyte(billing: BillingStack, victim: Person) -> None:
    event = billing.make_event("invoice.paid", {"customer": billing.customer_id(victim), "description": ""})
    event["data"]["object"]["description"] = "x" * (1024 * 1024 - len(json.dumps(event)))
    assert outcome(send(billing, event)) == "processed"
    event["id"], event["data"]["object"]["description"] = f"{event['id'][:-1]}_", "x" * 1024 * 1024
    refused = send(billing, event)
    assert failed(refused) == (413, "too_large")
    assert "1,024 KiB" in refused.json()["error"]["message"]
    assert event_row(billing, event["id"]) is None


def test_an_event_may_contain_half_an_emoji(billing: BillingStack, victim: Person) -> None:
    event = billing.make_event("invoice.paid", {"customer": billing.customer_id(victim), "description": "\ud83d"})
    assert outcome(send(billing, event)) == "processed"


def test_a_trailing_slash_is_accepted_without_a_redirect(billing: BillingStack) -> None:
    body = json.dumps(THIN_EVENT).encode()
    headers = {"stripe-signature": signature(body, now())}
    response = billing.fake.http.post(f"{billing.webhooks_url}/webhooks/stripe/", content=body, headers=headers)
    assert outcome(response) == "ignored"


@pytest.mark.parametrize("method", ["GET", "PUT", "PATCH", "DELETE"])
def test_the_route_accepts_only_post(billing: BillingStack, method: str) -> None:
    response = billing.fake.http.request(method, f"{billing.webhooks_url}/webhooks/stripe")
    assert failed(response) == (405, "method_not_allowed")
    assert failed(billing.fake.http.request(method, f"{billing.webhooks_url}/webhooks")) == (
        404,
        "not_found",
    )


INVOKE = """
import json, sys
from functions.webhooks.handler import handler
print(json.dumps([handler(event, None) for event in json.load(sys.stdin)]))
"""


def test_lambda_decodes_a_base64_body_before_verification(billing: BillingStack) -> None:
    """In a process of its own, as on Lambda."""
    user = billing.new_user()
    billing.buy(user, plan="basic")
    bought = newest(billing, "checkout.session.completed")
    body = json.dumps(stored(billing, bought), indent=2, ensure_ascii=False).encode()
    signed = signature(body, now())
    given = [
        (b64encode(body), True, signed),
        (body, False, signed),
        (b64encode(body), True, signed.replace("v1=", "v1=0")),
        (b64encode(body), False, signed),
        (b64encode(b"\xff" + body), True, signature(b"\xff" + body, now())),
    ]
    address = {"method": "POST", "path": "/webhooks/stripe", "protocol": "HTTP/1.1", "sourceIp": "127.0.0.1"}
    invocations = [
        {
            "version": "2.0",
            "rawPath": "/webhooks/stripe",
            "rawQueryString": "",
            "headers": {"content-type": "application/json; charset=utf-8", "stripe-signature": signed},
            "requestContext": {"http": address, "stage": "$default"},
            "body": content.decode(),
            "isBase64Encoded": encoded,
        }
        for content, encoded, signed in given
    ]
    done = subprocess.run(
        [sys.executable, "-c", INVOKE],
        cwd=ROOT,
        env={"PATH": os.environ["PATH"], **environment(billing.stack, billing.fake.url)},
        input=json.dumps(invocations),
        capture_output=True,
        text=True,
        check=True,
        timeout=60,
    )
    answers = json.loads(done.stdout.splitlines()[-1])
    assert [answer["statusCode"] for answer in answers] == [200, 200, 400, 400, 400]
    bodies = [json.loads(answer["body"]) for answer in answers]
    assert bodies[:2] == [{"outcome": "processed"}, {"outcome": "repeated"}]
    assert {one["error"]["code"] for one in bodies[2:]} == {"invalid_signature"}
    assert plan_of(billing, user) == ("basic", None, "active")
    assert "Traceback" not in done.stderr


@pytest.mark.parametrize("value", ["", "test", "whsec_", "whsec_a,", "whsec_a,canary"])
def test_a_malformed_secret_is_refused_at_start(billing: BillingStack, value: str) -> None:
    with pytest.raises(SettingsError, match=r"^STRIPE_WEBHOOK_SECRET ") as caught:
        load(
            WebhooksSettings,
            {**environment(billing.stack, billing.fake.url), "STRIPE_WEBHOOK_SECRET": value},
        )
    assert "canary" not in str(caught.value)
