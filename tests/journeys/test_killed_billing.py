"""A process killed with SIGKILL between any two steps of an event, of the sweep or of a click: after retries nothing is
lost or doubled, neither in our tables nor at Stripe.

Each work is tried by people of their own, all at once, so that time passes once for all of them: one whose process
lives, and one for each step that it is killed at, under each of LATER. `PROVE=1` takes every step under each, not one
under one.
"""

import asyncio
import json
import os
import random
import subprocess
import sys
import tempfile
import time
import uuid
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any
from unittest import mock

import pytest

from functions.common.billing.events import HANDLED_EVENTS
from functions.common.billing.overage import ITEM_ID_KEY
from functions.maintenance.handler import run_job
from infra.local.postgres import ROOT
from infra.local.stack import Stack
from tests.billing_kit import DAY, HOUR, SITE, BillingStack, environment, publish_catalog, running_billing
from tests.conftest import Person
from tests.local.stripe_kit import SECRET
from tests.sql.metering import admit, settle, value
from tests.sql.test_settle_query import turn

Json = dict[str, Any]
Way = Callable[[BillingStack, Sequence[Person]], None]

# Hours between the kill and the retry, and how often the retry is killed too: never, always, or perhaps. Stripe forgets
# idempotency keys after 24 hours, and finalizes a draft without us after 72.
LATER: dict[str, tuple[int, Sequence[bool]]] = {
    "at once": (0, (False,)),
    "killed twice": (0, (True,)),
    "a day later": (25, (False, True)),
    "four days later": (96, (False, True)),
}
KEYS_LAST, DRAFTS_WAIT = 24, 72
# Steps that a retry may have beyond what it retries: it looks for what is there, and goes elsewhere.
MORE = 8
PAGES = {"success_url": f"{SITE}/done", "cancel_url": f"{SITE}/left"}


# --- the works -------------------------------------------------------------------------------------------------------


def each(do: Callable[[BillingStack, Person], Any]) -> Way:
    """The same for everybody."""

    def way(billing: BillingStack, people: Sequence[Person]) -> None:
        for person in people:
            do(billing, person)

    return way


def buys(**what: str) -> Way:
    return each(lambda billing, person: billing.buy(person, **what))


def owes(queries: int, days_ago: int = 0) -> Way:
    """Settled overage, of a period that began then."""

    def owe(billing: BillingStack, person: Person) -> None:
        at = billing.fake.now - days_ago * DAY
        billing.add_overage(person, queries, at, at)

    return each(owe)


def renews(billing: BillingStack, people: Sequence[Person]) -> None:
    """Everybody's period ends, a minute ago."""
    (newest,) = billing.fake.v1.subscriptions.list({"limit": 1}).data
    billing.fake.control("/_clock", to=newest["items"].data[0].current_period_end + 60)


def is_told(billing: BillingStack, people: Sequence[Person]) -> None:
    """All events so far are dealt with, a few in each request: it has an end."""
    waiting = billing.undelivered()
    for at in range(0, len(waiting), 50):
        assert set(billing.deliver(*waiting[at : at + 50])) == {200}


def cancels(billing: BillingStack, person: Person) -> None:
    (live,) = billing.fake.v1.subscriptions.list({"customer": billing.customer_id(person)}).data
    billing.fake.v1.subscriptions.cancel(live.id)


def loses_card(billing: BillingStack, person: Person) -> None:
    billing.fake.control(f"/_customers/{billing.customer_id(person)}/card", works=None)


def is_finalized(billing: BillingStack, person: Person) -> None:
    """The renewal's draft is, before we have put anything on it."""
    (draft,) = billing.fake.v1.invoices.list({"customer": billing.customer_id(person), "status": "draft"}).data
    assert draft.id is not None
    billing.fake.v1.invoices.finalize_invoice(draft.id)


def is_refunded(billing: BillingStack, person: Person) -> None:
    (pack,) = billing.packs(person)
    billing.fake.v1.refunds.create({"payment_intent": pack["stripe_payment_intent_id"], "amount": 90})


@dataclass(frozen=True, slots=True)
class Work:
    """What leads to it, in order; what is done, an event of a type where it is no other work; how many steps it
    has; the cents of the invoice items that come of it; what happens between the kill and the retry."""

    ways: tuple[Way, ...]
    does: str
    steps: int
    cents: tuple[int, ...] = ()
    given: Json = field(default_factory=dict)
    meanwhile: tuple[Way, ...] = ()

    @property
    def is_click(self) -> bool:
        return self.does in ("subscribe", "buy")


WORKS = {
    "subscribed": Work((buys(plan="basic"),), "customer.subscription.created", 10),
    "renewed": Work((buys(plan="basic"), owes(41), renews), "invoice.created", 20, (102,)),
    "renewed and owing for two periods": Work(
        (buys(plan="basic"), owes(3, 31), owes(5), renews), "invoice.created", 24, (7, 12)
    ),
    "ended": Work((buys(plan="basic"), owes(41), each(cancels)), "customer.subscription.deleted", 26, (102,)),
    "ended without a card": Work(
        (buys(plan="basic"), owes(41), each(loses_card), each(cancels)), "customer.subscription.deleted", 26, (102,)
    ),
    "bought a pack": Work((buys(pack="pack_100"),), "checkout.session.completed", 12),
    "got a refund": Work((buys(pack="pack_100"), is_told, each(is_refunded)), "charge.refunded", 12),
    "missed the draft": Work(
        (buys(plan="basic"), renews, is_told, each(is_finalized), owes(41, 10)), "sweep", 16, (102,)
    ),
    "missed the draft and cancels": Work(
        (buys(plan="basic"), renews, is_told, each(is_finalized), owes(41, 10)),
        "sweep",
        16,
        (102,),
        meanwhile=(each(cancels),),
    ),
    "missed the end": Work((buys(plan="basic"), each(cancels), is_told, owes(41)), "sweep", 22, (102,)),
    "clicks on a plan": Work((), "subscribe", 18, given={"tier": "basic"}),
    "clicks on a pack": Work((), "buy", 16, given={"pack_id": "pack_100"}),
    "clicks on another plan": Work(
        (each(lambda billing, person: billing.checkout_page(person, plan="basic")),),
        "subscribe",
        14,
        given={"tier": "pro"},
    ),
}


# --- processes that are killed ---------------------------------------------------------------------------------------


class Processes:
    """Starts one for each piece of work; see killable_billing.py."""

    def __init__(self, billing: BillingStack) -> None:
        self._errors = tempfile.TemporaryFile("w+")  # noqa: SIM115 -- until close()
        self._process = subprocess.Popen(
            [sys.executable, "-m", "tests.journeys.killable_billing"],
            cwd=ROOT,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=self._errors,
            text=True,
            bufsize=1,
        )
        self._tell(environment(billing.stack, billing.fake.url))

    def _tell(self, what: Json) -> None:
        assert self._process.stdin is not None
        self._process.stdin.write(json.dumps(what) + "\n")

    def do(self, work: str, given: Json, step: int | None) -> Json:
        """Returns `{"killed"}`, and of who was not also `{"steps", "result", "error"}`."""
        self._tell({"work": work, "given": given, "step": step})
        assert self._process.stdout is not None
        line = self._process.stdout.readline()
        self._errors.seek(0)
        assert line.strip(), self._errors.read()
        answer: Json = json.loads(line)
        return answer

    def close(self) -> None:
        self._process.communicate()
        self._errors.close()


@dataclass(slots=True)
class Try:
    """Somebody for whom a work is done: killed at the steps of `first`, hours later at those of `then`, and at last
    not."""

    person: Person
    later: str
    first: tuple[int, ...]
    then: tuple[int, ...]
    given: Json = field(default_factory=dict)
    kills: int = 0
    steps: int = 0
    wrong: list[str] = field(default_factory=list)

    def __str__(self) -> str:
        return f"killed at {self.first}, {self.later} {self.then}"

    @property
    def hours(self) -> int:
        return LATER[self.later][0]


def tries(billing: BillingStack, work: Work) -> list[Try]:
    """The first is of one who is never killed."""
    found = [Try(billing.new_user(), "at once", (), ())]
    prove = bool(os.environ.get("PROVE"))
    for later in LATER if prove else random.sample([*LATER], 1):
        _, twice = LATER[later]
        for step in range(work.steps) if prove else random.sample(range(work.steps), 1):
            first, then = [step], []
            if random.choice(twice):  # noqa: S311
                random.choice((first, then)).append(random.randrange(work.steps + MORE))  # noqa: S311
            found.append(Try(billing.new_user(), later, tuple(first), tuple(then)))
    return found


@pytest.fixture(scope="module")
def own_billing(stack: Stack) -> Iterator[BillingStack]:
    """Its Stripe is a day ahead of us: the search for an item begins when our own clock says that it was made."""
    seed = uuid.uuid4().hex[:8]
    with running_billing(stack, start=int(time.time()) + DAY, seed=seed) as billing:
        yield billing
        # What a failure left is nobody else's.
        billing.db.execute(
            "update public.user_subscriptions set stripe_customer_id = null where stripe_customer_id like %s",
            (f"cus_{seed}%",),
        )
        billing.db.execute("delete from public.stripe_events where event_id like %s", (f"evt_{seed}%",))


@pytest.fixture(scope="module")
def processes(own_billing: BillingStack) -> Iterator[Processes]:
    processes = Processes(own_billing)
    yield processes
    processes.close()


@pytest.fixture
def fresh_billing(own_billing: BillingStack) -> BillingStack:
    """Nothing has happened at Stripe."""
    own_billing.fake.reset()
    own_billing.fake.control(
        "/_webhooks", url=f"{own_billing.webhooks_url}/webhooks/stripe", secret=SECRET, types=sorted(HANDLED_EVENTS)
    )
    own_billing.fake.control("/_webhooks/mode", hold=True)
    publish_catalog(own_billing)
    return own_billing


# --- what happens ----------------------------------------------------------------------------------------------------


def happened(billing: BillingStack) -> dict[tuple[str, str], Json]:
    """The newest event by customer and type."""
    newest = {}
    for event in billing.fake.http.get("/_events").json():
        del event["delivery"]
        newest[event["data"]["object"].get("customer"), event["type"]] = event
    return newest


def give(billing: BillingStack, work: Work, all_of_them: list[Try]) -> None:
    """What each work is done with."""
    events = happened(billing)
    for one in all_of_them:
        if work.is_click:
            one.given = {"user_id": one.person.id, **work.given, **PAGES}
        elif work.does == "sweep":
            one.given = {"user_id": one.person.id}
        else:
            one.given = {"event": events[billing.customer_id(one.person), work.does]}


def attempt(billing: BillingStack, processes: Processes, work: Work, one: Try, steps: Sequence[int | None]) -> None:
    """Do it, killed at each of the steps in turn; None: to its end."""
    name = work.does if work.is_click or work.does == "sweep" else "event"
    for step in steps:
        told = processes.do(name, one.given, step)
        if told["killed"]:
            one.kills += 1
            continue
        one.steps = told["steps"]
        if told["error"]:
            one.wrong.append(f"failed: {told['error']}")
        elif work.is_click and step is None:
            leave_page(billing, one, told["result"]["url"])


def leave_page(billing: BillingStack, one: Try, url: str) -> None:
    """Pay, on the only page that is open: two could be paid twice."""
    listed = billing.fake.v1.checkout.sessions.list({"customer": billing.customer_id(one.person), "limit": 100}).data
    pages = [session.url for session in listed if session.status == "open"]
    if pages != [url]:
        one.wrong.append(f"was sent to {url}, open are {pages}")
    assert billing.fake.http.post(url, data={"way": "good_card"}).status_code == 303


def sweep(billing: BillingStack) -> None:
    """Whom Stripe does not know here belongs to other tests of the stack."""
    with mock.patch.dict(os.environ, environment(billing.stack, billing.fake.url)):
        asyncio.run(run_job("bill-overages", lambda line: None, {}))


def live(billing: BillingStack, processes: Processes, work: Work, all_of_them: list[Try]) -> None:
    """Everything, from the first kill to the invoice after the next."""
    unkilled, *killed = all_of_them
    attempt(billing, processes, work, unkilled, [None])
    for one in killed:
        attempt(billing, processes, work, one, one.first)
    for way in work.meanwhile:
        way(billing, [one.person for one in all_of_them])
    passed = 0
    for hours in sorted({one.hours for one in killed}):
        if hours > passed:
            billing.fake.advance((hours - passed) * HOUR)
            passed = hours
        for one in killed:
            if one.hours == hours:
                attempt(billing, processes, work, one, [*one.then, None])
    is_told(billing, [])
    sweep(billing)
    # Past the next invoice of those who owe something, which may stand on that one.
    for _ in range(20 if work.cents else 1):
        billing.fake.advance(2 * DAY)
        is_told(billing, [])
    sweep(billing)


# --- what came of it -------------------------------------------------------------------------------------------------


class Ends:
    """Stripe and the database, read once for everybody."""

    def __init__(self, billing: BillingStack, people: Sequence[Person]) -> None:
        self.billing = billing
        self._stripe = billing.fake.http.get("/_state").json()
        ids = [person.id for person in people]
        self.broken = Counter(
            str(row["user_id"])
            for row in billing.db.execute(
                "select * from public.reconcile() where invariant in ('I3', 'I7') and user_id = any(%s::uuid[])", (ids,)
            ).fetchall()
        )
        self.unbilled = Counter(
            str(row["user_id"])
            for row in billing.db.execute(
                "select user_id from public.usage_logs"
                " where was_overage and invoice_item_id is null and user_id = any(%s::uuid[])",
                (ids,),
            ).fetchall()
        )

    def of(self, kind: str, customer: str) -> list[Json]:
        return [one for one in self._stripe.get(kind, []) if one["customer"] == customer and not one.get("_deleted")]

    def customers(self, person: Person) -> list[Json]:
        return [one for one in self._stripe["customer"] if one["metadata"].get("user_id") == person.id]

    def unprocessed(self) -> list[str]:
        """Events that we want and have not dealt with."""
        wanted = {one["id"]: one["type"] for one in self._stripe["event"] if one["type"] in HANDLED_EVENTS}
        done = self.billing.db.execute(
            "select event_id from public.stripe_events where processed_at is not null and event_id = any(%s)",
            ([*wanted],),
        ).fetchall()
        return [wanted[name] for name in wanted.keys() - {row["event_id"] for row in done}]

    def state(self, person: Person) -> Json:
        """How somebody stands, without ids and times."""
        row, customer = self.billing.subscription_row(person), self.billing.customer_id(person)
        sold = [one for one in self.of("checkout.session", customer) if one["status"] != "expired"]
        (account,) = [one for one in self._stripe["customer"] if one["id"] == customer]
        invoices = self.of("invoice", customer)
        charges = [one for one in self.of("charge", customer) if one["paid"]]
        return {
            "plan": (row["tier"], row["status"], row["next_tier"], row["stripe_subscription_id"] is not None),
            "packs": [
                (pack["credits_purchased"], pack["credits_remaining"], pack["credits_revoked"], pack["price_paid"])
                for pack in self.billing.packs(person)
            ],
            "items": [
                (item["queries"], item["amount_usd"], item["amount_cents"])
                for item in self.billing.overage_items(person)
            ],
            "subscriptions": [one["status"] for one in self.of("subscription", customer)],
            "pages": sorted((one["mode"], one["status"]) for one in sold),
            "invoices": sorted(
                (one["billing_reason"], one["status"], one["total"], sorted(line["amount"] for line in one["_lines"]))
                for one in invoices
            ),
            "billed": sum(one["total"] for one in invoices),
            "balance": account["balance"],
            "paid": sum(one["amount"] - one["amount_refunded"] for one in charges),
        }

    def wrong(self, one: Try, work: Work) -> Iterator[str]:
        """What is lost or doubled."""
        person = one.person
        row, customer = self.billing.subscription_row(person), self.billing.customer_id(person)
        if self.broken[person.id]:
            yield "reconcile() finds something"
        if self.unbilled[person.id]:
            yield f"{self.unbilled[person.id]} queries were never billed"
        yield from self._wrong_items(self.billing.overage_items(person), customer, work)
        yield from self._wrong_accounts(one, customer)
        # An event that was acknowledged before its effect leaves the plan that was before it.
        for subscription in self.of("subscription", customer):
            item = subscription["items"]["data"][0]
            known = (row["stripe_subscription_id"], row["current_period_end"])
            if subscription["status"] == "active" and (
                known[0] != subscription["id"] or known[1].timestamp() != item["current_period_end"]
            ):
                yield f"the plan of {known} is not that of Stripe's {subscription['id']}"
        paid = [
            one
            for one in self.of("checkout.session", customer)
            if one["mode"] == "payment" and one["status"] == "complete"
        ]
        packs = {pack["stripe_checkout_session_id"]: pack["credits_purchased"] for pack in self.billing.packs(person)}
        if packs != {one["id"]: int(one["metadata"]["credits"]) for one in paid}:
            yield f"paid were {[one['id'] for one in paid]}, granted {packs}"

    def _wrong_items(self, items: list[Json], customer: str, work: Work) -> Iterator[str]:
        there = [one for one in self.of("invoiceitem", customer) if ITEM_ID_KEY in one["metadata"]]
        if Counter(one["metadata"][ITEM_ID_KEY] for one in there) != Counter(str(item["id"]) for item in items):
            yield f"of {len(items)} items {len(there)} are at Stripe"
        # What Stripe has and we do not know of would be billed again, or looked for for ever.
        stripe_get = {one["metadata"][ITEM_ID_KEY]: (one["id"], one["invoice"], one["amount"]) for one in there}
        for item in items:
            known = (item["stripe_invoice_item_id"], item["stripe_invoice_id"], item["amount_cents"])
            if None in known or stripe_get.get(str(item["id"])) != known:
                yield f"we know of {known}, Stripe of {stripe_get.get(str(item['id']))}"
        if sorted(one["amount"] for one in there) != sorted(work.cents):
            yield f"billed were {[one['amount'] for one in there]} cents"
        # An item may say that an invoice has it, and its customer be charged for it on two, or on none.
        lines = Counter(
            line["parent"]["invoice_item_details"]["invoice_item"]
            for invoice in self.of("invoice", customer)
            for line in invoice["_lines"]
            if line["parent"]["invoice_item_details"] and invoice["status"] in ("open", "paid")
        )
        if lines != Counter(one["id"] for one in there):
            yield f"final invoices have {lines}"

    def _wrong_accounts(self, one: Try, customer: str) -> Iterator[str]:
        for other in self.customers(one.person):
            # Who was killed before we noted their customer, and came back when Stripe had forgotten that they asked for
            # one, gets another. Nothing may hang on the first: no event of it is anybody's.
            used = [kind for kind in ("checkout.session", "subscription", "invoice") if self.of(kind, other["id"])]
            if other["id"] != customer and (used or one.hours < KEYS_LAST):
                yield f"is also {other['id']}, who has {used}"


@pytest.mark.prove
@pytest.mark.timeout(1800)
@pytest.mark.parametrize("name", WORKS)
def test_billing_killed_at_any_step_loses_and_doubles_nothing(
    fresh_billing: BillingStack, processes: Processes, name: str
) -> None:
    billing, work = fresh_billing, WORKS[name]
    all_of_them = tries(billing, work)
    people = [one.person for one in all_of_them]
    for way in work.ways:
        way(billing, people)
    give(billing, work, all_of_them)

    live(billing, processes, work, all_of_them)
    assert all_of_them[0].steps == work.steps, "count its steps anew: else some are not tried"
    assert all(one.kills for one in all_of_them[1:])

    ends = Ends(billing, people)
    assert ends.unprocessed() == []
    unkilled = ends.state(people[0])
    for one in all_of_them:
        one.wrong += ends.wrong(one, work)
        state = ends.state(one.person)
        # A draft that was finalized meanwhile cannot take what the next one then takes.
        without = {"invoices"} if one.hours > DRAFTS_WAIT else set()
        one.wrong += [
            f"{key}: {state[key]}, unkilled {unkilled[key]}"
            for key in state.keys() - without
            if state[key] != unkilled[key]
        ]
    assert [f"{one}: {wrong}" for one in all_of_them for wrong in one.wrong] == []


# --- who leaves ------------------------------------------------------------------------------------------------------


@pytest.mark.prove
@pytest.mark.timeout(1800)
def test_a_deletion_killed_at_any_step_continues_and_bills_once(
    fresh_billing: BillingStack, processes: Processes
) -> None:
    """Somebody with a subscription, forty-one queries of overage and two conversations, for each step."""
    billing = fresh_billing

    def somebody() -> Person:
        person = billing.new_user()
        billing.buy(person, plan="basic")
        is_told(billing, [])
        billing.add_overage(person, 41, billing.fake.now, billing.fake.now)
        for chat in ("first", "second"):
            settle(billing.db, admit(billing.db, person.id)["hold_id"], turn=turn(chat, "q1"))
        return person

    wanted = {"subscriptions": 1, "items": 1, "conversations": 2, "users": 1}
    whole = processes.do("delete", {"user_id": somebody().id}, None)
    assert whole["result"] == wanted, whole["error"]
    steps = range(whole["steps"])
    assert len(steps) > 20
    for step in steps if os.environ.get("PROVE") else sorted(random.sample(steps, 8)):
        person = somebody()
        given, customer = {"user_id": person.id}, billing.customer_id(person)
        assert processes.do("delete", given, step)["killed"]
        again = processes.do("delete", given, None)
        assert again["error"] is None, again["error"]
        found = Ends(billing, [person])
        (item,) = found.of("invoiceitem", customer)
        (live,) = found.of("subscription", customer)
        lines = [
            line
            for invoice in found.of("invoice", customer)
            for line in invoice["_lines"]
            if (line["parent"]["invoice_item_details"] or {}).get("invoice_item") == item["id"]
        ]
        kept = value(
            billing.db, "select stripe_invoice_item_id from public.retained_invoice_items where id = %s",
            item["metadata"]["overage_invoice_item"],
        )  # fmt: skip
        assert (live["status"], item["amount"], kept, len(lines)) == ("canceled", 102, item["id"], 1), step
        for table in ("auth.users where id", "public.usage_logs where user_id", "public.conversations where user_id"):
            assert value(billing.db, f"select count(*) from {table} = %s", person.id) == 0, step
