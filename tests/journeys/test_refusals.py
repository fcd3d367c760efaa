"""Every state of a user, every request that it refuses, in both languages: doing what `action` says is enough.

Prints a table. A state is a user of the running stack with a customer at the Stripe stand-in where it needs one. Each
refused request is sent in both languages; then the test does what the action says, and the same request succeeds.
"""

import sys
import uuid
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import httpx
import psycopg
import pytest

from functions.common import reasons
from infra.local.stack import Stack
from tests.api import question
from tests.billing_kit import SITE, BillingStack, stripe_get, stripe_post
from tests.chat_kit import chat_environment
from tests.conftest import Person
from tests.functions.watched import served
from tests.own_keys import store_key
from tests.sql.metering import action, value
from tests.test_reasons import ENGLISH

Db = psycopg.Connection[dict[str, Any]]
TODAY = "(now() at time zone 'UTC')::date"


@pytest.fixture(scope="module")
def chat_url(stack: Stack) -> Iterator[str]:
    """A chat function that also serves its tools."""
    environment = {**chat_environment(stack), "MCP_ENABLED": "true"}
    with served("functions.chat.handler:create", environment) as origin:
        yield origin


@dataclass(frozen=True, slots=True)
class World:
    """What the states and the actions change."""

    billing: BillingStack
    stack: Stack
    chat_url: str

    def run(self, statement: str, user: Person, *values: Any) -> None:
        self.billing.db.execute(statement.encode(), (*values, user.id))

    def set(self, user: Person, columns: str) -> None:
        self.run(f"update public.user_subscriptions set {columns} where user_id = %s", user)

    def subscriber(self, plan: str, columns: str = "") -> Person:
        """A user who bought a plan."""
        user = self.billing.new_user()
        self.buy(user, plan=plan)
        if columns:
            self.set(user, columns)
        return user

    def buy(self, user: Person, **what: str) -> None:
        self.billing.buy(user, **what)
        assert set(self.billing.deliver()) <= {200}

    def past_due(self, columns: str = "") -> Person:
        """A subscriber whose upgrade could not be paid."""
        user = self.subscriber("basic")
        self.billing.fake.control(f"/_customers/{self.billing.customer_id(user)}/card", works=False)
        subscription = stripe_get(
            self.billing, f"subscriptions/{self.billing.subscription_row(user)['stripe_subscription_id']}"
        )
        (price,) = stripe_get(self.billing, "prices", **{"lookup_keys[0]": "plan_pro"})["data"]
        change = {"items[0][id]": subscription["items"]["data"][0]["id"], "items[0][price]": price["id"]}
        stripe_post(self.billing, f"subscriptions/{subscription['id']}", proration_behavior="always_invoice", **change)
        assert set(self.billing.deliver()) == {200}
        assert self.billing.subscription_row(user)["status"] == "past_due"
        if columns:
            self.set(user, columns)
        return user

    def add_pack(self, user: Person, left: int, more: str = "") -> Person:
        self.buy(user, pack="pack_100")
        self.run(
            f"update public.credit_packs set credits_used = 100 - {left}, credits_remaining = {left} {more}"
            " where user_id = %s",
            user,
        )
        return user

    def with_key(self, kind: str) -> Person:
        user = self.billing.new_user("basic")
        store_key(self.stack, user, f"sk-own-{kind}-{uuid.uuid4().hex}", "anthropic")
        return user

    def called(self, user: Person, function: str) -> Person:
        """Calls an operator's function."""
        value(self.billing.db, f"select public.{function}(%s, %s)", user.id, action())
        return user

    def paused(self, kind: str, provider: str | None) -> Person:
        words = ("We repair it. Please try again at noon.", "Nous le réparons. Veuillez réessayer à midi.")
        value(self.billing.db, "select public.pause_service(%s, %s, %s, %s, %s)", kind, provider, *words, action())
        return self.billing.new_user("basic")

    def resume(self) -> None:
        """Ends every pause."""
        for kind, provider in (("chat_paused", None), ("provider_paused", "anthropic")):
            value(self.billing.db, "select public.resume_service(%s, %s, %s)", kind, provider, action())

    def changed(self, user: Person, statement: str) -> Person:
        self.run(statement, user)
        return user


USED = f"quota_used = 15, quota_date = {TODAY}"
FULL = "current_overage_amount = 10"
BAN = "update auth.users set banned_until = {} where id = %s"
SPENT = "update public.daily_costs set free_usd = 1000, day = {} where shard = 0 and %s::text is not null"
RETURNED = b"update public.daily_costs set free_usd = 0 where shard = 0 and free_usd = 1000"


# A state by its name, and how it comes about.
STATES: Mapping[str, Callable[[World], Person]] = {
    "no subscription": lambda w: w.changed(
        w.billing.new_user(), "delete from public.user_subscriptions where user_id = %s"
    ),
    "free": lambda w: w.billing.new_user(),
    "free, unconfirmed": lambda w: w.changed(
        w.billing.new_user(), "update auth.users set email_confirmed_at = null where id = %s"
    ),
    "free, used": lambda w: w.billing.new_user(lifetime_used=10),
    "blocked": lambda w: w.called(w.subscriber("pro"), "block_user"),
    "banned": lambda w: w.changed(w.subscriber("pro"), BAN.format("'infinity'")),
    "basic, used, overage off": lambda w: w.subscriber("basic", f"{USED}, allow_overages = false"),
    "basic, used, overage limit": lambda w: w.subscriber("basic", f"{USED}, {FULL}"),
    "basic, used, off and limit": lambda w: w.subscriber("basic", f"{USED}, {FULL}, allow_overages = false"),
    "basic, used, no card": lambda w: w.billing.new_user("basic", quota_used=15),
    "basic, quota 0, overage off": lambda w: w.subscriber("basic", "daily_quota = 0, allow_overages = false"),
    "basic, quota 0": lambda w: w.billing.new_user("basic", daily_quota=0),
    "usage_only, overage off": lambda w: w.subscriber("usage_only", "allow_overages = false"),
    "usage_only, overage limit": lambda w: w.subscriber("usage_only", FULL),
    "usage_only, ceiling": lambda w: w.subscriber("usage_only", f"{FULL}, overage_limit = 10, overage_ceiling = 10"),
    "usage_only, limit 0": lambda w: w.subscriber("usage_only", "overage_limit = 0"),
    "usage_only, canceled": lambda w: w.subscriber(
        "usage_only", "status = 'canceled', current_period_end = now() + interval '9 days', "
        "current_period_start = now() - interval '9 days'"
    ),
    "credits used": lambda w: w.add_pack(w.billing.new_user(lifetime_used=10), 0),
    "credits frozen": lambda w: w.add_pack(w.billing.new_user(lifetime_used=10), 9, ", is_frozen = true"),
    "past due, quota 0": lambda w: w.past_due("daily_quota = 0, past_due_since = now()"),
    "past due, over": lambda w: w.past_due("past_due_since = now() - interval '8 days'"),
    "suspended": lambda w: w.past_due("status = 'suspended'"),
    "suspended, no card": lambda w: w.billing.new_user("basic", status="suspended"),
    "canceled, no end": lambda w: w.billing.new_user("pro", status="canceled"),
    "too many at once": lambda w: w.changed(
        w.billing.new_user("basic"),
        "select public.admit_query(u.id, n::text, gen_random_uuid()) from auth.users u, generate_series(1, 3) n"
        " where u.id = %s",
    ),
    "too many failures": lambda w: w.changed(
        w.billing.new_user("basic"),
        f"update public.user_subscriptions set failed_cost_usd = 1, quota_date = {TODAY} where user_id = %s",
    ),
    "free answers off": lambda w: w.changed(w.billing.new_user(), SPENT.format(TODAY)),
    "chat paused": lambda w: w.paused("chat_paused", None),
    "provider paused": lambda w: w.paused("provider_paused", "anthropic"),
    "key rejected": lambda w: w.with_key("invalid"),
    "key without credit": lambda w: w.with_key("exhausted"),
    "key unreadable": lambda w: w.changed(
        w.with_key("good"), r"update public.user_api_keys set encryption_tag = '\x00000000000000000000000000000000'"
        " where user_id = %s",
    ),
}  # fmt: skip


# A request by its name: sent by a user, in a language.
Send = Callable[[World, Person, str], httpx.Response]


def headers(user: Person, language: str) -> dict[str, str]:
    return {**user.headers, "accept": "application/json", "accept-language": f"{language}-CA,{language};q=0.9"}


def ask(w: World, user: Person, language: str, **fields: Any) -> httpx.Response:
    body = question(f"What is a quorum, {uuid.uuid4()}?", language=language, provider="anthropic", **fields)
    return httpx.post(f"{w.chat_url}/chat", json=body, headers=headers(user, "de"), timeout=30)


def call_tool(w: World, user: Person, language: str) -> httpx.Response:
    call = {"name": "get_bill", "arguments": {"number": "C-5", "session": "45-1", "language": language}}
    message = {"jsonrpc": "2.0", "id": 1, "method": "tools/call", "params": call}
    return httpx.post(f"{w.chat_url}/mcp", json=message, headers=headers(user, "de"), timeout=30)


def put_key(w: World, user: Person, language: str, provider: str = "openai") -> httpx.Response:
    """By default a key that no query of these tests uses."""
    url = f"{w.stack.info['functions_url']}/keys/{provider}"
    return httpx.put(url, json={"api_key": f"sk-own-{uuid.uuid4().hex}"}, headers=headers(user, language), timeout=30)


def check_out(w: World, user: Person, language: str, **what: str) -> httpx.Response:
    body = {"success_url": SITE, "cancel_url": SITE, **what}
    return w.billing.checkout.post("/checkout", json=body, headers=headers(user, language))


REQUESTS: Mapping[str, Send] = {
    "chat": ask,
    "dear model": lambda w, user, language: ask(w, user, language, model="claude-sonnet-5-5"),
    "tool": call_tool,
    "key": put_key,
    "pack": lambda w, user, language: check_out(w, user, language, pack="pack_100"),
    "plan": lambda w, user, language: check_out(w, user, language, plan="pro"),
    "portal": lambda w, user, language: w.billing.checkout.post(
        "/portal", json={"return_url": SITE}, headers=headers(user, language)
    ),
    "overage": lambda w, user, language: w.billing.checkout.patch("/overage", json={}, headers=headers(user, language)),
}


def error_of(response: httpx.Response) -> dict[str, Any] | None:
    """The error of a refusal, None for a success."""
    body: dict[str, Any] = response.json()
    error: dict[str, Any] | None = body.get("error")
    return error["data"] if error is not None and "data" in error else error


# What a user does for an action.


def pay_invoice(w: World, user: Person, error: dict[str, Any]) -> None:
    assert httpx.post(error["url"], data={"way": "good_card"}).status_code == 200
    assert set(w.billing.deliver()) == {200}


def set_overage(w: World, user: Person, **changes: Any) -> None:
    assert w.billing.checkout.patch("/overage", json=changes, headers=user.headers).status_code == 200


def store_good_key(w: World, user: Person) -> None:
    assert put_key(w, user, "en", "anthropic").status_code == 200


def wait(w: World, user: Person, error: dict[str, Any]) -> None:
    """As if the time until `resets_at` had passed: counters are of an earlier period, answers and pauses end."""
    assert error["resets_at"] is not None
    if error["reason_code"].endswith("_paused"):
        w.resume()
    w.set(user, "quota_date = quota_date - 1, overage_period_start = overage_period_start - interval '2 months'")
    w.run(SPENT.format("day - 1"), user)
    w.run("select public.release_query(h.id) from public.query_holds h where h.user_id = %s", user)


def support(w: World, user: Person) -> None:
    w.called(user, "unblock_user")
    w.run(BAN.format("null"), user)


ACTIONS: Mapping[str, Callable[[World, Person, dict[str, Any]], None]] = {
    "upgrade": lambda w, user, error: w.buy(user, plan="pro"),
    "buy_pack": lambda w, user, error: w.buy(user, pack="pack_100"),
    "pay_invoice": pay_invoice,
    "enable_overage": lambda w, user, error: set_overage(w, user, allow_overages=True),
    "raise_limit": lambda w, user, error: set_overage(w, user, overage_limit_usd=20),
    "confirm_email": lambda w, user, error: w.run(
        "update auth.users set email_confirmed_at = now() where id = %s", user
    ),
    "reconnect_key": lambda w, user, error: store_good_key(w, user),
    "wait": wait,
    "contact_support": lambda w, user, error: support(w, user),
}


def check_sentences(english: dict[str, Any], french: dict[str, Any]) -> None:
    """Both languages refuse for the same reason, each in its own words."""
    varying = {"message", "request_id", "resets_at"}
    assert {name: value for name, value in english.items() if name not in varying} == {
        name: value for name, value in french.items() if name not in varying
    }
    assert english["message"] != french["message"]
    assert ENGLISH.findall(french["message"]) == []
    reason = reasons.BY_CODE[english["reason_code"]]
    assert (reason.error, reason.action) == (english["code"], english["action"])
    assert ("resets_at" in english) or reason.action != "wait"


@pytest.fixture
def world(billing: BillingStack, stack: Stack, chat_url: str) -> Iterator[World]:
    world = World(billing, stack, chat_url)
    yield world
    billing.db.execute(RETURNED)
    world.resume()


@pytest.mark.parametrize("state", STATES)
def test_what_the_action_says_makes_the_request_succeed(
    world: World, state: str, capsys: pytest.CaptureFixture[str]
) -> None:
    user = STATES[state](world)
    refused: dict[str, dict[str, Any]] = {}
    sentences: dict[tuple[str, str], str] = {}
    for name, send in REQUESTS.items():
        if (english := error_of(send(world, user, "en"))) is not None:
            # A rejected key is refused only once, so another user sends it, too.
            french = error_of(send(world, user, "fr")) or error_of(send(world, STATES[state](world), "fr"))
            assert french is not None
            check_sentences(english, french)
            refused[name] = english
            sentences |= {(name, "en"): english["message"], (name, "fr"): french["message"]}
    with capsys.disabled():
        for name, error in refused.items():
            cells = (state, name, error["code"], error["reason_code"], error["action"])
            sys.stdout.write("\n| " + " | ".join(f"{cell:26}" for cell in cells) + " |")
            for language in ("en", "fr"):
                sys.stdout.write(f"\n|   {language}: {sentences[name, language]}")
    for name in refused:
        reasons_seen: list[str] = []
        while (error := error_of(REQUESTS[name](world, user, "fr"))) is not None:
            assert error["reason_code"] not in reasons_seen, (name, "the action did not help")
            assert not reasons_seen or name != "chat", "one action is enough for a query"
            reasons_seen.append(error["reason_code"])
            ACTIONS[error["action"]](world, user, error)
