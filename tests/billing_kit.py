"""Shared by the billing tests: a Stripe stand-in with a stopped clock, two functions on real servers, and users.

The database is the running stack's. The stand-in holds every event until the test delivers it.
"""

import asyncio
import io
import json
import logging
import os
import uuid
from collections.abc import Awaitable, Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any, TypeVar
from unittest import mock

import httpx
import psycopg
import pytest
from psycopg.pq import TransactionStatus
from psycopg.rows import dict_row
from starlette.applications import Starlette

from functions.checkout.handler import create as create_checkout
from functions.common.billing.stripe_client import Account
from functions.common.settings import StripeSettings, load
from functions.maintenance.publish_catalog import publish_catalog
from functions.webhooks.handler import create as create_webhooks
from infra.local.auth import access_token, create_user, load_or_create_key
from infra.local.stack import Stack
from infra.local.stripe import Settings
from infra.local.stripe import create_app as create_stripe
from tests.conftest import Person, new_user
from tests.local.stripe.kit import DAY, HOUR, KEY, SECRET, START, Fake, WebhookReceiver, serve
from tests.omitted_keys import no_omitted_key_is_read
from tests.sql.metering import Db, value

__all__ = ["DAY", "HOUR", "START"]

SITE = "https://shop.example"
STRIPE_HEADERS = {"authorization": f"Bearer {KEY}"}
T = TypeVar("T")


@dataclass(slots=True)
class BillingStack:
    """A Stripe stand-in beside the stack's database, and the two functions that use both."""

    stack: Stack
    fake: Fake
    connections: list[Db]
    checkout: httpx.Client
    webhooks_url: str
    user_ids: list[str] = field(default_factory=list)

    @property
    def db(self) -> Db:
        """A connection as `postgres`. Reconnects after an outage, which other tests of the stack cause."""
        db = self.connections[-1]
        if db.info.transaction_status == TransactionStatus.INTRANS:
            return db
        try:
            db.execute("select")
        except psycopg.OperationalError:
            db.close()
            db = psycopg.connect(self.stack.postgres.url(), autocommit=True, row_factory=dict_row)
            self.connections.append(db)
        return db

    # --- users ---

    def new_user(self, tier: str = "free", **columns: Any) -> Person:
        """A user without a customer at Stripe."""
        user_id = new_user(self.db, tier, **columns)
        self.user_ids.append(user_id)
        email = f"{user_id}@example.test"
        key = load_or_create_key(self.stack.config.folder / "signing-key.pem")
        issuer = f"{self.stack.info['supabase_url']}/auth/v1"
        return Person(user_id, email, access_token(key, issuer=issuer, user_id=user_id, email=email))

    def call_checkout(self, person: Person, path: str, **body: Any) -> httpx.Response:
        """POST to the checkout function."""
        return self.checkout.post(path, json=body, headers=person.headers)

    def checkout_page(self, person: Person, **what: str) -> str:
        """The URL of a page that sells a plan or a pack."""
        answer = self.call_checkout(person, "/checkout", success_url=f"{SITE}/done", cancel_url=f"{SITE}/left", **what)
        assert answer.status_code == 200, answer.text
        url: str = answer.json()["url"]
        return url

    def buy(self, person: Person, way: str = "good_card", **what: str) -> None:
        """Buy a plan or a pack: open the page and press a button."""
        answer = self.fake.http.post(self.checkout_page(person, **what), data={"way": way})
        assert answer.status_code < 400, answer.text

    def customer_id(self, person: Person) -> str:
        """The user's customer at Stripe."""
        customer: str | None = self.subscription_row(person)["stripe_customer_id"]
        assert customer is not None
        return customer

    def subscription_row(self, person: Person) -> dict[str, Any]:
        """The user's row of user_subscriptions."""
        row = self.db.execute("select * from public.user_subscriptions where user_id = %s", (person.id,)).fetchone()
        assert row is not None
        return row

    def packs(self, person: Person) -> list[dict[str, Any]]:
        """The user's packs, oldest first."""
        return self.db.execute(
            "select * from public.credit_packs where user_id = %s order by created_at, id", (person.id,)
        ).fetchall()

    def add_overage(self, person: Person, queries: int, at: int, period: int, price: str = "0.025") -> None:
        """Insert settled overage queries: at the time `at`, in the period that started at `period`."""
        self.db.execute(
            "with added as ("
            "insert into public.usage_logs (id, created_at, user_id, request_id, tier, funding, outcome, query_date,"
            " query_timestamp, period_start, quota_used, quota_limit, overage_used, overage_limit, provider, model,"
            " used_byo_key, is_charged, counted_against_quota, was_overage, overage_charge)"
            " select q.id, %(at)s, user_id, q.id::text, tier, 'overage', 'answered', %(at)s::date, %(at)s, %(period)s,"
            " 0, 0, 0, 10, 'anthropic', 'm', false, true, false, true, %(price)s"
            " from public.user_subscriptions"
            " cross join lateral (select gen_random_uuid() as id from generate_series(1, %(queries)s)) q"
            " where user_id = %(user)s returning overage_charge)"
            " update public.user_subscriptions set unpaid_overage_usd = unpaid_overage_usd"
            " + (select sum(overage_charge) from added) where user_id = %(user)s",
            {
                "at": datetime.fromtimestamp(at, UTC),
                "period": datetime.fromtimestamp(period, UTC),
                "price": price,
                "queries": queries,
                "user": person.id,
            },
        )

    def overage_items(self, person: Person) -> list[dict[str, Any]]:
        """The user's billed overage, oldest period first."""
        return self.db.execute(
            "select * from public.overage_invoice_items where user_id = %s order by period_start, id", (person.id,)
        ).fetchall()

    # --- Stripe ---

    def undelivered(self) -> list[str]:
        """The ids of the events that the webhooks have not acknowledged, oldest first."""
        return [
            event["id"]
            for event in self.fake.http.get("/_events").json()
            if event["delivery"]["state"] in ("waiting", "held", "failed")
        ]

    def deliver(self, *ids: str, together: bool = False) -> list[int]:
        """Deliver the named events, or all undelivered ones. Returns the response statuses."""
        given: dict[str, Any] = {"ids": list(ids)} if ids else {}
        return [one["status"] for one in self.fake.control("/_deliver", together=together, **given)]

    def advance_and_deliver(self, seconds: int) -> None:
        """Move Stripe's clock hour by hour. Each event is delivered when it happens."""
        self.fake.control("/_webhooks/mode", hold=False)
        self.fake.advance(seconds)
        self.fake.control("/_webhooks/mode", hold=True)

    def cancel_subscriptions(self) -> None:
        """Cancel every active subscription at Stripe without delivering its events."""
        with dropped_events(self):
            for subscription in stripe_get(self, "subscriptions", status="active", limit=100)["data"]:
                path = f"/v1/subscriptions/{subscription['id']}"
                self.fake.http.delete(path, headers=STRIPE_HEADERS).raise_for_status()

    def make_event(self, kind: str, thing: dict[str, Any]) -> dict[str, Any]:
        """An event as Stripe would send it."""
        return {"id": f"evt_{uuid.uuid4().hex}", "object": "event", "type": kind, "data": {"object": thing}}

    def empty(self) -> None:
        """Delete every user with all their data, and every object at the stand-in. The catalogue is published again."""
        with psycopg.connect(self.stack.postgres.url("supabase_admin"), autocommit=True) as db:
            db.execute("set session_replication_role = replica")  # without the trigger of operator_actions
            db.execute("truncate auth.users, public.retained_usage, public.retained_invoice_items cascade")
            db.execute("truncate public.stripe_events")
        self.user_ids.clear()
        self.fake.reset()
        self.fake.control("/_webhooks", url=f"{self.webhooks_url}/webhooks/stripe", secret=SECRET)
        self.fake.control("/_webhooks/mode", hold=True)
        publish(self)

    def broken_invariants(self) -> list[dict[str, Any]]:
        """The findings of the SQL function reconcile on packs and overage of this fixture's users.

        Other tests of the process set counters of their own users by hand.
        """
        return self.db.execute(
            "select * from public.reconcile() where invariant in ('I3', 'I7') and user_id = any(%s::uuid[])",
            (self.user_ids,),
        ).fetchall()


def environment(stack: Stack, stripe_url: str) -> dict[str, str]:
    """The environment of the two functions."""
    return {
        "SUPABASE_URL": stack.info["supabase_url"],
        "SUPABASE_ANON_KEY": stack.info["publishable_key"],
        "SUPABASE_SERVICE_ROLE_KEY": stack.info["secret_key"],
        "STRIPE_SECRET_KEY": KEY,
        "STRIPE_API_BASE": stripe_url,
        "STRIPE_WEBHOOK_SECRET": SECRET,
        "ALLOWED_ORIGINS": f"{SITE},http://localhost:3000",
        "OURCOMMONS_URL": stack.info["parliament_url"],
        "LOBBYING_URL": stack.info["parliament_url"],
    }


@contextmanager
def running_billing(stack: Stack, **settings: Any) -> Iterator[BillingStack]:
    """A stand-in with a published catalogue, which holds its events."""

    def make(url: str) -> Starlette:
        given = {"start": START, "seed": uuid.uuid4().hex[:8], **settings}
        return create_stripe(Settings(public_url=url, api_key=KEY, webhook_secret=SECRET, **given))

    with no_omitted_key_is_read(), serve(make) as stripe_url:
        with mock.patch.dict(os.environ, environment(stack, stripe_url)):
            checkout, webhooks = create_checkout(), create_webhooks()
        with (
            serve(lambda url: checkout) as checkout_url,
            serve(lambda url: webhooks) as webhooks_url,
            psycopg.connect(stack.postgres.url(), autocommit=True, row_factory=dict_row) as db,
            httpx.Client(base_url=checkout_url, timeout=60) as client,
        ):
            fake = Fake(stripe_url, WebhookReceiver(), "")
            billing = BillingStack(stack, fake, [db], client, webhooks_url)
            try:
                fake.control("/_webhooks", url=f"{webhooks_url}/webhooks/stripe", secret=SECRET)
                fake.control("/_webhooks/mode", hold=True)
                publish(billing)
                yield billing
            finally:
                fake.close()
                for connection in billing.connections[1:]:
                    connection.close()


def publish(billing: BillingStack) -> list[str]:
    """The job publish-catalog, run in this process. Returns its report."""
    prices = value(billing.db, "select public.list_plans()")
    url = f"{billing.webhooks_url}/webhooks/stripe"
    work = with_stripe_client(billing, lambda account: publish_catalog(account, prices, webhooks_url=url))
    return asyncio.run(work)["report"]


async def with_stripe_client(billing: BillingStack, work: Callable[[Account], Awaitable[T]]) -> T:
    """Run `work` with the functions' own Stripe client."""
    known = environment(billing.stack, billing.fake.url)
    account = Account(load(StripeSettings, known))
    try:
        return await work(account)
    finally:
        await account.close()


def as_json(thing: Any) -> dict[str, Any]:
    """A stripe-python object as plain JSON."""
    plain: dict[str, Any] = json.loads(json.dumps(thing.to_dict(), default=str))
    return plain


def stripe_get(billing: BillingStack, path: str, **params: Any) -> dict[str, Any]:
    """GET from Stripe: the JSON of the response."""
    answer = billing.fake.http.get(f"/v1/{path}", params=params, headers=STRIPE_HEADERS)
    assert answer.status_code == 200, answer.text
    found: dict[str, Any] = answer.json()
    return found


def stripe_post(billing: BillingStack, path: str, **params: Any) -> dict[str, Any]:
    """POST to Stripe: the JSON of the response."""
    answer = billing.fake.http.post(f"/v1/{path}", data=params, headers=STRIPE_HEADERS)
    assert answer.status_code == 200, answer.text
    changed: dict[str, Any] = answer.json()
    return changed


@contextmanager
def dropped_events(billing: BillingStack) -> Iterator[None]:
    """Stripe drops the events of this block. A test can deliver them by their ids."""
    billing.fake.control("/_webhooks/mode", drop=True)
    try:
        yield
    finally:
        billing.fake.control("/_webhooks/mode", drop=False)


@contextmanager
def function_with(billing: BillingStack, create: Callable[[], Starlette], **changed: str) -> Iterator[httpx.Client]:
    """One of the two functions with changed settings, on its own server. Yields a client."""
    with mock.patch.dict(os.environ, {**environment(billing.stack, billing.fake.url), **changed}):
        app = create()
    with serve(lambda url: app) as url, httpx.Client(base_url=url, timeout=60) as client:
        yield client


@contextmanager
def captured_log(service: str) -> Iterator[Callable[[], list[dict[str, Any]]]]:
    """Captures the log of a function in this process. Yields a function that returns the lines so far."""
    (handler,) = (one for one in logging.getLogger(service).handlers if isinstance(one, logging.StreamHandler))
    written = io.StringIO()
    usual = handler.setStream(written)
    try:
        yield lambda: [json.loads(line) for line in written.getvalue().splitlines()]
    finally:
        handler.setStream(usual)


@pytest.fixture(scope="session")
def billing(stack: Stack) -> Iterator[BillingStack]:
    """One stand-in for a test process. Each test has its own users and customers; the clock is shared."""
    with running_billing(stack) as billing:
        yield billing


@pytest.fixture(scope="module")
def empty_billing(billing: BillingStack) -> Iterator[None]:
    """No user in the database and no object at the stand-in, for tests that count or compare everything.

    Afterwards the stack's seeded users exist again, for other tests of the process.
    """
    billing.empty()
    yield
    with psycopg.connect(billing.stack.postgres.url()) as database:
        for tier, user in billing.stack.info["users"].items():
            create_user(database, user["email"], user["password"], user["id"])
            database.execute("update public.user_subscriptions set tier = %s where user_id = %s", (tier, user["id"]))
