"""Billing histories: two users live the same life at Stripe. One hears of every event in order, as it happens; of the
other's, some come late, twice, together, after failures, or not before the end. Both must end alike, with everything
billed once, and as a few lines of plain Python say from Stripe's own state.

A history is a script of acts, written by its seed. Those of a batch share a clock, which moves from one thing that is
due to the next. A sample with fresh seeds under `make test`, 2,000 histories under `make prove`. A failure prints the
script, the deliveries, both ends, and the command that replays this one history.

Stripe's own life must not depend on us, or the two would differ rightly: a draft waits for its event for up to three
days, so what depends on a payment (`TOUCHY`) waits until both twins' payments stand alike; and where cards fail and a
month may cost nothing, an overage that is billed a month later would be the first thing to fail: there, what bills
comes at once.
"""

import asyncio
import heapq
import os
import random
import secrets
import sys
import time
from collections import Counter
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime
from decimal import Decimal
from functools import cached_property
from typing import Any

import httpx
import psycopg
import pytest
from stripe import StripeError

from functions.common.billing.events import CUSTOMER_EVENTS, HANDLED_EVENTS, OVERAGE_EVENTS, PAYMENT_EVENTS
from functions.common.billing.overage import bill_overage
from functions.common.billing.stripe_client import Account, StripeSettings
from functions.common.database import Database
from functions.common.settings import SupabaseSettings, load
from functions.maintenance.bill_overages import bill_overages
from functions.maintenance.retry_events import retry_events
from infra.local.stack import Stack
from tests.billing_kit import DAY, HOUR, BillingStack, environment, running_billing
from tests.conftest import Person
from tests.local.stripe.kit import KEY, SECRET
from tests.sql.metering import USAGE, at

FULL = bool(os.environ.get("PROVE"))
BATCHES = 125 if FULL else 1
HISTORIES = 16 if FULL else 5  # a batch
MONTH_END = 36 * DAY
PATIENCE = 5 * DAY  # how long the twins' payments may stand differently
ENDED = ("canceled", "incomplete_expired")

Json = dict[str, Any]

# Days on which calendars break, and one on which they do not.
STARTS = [
    datetime(2026, 1, 31, 10, tzinfo=UTC),
    datetime(2026, 12, 31, 23, 59, 59, tzinfo=UTC),
    datetime(2027, 2, 27, 23, 50, tzinfo=UTC),
    datetime(2028, 2, 28, 23, 59, tzinfo=UTC),
    datetime(2028, 2, 29, tzinfo=UTC),
    datetime(2026, 5, 12, 8, 30, tzinfo=UTC),
]


# --- what happens ----------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Act:
    """Something that happens `gap` seconds after the act before, or (`renewal`) from the end of the period."""

    gap: int
    renewal: bool
    what: str
    how: Json

    def __str__(self) -> str:
        return f"{self.what} {', '.join(f'{name}={value}' for name, value in self.how.items())}".rstrip()


TOUCHY = frozenset(
    {"subscribe", "card", "pay", "cancel_now", "invoiced_change", "refund_plan", "dispute_plan", "trouble"}
)
# What the plan's payments allow. On usage_only a month's only payment may be its overage, which stands on the next
# month's invoice where the draft's event never came: then it stays out for both.
OF_PLANS = frozenset({"refund_plan", "dispute_plan"})


def write(rng: random.Random) -> tuple[list[Act], bool]:
    """A script, and whether what bills has to come at once (the head of this file). It guesses what will be possible;
    an act that is not when its time comes is left out, for both twins."""
    acts: list[Act] = []
    calm = rng.random() < 0.5  # no card fails
    plan, leaving, broken, packs, disputed = "", False, False, 0, False

    def gap() -> tuple[int, bool]:
        ends = 0.6 if acts and acts[-1].what == "overage" else 0.25
        if plan and rng.random() < ends:
            return rng.choice([-HOUR, -60, 1, 1200, 2 * HOUR, 30 * HOUR, 4 * DAY, 9 * DAY]), True
        spans = [(1, HOUR), (HOUR, 20 * HOUR), (DAY, 6 * DAY), (6 * DAY, 18 * DAY)]
        ended = bool(acts) and acts[-1].what == "cancel_now"
        shortest, longest = rng.choice(spans[:2] if ended and rng.random() < 0.5 else spans)
        return rng.randint(shortest, longest), False

    def add(what: str, at: tuple[int, bool] | None = None, **how: Any) -> None:
        acts.append(Act(*(at or gap()), what, how))

    for _ in range(rng.randint(4, 9)):
        weights = {"allow": 1, "buy": 2}
        if not plan:
            weights |= {"subscribe": 12}
        else:
            weights |= {"change": 4, "invoiced_change": 2, "overage": 9, "cancel": 3, "cancel_now": 2, "wait": 2}
            weights |= {"refund_plan": 1, "dispute_plan": 1, "trouble": 1, "resume": 6 if leaving else 0}
            weights |= {"card": 0 if calm else 6 if broken else 3, "pay": 4 if broken else 0}
        if packs:
            weights |= {"refund": 3, "dispute": 6 if disputed else 3, "spend": 3}
        what = rng.choices([*weights], [*weights.values()])[0]
        match what:
            case "subscribe":
                ways = ["good_card"] * 6 + ["bad_card", "later_succeeds"] + ([] if calm else ["later_fails"])
                way, chosen = rng.choice(ways), rng.choice(["basic", "basic", "pro", "usage_only"])
                add(what, plan=chosen, way=way)
                plan, leaving, broken = ("" if way == "bad_card" else chosen), False, way == "later_fails"
            case "buy":
                way = rng.choice(["good_card"] * 4 + ["bad_card", "later_succeeds", "later_fails"])
                add(what, pack=rng.choice(["pack_100", "pack_500"]), way=way)
                packs += way in ("good_card", "later_succeeds")
            case "change":
                plan = rng.choice([one for one in ("basic", "pro", "usage_only") if one != plan])
                add(what, to=plan, where=rng.choice(["portal", "portal", "none", "create_prorations"]))
            case "invoiced_change":
                plan = rng.choice([one for one in ("basic", "pro", "usage_only") if one != plan])
                add(what, to=plan, refuses=rng.random() < 0.5)
            case "overage":
                add(what, queries=rng.choice([1, 1, 2, 3, 7, 39, 40, 400]))
            case "cancel":
                add(what, where=rng.choice(["portal", "at_period_end", "after"]), days=rng.choice([2, 10, 40]))
                leaving = True
            case "cancel_now":
                add(what, how=rng.choice(["as it is", "invoiced", "with a refund of the rest"]))
                plan, leaving = "", False
            case "card":
                broken = not broken if rng.random() < 0.8 else broken
                ways = ["breaks", "gone", "portal_bad"] if broken else ["works", "portal_good"]
                add(what, how=rng.choice(ways))
            case "pay":
                way = rng.choice(["good_card", "good_card", "bad_card"])
                add(what, way=way)
                broken = broken and way == "bad_card"
            case "trouble":
                add(what, (1200, True))
                add("trouble_ends", (rng.randint(2, 5) * HOUR, False))
            case "refund":
                add(what, which=rng.randrange(packs), share=rng.choice([0.01, 0.33, 0.5, 1, 1]))
            case "dispute":
                opened = ["needs_response", "warning_needs_response"]
                closed = ["under_review", "won", "lost", "warning_closed"]
                add(what, which=rng.randrange(packs), status=rng.choice(closed if disputed else opened))
                disputed = not disputed
            case "spend":
                add(what, credits=rng.choice([1, 5, 90, 500]))
            case "refund_plan":
                add(what, share=rng.choice([0.2, 1]))
            case "allow":
                add(what, allow_overages=rng.random() < 0.5)
            case _:
                add(what)
    if rng.random() < 0.05 and all(act.what != "overage" for act in acts):
        add("delete")
    changes = any(act.what in ("change", "invoiced_change") or act.how.get("plan") == "usage_only" for act in acts)
    return acts, changes and not calm


# --- what there is ---------------------------------------------------------------------------------------------------


class Desk:
    """Stripe's API as support uses it: plain JSON."""

    def __init__(self, url: str) -> None:
        self.http = httpx.Client(base_url=url, headers={"authorization": f"Bearer {KEY}"}, timeout=60)

    def all(self, path: str, **params: Any) -> list[Json]:
        """What a list has, oldest first."""
        page = self.http.get(f"/v1/{path}", params={"limit": 100, **params}).raise_for_status().json()
        assert not page["has_more"]
        found: list[Json] = page["data"]
        return found[::-1]

    def post(self, path: str, **form: Any) -> Json:
        answer = self.http.post(f"/v1/{path}", data=form)
        assert answer.status_code < 500, answer.text
        told: Json = answer.json()
        return told


@dataclass(slots=True)
class Twin:
    """A user, and who they are at Stripe."""

    person: Person
    customer: str = ""
    is_deleted: bool = False


class Seen:
    """What Stripe has of a twin, each kind read when first asked for."""

    def __init__(self, desk: Desk, twin: Twin) -> None:
        self.desk, self.twin = desk, twin

    def _all(self, path: str, **params: Any) -> list[Json]:
        twin = self.twin
        return self.desk.all(path, customer=twin.customer, **params) if twin.customer and not twin.is_deleted else []

    @cached_property
    def subscriptions(self) -> list[Json]:
        return self._all("subscriptions", status="all")

    @cached_property
    def invoices(self) -> list[Json]:
        return self._all("invoices")

    @cached_property
    def items(self) -> list[Json]:
        return self._all("invoiceitems")

    @cached_property
    def sales(self) -> list[Json]:
        """The sessions that sold a pack and were paid, in the order of their payments' beginning."""
        params = {"customer": self.twin.customer, "limit": 100}
        if not self.twin.customer:
            return []
        found = self.desk.http.get("/v1/checkout/sessions", params=params).raise_for_status().json()["data"]
        return [one for one in found[::-1] if one["mode"] == "payment" and one["payment_status"] == "paid"]

    @cached_property
    def charges(self) -> dict[str, Json]:
        """Charges that succeeded, by their payment intents."""
        params = {"customer": self.twin.customer, "limit": 100}
        found = self.desk.http.get("/v1/charges", params=params).raise_for_status().json()["data"]
        return {one["payment_intent"]: one for one in found[::-1] if one["paid"]}

    def disputes(self, payment: str) -> list[Json]:
        return self.desk.all("disputes", payment_intent=payment)

    @property
    def live(self) -> Json | None:
        """The subscription that has not ended."""
        return next((one for one in self.subscriptions if one["status"] not in ENDED), None)

    @property
    def product(self) -> str:
        """Of the live subscription."""
        assert self.live
        return str(self.live["items"]["data"][0]["price"]["product"])

    @property
    def period(self) -> tuple[int, int]:
        assert self.live
        item = self.live["items"]["data"][0]
        return item["current_period_start"], item["current_period_end"]

    def plan_payments(self) -> list[str]:
        """Payment intents of plans' invoices, oldest first."""
        packs = {one["payment_intent"] for one in self.sales}
        return [name for name in self.charges if name not in packs]

    def of_plans(self, *statuses: str) -> list[Json]:
        return [one for one in self.invoices if one["parent"] and one["status"] in statuses]

    def shape(self) -> Any:
        """What acts depend on: where subscriptions and their payments stand."""
        born = {one["id"]: one["created"] for one in self.subscriptions}
        return (
            [
                (one["created"], one["status"], one["cancel_at"], one["items"]["data"][0]["price"]["product"])
                for one in self.subscriptions
            ],
            sorted(
                (
                    born[one["parent"]["subscription_details"]["subscription"]],
                    one["billing_reason"],
                    one["status"],
                    one["attempt_count"],
                    one["next_payment_attempt"] is None,
                )
                for one in self.of_plans("draft", "open")
            ),
        )


HOOK = """
create schema billing;
create table billing.state (at timestamptz, failing text, gated text);
insert into billing.state default values;
create function billing.before() returns void language plpgsql security definer as $$
declare
  v billing.state;
begin
  select * into v from billing.state;
  if v.at is not null then
    perform set_config('metering.now', v.at::text, true);
  end if;
  if v.failing = current_setting('request.path', true) then
    raise exception 'This call was told to fail.';
  elsif v.gated = current_setting('request.path', true) then
    perform pg_advisory_xact_lock(4711);
  end if;
end
$$;
grant usage on schema billing to anon, authenticated, service_role;
grant execute on function billing.before() to anon, authenticated, service_role;
"""


class Levers:
    """Moves the clock of the functions' database, lets one of its calls fail, or wait at a gate: PostgREST calls
    billing.before() before each call."""

    def __init__(self, stack: Stack) -> None:
        self._stack = stack
        self._db = psycopg.connect(stack.postgres.url(), autocommit=True)

    def __enter__(self) -> "Levers":
        self._db.execute(HOOK)
        self._configure("set pgrst.db_pre_request = 'billing.before'", heeded=True)
        return self

    def __exit__(self, *_: object) -> None:
        self.set(at=None)
        self._configure("reset pgrst.db_pre_request", heeded=False)
        self._db.execute("drop schema billing cascade")
        self._db.close()

    def _configure(self, change: str, *, heeded: bool) -> None:
        """Change PostgREST's configuration and wait until it goes by it."""
        with psycopg.connect(self._stack.postgres.url("supabase_admin"), autocommit=True) as admin:
            admin.execute(f"alter role authenticator {change}")
            admin.execute("notify pgrst, 'reload config'")
        self.set(failing="/rpc/list_plans")
        key = self._stack.info["anon_key"]
        headers = {"apikey": key, "authorization": f"Bearer {key}"}
        while heeded != (
            httpx.post(f"{self._stack.info['supabase_url']}/rest/v1/rpc/list_plans", headers=headers, json={}).is_error
        ):
            pass
        self.set(failing=None)

    def set(self, **columns: Any) -> None:
        for name, value in columns.items():
            self._db.execute(f"update billing.state set {name} = %s", (value,))

    @contextmanager
    def gate(self, path: str) -> Iterator[Callable[[Future[Any]], bool]]:
        """While this lasts, the first call of that path waits. Gives what waits until it has come there, or its caller
        has ended."""
        self._db.execute("select pg_advisory_lock(4711)")
        self.set(gated=path)

        def come(caller: Future[Any]) -> bool:
            waits = "select count(*) from pg_locks where locktype = 'advisory' and objid = 4711 and not granted"
            while not caller.done():
                row = self._db.execute(waits).fetchone()
                if row and row[0]:
                    break
                time.sleep(0.002)
            self.set(gated=None)
            return not caller.done()

        try:
            yield come
        finally:
            self.set(gated=None)
            self._db.execute("select pg_advisory_unlock(4711)")


# --- what must be ----------------------------------------------------------------------------------------------------

TIERS = {"canadagpt_plan_usage_only": "usage_only", "canadagpt_plan_basic": "basic", "canadagpt_plan_pro": "pro"}
RANKS = ["free", "usage_only", "basic", "pro"]


def moment(seconds: int | None) -> datetime | None:
    return None if seconds is None else datetime.fromtimestamp(seconds, UTC)


def right_plan(seen: Seen, has_packs: bool) -> Json:
    """The user's plan, from Stripe's state."""
    live = seen.live
    plan: Json = dict.fromkeys(("next_tier", "current_period_start", "current_period_end", "canceled_at"))
    plan |= {"tier": "usage_only" if has_packs else "free", "status": "active", "past_due_since": None}
    plan |= {"customer": seen.twin.customer if not seen.twin.is_deleted else None, "subscription": None}
    if live is None:
        return {**plan, "customer": plan["customer"] or None}
    start, end = seen.period
    asked = TIERS[seen.product]
    paid = [
        TIERS[line["pricing"]["price_details"]["product"]]
        for invoice in seen.of_plans("paid")
        for line in invoice["lines"]["data"]
        if invoice["parent"]["subscription_details"]["subscription"] == live["id"]
        and line["pricing"]["price_details"]["product"] in TIERS
        and line["amount"] > 0
        and line["period"]["start"] >= start
    ]
    tier = max([asked, *paid], key=RANKS.index)
    plan |= {"tier": tier, "next_tier": asked if asked != tier else None, "subscription": live["id"]}
    if live["cancel_at"] and live["cancel_at"] <= end:
        end, plan["status"] = live["cancel_at"], "canceled"
    if live["status"] == "past_due":
        latest = next(one for one in seen.invoices if one["id"] == live["latest_invoice"])
        since = latest["status_transitions"]["finalized_at"] or latest["created"]
        plan |= {"status": "past_due", "past_due_since": moment(since)}
    if plan["status"] == "canceled":
        plan["next_tier"] = None
    plan |= {"current_period_start": moment(start), "current_period_end": moment(end)}
    return {**plan, "canceled_at": moment(live["canceled_at"])}


def is_kept(pack: Json) -> bool:
    """Whether not all of it went back with the money."""
    kept: bool = pack["to_revoke"] < pack["purchased"]
    return kept


def right_packs(seen: Seen, used: dict[str, int]) -> list[Json]:
    """The user's packs, from what was paid and given back; `used` of each, by its session."""
    packs = []
    for sale in seen.sales:
        charge = seen.charges[sale["payment_intent"]]
        disputes = [one["status"] for one in seen.disputes(sale["payment_intent"])]
        bought = int(sale["metadata"]["credits"])
        due = bought if "lost" in disputes else bought * charge["amount_refunded"] // charge["amount"]
        spent = used.get(sale["id"], 0)
        packs.append(
            {
                "session": sale["id"],
                "purchased": bought,
                "used": spent,
                "remaining": max(0, bought - spent - due),
                "revoked": min(due, bought - spent),
                "to_revoke": due,
                "frozen": any(one not in ("won", "lost", "warning_closed") for one in disputes),
                "price": Decimal(charge["amount"]) / 100,
                "at": moment(charge["created"]),
            }
        )
    return in_order(packs)


def in_order(packs: list[Json]) -> list[Json]:
    return sorted(packs, key=lambda pack: (pack["at"], pack["purchased"], pack["session"]))


def alike(thing: Any, twin: Twin) -> Any:
    """Without what is a twin's own: the ids."""
    if isinstance(thing, list):
        return [alike(one, twin) for one in thing]
    own = ("customer", "subscription", "session", "past_due_since")  # the last moves with a draft that waited
    return {name: value is None if name in own else value for name, value in thing.items()}


# --- a history -------------------------------------------------------------------------------------------------------


@dataclass(slots=True, eq=False)
class Event:
    """An event of the second twin, with chances of its own. `payment`: the payment intent that it is about, if any."""

    number: int
    id: str
    type: str
    payment: str | None
    rng: random.Random
    tries: int = 0
    heard: bool = False

    def __str__(self) -> str:
        return f"#{self.number} {self.type}"


@dataclass
class History:
    """One life, lived twice. `lived` and `told` are what happened and what the second twin heard, in words."""

    seed: str
    twins: tuple[Twin, Twin]
    acts: list[Act]
    punctual: bool
    due_at: int
    done: int = 0
    late_since: int = 0
    overage: Counter[int] = field(default_factory=Counter)
    unfinalizable: list[str] = field(default_factory=list)
    events: dict[str, Event] = field(default_factory=dict)
    plan: list[tuple[int, int, str]] = field(default_factory=list)
    lived: list[str] = field(default_factory=list)
    told: list[str] = field(default_factory=list)
    wrong: list[str] = field(default_factory=list)

    @property
    def is_over(self) -> bool:
        return self.done == len(self.acts)

    def waiting(self) -> list[Event]:
        return [event for event in self.events.values() if not event.heard]

    def later(self, at: int, event: Event) -> None:
        heapq.heappush(self.plan, (at, event.number, event.id))


def calls_of(event: Event) -> tuple[list[str], list[tuple[str, str]]]:
    """The calls of the database and of Stripe that dealing with an event may take."""
    if event.payment:
        ours = ["claim_stripe_event", "apply_pack", "finish_stripe_event"]
        return ours, [("GET", "/v1/checkout/sessions"), ("GET", "/v1/payment_intents"), ("GET", "/v1/disputes")]
    ours = ["claim_stripe_event", "apply_customer", "finish_stripe_event"]
    stripes = [("GET", "/v1/customers"), ("GET", "/v1/invoices")]
    if event.type in OVERAGE_EVENTS:
        ours += ["claim_overage", "place_overage", "place_overage", "retarget_overage"]
        stripes += [("GET", "/v1/invoiceitems"), ("POST", "/v1/invoices"), *[("POST", "/v1/invoiceitems")] * 3]
    return ours, stripes


class Batch:
    """Histories side by side in one billing."""

    def __init__(self, billing: BillingStack, levers: Levers, seed: int, numbers: list[int]) -> None:
        self.billing, self.levers, self.seed = billing, levers, seed
        self.desk, self.pool, self.loop = Desk(billing.fake.url), ThreadPoolExecutor(2), asyncio.Runner()
        known = environment(billing.stack, billing.fake.url)
        self.database, self.account = Database(load(SupabaseSettings, known)), Account(load(StripeSettings, known))
        self.start = self.now = billing.fake.now
        self.move(self.now)
        self.orderly = False
        self.histories = []
        for number in numbers:
            rng = random.Random(f"{seed}/{number}")  # noqa: S311
            twins = (Twin(billing.new_user()), Twin(billing.new_user()))
            self.histories.append(
                History(f"{seed}/{number}", twins, *write(rng), due_at=self.now + rng.randint(0, 3 * DAY))
            )
        self.owners = {twin.person.id: (one, twin) for one in self.histories for twin in one.twins}
        self.cursor = self.desk.all("events")[-1]["id"]
        billing.fake.control(
            "/_webhooks", url=f"{billing.webhooks_url}/webhooks/stripe", secret=SECRET, types=sorted(HANDLED_EVENTS)
        )
        self.prices = {one["product"]: one["id"] for one in self.desk.all("prices", active="true")}

    def close(self) -> None:
        self.loop.run(self.database.close())
        self.loop.run(self.account.close())
        self.loop.close()
        self.pool.shutdown()
        self.desk.http.close()

    def run(self) -> None:
        """All lives to their ends, and a month end more."""
        while not all(history.is_over for history in self.histories):
            self.step()
        self.redeliver()
        for history in self.histories:
            self.check(history, "once everything had been heard")
        self.sweep()
        until = self.now + MONTH_END
        while self.now < until:
            self.step(until)
        while self.now < until + PATIENCE and not all(self.stand_alike(history) for history in self.histories):
            self.step(self.now + HOUR)
        self.sweep()
        for history in self.histories:
            self.check(history, "a month end later", is_end=True)
        ours = {twin.person.id: history for history in self.histories for twin in history.twins}
        for row in self.billing.broken_invariants():
            if str(row["user_id"]) in ours:
                ours[str(row["user_id"])].wrong.append(f"reconcile: {row}")

    # --- time ---

    def step(self, until: int | None = None) -> None:
        """Go to the next thing that is due, at the latest to `until`, and let everybody hear of it."""
        due = self.desk.http.get("/_clock").json()["due"]
        times = [at for at, *_ in due[:1]] + [one.due_at for one in self.histories if not one.is_over]
        times += [one.plan[0][0] for one in self.histories if one.plan] + ([until] if until else [])
        to = max(self.now, min(times))
        concerned = [self.owners[name][0] for at, _, _, name in due if at <= to and name in self.owners]
        if concerned:
            self.meanwhile(concerned[0], lambda: self.move(to))
        else:
            self.move(to)
            self.hear()
        for history in self.histories:
            if not history.is_over and history.due_at <= to:
                self.act(history)
            while history.plan and history.plan[0][0] <= to:
                self.bring(history, history.events[heapq.heappop(history.plan)[2]])
                self.hear()

    def move(self, to: int) -> None:
        self.now = to
        self.levers.set(at=moment(to))
        at(self.billing.db, str(moment(to)))
        self.billing.fake.control("/_clock", to=to)

    def meanwhile(self, history: History, happens: Callable[[], Any]) -> None:
        """Let something happen to a history and everybody hear of it. Mostly that is between the look of a delivery
        that is on its way and what it does, if the second twin waits for any: what happens is heard first."""
        rng = random.Random(f"{history.seed} {self.now} {history.done}")  # noqa: S311
        waiting = history.waiting()
        if not waiting or self.orderly or rng.random() < 0.3:
            happens()
            self.hear()
            return
        payments = [event for event in waiting if event.payment]
        event = rng.choice(payments if payments and rng.random() < 0.5 else waiting)
        call = rng.choice(calls_of(event)[0][1:])
        with self.levers.gate(f"/rpc/{call}") as come:
            flight = self.pool.submit(self.post, event.id)
            self.tell(history, f"{event} waits before {call}" if come(flight) else f"{event} does not need {call}")
            happens()
            fresh = self.hear(at_once=history)
        self.note(history, [event], flight.result())
        self.compare_now(history, fresh)

    # --- events ---

    def hear(self, at_once: History | None = None) -> list[Event]:
        """Everything new: to the first twin as it came, to the second as chance has it, unless that is to be now.
        Returns what the second twin of that history has heard now."""
        before = len(at_once.events) if at_once else 0
        while True:
            page = self.desk.http.get("/v1/events", params={"limit": 100, "ending_before": self.cursor}).json()
            if not page["data"]:
                break
            self.cursor = page["data"][0]["id"]
            owned = [(event, self.owner(event)) for event in reversed(page["data"])]
            used = [(event, *owner) for event, owner in owned if owner and event["type"] in HANDLED_EVENTS]
            firsts = [event["id"] for event, history, twin in used if twin is history.twins[0]]
            statuses = self.post(*firsts) if firsts else []
            assert set(statuses) <= {200}, f"in order, one after the other: {statuses}"
            for event, history, twin in used:
                if twin is history.twins[1]:
                    self.meet(history, event, history is at_once)
        return [event for event in [*at_once.events.values()][before:] if event.heard] if at_once else []

    def owner(self, event: Json) -> Any:
        """Whose event it is. Whatever it is about is theirs from now on."""
        thing = event["data"]["object"]
        if thing["object"] == "customer":
            keys = [thing["metadata"].get("user_id")]
        else:
            keys = [thing.get("customer"), thing.get("payment_intent"), thing["id"]]
        found = next((self.owners[key] for key in keys if key in self.owners), None)
        if found:
            for name in (thing["id"], thing.get("payment_intent"), event["id"]):
                if isinstance(name, str):
                    self.owners[name] = found
        return found

    def meet(self, history: History, given: Json, at_once: bool) -> None:
        """The second twin's next event: when is it to come?"""
        number = len(history.events) + 1
        rng = random.Random(f"{history.seed}/{number}")  # noqa: S311
        payment = given["data"]["object"].get("payment_intent")
        event = history.events[given["id"]] = Event(number, given["id"], given["type"], payment, rng)
        if at_once:
            self.note(history, [event], self.post(event.id), "at once")
            return
        if self.orderly or (history.punctual and event.type in OVERAGE_EVENTS):
            self.bring(history, event)
            return
        is_draft = event.type == "invoice.created" and given["data"]["object"]["auto_advance"]
        fates = {"now": 25, "soon": 20, "late": 10, "never": 20}
        fates |= {"weeks": 5} if is_draft else {"later": 15, "weeks": 10}
        fate = rng.choices([*fates], [*fates.values()])[0]
        ranges = {
            "soon": (60, 3 * HOUR),
            "late": (4 * HOUR, 30 * HOUR),
            "later": (DAY, 9 * DAY),
            "weeks": (4 * DAY, 30 * DAY),
        }
        seconds = rng.randint(*ranges[fate]) if fate in ranges else 0
        self.tell(history, f"{event} happens, to be heard {fate}{f': {seconds / HOUR:.1f} h' if seconds else ''}")
        if fate == "now":
            self.bring(history, event)
        elif fate == "never":
            self.billing.fake.control("/_drop", ids=[event.id])
            if rng.random() < 0.4:
                history.later(self.now + rng.randint(HOUR, 20 * DAY), event)
        else:
            history.later(self.now + seconds, event)
        if rng.random() < 0.25:
            history.later(self.now + rng.randint(1, 6 * DAY), event)

    def bring(self, history: History, event: Event) -> None:
        """Deliver it, for the first time or again: alone, or at the same instant with itself, with others or with the
        job that bills; or so that it fails."""
        rng, others = event.rng, [one for one in history.events.values() if one is not event]
        ways = {"alone": 50, "twice": 15, "together": 20 if others else 0, "failing": 20}
        if event.type in OVERAGE_EVENTS:
            ways |= {"alone": 25, "twice": 25, "with the job": 15, "failing": 35}
        way = "alone" if self.orderly or event.tries > 2 else rng.choices([*ways], [*ways.values()])[0]
        events = [event]
        match way:
            case "twice":
                events *= 2
            case "together":
                waiting = [one for one in others if not one.heard] or others
                events += rng.sample(waiting, min(len(waiting), rng.randint(1, 3)))
            case "with the job":
                statuses = self.pool.submit(self.post, event.id)
                self.bill(history)
                self.note(history, events, statuses.result(), way)
                return
            case "failing":
                way = self.break_something(event)
        statuses = self.post(*(one.id for one in events), together=len(events) > 1)
        if way.startswith("failing"):
            self.levers.set(failing=None)
            self.desk.http.delete("/_faults")
        self.note(history, events, statuses, way)

    def break_something(self, event: Event) -> str:
        """Let one call fail that the event may need, of the database or of Stripe: for the latter also after it has
        been carried out. Returns what in words."""
        ours, stripes = calls_of(event)
        if event.rng.random() < 0.5:
            call = event.rng.choice(ours)
            self.levers.set(failing=f"/rpc/{call}")
            return f"failing at {call}"
        method, path = event.rng.choice(stripes)
        lost = method == "POST" and event.rng.random() < 0.6
        self.billing.fake.control("/_faults", method=method, path=path, status=429, lost=lost)
        return f"failing {'after' if lost else 'at'} {method} {path}"

    def post(self, *ids: str, together: bool = False) -> list[int]:
        return self.billing.deliver(*ids, together=together)

    def note(self, history: History, events: list[Event], statuses: list[int], way: str = "") -> None:
        """What came of a delivery. What failed comes again."""
        told = ", ".join(f"{event}: {status}" for event, status in zip(events, statuses, strict=True))
        self.tell(history, f"{told} {way if way != 'alone' else ''}".rstrip())
        fresh = [event for event, status in zip(events, statuses, strict=True) if status == 200 and not event.heard]
        for event in fresh:
            event.heard = True
        if fresh and not self.orderly and fresh[0].rng.random() < 0.2:
            self.compare_now(history, fresh)
        for event in dict.fromkeys(events):
            if not event.heard:
                event.tries += 1
                history.later(self.now + event.rng.choice([60, HOUR, 9 * HOUR, 30 * HOUR]), event)

    def redeliver(self) -> None:
        """Everything that has not been heard, in any order, until it has."""
        self.orderly = True
        rng = random.Random(self.seed)  # noqa: S311
        if rng.random() < 0.5:
            self.loop.run(retry_events(self.database, self.account, datetime.fromtimestamp(self.now, UTC), str))
        for _ in range(5):
            for history in self.histories:
                waiting = history.waiting()
                random.Random(f"{history.seed}/end").shuffle(waiting)  # noqa: S311
                while waiting:
                    events = [waiting.pop() for _ in range(min(len(waiting), waiting[-1].rng.randint(1, 3)))]
                    self.note(history, events, self.post(*(one.id for one in events), together=len(events) > 1))
            self.hear()
            if not any(history.waiting() for history in self.histories):
                break
            self.step(self.now + HOUR)
        for history in self.histories:
            if history.waiting():
                history.wrong.append(f"never accepted: {', '.join(map(str, history.waiting()))}")

    def bill(self, history: History) -> None:
        """What the job does for one user. A refusal of Stripe's is for the next run."""
        twin = history.twins[1]
        if twin.customer:
            try:
                self.loop.run(bill_overage(self.database, self.account, twin.person.id, twin.customer))
            except StripeError as error:
                self.tell(history, f"the job: {type(error).__name__}")

    def sweep(self) -> None:
        """The job that bills what events missed, for everybody."""
        counts = self.loop.run(bill_overages(self.database, self.account, str))
        for name in counts["failed_ids"]:
            if name in self.owners:
                self.owners[name][0].wrong.append(f"bill-overages failed for {name}")
        self.hear()

    def tell(self, history: History, what: str) -> None:
        history.told.append(f"{self.stamp()}  {what}")

    def stamp(self) -> str:
        return f"{moment(self.now):%d %b %H:%M:%S}"

    # --- acts ---

    def act(self, history: History) -> None:
        """Do what the script says to both twins, once they stand alike."""
        act = history.acts[history.done]
        both = [Seen(self.desk, twin) for twin in history.twins]
        does = [getattr(self, f"_{act.what}")(history, one, **act.how) for one in both]
        differ = (does[0] is None) != (does[1] is None)
        differ = differ or (act.what in TOUCHY and does[0] is not None and both[0].shape() != both[1].shape())
        history.late_since = (history.late_since or self.now) if differ else 0
        if differ and self.now < history.late_since + PATIENCE:
            history.due_at = self.now + 2 * HOUR
            return
        if differ and act.what not in OF_PLANS:
            history.wrong.append(f"{act}: the twins' lives at Stripe differ: {both[0].shape()}, {both[1].shape()}")
        done = not differ and does[0] is not None
        history.lived.append(f"{self.stamp()}  {act}{'' if done else ' (left out)'}")
        self.tell(history, f"--- {act}{'' if done else ' (left out)'}")
        if done:
            self.meanwhile(history, lambda: [do() for do in does])
        history.done += 1
        history.late_since = 0
        if not history.is_over:
            after = history.acts[history.done]
            seen = Seen(self.desk, history.twins[0])
            wanted = seen.period[1] + after.gap if after.renewal and seen.live else self.now + abs(after.gap)
            history.due_at = max(self.now + 1, wanted)

    def stand_alike(self, history: History) -> bool:
        """Whether Stripe has the same of both, and nothing of it is on its way."""
        both = [Seen(self.desk, twin) for twin in history.twins]
        drafts = [one for each in both for one in each.invoices if one["status"] == "draft" and one["auto_advance"]]
        return bool(both[0].shape() == both[1].shape()) and not drafts

    # Each says how to do it to a twin now, or None where it is not possible.

    def _subscribe(self, history: History, seen: Seen, plan: str, way: str) -> Callable[[], None] | None:
        return None if seen.live else lambda: self.shop(seen.twin, way, plan=plan)

    def _buy(self, history: History, seen: Seen, pack: str, way: str) -> Callable[[], None] | None:
        return lambda: self.shop(seen.twin, way, pack=pack)

    def shop(self, twin: Twin, way: str, **what: str) -> None:
        """Buy at the shop and pay on Stripe's page."""
        url = self.billing.checkout_page(twin.person, **what)
        twin.customer = self.billing.customer_id(twin.person)
        self.owners[url.rpartition("/")[2]] = self.owners[twin.person.id]
        answer = self.desk.http.post(url, data={"way": way})
        assert answer.status_code == (402 if way == "bad_card" else 303), answer.text

    def _change(self, history: History, seen: Seen, to: str, where: str) -> Callable[[], None] | None:
        if not seen.live or TIERS[seen.product] == to:
            return None
        price = self.prices[f"canadagpt_plan_{to}"]
        if where == "portal":
            return lambda: self.portal(seen, "plan", price=price)
        item = seen.live["items"]["data"][0]["id"]
        change = {"items[0][id]": item, "items[0][price]": price, "proration_behavior": where}
        return lambda: self.update(seen, **change)

    def _invoiced_change(self, history: History, seen: Seen, to: str, refuses: bool) -> Callable[[], None] | None:
        if not seen.live or TIERS[seen.product] == to:
            return None
        change = {
            "items[0][id]": seen.live["items"]["data"][0]["id"],
            "items[0][price]": self.prices[f"canadagpt_plan_{to}"],
            "proration_behavior": "always_invoice",
            "payment_behavior": "error_if_incomplete" if refuses else "allow_incomplete",
        }
        return lambda: self.update(seen, **change)

    def portal(self, seen: Seen, action: str, **form: str) -> None:
        """A button of the customer's portal."""
        page = self.desk.post("billing_portal/sessions", customer=seen.twin.customer)["url"]
        named = action if action.endswith("_card") or not seen.live else f"{action}:{seen.live['id']}"
        self.desk.http.post(page, data={"action": named, **form}).raise_for_status()

    def update(self, seen: Seen, **form: Any) -> None:
        assert seen.live
        self.desk.post(f"subscriptions/{seen.live['id']}", **form)

    def _cancel(self, history: History, seen: Seen, where: str, days: int) -> Callable[[], None] | None:
        if not seen.live or seen.live["cancel_at"]:
            return None
        if where == "portal":
            return lambda: self.portal(seen, "cancel")
        if where == "at_period_end":
            return lambda: self.update(seen, cancel_at_period_end="true")
        return lambda: self.update(seen, cancel_at=self.now + days * DAY)

    def _resume(self, history: History, seen: Seen) -> Callable[[], None] | None:
        return (lambda: self.portal(seen, "resume")) if seen.live and seen.live["cancel_at"] else None

    def _cancel_now(self, history: History, seen: Seen, how: str) -> Callable[[], object] | None:
        """What is not invoiced now may be taken along by a later invoice, or by none: so a refund is."""
        if not seen.live:
            return None
        invoiced, refunds = how != "as it is", how == "with a refund of the rest"
        params = {"prorate": str(refunds).lower(), "invoice_now": str(invoiced).lower()}
        path = f"/v1/subscriptions/{seen.live['id']}"
        return lambda: self.desk.http.delete(path, params=params).raise_for_status()

    def _card(self, history: History, seen: Seen, how: str) -> Callable[[], object] | None:
        if not seen.twin.customer:
            return None
        if how.startswith("portal"):
            return lambda: self.portal(seen, f"{how.removeprefix('portal_')}_card")
        works = {"works": True, "breaks": False, "gone": None}[how]
        return lambda: self.billing.fake.control(f"/_customers/{seen.twin.customer}/card", works=works)

    def _pay(self, history: History, seen: Seen, way: str) -> Callable[[], object] | None:
        owed = seen.of_plans("open")
        if not owed:
            return None
        return lambda: self.desk.http.post(f"/i/{owed[-1]['id']}", data={"way": way}).raise_for_status()

    def _refund(self, history: History, seen: Seen, which: int, share: float) -> Callable[[], object] | None:
        payments = [one["payment_intent"] for one in seen.sales]
        return self.give_back(seen, payments, which, share)

    def _refund_plan(self, history: History, seen: Seen, share: float) -> Callable[[], object] | None:
        return self.give_back(seen, seen.plan_payments(), -1, share)

    def give_back(self, seen: Seen, payments: list[str], which: int, share: float) -> Callable[[], object] | None:
        if not payments:
            return None
        payment = payments[which if which < len(payments) else -1]
        amount = max(1, int(seen.charges[payment]["amount"] * share))
        return lambda: self.desk.post("refunds", payment_intent=payment, amount=amount)

    def _dispute(self, history: History, seen: Seen, which: int, status: str) -> Callable[[], object] | None:
        payments = [one["payment_intent"] for one in seen.sales]
        return self.object_to(payments, which, status)

    def _dispute_plan(self, history: History, seen: Seen) -> Callable[[], object] | None:
        return self.object_to(seen.plan_payments(), -1, "needs_response")

    def object_to(self, payments: list[str], which: int, status: str) -> Callable[[], object] | None:
        if not payments:
            return None
        payment = payments[which if which < len(payments) else -1]
        return lambda: self.desk.http.post("/_disputes", json={"charge": payment, "status": status})

    def _trouble(self, history: History, seen: Seen) -> Callable[[], object] | None:
        """The renewal's draft cannot be finalized for a while."""
        drafts = [one["id"] for one in seen.of_plans("draft")]
        if not drafts:
            return None
        return lambda: [self.unfinalizable(history, name) for name in drafts]

    def unfinalizable(self, history: History, name: str) -> None:
        self.billing.fake.control(f"/_invoices/{name}/finalization", fails=True)
        history.unfinalizable.append(name)

    def _trouble_ends(self, history: History, seen: Seen) -> Callable[[], object] | None:
        names = history.unfinalizable
        return lambda: [
            self.billing.fake.control(f"/_invoices/{names.pop()}/finalization", fails=False) for _ in range(len(names))
        ]

    def _overage(self, history: History, seen: Seen, queries: int) -> Callable[[], object] | None:
        if not seen.live or seen.live["status"] != "active" or seen.live["cancel_at"]:
            return None
        begun = seen.period[0]
        if seen.twin is history.twins[0]:
            history.overage[begun] += queries
        return lambda: self.billing.add_overage(seen.twin.person, queries, self.now, begun)

    def _spend(self, history: History, seen: Seen, credits: int) -> Callable[[], object] | None:  # noqa: A002
        """Use credits up, when the user has heard of all packs: what pays is then the same for both."""
        if seen.live or not seen.sales:
            return None
        return lambda: self.use(history, seen, credits)

    def use(self, history: History, seen: Seen, credits: int) -> None:  # noqa: A002
        waiting = history.waiting()
        if seen.twin is history.twins[1] and waiting:
            self.note(history, waiting, self.post(*(event.id for event in waiting)), "before credits are used")
        packs = right_packs(seen, self.used(seen.twin))
        left = sum(pack["remaining"] for pack in packs if not pack["frozen"])
        admitted = self.billing.db.execute(
            "with asked as materialized ("
            "  select q.id, public.admit_query(%s, q.id::text, q.id) as told"
            "  from (select gen_random_uuid() as id from generate_series(1, %s)) q)"
            " select told ->> 'funding' as funding, public.settle_query(id, 'answered', %s) from asked",
            (seen.twin.person.id, min(credits, left), USAGE),
        ).fetchall()
        assert {row["funding"] for row in admitted} <= {"credit"}

    def used(self, twin: Twin) -> dict[str, int]:
        """What the ledger says that each pack has paid, by the pack's session."""
        rows = self.billing.db.execute(
            "select c.stripe_checkout_session_id as session, count(*) as used"
            " from public.usage_logs u join public.credit_packs c on c.id = u.credit_pack_id"
            " where u.user_id = %s and u.outcome = 'answered' group by 1",
            (twin.person.id,),
        ).fetchall()
        return {row["session"]: row["used"] for row in rows}

    def _allow(self, history: History, seen: Seen, allow_overages: bool) -> Callable[[], object] | None:
        person, body = seen.twin.person, {"allow_overages": allow_overages}
        return lambda: self.billing.checkout.patch("/overage", json=body, headers=person.headers).raise_for_status()

    def _wait(self, history: History, seen: Seen) -> Callable[[], None] | None:
        return lambda: None

    def _delete(self, history: History, seen: Seen) -> Callable[[], object] | None:
        return (lambda: self.delete(seen.twin)) if seen.twin.customer else None

    def delete(self, twin: Twin) -> None:
        self.desk.http.delete(f"/v1/customers/{twin.customer}").raise_for_status()
        twin.is_deleted = True

    # --- what came of it ---

    def check(self, history: History, when: str, is_end: bool = False) -> None:
        """Compare both twins with what Stripe says; at the end with each other, and what was billed with the ledger."""
        both = [Seen(self.desk, twin) for twin in history.twins]
        found = []
        for name, seen in zip(("first", "second"), both, strict=True):
            row, packs = self.plan_of(seen.twin), self.packs_of(seen.twin)
            right = right_packs(seen, self.used(seen.twin))
            allows = row.pop("allow_overages")
            wanted = right_plan(seen, has_packs=any(map(is_kept, right)))
            for what, ours, stripes in (("plan", row, wanted), ("packs", packs, right)):
                if ours != stripes:
                    history.wrong.append(
                        f"{when}, the {name} twin's {what}: {show(ours)}\n    by Stripe's: {show(stripes)}"
                    )
            billed = self.billed(history, seen, name) if is_end else None
            found.append((alike(row, seen.twin), alike(packs, seen.twin), allows, billed))
        if is_end and both[0].shape() != both[1].shape():
            history.wrong.append(f"{when} the twins' lives at Stripe differ: {both[0].shape()}, {both[1].shape()}")
        if is_end and found[0] != found[1]:
            history.wrong.append(f"{when}, the first: {show(found[0])}\n    the second: {show(found[1])}")

    def compare_now(self, history: History, fresh: list[Event]) -> None:
        """What the second twin has just heard must be known by now, whatever else they have not heard."""
        seen = Seen(self.desk, history.twins[1])
        packs = self.packs_of(seen.twin)
        for event in fresh:
            if event.type in CUSTOMER_EVENTS:
                row = self.plan_of(seen.twin)
                row.pop("allow_overages")
                wanted = right_plan(seen, has_packs=any(map(is_kept, packs)))
            elif event.type in PAYMENT_EVENTS:
                sessions = [one["id"] for one in seen.sales if one["payment_intent"] == event.payment]
                row, wanted = (
                    [pack for pack in them if pack["session"] in sessions]
                    for them in (packs, right_packs(seen, self.used(seen.twin)))
                )
            else:
                continue
            if row != wanted:
                history.wrong.append(f"{self.stamp()}, after {event}: {show(row)}\n    by Stripe's: {show(wanted)}")

    def plan_of(self, twin: Twin) -> Json:
        row = self.billing.subscription_row(twin.person)
        names = (
            "tier next_tier status current_period_start current_period_end canceled_at past_due_since allow_overages"
        )
        plan = {name: row[name] for name in names.split()}
        return {**plan, "customer": row["stripe_customer_id"], "subscription": row["stripe_subscription_id"]}

    def packs_of(self, twin: Twin) -> list[Json]:
        names = {name: f"credits_{name}" for name in ("purchased", "used", "remaining", "revoked", "to_revoke")}
        names |= {
            "session": "stripe_checkout_session_id",
            "frozen": "is_frozen",
            "price": "price_paid",
            "at": "created_at",
        }
        return in_order(
            [{ours: pack[theirs] for ours, theirs in names.items()} for pack in self.billing.packs(twin.person)]
        )

    def billed(self, history: History, seen: Seen, name: str) -> Any:
        """What the twin was billed: the rows, and what Stripe has under their ids. Notes what does not add up."""
        rows = self.billing.overage_items(seen.twin.person)
        price = Decimal("0.025")
        wanted = sorted(
            (moment(period), queries, price, queries * price, int(queries * price * 100), True, True)
            for period, queries in history.overage.items()
        )
        ours = sorted(
            (
                *(row[name] for name in ("period_start", "queries", "unit_price_usd", "amount_usd", "amount_cents")),
                row["stripe_invoice_item_id"] is not None,
                row["stripe_invoice_id"] is not None,
            )
            for row in rows
        )
        if ours != wanted:
            history.wrong.append(f"the {name} twin's overage: {show(ours)}\n    by the ledger: {show(wanted)}")
        items = Counter(
            (one["metadata"]["overage_invoice_item"], one["id"], one["invoice"], one["amount"])
            for one in seen.items
            if "overage_invoice_item" in one["metadata"]
        )
        lines = Counter(
            (line["metadata"]["overage_invoice_item"], details["invoice_item"], invoice["id"], line["amount"])
            for invoice in seen.invoices
            for line in invoice["lines"]["data"]
            if "overage_invoice_item" in line["metadata"] and (details := line["parent"]["invoice_item_details"])
        )
        named = ("id", "stripe_invoice_item_id", "stripe_invoice_id", "amount_cents")
        rights = Counter((str(row["id"]), *(row[name] for name in named[1:])) for row in rows)
        for what, there in (("invoice items", items), ("invoices' lines", lines)):
            if there != rights:
                history.wrong.append(f"the {name} twin's {what}: {show(there)}\n    by the rows: {show(rights)}")
        said = sorted(
            (one["amount"], one["description"]) for one in seen.items if "overage_invoice_item" in one["metadata"]
        )
        others = Counter(
            (line["amount"], line["description"], line["period"]["start"])
            for invoice in seen.invoices
            for line in invoice["lines"]["data"]
            if "overage_invoice_item" not in line["metadata"]
        )
        return ours, said, sorted(others.items())


def show(thing: Any) -> str:
    if isinstance(thing, dict):
        return "{" + ", ".join(f"{name}: {show(value)}" for name, value in thing.items()) + "}"
    if isinstance(thing, list | tuple):
        return f"[{', '.join(map(show, thing))}]"
    return str(thing)


def tale(history: History) -> str:
    """A history that ended wrong, in words."""
    return "\n".join(
        [
            f"history {history.seed}{', what bills comes at once' if history.punctual else ''}",
            *(f"  {line}" for line in history.lived),
            "what the second twin heard:",
            *(f"  {line}" for line in history.told),
            "what is wrong:",
            *(f"  {line}" for line in history.wrong),
        ]
    )


# --- the promise -----------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def levers(stack: Stack) -> Iterator[Levers]:
    with Levers(stack) as levers:
        yield levers


@pytest.mark.prove
@pytest.mark.timeout(3600 if FULL else 300)
@pytest.mark.parametrize("number", range(1 if os.environ.get("SEED") else BATCHES))
def test_event_order_and_failures_do_not_change_the_result(
    stack: Stack, levers: Levers, capfd: pytest.CaptureFixture[str], number: int
) -> None:
    seed = int(os.environ.get("SEED") or secrets.randbelow(2**32))
    only = os.environ.get("HISTORY")
    start = int(random.Random(seed).choice(STARTS).timestamp())  # noqa: S311
    began = time.monotonic()
    with running_billing(stack, start=start) as billing:
        batch = Batch(billing, levers, seed, [int(only)] if only else list(range(HISTORIES)))
        try:
            batch.run()
        except BaseException as error:
            size = " PROVE=1" if FULL else ""
            error.add_note(f"replay: SEED={seed}{size} make test ONLY=tests/functions/test_billing_histories.py")
            raise
        finally:
            batch.close()
    wrong = [history for history in batch.histories if history.wrong]
    if FULL:
        with capfd.disabled():
            many = f"{len(batch.histories)} histories, {sum(len(one.events) for one in batch.histories)} events"
            sys.stderr.write(f"batch {number + 1} of {BATCHES}: {many}, {time.monotonic() - began:.0f} s\n")
    if wrong:
        name, _, place = wrong[0].seed.partition("/")
        replay = f"SEED={name} HISTORY={place} make test ONLY=tests/functions/test_billing_histories.py"
        others = f" The others: {', '.join(one.seed for one in wrong[1:])}" if wrong[1:] else ""
        pytest.fail(
            f"{len(wrong)} of {len(batch.histories)} ended wrong.{others}\n{tale(wrong[0])}\nreplay: {replay}",
            pytrace=False,
        )
