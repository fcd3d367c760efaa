"""A process is killed with SIGKILL at any step of an event, of the job bill-overages or of a click. After retries,
nothing is lost or doubled, neither in our tables nor at Stripe.

Each attempt has a user of its own. All users of a work share one timeline: one process that is not killed, and one for
each step and each of RETRIES. `PROVE=1` takes every step with each of RETRIES; otherwise one step with one of them.
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
from tests.billing_kit import DAY, HOUR, SITE, BillingStack, environment, publish, running_billing
from tests.conftest import Person
from tests.local.stripe.kit import SECRET
from tests.sql.metering import admit, settle, turn, value

Json = dict[str, Any]
Action = Callable[[BillingStack, Sequence[Person]], None]

# Hours between the kill and the retry, and whether the retry may be killed too. Stripe deletes idempotency keys after
# 24 hours, and finalizes a draft after 72 if its event is not acknowledged.
RETRIES: dict[str, tuple[int, Sequence[bool]]] = {
    "at once": (0, (False,)),
    "killed twice": (0, (True,)),
    "a day later": (25, (False, True)),
    "four days later": (96, (False, True)),
}
KEYS_EXPIRE_H, DRAFTS_FINALIZE_H = 24, 72
# A retry may have more steps: it searches for existing items, and may choose another invoice.
EXTRA_STEPS = 8
PAGES = {"success_url": f"{SITE}/done", "cancel_url": f"{SITE}/left"}


# --- works -------------------------------------------------------------------------------------------------------


def each(do: Callable[[BillingStack, Person], Any]) -> Action:
    """The same action for each user."""

    def action(billing: BillingStack, people: Sequence[Person]) -> None:
        for person in people:
            do(billing, person)

    return action


def buy(**what: str) -> Action:
    return each(lambda billing, person: billing.buy(person, **what))


def owe_overage(queries: int, days_ago: int = 0) -> Action:
    """Add settled overage, in a period that started `days_ago`."""

    def owe(billing: BillingStack, person: Person) -> None:
        at = billing.fake.now - days_ago * DAY
        billing.add_overage(person, queries, at, at)

    return each(owe)


def renew(billing: BillingStack, people: Sequence[Person]) -> None:
    """Move the clock to one minute after the end of the period."""
    (newest,) = billing.fake.v1.subscriptions.list({"limit": 1}).data
    billing.fake.control("/_clock", to=newest["items"].data[0].current_period_end + 60)


def deliver_all(billing: BillingStack, people: Sequence[Person]) -> None:
    """Deliver all events, fifty in each request, which has a time limit."""
    waiting = billing.undelivered()
    for at in range(0, len(waiting), 50):
        assert set(billing.deliver(*waiting[at : at + 50])) == {200}


def cancel(billing: BillingStack, person: Person) -> None:
    (live,) = billing.fake.v1.subscriptions.list({"customer": billing.customer_id(person)}).data
    billing.fake.v1.subscriptions.cancel(live.id)


def remove_card(billing: BillingStack, person: Person) -> None:
    billing.fake.control(f"/_customers/{billing.customer_id(person)}/card", works=None)


def finalize_draft(billing: BillingStack, person: Person) -> None:
    """Finalize the draft of the renewal before we put anything on it."""
    (draft,) = billing.fake.v1.invoices.list({"customer": billing.customer_id(person), "status": "draft"}).data
    assert draft.id is not None
    billing.fake.v1.invoices.finalize_invoice(draft.id)


def refund(billing: BillingStack, person: Person) -> None:
    (pack,) = billing.packs(person)
    billing.fake.v1.refunds.create({"payment_intent": pack["stripe_payment_intent_id"], "amount": 90})


@dataclass(frozen=True, slots=True)
class Work:
    """`before`: actions that lead to the work. `kind`: subscribe, buy, sweep, or the type of an event to process.
    `steps`: the number of its steps. `cents`: the amounts of the resulting invoice items. `meanwhile`: actions between
    the kill and the retry."""

    before: tuple[Action, ...]
    kind: str
    steps: int
    cents: tuple[int, ...] = ()
    given: Json = field(default_factory=dict)
    meanwhile: tuple[Action, ...] = ()

    @property
    def is_click(self) -> bool:
        return self.kind in ("subscribe", "buy")


WORKS = {
    "subscribed": Work((buy(plan="basic"),), "customer.subscription.created", 18),
    "renewed": Work((buy(plan="basic"), owe_overage(41), renew), "invoice.created", 30, (102,)),
    "renewed and owing for two periods": Work(
        (buy(plan="basic"), owe_overage(3, 31), owe_overage(5), renew), "invoice.created", 34, (7, 12)
    ),
    "ended": Work((buy(plan="basic"), owe_overage(41), each(cancel)), "customer.subscription.deleted", 42, (102,)),
    "ended without a card": Work(
        (buy(plan="basic"), owe_overage(41), each(remove_card), each(cancel)),
        "customer.subscription.deleted",
        38,
        (102,),
    ),
    "bought a pack": Work((buy(pack="pack_100"),), "checkout.session.completed", 12),
    "got a refund": Work((buy(pack="pack_100"), deliver_all, each(refund)), "charge.refunded", 14),
    "missed the draft": Work(
        (buy(plan="basic"), renew, deliver_all, each(finalize_draft), owe_overage(41, 10)), "sweep", 16, (102,)
    ),
    "missed the draft and cancels": Work(
        (buy(plan="basic"), renew, deliver_all, each(finalize_draft), owe_overage(41, 10)),
        "sweep",
        16,
        (102,),
        meanwhile=(each(cancel),),
    ),
    "missed the end": Work((buy(plan="basic"), each(cancel), deliver_all, owe_overage(41)), "sweep", 44, (102,)),
    "clicks on a plan": Work((), "subscribe", 26, given={"tier": "basic"}),
    "clicks on a pack": Work((), "buy", 18, given={"pack_id": "pack_100"}),
    "clicks on another plan": Work(
        (each(lambda billing, person: billing.checkout_page(person, plan="basic")),),
        "subscribe",
        22,
        given={"tier": "pro"},
    ),
}


# --- killed processes ---------------------------------------------------------------------------------------


class Processes:
    """Runs each piece of work in a process of its own; see killable_billing.py."""

    def __init__(self, billing: BillingStack) -> None:
        self._errors = tempfile.TemporaryFile("w+")  # noqa: SIM115 -- closed by close()
        self._process = subprocess.Popen(
            [sys.executable, "-m", "tests.journeys.killable_billing"],
            cwd=ROOT,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=self._errors,
            text=True,
            bufsize=1,
        )
        self._send(environment(billing.stack, billing.fake.url))

    def _send(self, what: Json) -> None:
        assert self._process.stdin is not None
        self._process.stdin.write(json.dumps(what) + "\n")

    def do(self, work: str, given: Json, step: int | None) -> Json:
        """Returns `{"killed"}`, and for a process that was not killed `{"steps", "result", "error"}`."""
        self._send({"work": work, "given": given, "step": step})
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
class Attempt:
    """A user, and the steps at which their work is killed: those of `first`, hours later those of `then`. The last run
    is not killed."""

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
        return RETRIES[self.later][0]


def attempts(billing: BillingStack, work: Work) -> list[Attempt]:
    """The first attempt is never killed."""
    found = [Attempt(billing.new_user(), "at once", (), ())]
    prove = bool(os.environ.get("PROVE"))
    for later in RETRIES if prove else random.sample([*RETRIES], 1):
        _, twice = RETRIES[later]
        for step in range(work.steps) if prove else random.sample(range(work.steps), 1):
            first, then = [step], []
            if random.choice(twice):  # noqa: S311
                random.choice((first, then)).append(random.randrange(work.steps + EXTRA_STEPS))  # noqa: S311
            found.append(Attempt(billing.new_user(), later, tuple(first), tuple(then)))
    return found


@pytest.fixture(scope="module")
def own_billing(stack: Stack) -> Iterator[BillingStack]:
    """The stand-in's clock is a day ahead of ours: the search for an item starts at our time of its creation."""
    seed = uuid.uuid4().hex[:8]
    with running_billing(stack, start=int(time.time()) + DAY, seed=seed) as billing:
        yield billing
        # Rows of a failed test must not affect other tests.
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
    """A stand-in without any past."""
    own_billing.fake.reset()
    own_billing.fake.control(
        "/_webhooks", url=f"{own_billing.webhooks_url}/webhooks/stripe", secret=SECRET, types=sorted(HANDLED_EVENTS)
    )
    own_billing.fake.control("/_webhooks/mode", hold=True)
    publish(own_billing)
    return own_billing


# --- running the works ---------------------------------------------------------------------------------------------


def newest_events(billing: BillingStack) -> dict[tuple[str, str], Json]:
    """The newest event by customer and type."""
    newest = {}
    for event in billing.fake.http.get("/_events").json():
        del event["delivery"]
        newest[event["data"]["object"].get("customer"), event["type"]] = event
    return newest


def set_input(billing: BillingStack, work: Work, all_of_them: list[Attempt]) -> None:
    """Set the input of each attempt."""
    events = newest_events(billing)
    for one in all_of_them:
        if work.is_click:
            one.given = {"user_id": one.person.id, **work.given, **PAGES}
        elif work.kind == "sweep":
            one.given = {"user_id": one.person.id}
        else:
            one.given = {"event": events[billing.customer_id(one.person), work.kind]}


def run(billing: BillingStack, processes: Processes, work: Work, one: Attempt, steps: Sequence[int | None]) -> None:
    """Run the work once for each of the steps, killed there; None: to its end."""
    name = work.kind if work.is_click or work.kind == "sweep" else "event"
    for step in steps:
        answer = processes.do(name, one.given, step)
        if answer["killed"]:
            one.kills += 1
            continue
        one.steps = answer["steps"]
        if answer["error"]:
            one.wrong.append(f"failed: {answer['error']}")
        elif work.is_click and step is None:
            pay(billing, one, answer["result"]["url"])


def pay(billing: BillingStack, one: Attempt, url: str) -> None:
    """Pay on the page, which must be the only open one: two pages could be paid twice."""
    listed = billing.fake.v1.checkout.sessions.list({"customer": billing.customer_id(one.person), "limit": 100}).data
    pages = [session.url for session in listed if session.status == "open"]
    if pages != [url]:
        one.wrong.append(f"sent to {url}, open pages: {pages}")
    assert billing.fake.http.post(url, data={"way": "good_card"}).status_code == 303


def sweep(billing: BillingStack) -> None:
    """The job bill-overages. It also finds users of other tests, whom this stand-in does not have."""
    with mock.patch.dict(os.environ, environment(billing.stack, billing.fake.url)):
        asyncio.run(run_job("bill-overages", lambda line: None, {}))


def run_all(billing: BillingStack, processes: Processes, work: Work, all_of_them: list[Attempt]) -> None:
    """Everything from the first kill to the invoice after the next."""
    unkilled, *killed = all_of_them
    run(billing, processes, work, unkilled, [None])
    for one in killed:
        run(billing, processes, work, one, one.first)
    for action in work.meanwhile:
        action(billing, [one.person for one in all_of_them])
    passed = 0
    for hours in sorted({one.hours for one in killed}):
        if hours > passed:
            billing.fake.advance((hours - passed) * HOUR)
            passed = hours
        for one in killed:
            if one.hours == hours:
                run(billing, processes, work, one, [*one.then, None])
    deliver_all(billing, [])
    sweep(billing)
    # Pass the next invoice, which may take the overage.
    for _ in range(20 if work.cents else 1):
        billing.fake.advance(2 * DAY)
        deliver_all(billing, [])
    sweep(billing)


# --- results -------------------------------------------------------------------------------------------------


class Results:
    """The state of Stripe and of the database, read once for all users."""

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
        """The types of the handled events that were not processed."""
        expected = {one["id"]: one["type"] for one in self._stripe["event"] if one["type"] in HANDLED_EVENTS}
        done = self.billing.db.execute(
            "select event_id from public.stripe_events where processed_at is not null and event_id = any(%s)",
            ([*expected],),
        ).fetchall()
        return [expected[name] for name in expected.keys() - {row["event_id"] for row in done}]

    def state(self, person: Person) -> Json:
        """A user's state without ids and times."""
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

    def wrong(self, one: Attempt, work: Work) -> Iterator[str]:
        """Yields what is lost or doubled."""
        person = one.person
        row, customer = self.billing.subscription_row(person), self.billing.customer_id(person)
        if self.broken[person.id]:
            yield "reconcile() has findings"
        if self.unbilled[person.id]:
            yield f"{self.unbilled[person.id]} queries were never billed"
        yield from self._wrong_items(self.billing.overage_items(person), customer, work)
        yield from self._wrong_accounts(one, customer)
        # An event that was acknowledged before its effect would leave the old plan.
        for subscription in self.of("subscription", customer):
            item = subscription["items"]["data"][0]
            known = (row["stripe_subscription_id"], row["current_period_end"])
            if subscription["status"] == "active" and (
                known[0] != subscription["id"] or known[1].timestamp() != item["current_period_end"]
            ):
                yield f"the row has {known}, Stripe has {subscription['id']}"
        paid = [
            one
            for one in self.of("checkout.session", customer)
            if one["mode"] == "payment" and one["status"] == "complete"
        ]
        packs = {pack["stripe_checkout_session_id"]: pack["credits_purchased"] for pack in self.billing.packs(person)}
        if packs != {one["id"]: int(one["metadata"]["credits"]) for one in paid}:
            yield f"paid {[one['id'] for one in paid]}, granted {packs}"

    def _wrong_items(self, items: list[Json], customer: str, work: Work) -> Iterator[str]:
        there = [one for one in self.of("invoiceitem", customer) if ITEM_ID_KEY in one["metadata"]]
        if Counter(one["metadata"][ITEM_ID_KEY] for one in there) != Counter(str(item["id"]) for item in items):
            yield f"{len(items)} items here, {len(there)} at Stripe"
        # If the id of an item is not stored here, each later run searches for the item or bills it again.
        stripe_get = {one["metadata"][ITEM_ID_KEY]: (one["id"], one["invoice"], one["amount"]) for one in there}
        for item in items:
            known = (item["stripe_invoice_item_id"], item["stripe_invoice_id"], item["amount_cents"])
            if None in known or stripe_get.get(str(item["id"])) != known:
                yield f"we have {known}, Stripe has {stripe_get.get(str(item['id']))}"
        if sorted(one["amount"] for one in there) != sorted(work.cents):
            yield f"billed {[one['amount'] for one in there]} cents"
        # An item may name one invoice and still be charged on two, or on none.
        lines = Counter(
            line["parent"]["invoice_item_details"]["invoice_item"]
            for invoice in self.of("invoice", customer)
            for line in invoice["_lines"]
            if line["parent"]["invoice_item_details"] and invoice["status"] in ("open", "paid")
        )
        if lines != Counter(one["id"] for one in there):
            yield f"final invoices have {lines}"

    def _wrong_accounts(self, one: Attempt, customer: str) -> Iterator[str]:
        for other in self.customers(one.person):
            # A process may be killed before it stores the customer. If the idempotency key expires before the retry,
            # there is a second customer. The first one must be unused: its events lead to no user.
            used = [kind for kind in ("checkout.session", "subscription", "invoice") if self.of(kind, other["id"])]
            if other["id"] != customer and (used or one.hours < KEYS_EXPIRE_H):
                yield f"second customer {other['id']} has {used}"


@pytest.mark.prove
@pytest.mark.timeout(1800)
@pytest.mark.parametrize("name", WORKS)
def test_billing_killed_at_any_step_loses_and_doubles_nothing(
    fresh_billing: BillingStack, processes: Processes, name: str
) -> None:
    billing, work = fresh_billing, WORKS[name]
    all_of_them = attempts(billing, work)
    people = [one.person for one in all_of_them]
    for action in work.before:
        action(billing, people)
    set_input(billing, work, all_of_them)

    run_all(billing, processes, work, all_of_them)
    assert all_of_them[0].steps == work.steps, "the number of steps changed: update WORKS, or some steps are not tested"
    assert all(one.kills for one in all_of_them[1:])

    results = Results(billing, people)
    assert results.unprocessed() == []
    unkilled = results.state(people[0])
    for one in all_of_them:
        one.wrong += results.wrong(one, work)
        state = results.state(one.person)
        # If the draft was finalized meanwhile, the next invoice takes the items.
        ignored = {"invoices"} if one.hours > DRAFTS_FINALIZE_H else set()
        one.wrong += [
            f"{key}: {state[key]}, unkilled {unkilled[key]}"
            for key in state.keys() - ignored
            if state[key] != unkilled[key]
        ]
    assert [f"{one}: {wrong}" for one in all_of_them for wrong in one.wrong] == []


# --- deletion ------------------------------------------------------------------------------------------------------


@pytest.mark.prove
@pytest.mark.timeout(1800)
def test_a_deletion_killed_at_any_step_continues_and_bills_once(
    fresh_billing: BillingStack, processes: Processes
) -> None:
    """Each step has a user with a subscription, forty-one queries of overage and two conversations."""
    billing = fresh_billing

    def user_to_delete() -> Person:
        person = billing.new_user()
        billing.buy(person, plan="basic")
        deliver_all(billing, [])
        billing.add_overage(person, 41, billing.fake.now, billing.fake.now)
        for chat in ("first", "second"):
            settle(billing.db, admit(billing.db, person.id)["hold_id"], turn=turn(chat, "q1"))
        return person

    expected = {"subscriptions": 1, "items": 1, "conversations": 2, "users": 1}
    unkilled = processes.do("delete", {"user_id": user_to_delete().id}, None)
    assert unkilled["result"] == expected, unkilled["error"]
    steps = range(unkilled["steps"])
    assert len(steps) > 20
    for step in steps if os.environ.get("PROVE") else sorted(random.sample(steps, 8)):
        person = user_to_delete()
        given, customer = {"user_id": person.id}, billing.customer_id(person)
        assert processes.do("delete", given, step)["killed"]
        again = processes.do("delete", given, None)
        assert again["error"] is None, again["error"]
        found = Results(billing, [person])
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
