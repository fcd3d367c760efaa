"""Webhooks: whose word counts, what each event brings about, and that it does so once, whatever fails meanwhile."""

import hashlib
import hmac
import json
import os
import subprocess
import sys
import time
from base64 import b64encode
from collections.abc import Callable, Iterator
from datetime import UTC, datetime
from decimal import Decimal
from typing import Any

import httpx
import pytest
from stripe import HTTPClient

from functions.common.billing import events as dealing
from functions.common.database import Database
from functions.common.observe import ALLOWED
from functions.common.settings import SettingsError, load
from functions.webhooks.handler import create
from functions.webhooks.settings import WebhooksSettings
from infra.local.postgres import ROOT
from infra.local.stack import Stack
from tests.api import Api, question
from tests.billing_kit import (
    AS_US,
    DAY,
    HOUR,
    SITE,
    Town,
    another,
    at_stripe,
    change,
    environment,
    log_of,
    running,
    unheard,
)
from tests.conftest import Person
from tests.local.stripe_kit import KEY, SECRET

UNAVAILABLE = (503, "payment_unavailable")
MONTH = 31 * DAY
Json = dict[str, Any]


@pytest.fixture(scope="module")
def door(stack: Stack) -> Iterator[Town]:
    """A town of its own, for those who only come to the door of the webhooks."""
    with running(stack) as town:
        yield town


@pytest.fixture
def town(door: Town) -> Iterator[Town]:
    """The same for those who buy: after a test no subscription runs, nothing waits to be delivered, nothing fails."""
    yield door
    door.fake.http.delete("/_faults")
    with unheard(door):
        for one in at_stripe(door, "subscriptions", limit=100)["data"]:
            door.fake.http.delete(f"/v1/subscriptions/{one['id']}", headers=AS_US)
    left = at_stripe(door, "events", delivery_success="false", limit=100)["data"]
    door.fake.control("/_drop", ids=[event["id"] for event in left])


@pytest.fixture
def faults(town: Town, monkeypatch: pytest.MonkeyPatch) -> Callable[..., None]:
    """Lets requests to Stripe fail, see Fault; our client repeats itself without waiting."""
    monkeypatch.setattr(HTTPClient, "INITIAL_DELAY", 0)
    return lambda **fault: town.fake.control("/_faults", **fault)


def signature(body: bytes, at: int, secret: str = SECRET, scheme: str = "v1") -> str:
    """A Stripe-Signature header."""
    mark = hmac.new(secret.encode(), f"{at}.".encode() + body, hashlib.sha256).hexdigest()
    return f"t={at},{scheme}={mark}"


def now() -> int:
    """Signatures carry the real time."""
    return int(time.time())


def post(town: Town, body: bytes, signed: str | None, http: httpx.Client | None = None) -> httpx.Response:
    """What anybody on the internet can do."""
    headers = {} if signed is None else {"stripe-signature": signed.encode("latin-1")}
    address = "/webhooks/stripe" if http else f"{town.webhooks_url}/webhooks/stripe"
    return (http or town.fake.http).post(address, content=body, headers=headers)


def send(town: Town, event: Json, http: httpx.Client | None = None) -> httpx.Response:
    """An event as Stripe sends it."""
    body = json.dumps(event).encode()
    return post(town, body, signature(body, now()), http)


def outcome(response: httpx.Response) -> str:
    """What an event that was acknowledged brought about."""
    assert response.status_code == 200, response.text
    (told,) = response.json().items()
    assert told[0] == "outcome"
    return str(told[1])


def failed(response: httpx.Response) -> tuple[int, str]:
    """The status and the code of an error."""
    error = response.json()["error"]
    assert error["request_id"] == response.headers["x-request-id"]
    return response.status_code, error["code"]


def asked(town: Town) -> list[str]:
    """What Stripe was asked since that was forgotten."""
    return [one["path"] for one in town.fake.http.get("/_requests").json() if one["path"].startswith("/v1/")]


def forget(town: Town) -> None:
    """Let Stripe forget what it was asked."""
    town.fake.http.delete("/_requests")


def noted(town: Town, event_id: str) -> Json | None:
    """What is noted of an event."""
    return town.db.execute("select * from public.stripe_events where event_id = %s", (event_id,)).fetchone()


def newest(town: Town, kind: str) -> str:
    """The id of the last event of a type."""
    return str(at_stripe(town, "events", type=kind, limit=1)["data"][0]["id"])


def stored(town: Town, event_id: str) -> Json:
    """An event of Stripe's own, as it is sent."""
    return at_stripe(town, f"events/{event_id}")


def subscriber(town: Town, plan: str = "basic") -> Person:
    """Somebody who has subscribed, and of whom we have heard, by one event of many."""
    person = town.person()
    with unheard(town):
        town.buy(person, plan=plan)
    assert town.deliver(newest(town, "checkout.session.completed")) == [200]
    assert plan_of(town, person) == (plan, None, "active")
    return person


def plan_of(town: Town, person: Person) -> tuple[str, str | None, str]:
    """What they have, what they will have when the period ends, and how it stands."""
    row = town.row(person)
    return row["tier"], row["next_tier"], row["status"]


def in_portal(town: Town, person: Person, action: str, **more: str) -> None:
    """A button of the portal, for their subscription."""
    url = town.post(person, "/portal", return_url=SITE).json()["url"]
    (subscription,) = at_stripe(town, "subscriptions", customer=town.customer(person))["data"]
    assert town.fake.http.post(url, data={"action": f"{action}:{subscription['id']}", **more}).status_code == 200


def price(town: Town, key: str) -> str:
    """The price of that lookup key."""
    (found,) = at_stripe(town, "prices", **{"lookup_keys[0]": key})["data"]
    return str(found["id"])


def payment(town: Town, person: Person) -> str:
    """The payment of the pack they bought last."""
    found = at_stripe(town, "checkout/sessions", customer=town.customer(person), limit=1)
    return str(found["data"][0]["payment_intent"])


def moment(seconds: int) -> datetime:
    """A time of Stripe's as the database has it."""
    return datetime.fromtimestamp(seconds, UTC)


def pack_owner(town: Town) -> Person:
    """Somebody who has bought a pack of 100, and of whom we have heard."""
    person = town.person()
    town.buy(person, pack="pack_100")
    assert set(town.deliver()) == {200}
    assert credits_of(town, person) == [(100, 0, 0, False)]
    return person


def credits_of(town: Town, person: Person) -> list[tuple[int, int, int, bool]]:
    """Their packs: remaining, used, revoked, frozen."""
    names = ("credits_remaining", "credits_used", "credits_revoked", "is_frozen")
    return [tuple(pack[name] for name in names) for pack in town.packs(person)]  # type: ignore[misc]


# Whose word counts ------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def victim(door: Town) -> Person:
    """Somebody whose plan would be gone if Stripe were asked about them: they have none there."""
    person = door.person("pro")
    customer = change(door, "customers", email="victim@example.test")["id"]
    door.db.execute(
        "update public.user_subscriptions set stripe_customer_id = %s, stripe_subscription_id = %s where user_id = %s",
        (customer, f"sub_{person.id}", person.id),
    )
    return person


def right(at: int) -> Callable[[bytes], tuple[bytes, str]]:
    return lambda body: (body, signature(body, now() + at))


def stale_with_a_new_time(body: bytes) -> tuple[bytes, str]:
    old = signature(body, now() - 3600)
    return body, f"t={now()},{old.partition(',')[2]}"


def beside(body: bytes) -> tuple[bytes, str]:
    forged, other = signature(body, now(), "whsec_forged"), signature(body, now(), scheme="v0")
    return body, f"{forged},{other.partition(',')[2]}"


Forgery = Callable[[bytes], tuple[bytes, str | None]]
FORGERIES: dict[str, Forgery] = {
    "no signature": lambda body: (body, None),
    "an empty signature": lambda body: (body, ""),
    "a word": lambda body: (body, "signed"),
    "another secret": lambda body: (body, signature(body, now(), "whsec_another")),
    "an empty secret": lambda body: (body, signature(body, now(), "")),
    "301 seconds old": right(-301),
    "305 seconds ahead": right(305),  # some may pass on the way
    "a day old": right(-DAY),
    "a day ahead": right(DAY),
    "an old signature with a new time": stale_with_a_new_time,
    "another scheme": lambda body: (body, signature(body, now(), scheme="v0")),
    "another scheme beside a forged one": beside,
    "no time": lambda body: (body, signature(body, now()).partition(",")[2]),
    "a time that is no number": lambda body: (body, signature(body, now()).replace("t=", "t=x")),
    "a time without end": lambda body: (body, f"t={'9' * 5000},v1=0"),
    "only a time": lambda body: (body, f"t={now()}"),
    "a signature of nothing": lambda body: (body, f"t={now()},v1="),
    "the signature of another body": lambda body: (body, signature(b"{}", now())),
    "a truncated body": lambda body: (body[:-1], signature(body, now())),
    "half a body": lambda body: (body[: len(body) // 2], signature(body, now())),
    "a longer body": lambda body: (body + b"\n", signature(body, now())),
    "an empty body": lambda body: (b"", signature(body, now())),
    "a body that is not UTF-8": lambda body: (b"\xff" + body, signature(b"\xff" + body, now())),
    "a body in base64": lambda body: (b64encode(body), signature(body, now())),
    "one of two bytes": lambda body: (body, signature(body, now()).replace(",v1=", ",v1=\xe9")),
    "a time and more": lambda body: (body, signature(body, now()).replace(",v1", "=0,v1")),
}


@pytest.mark.parametrize(
    "forge",
    [pytest.param(forge, id=name) for name, forge in FORGERIES.items()],
)
def test_what_stripe_has_not_signed_lately_changes_nothing(door: Town, victim: Person, forge: Forgery) -> None:
    before = door.row(victim)
    event = door.event("customer.subscription.updated", {"customer": door.customer(victim)})
    forget(door)
    body, signed = forge(json.dumps(event).encode())
    assert failed(post(door, body, signed)) == (400, "invalid_signature")
    assert asked(door) == []
    assert (noted(door, event["id"]), door.row(victim)) == (None, before)


def test_no_byte_of_a_body_can_be_another(door: Town, victim: Person) -> None:
    before = door.row(victim)
    event = door.event("customer.subscription.updated", {"customer": door.customer(victim)})
    body = json.dumps(event).encode()
    signed = signature(body, now())
    forget(door)
    for at in range(0, len(body), 5):
        altered = bytearray(body)
        altered[at] ^= 1
        assert failed(post(door, bytes(altered), signed)) == (400, "invalid_signature")
    assert asked(door) == []
    assert (noted(door, event["id"]), door.row(victim)) == (None, before)


@pytest.mark.parametrize("at", [-290, 0, 290])
def test_what_was_signed_within_five_minutes_counts(door: Town, at: int) -> None:
    body = json.dumps(door.event("made.up", {})).encode()
    assert outcome(post(door, body, signature(body, now() + at))) == "ignored"


def test_a_signature_counts_among_others_and_with_fields_to_come(door: Town) -> None:
    body = json.dumps(door.event("made.up", {})).encode()
    signed, other = signature(body, now()), signature(body, now(), "whsec_old").partition(",")[2]
    time_, mark = signed.split(",")
    for header in (f"{time_},{other},{mark}", f"{time_},{mark},{other}", f"{signed},v2=1", f"v0=1,{signed}"):
        assert outcome(post(door, body, header)) == "ignored"


def test_while_a_secret_takes_the_place_of_another_either_counts(door: Town) -> None:
    body = json.dumps(door.event("made.up", {})).encode()
    with another(door, create, STRIPE_WEBHOOK_SECRET="whsec_old, whsec_new") as http:
        for secret in ("whsec_old", "whsec_new"):
            assert outcome(post(door, body, signature(body, now(), secret), http)) == "ignored"
        both = signature(body, now(), "whsec_old") + "," + signature(body, now(), "whsec_new").partition(",")[2]
        assert outcome(post(door, body, both, http)) == "ignored"
        for secret in (SECRET, "whsec_old, whsec_new", "whsec_"):
            response = post(door, body, signature(body, now(), secret), http)
            assert failed(response) == (400, "invalid_signature")


NO_EVENTS = {
    "a word": b"hello",
    "nothing but spaces": b"  ",
    "half an object": b'{"id": "evt_1"',
    "null": b"null",
    "a number": b"1",
    "a text": b'"evt_1"',
    "a list": b'[{"id": "evt_1"}]',
    "nested without end": b"[" * 100_000,
    "no id": b'{"type": "invoice.paid", "data": {"object": {}}}',
    "no type": b'{"id": "evt_1", "data": {"object": {}}}',
    "no data": b'{"id": "evt_1", "type": "invoice.paid"}',
    "a number for an id": b'{"id": 1, "type": "invoice.paid", "data": {"object": {}}}',
    "a list for a type": b'{"id": "evt_1", "type": ["invoice.paid"], "data": {"object": {}}}',
    "no object": b'{"id": "evt_1", "type": "invoice.paid", "data": {}}',
    "null for an object": b'{"id": "evt_1", "type": "invoice.paid", "data": {"object": null}}',
    "a thin event": b'{"id": "evt_1", "object": "v2.core.event", "type": "invoice.paid", "related_object": {}}',
    "no JSON number": b'{"id": "evt_1", "type": "invoice.paid", "data": {"object": {"amount": NaN}}}',
}


@pytest.mark.parametrize("body", NO_EVENTS.values(), ids=NO_EVENTS)
def test_what_is_signed_and_no_event_is_refused(door: Town, body: bytes) -> None:
    count = "select count(*) from public.stripe_events"
    before = door.db.execute(count).fetchone()
    assert failed(post(door, body, signature(body, now()))) == (400, "invalid_json")
    assert door.db.execute(count).fetchone() == before


def test_a_body_of_a_megabyte_is_too_large_however_well_signed(door: Town, victim: Person) -> None:
    event = door.event("invoice.paid", {"customer": door.customer(victim), "description": "x" * 1024 * 1024})
    assert failed(send(door, event)) == (413, "too_large")
    assert noted(door, event["id"]) is None


@pytest.mark.parametrize("method", ["GET", "PUT", "PATCH", "DELETE"])
def test_the_route_takes_what_is_posted_and_nothing_else(door: Town, method: str) -> None:
    response = door.fake.http.request(method, f"{door.webhooks_url}/webhooks/stripe")
    assert failed(response) == (405, "method_not_allowed")
    assert failed(door.fake.http.request(method, f"{door.webhooks_url}/webhooks")) == (404, "not_found")


INVOKE = """
import json, sys
from functions.webhooks.handler import handler
print(json.dumps([handler(event, None) for event in json.load(sys.stdin)]))
"""


def test_a_body_that_lambda_hands_over_in_base64_is_the_one_that_was_signed(town: Town) -> None:
    """In a process of its own, as Lambda has it, one invocation after another."""
    user = town.person()
    town.buy(user, plan="basic")
    bought = newest(town, "checkout.session.completed")
    body = json.dumps(stored(town, bought), indent=2, ensure_ascii=False).encode()
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
        env={"PATH": os.environ["PATH"], **environment(town.stack, town.fake.url)},
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
    assert plan_of(town, user) == ("basic", None, "active")
    assert "Traceback" not in done.stderr


@pytest.mark.parametrize("value", ["", "test", "whsec_", "whsec_a,", "whsec_a,canary"])
def test_a_secret_that_cannot_be_is_not_started_with(door: Town, value: str) -> None:
    with pytest.raises(SettingsError, match=r"^STRIPE_WEBHOOK_SECRET ") as told:
        load(WebhooksSettings, {**environment(door.stack, door.fake.url), "STRIPE_WEBHOOK_SECRET": value})
    assert "canary" not in str(told.value)


# Events that mean nothing here ------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", ["made.up", "customer.created", "payment_intent.succeeded", "", "invoice.PAID"])
def test_an_event_that_means_nothing_here_is_acknowledged_and_not_kept(door: Town, victim: Person, kind: str) -> None:
    event = door.event(kind, {"customer": door.customer(victim)})
    forget(door)
    assert outcome(send(door, event)) == "ignored"
    assert asked(door) == []
    assert noted(door, event["id"]) is None


def test_an_event_of_somebody_who_is_gone_changes_nothing(town: Town) -> None:
    user = town.person()
    town.buy(user, pack="pack_100")
    town.buy(user, plan="basic")
    customer = town.customer(user)
    town.db.execute("delete from auth.users where id = %s", (user.id,))
    assert set(town.deliver()) == {200}
    row = noted(town, newest(town, "checkout.session.completed"))
    assert row is not None
    assert (row["attempts"], row["last_error"]) == (1, None)
    assert row["processed_at"] is not None
    for table, column, of in (
        ("user_subscriptions", "stripe_customer_id", customer),
        ("credit_packs", "user_id", user.id),
    ):
        assert town.db.execute(f"select 1 from public.{table} where {column} = %s", (of,)).fetchall() == []


def test_an_event_of_somebody_who_is_nobody_here_changes_nothing(town: Town) -> None:
    everybody = "select md5(string_agg(s::text, ',' order by id)) as sum from public.user_subscriptions s"
    before = town.db.execute(everybody).fetchone()
    customer = change(town, "customers", email="stranger@example.test", payment_method="pm_card_visa")["id"]
    cards = at_stripe(town, f"customers/{customer}/payment_methods")["data"]
    change(
        town,
        "subscriptions",
        customer=customer,
        default_payment_method=cards[0]["id"],
        **{"items[0][price]": price(town, "plan_pro")},
    )
    assert newest(town, "customer.subscription.created") in town.undelivered()
    assert set(town.deliver()) == {200}
    assert town.db.execute(everybody).fetchone() == before


def test_a_payment_that_was_for_no_pack_of_ours_changes_nothing(town: Town) -> None:
    user = subscriber(town)
    before = town.row(user)
    charge = at_stripe(town, "charges", customer=town.customer(user))["data"][0]["id"]
    change(town, "refunds", charge=charge, amount="100")
    assert set(town.deliver()) == {200}
    assert {**town.row(user), "updated_at": None} == {**before, "updated_at": None}
    assert town.packs(user) == []


# Once -------------------------------------------------------------------------------------------------------------


def test_an_event_that_comes_again_is_acknowledged_without_a_look_at_stripe(town: Town) -> None:
    user = town.person()
    town.buy(user, pack="pack_100")
    bought = newest(town, "checkout.session.completed")
    event = stored(town, bought)
    assert outcome(send(town, event)) == "processed"
    first, packs, row = noted(town, bought), town.packs(user), town.row(user)
    forget(town)
    assert [outcome(send(town, event)) for _ in range(3)] == ["repeated"] * 3
    assert asked(town) == []
    assert (noted(town, bought), town.packs(user), town.row(user)) == (first, packs, row)
    assert first is not None
    assert (first["type"], first["attempts"], first["last_error"]) == ("checkout.session.completed", 1, None)


def test_an_event_that_comes_twice_at_once_has_its_effect_once(town: Town, faults: Callable[..., None]) -> None:
    user = town.person()
    town.buy(user, pack="pack_100")
    bought = newest(town, "checkout.session.completed")
    faults(method="GET", path="/v1/payment_intents/", seconds=0.2, times=8)  # so that none is done before all began
    assert town.deliver(*[bought] * 8, together=True) == [200] * 8
    assert credits_of(town, user) == [(100, 0, 0, False)]
    assert plan_of(town, user) == ("usage_only", None, "active")


def test_all_events_at_once_and_backwards_are_as_good_as_in_order(town: Town) -> None:
    user = town.person()
    town.buy(user, plan="pro")
    town.buy(user, pack="pack_100")
    in_portal(town, user, "cancel")
    assert set(town.deliver(*town.undelivered()[::-1], together=True)) == {200}
    row = town.row(user)
    assert plan_of(town, user) == ("pro", None, "canceled")
    assert row["canceled_at"] == moment(town.fake.now)
    assert credits_of(town, user) == [(100, 0, 0, False)]


# Something is out of reach ----------------------------------------------------------------------------------------

NOWHERE = "http://127.0.0.1:9"


def check_finished(town: Town, event_id: str, attempts: int) -> None:
    """The event's effect is committed."""
    row = noted(town, event_id)
    assert row is not None
    assert (row["attempts"], row["last_error"]) == (attempts, None)
    assert row["processed_at"] is not None


def test_without_our_database_stripe_is_told_to_come_again(town: Town, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(Database.call.__kwdefaults__, "timeout_s", 0.3)
    user = town.person()
    town.buy(user, plan="basic")
    bought = newest(town, "checkout.session.completed")
    forget(town)
    with another(town, create, SUPABASE_URL=NOWHERE) as http:
        assert failed(send(town, stored(town, bought), http)) == (503, "unavailable")
    assert asked(town) == [f"/v1/events/{bought}"]  # which was the test
    assert noted(town, bought) is None
    assert town.deliver(bought) == [200]
    check_finished(town, bought, attempts=1)
    assert plan_of(town, user) == ("basic", None, "active")


def test_a_database_that_goes_meanwhile_is_noted_and_the_next_delivery_ends_it(
    town: Town, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(Database.call.__kwdefaults__, "timeout_s", 1)
    user = town.person()
    town.buy(user, plan="basic")
    bought = newest(town, "checkout.session.completed")
    queue = (user.id,)
    town.db.execute("select pg_advisory_lock(uuid_hash_extended(%s::uuid, 0))", queue)
    try:
        assert failed(send(town, stored(town, bought))) == (503, "unavailable")
        row = noted(town, bought)
    finally:
        town.db.execute("select pg_advisory_unlock(uuid_hash_extended(%s::uuid, 0))", queue)
    assert row is not None
    assert (row["attempts"], row["last_error"], row["processed_at"]) == (1, "Unavailable", None)
    monkeypatch.undo()
    assert outcome(send(town, stored(town, bought))) == "processed"
    check_finished(town, bought, attempts=2)
    assert plan_of(town, user) == ("basic", None, "active")


LOOKS = {
    "at the customer": ("plan", "/v1/customers/", 500, "APIError"),
    "at what was paid": ("plan", "/v1/invoices", 503, "APIError"),
    "at what was sold": ("pack", "/v1/checkout/sessions", 500, "APIError"),
    "at the payment": ("pack", "/v1/payment_intents/", 429, "RateLimitError"),
    "at disputes": ("pack", "/v1/disputes", 500, "APIError"),
}


@pytest.mark.parametrize(("what", "path", "status", "error"), LOOKS.values(), ids=LOOKS)
def test_where_stripe_fails_that_is_noted_and_the_next_delivery_ends_it(
    town: Town, faults: Callable[..., None], what: str, path: str, status: int, error: str
) -> None:
    user = town.person()
    town.buy(user, **{what: "basic" if what == "plan" else "pack_100"})
    bought = newest(town, "checkout.session.completed")
    event = stored(town, bought)
    faults(method="GET", path=path, status=status, times=1 if status == 429 else 3)
    assert failed(send(town, event)) == UNAVAILABLE
    row = noted(town, bought)
    assert row is not None
    assert (row["attempts"], row["last_error"], row["processed_at"]) == (1, error, None)
    assert (plan_of(town, user), town.packs(user)) == (("free", None, "active"), [])
    assert outcome(send(town, event)) == "processed"
    check_finished(town, bought, attempts=2)
    assert plan_of(town, user)[0] == ("basic" if what == "plan" else "usage_only")


@pytest.mark.parametrize(
    ("changed", "error"),
    [
        ({"STRIPE_API_BASE": NOWHERE}, "APIConnectionError"),
        ({"STRIPE_SECRET_KEY": "sk_test_another"}, "AuthenticationError"),
    ],
    ids=["out of reach", "a wrong key"],
)
def test_where_stripe_does_not_answer_us_that_is_noted(
    town: Town, faults: Callable[..., None], changed: dict[str, str], error: str
) -> None:
    user = town.person()
    town.buy(user, pack="pack_100")
    bought = newest(town, "checkout.session.completed")
    with another(town, create, **changed) as http:
        response = send(town, stored(town, bought), http)
    assert failed(response) == UNAVAILABLE
    row = noted(town, bought)
    assert row is not None
    assert (row["last_error"], row["processed_at"]) == (error, None)
    assert town.deliver(bought) == [200]
    check_finished(town, bought, attempts=2)


def test_what_takes_too_long_is_noted_as_a_failure(
    town: Town, faults: Callable[..., None], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(dealing, "TIMEOUT_S", 0.2)
    user = town.person()
    town.buy(user, pack="pack_100")
    bought = newest(town, "checkout.session.completed")
    faults(method="GET", path="/v1/payment_intents/", seconds=0.5)
    assert failed(send(town, stored(town, bought))) == UNAVAILABLE
    row = noted(town, bought)
    assert row is not None
    assert (row["attempts"], row["last_error"], row["processed_at"]) == (1, "TimeoutError", None)
    monkeypatch.undo()
    assert town.deliver(bought) == [200]
    check_finished(town, bought, attempts=2)
    assert credits_of(town, user) == [(100, 0, 0, False)]


# A subscription's life --------------------------------------------------------------------------------------------


def test_a_plan_that_is_bought_is_there_with_its_period(town: Town) -> None:
    user = town.person()
    town.buy(user, plan="basic")
    statuses = town.deliver()
    assert len(statuses) > 10
    assert set(statuses) == {200}
    assert plan_of(town, user) == ("basic", None, "active")
    (subscription,) = at_stripe(town, "subscriptions", customer=town.customer(user))["data"]
    (item,) = subscription["items"]["data"]
    row = town.row(user)
    assert row["stripe_subscription_id"] == subscription["id"]
    assert row["current_period_start"] == moment(item["current_period_start"]) == moment(town.fake.now)
    assert row["current_period_end"] == moment(item["current_period_end"])
    assert (row["canceled_at"], row["past_due_since"]) == (None, None)
    assert row["stripe_sequence"] > 0


def test_the_plan_of_no_price_is_bought_like_any_other(town: Town) -> None:
    user = subscriber(town, "usage_only")
    assert town.row(user)["stripe_subscription_id"]
    in_portal(town, user, "plan", price=price(town, "plan_basic"))
    assert set(town.deliver()) == {200}
    assert plan_of(town, user) == ("basic", None, "active")


def test_an_upgrade_in_the_portal_is_there_at_once_and_a_step_back_before_it_was_paid_too(town: Town) -> None:
    user = subscriber(town)
    in_portal(town, user, "plan", price=price(town, "plan_pro"))
    assert set(town.deliver()) == {200}
    assert plan_of(town, user) == ("pro", None, "active")
    in_portal(town, user, "plan", price=price(town, "plan_basic"))
    assert set(town.deliver()) == {200}
    assert plan_of(town, user) == ("basic", None, "active")


def test_what_was_paid_for_stays_until_the_period_ends(town: Town) -> None:
    user = subscriber(town)
    subscription = town.row(user)["stripe_subscription_id"]
    (item,) = at_stripe(town, f"subscriptions/{subscription}")["items"]["data"]
    more = {"items[0][id]": item["id"], "proration_behavior": "always_invoice"}
    town.fake.advance(DAY)
    change(town, f"subscriptions/{subscription}", **more, **{"items[0][price]": price(town, "plan_pro")})
    assert set(town.deliver()) == {200}
    assert plan_of(town, user) == ("pro", None, "active")
    in_portal(town, user, "plan", price=price(town, "plan_basic"))
    assert set(town.deliver()) == {200}
    assert plan_of(town, user) == ("pro", "basic", "active")
    town.happen(MONTH)
    assert plan_of(town, user) == ("basic", None, "active")
    assert town.row(user)["current_period_start"] == moment(item["current_period_end"])


def test_a_downgrade_waits_for_the_end_of_the_period(town: Town) -> None:
    user = subscriber(town, "pro")
    end = town.row(user)["current_period_end"]
    in_portal(town, user, "plan", price=price(town, "plan_basic"))
    assert set(town.deliver()) == {200}
    assert plan_of(town, user) == ("pro", "basic", "active")
    assert town.row(user)["current_period_end"] == end
    town.happen(MONTH)
    assert plan_of(town, user) == ("basic", None, "active")
    assert town.row(user)["current_period_start"] == end


def test_a_cancellation_in_the_portal_runs_on_can_be_taken_back_and_ends(town: Town) -> None:
    user = subscriber(town)
    begun = town.row(user)
    town.fake.advance(DAY)
    in_portal(town, user, "cancel")
    (subscription,) = at_stripe(town, "subscriptions", customer=town.customer(user))["data"]
    assert (subscription["cancel_at_period_end"], subscription["status"]) == (False, "active")
    assert set(town.deliver()) == {200}
    row = town.row(user)
    assert plan_of(town, user) == ("basic", None, "canceled")
    assert row["canceled_at"] == moment(town.fake.now)
    assert row["current_period_end"] == moment(subscription["cancel_at"]) == begun["current_period_end"]

    in_portal(town, user, "resume")
    assert set(town.deliver()) == {200}
    assert plan_of(town, user) == ("basic", None, "active")
    assert town.row(user)["canceled_at"] is None

    in_portal(town, user, "cancel")
    town.deliver()
    town.happen(MONTH)
    row = town.row(user)
    assert plan_of(town, user) == ("free", None, "active")
    gone = ("stripe_subscription_id", "current_period_start", "current_period_end", "canceled_at", "past_due_since")
    assert [row[name] for name in gone] == [None] * len(gone)
    assert row["stripe_customer_id"]


@pytest.mark.parametrize("when", ["at its end", "before its end", "later"])
def test_a_cancellation_that_was_not_made_in_the_portal_counts_as_well(town: Town, when: str) -> None:
    user = subscriber(town)
    subscription, end = town.row(user)["stripe_subscription_id"], town.row(user)["current_period_end"]
    at = {"before its end": town.fake.now + 10 * DAY, "later": town.fake.now + 40 * DAY}
    given = {"cancel_at_period_end": "true"} if when == "at its end" else {"cancel_at": str(at[when])}
    change(town, f"subscriptions/{subscription}", **given)
    assert set(town.deliver()) == {200}
    assert plan_of(town, user) == ("basic", None, "active" if when == "later" else "canceled")
    assert town.row(user)["current_period_end"] == (moment(at[when]) if when == "before its end" else end)


def failing(town: Town) -> Person:
    """A subscriber whose renewal was not paid."""
    user = subscriber(town)
    town.fake.control(f"/_customers/{town.customer(user)}/card", works=False)
    town.happen(MONTH + 2 * HOUR)
    return user


def test_a_payment_that_fails_is_past_due_since_its_invoice_until_it_is_paid(town: Town) -> None:
    user = failing(town)
    invoice = at_stripe(town, "invoices", customer=town.customer(user), limit=1)["data"][0]
    assert (invoice["status"], invoice["billing_reason"]) == ("open", "subscription_cycle")
    due = moment(invoice["status_transitions"]["finalized_at"])
    assert plan_of(town, user) == ("basic", None, "past_due")
    assert town.row(user)["past_due_since"] == due
    town.happen(4 * DAY)
    assert at_stripe(town, f"invoices/{invoice['id']}")["attempt_count"] == 2
    assert plan_of(town, user) == ("basic", None, "past_due")
    assert town.row(user)["past_due_since"] == due
    assert town.fake.http.post(f"/i/{invoice['id']}", data={"way": "good_card"}).status_code == 200
    assert set(town.deliver()) == {200}
    assert plan_of(town, user) == ("basic", None, "active")
    assert town.row(user)["past_due_since"] is None


def test_a_payment_that_never_comes_ends_the_plan_and_no_late_event_revives_it(town: Town) -> None:
    user = town.person()
    town.buy(user, plan="basic")
    created = newest(town, "customer.subscription.created")
    town.deliver(*[one for one in town.undelivered() if one != created])
    assert plan_of(town, user) == ("basic", None, "active")
    town.fake.control(f"/_customers/{town.customer(user)}/card", works=False)
    town.fake.control("/_drop", ids=[created])
    town.happen(MONTH + 2 * HOUR)
    (failure,) = [one["id"] for one in at_stripe(town, "events", type="invoice.payment_failed")["data"]][:1]
    town.happen(20 * DAY)
    assert plan_of(town, user) == ("free", None, "active")
    ended = town.row(user)
    for late in (created, failure):
        town.deliver(late)
    again = {**stored(town, created), "id": f"{created}_again"}
    assert outcome(send(town, again)) == "processed"
    row = town.row(user)
    kept = ("tier", "status", "stripe_customer_id", "stripe_subscription_id", "past_due_since", "current_period_end")
    assert [row[name] for name in kept] == [ended[name] for name in kept]
    assert noted(town, created) is not None


def test_who_subscribes_again_after_the_end_has_what_they_bought_then(town: Town) -> None:
    user = subscriber(town)
    old = town.row(user)["stripe_subscription_id"]
    town.fake.http.delete(f"/v1/subscriptions/{old}", headers=AS_US)
    ended = newest(town, "customer.subscription.deleted")
    town.buy(user, plan="pro")
    town.deliver(*[one for one in town.undelivered() if one != ended])
    assert plan_of(town, user) == ("pro", None, "active")
    assert town.deliver(ended) == [200]
    assert plan_of(town, user) == ("pro", None, "active")
    assert town.row(user)["stripe_subscription_id"] != old


def test_a_customer_who_is_deleted_at_stripe_is_none_here_and_keeps_their_credits(town: Town) -> None:
    user = subscriber(town)
    town.buy(user, pack="pack_100")
    town.deliver()
    late = town.event("customer.subscription.updated", {"customer": town.customer(user)})
    assert town.fake.http.delete(f"/v1/customers/{town.customer(user)}", headers=AS_US).status_code == 200
    assert set(town.deliver()) == {200}
    row = town.row(user)
    assert plan_of(town, user) == ("usage_only", None, "active")
    assert (row["stripe_customer_id"], row["stripe_subscription_id"]) == (None, None)
    assert credits_of(town, user) == [(100, 0, 0, False)]
    assert outcome(send(town, late)) == "processed"
    assert town.row(user) == row


# Packs ------------------------------------------------------------------------------------------------------------


def test_a_pack_that_is_paid_is_there_with_what_was_paid(town: Town) -> None:
    user = pack_owner(town)
    (pack,) = town.packs(user)
    (session,) = at_stripe(town, "checkout/sessions", customer=town.customer(user))["data"]
    assert (pack["stripe_checkout_session_id"], pack["stripe_payment_intent_id"]) == (
        session["id"],
        session["payment_intent"],
    )
    assert (pack["credits_purchased"], pack["price_paid"], pack["price_per_credit"]) == (
        100,
        Decimal("2.25"),
        Decimal("0.0225"),
    )
    assert (pack["created_at"], pack["expires_at"]) == (moment(town.fake.now), None)
    assert plan_of(town, user) == ("usage_only", None, "active")


def test_a_pack_beside_a_plan_changes_nothing_of_the_plan(town: Town) -> None:
    user = subscriber(town)
    before = town.row(user)
    town.buy(user, pack="pack_500")
    assert set(town.deliver()) == {200}
    assert credits_of(town, user) == [(500, 0, 0, False)]
    assert {**town.row(user), "updated_at": None} == {**before, "updated_at": None}


def test_a_card_that_is_declined_buys_nothing(town: Town) -> None:
    user = town.person()
    page = town.page(user, pack="pack_100")
    assert town.fake.http.post(page, data={"way": "bad_card"}).status_code == 402
    assert set(town.deliver()) == {200}
    assert (town.packs(user), plan_of(town, user)) == ([], ("free", None, "active"))
    assert town.fake.http.post(page, data={"way": "good_card"}).status_code == 303
    town.deliver()
    assert credits_of(town, user) == [(100, 0, 0, False)]


def test_a_pack_that_is_paid_later_is_there_once_the_money_is(town: Town) -> None:
    user = town.person()
    town.buy(user, "later_succeeds", pack="pack_100")
    completed = newest(town, "checkout.session.completed")
    assert set(town.deliver()) == {200}
    check_finished(town, completed, attempts=1)
    assert (town.packs(user), plan_of(town, user)) == ([], ("free", None, "active"))
    town.fake.advance(DAY)
    assert set(town.deliver()) == {200}
    assert credits_of(town, user) == [(100, 0, 0, False)]
    assert town.packs(user)[0]["created_at"] == moment(town.fake.now)
    assert plan_of(town, user) == ("usage_only", None, "active")


def test_a_pack_whose_money_never_comes_is_never_there(town: Town) -> None:
    user = town.person()
    town.buy(user, "later_fails", pack="pack_100")
    town.deliver()
    town.fake.advance(DAY)
    assert newest(town, "checkout.session.async_payment_failed") in town.undelivered()
    assert set(town.deliver()) == {200}
    assert (town.packs(user), plan_of(town, user)) == ([], ("free", None, "active"))


def test_refunds_take_back_their_part_rounded_for_the_user_and_all_of_it_in_the_end(town: Town) -> None:
    user = pack_owner(town)
    for refunded, left in ((100, 56), (100, 12), (25, 0)):  # 44.4 and 88.9 of 100 credits, then all
        change(town, "refunds", payment_intent=payment(town, user), amount=str(refunded))
        assert set(town.deliver()) == {200}
        assert credits_of(town, user) == [(left, 0, 100 - left, False)]
        assert plan_of(town, user)[0] == ("usage_only" if left else "free")
    assert town.reconcile() == []


def test_a_refund_leaves_what_was_used(town: Town, api: Api) -> None:
    user = pack_owner(town)
    answer = api.chat(user, question("What is a quorum?"))
    assert answer.json()["metadata"]["funding"] == "credit"
    change(town, "refunds", payment_intent=payment(town, user))
    assert set(town.deliver()) == {200}
    assert credits_of(town, user) == [(0, 1, 99, False)]
    assert town.packs(user)[0]["credits_to_revoke"] == 100
    assert plan_of(town, user) == ("free", None, "active")


def test_a_refund_that_is_heard_of_before_the_payment_counts(town: Town) -> None:
    user = town.person()
    town.buy(user, pack="pack_100")
    change(town, "refunds", payment_intent=payment(town, user), amount="225")
    assert set(town.deliver(*town.undelivered()[::-1])) == {200}
    assert credits_of(town, user) == [(0, 0, 100, False)]
    assert plan_of(town, user) == ("free", None, "active")


@pytest.mark.parametrize(
    ("opening", "closing", "left"),
    [("needs_response", "won", 100), ("warning_needs_response", "warning_closed", 100), ("needs_response", "lost", 0)],
    ids=["won", "withdrawn", "lost"],
)
def test_a_disputed_pack_pays_for_nothing_until_the_dispute_is_over(
    town: Town, opening: str, closing: str, left: int
) -> None:
    user = pack_owner(town)
    charge = payment(town, user)
    for status in (opening, "under_review"):
        town.fake.control("/_disputes", charge=charge, status=status)
        assert set(town.deliver()) == {200}
        assert credits_of(town, user) == [(100, 0, 0, True)]
    town.fake.control("/_disputes", charge=charge, status=closing)
    assert set(town.deliver()) == {200}
    assert credits_of(town, user) == [(left, 0, 100 - left, False)]
    assert plan_of(town, user)[0] == ("usage_only" if left else "free")


# What is told -----------------------------------------------------------------------------------------------------


def test_the_log_tells_of_each_event_its_id_its_type_and_what_became_of_it_and_nothing_else(
    town: Town, faults: Callable[..., None], eventually: Callable[[Callable[[], bool]], None]
) -> None:
    user = town.person()
    town.buy(user, pack="pack_100")
    bought = newest(town, "checkout.session.completed")
    event, unknown = stored(town, bought), town.event("made.up", {"email": user.email})
    with log_of("webhooks") as lines:
        faults(method="GET", path="/v1/payment_intents/", status=500, times=3)
        for one in (event, event, event, unknown):
            send(town, one)
        post(town, b'{"canary": 1}', "t=1,v1=canary")
        eventually(lambda: len([line for line in lines() if line["message"] == "request"]) == 5)
        written = lines()
    told = [line for line in written if line["message"] == "stripe event"]
    assert [(line["event_id"], line["event_type"], line["outcome"]) for line in told] == [
        (bought, "checkout.session.completed", "processed"),
        (bought, "checkout.session.completed", "repeated"),
        (unknown["id"], "made.up", "ignored"),
    ]
    always = {"level", "message", "timestamp", "service"}
    assert all({*line} == {*always, "event_id", "event_type", "outcome"} for line in told)
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
    private = [user.id, user.email, town.customer(user), session["id"], session["payment_intent"], SITE, "://"]
    secret = [SECRET, KEY, town.stack.info["service_role_key"], "v1=", "canary"]
    assert [one for one in private + secret if one in json.dumps(written)] == []


def test_an_invoice_that_cannot_be_finalized_is_counted_for_somebody_to_look(
    town: Town, capsys: pytest.CaptureFixture[str]
) -> None:
    user = subscriber(town)
    capsys.readouterr()
    for kind in ("invoice.finalization_failed", "invoice.paid"):
        assert outcome(send(town, town.event(kind, {"customer": town.customer(user)}))) == "processed"
    (counted,) = [json.loads(line) for line in capsys.readouterr().out.splitlines() if "CloudWatchMetrics" in line]
    assert (counted["InvoicesNotFinalized"], counted["service"]) == ([1.0], "webhooks")
    assert plan_of(town, user) == ("basic", None, "active")
