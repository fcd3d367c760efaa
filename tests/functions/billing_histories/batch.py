"""Runs a batch of histories: time, deliveries, actions and the comparison with Stripe."""

import asyncio
import heapq
import random
from collections import Counter
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime
from typing import Any

from stripe import StripeError

from functions.common.billing.events import CUSTOMER_EVENTS, HANDLED_EVENTS, OVERAGE_EVENTS, PAYMENT_EVENTS
from functions.common.billing.overage import bill_overage
from functions.common.billing.stripe_client import Account
from functions.common.database import Database
from functions.common.observe import Observer
from functions.common.settings import StripeSettings, SupabaseSettings, load
from functions.maintenance.bill_overages import bill_overages
from functions.maintenance.retry_events import retry_events
from tests.billing_kit import DAY, HOUR, BillingStack, environment
from tests.functions.billing_histories.actions import Actions
from tests.functions.billing_histories.database_control import DatabaseControl
from tests.functions.billing_histories.expected import (
    OVERAGE_PRICE,
    as_time,
    expected_packs,
    expected_plan,
    has_credits_left,
    net_cents,
    owed_and_paid,
    sorted_packs,
    without_ids,
)
from tests.functions.billing_histories.history import Event, History, calls_for, show
from tests.functions.billing_histories.script import (
    INVOICE_PAYMENT_ACTIONS,
    NEEDS_EQUAL_PAYMENTS,
    write_script,
)
from tests.functions.billing_histories.stripe_view import JsonClient, StripeView, Twin
from tests.local.stripe.kit import SECRET
from tests.sql.metering import at

Json = dict[str, Any]
MONTH_END = 36 * DAY
MAX_DIFFERENCE_S = 5 * DAY  # how long the twins' payments may differ


class Batch(Actions):
    """Histories that run side by side on one stand-in."""

    def __init__(self, billing: BillingStack, database_control: DatabaseControl, seed: int, numbers: list[int]) -> None:
        self.billing, self.database_control, self.seed = billing, database_control, seed
        self.support, self.pool, self.loop = JsonClient(billing.fake.url), ThreadPoolExecutor(2), asyncio.Runner()
        known = environment(billing.stack, billing.fake.url)
        self.database = Database(load(SupabaseSettings, known), Observer("batch"))
        self.account = Account(load(StripeSettings, known))
        self.start = self.now = billing.fake.now
        self.move(self.now)
        self.deliver_in_order = False
        self.histories = []
        for number in numbers:
            rng = random.Random(f"{seed}/{number}")  # noqa: S311
            twins = (Twin(billing.new_user()), Twin(billing.new_user()))
            self.histories.append(
                History(
                    f"{seed}/{number}", twins, *write_script(rng), next_action_at=self.now + rng.randint(0, 3 * DAY)
                )
            )
        self.owners = {twin.person.id: (one, twin) for one in self.histories for twin in one.twins}
        self.cursor = self.support.all("events")[-1]["id"]
        billing.fake.control(
            "/_webhooks", url=f"{billing.webhooks_url}/webhooks/stripe", secret=SECRET, types=sorted(HANDLED_EVENTS)
        )
        self.prices = {one["product"]: one["id"] for one in self.support.all("prices", active="true")}

    def close(self) -> None:
        self.loop.run(self.database.close())
        self.loop.run(self.account.close())
        self.loop.close()
        self.pool.shutdown()
        self.support.http.close()

    def run(self) -> None:
        """Run all scripts to their ends, and one more month."""
        while not all(history.is_over for history in self.histories):
            self.step()
        self.deliver_the_rest()
        for history in self.histories:
            self.check(history, "after all deliveries")
        self.sweep()
        until = self.now + MONTH_END
        while self.now < until:
            self.step(until)
        while self.now < until + MAX_DIFFERENCE_S and not all(self.twins_match(history) for history in self.histories):
            self.step(self.now + HOUR)
        self.sweep()
        for history in self.histories:
            self.check(history, "a month later", is_end=True)
        ours = {twin.person.id: history for history in self.histories for twin in history.twins}
        for row in self.billing.broken_invariants():
            if str(row["user_id"]) in ours:
                ours[str(row["user_id"])].problems.append(f"reconcile: {row}")

    # --- time ---

    def step(self, until: int | None = None) -> None:
        """Move the clock to the next due action or event, at most to `until`, and deliver what happens."""
        due = self.support.http.get("/_clock").json()["due"]
        times = [at for at, *_ in due[:1]] + [one.next_action_at for one in self.histories if not one.is_over]
        times += [one.deliveries[0][0] for one in self.histories if one.deliveries] + ([until] if until else [])
        to = max(self.now, min(times))
        affected = [self.owners[name][0] for at, _, _, name in due if at <= to and name in self.owners]
        if affected:
            self.during_a_delivery(affected[0], lambda: self.move(to))
        else:
            self.move(to)
            self.collect_events()
        for history in self.histories:
            if not history.is_over and history.next_action_at <= to:
                self.perform_next(history)
            while history.deliveries and history.deliveries[0][0] <= to:
                self.deliver(history, history.events[heapq.heappop(history.deliveries)[2]])
                self.collect_events()

    def move(self, to: int) -> None:
        self.now = to
        self.database_control.set(at=as_time(to))
        at(self.billing.db, str(as_time(to)))
        self.billing.fake.control("/_clock", to=to)

    def during_a_delivery(self, history: History, happens: Callable[[], Any]) -> None:
        """Run `happens` for a history and deliver its events. Mostly it runs in the middle of a delivery to the second
        twin, after Stripe was read and before the result is stored."""
        rng = random.Random(f"{history.seed} {self.now} {history.done}")  # noqa: S311
        waiting = history.waiting()
        if not waiting or self.deliver_in_order or rng.random() < 0.3:
            happens()
            self.collect_events()
            return
        payments = [event for event in waiting if event.payment]
        event = rng.choice(payments if payments and rng.random() < 0.5 else waiting)
        call = rng.choice(calls_for(event)[0][1:])
        with self.database_control.block_call(f"/rpc/{call}") as wait_for_call:
            delivery = self.pool.submit(self.post, event.id)
            self.log(
                history, f"{event} waits before {call}" if wait_for_call(delivery) else f"{event} does not need {call}"
            )
            happens()
            fresh = self.collect_events(immediately_for=history)
        self.record(history, [event], delivery.result())
        self.compare_accepted(history, fresh)

    # --- events ---

    def collect_events(self, immediately_for: History | None = None) -> list[Event]:
        """Deliver all new events: to the first twin in order, to the second as scheduled, or now for one history.
        Returns the events that the second twin of that history accepted."""
        before = len(immediately_for.events) if immediately_for else 0
        while True:
            page = self.support.http.get("/v1/events", params={"limit": 100, "ending_before": self.cursor}).json()
            if not page["data"]:
                break
            self.cursor = page["data"][0]["id"]
            owned = [(event, self.owner(event)) for event in reversed(page["data"])]
            used = [(event, *owner) for event, owner in owned if owner and event["type"] in HANDLED_EVENTS]
            first_ids = [event["id"] for event, history, twin in used if twin is history.twins[0]]
            statuses = self.post(*first_ids) if first_ids else []
            assert set(statuses) <= {200}, f"deliveries in order failed: {statuses}"
            for event, history, twin in used:
                if twin is history.twins[1]:
                    self.schedule(history, event, history is immediately_for)
        return (
            [event for event in [*immediately_for.events.values()][before:] if event.accepted]
            if immediately_for
            else []
        )

    def owner(self, event: Json) -> Any:
        """The history and the twin of an event. Its object belongs to them from now on."""
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

    def schedule(self, history: History, given: Json, immediately: bool) -> None:
        """Decide when an event of the second twin is delivered."""
        number = len(history.events) + 1
        rng = random.Random(f"{history.seed}/{number}")  # noqa: S311
        payment = given["data"]["object"].get("payment_intent")
        event = history.events[given["id"]] = Event(number, given["id"], given["type"], payment, rng)
        if immediately:
            self.record(history, [event], self.post(event.id), "immediately")
            return
        if event.type == "charge.dispute.closed" and given["data"]["object"]["status"] == "lost":
            # It ends a subscription that it paid for.
            self.record(history, [event], self.post(event.id), "immediately")
            return
        if self.deliver_in_order or (history.bills_immediately and event.type in OVERAGE_EVENTS):
            self.deliver(history, event)
            return
        is_draft = event.type == "invoice.created" and given["data"]["object"]["auto_advance"]
        delays = {"now": 25, "soon": 20, "late": 10, "lost": 20}
        delays |= {"weeks": 5} if is_draft else {"later": 15, "weeks": 10}
        delay = rng.choices([*delays], [*delays.values()])[0]
        ranges = {
            "soon": (60, 3 * HOUR),
            "late": (4 * HOUR, 30 * HOUR),
            "later": (DAY, 9 * DAY),
            "weeks": (4 * DAY, 30 * DAY),
        }
        seconds = rng.randint(*ranges[delay]) if delay in ranges else 0
        self.log(history, f"{event} happens, delivery: {delay}{f': {seconds / HOUR:.1f} h' if seconds else ''}")
        if delay == "now":
            self.deliver(history, event)
        elif delay == "lost":
            self.billing.fake.control("/_drop", ids=[event.id])
            if rng.random() < 0.4:
                history.deliver_at(self.now + rng.randint(HOUR, 20 * DAY), event)
        else:
            history.deliver_at(self.now + seconds, event)
        if rng.random() < 0.25:
            history.deliver_at(self.now + rng.randint(1, 6 * DAY), event)

    def deliver(self, history: History, event: Event) -> None:
        """Deliver an event, first or again: alone, concurrently with itself, with other events or with the job
        bill-overages, or with a failure."""
        rng, others = event.rng, [one for one in history.events.values() if one is not event]
        ways = {"alone": 50, "twice": 15, "together": 20 if others else 0, "failing": 20}
        if event.type in OVERAGE_EVENTS:
            ways |= {"alone": 25, "twice": 25, "with the job": 15, "failing": 35}
        way = "alone" if self.deliver_in_order or event.tries > 2 else rng.choices([*ways], [*ways.values()])[0]
        events = [event]
        match way:
            case "twice":
                events *= 2
            case "together":
                waiting = [one for one in others if not one.accepted] or others
                events += rng.sample(waiting, min(len(waiting), rng.randint(1, 3)))
            case "with the job":
                statuses = self.pool.submit(self.post, event.id)
                self.bill(history)
                self.record(history, events, statuses.result(), way)
                return
            case "failing":
                way = self.inject_failure(event)
        statuses = self.post(*(one.id for one in events), together=len(events) > 1)
        if way.startswith("failing"):
            self.database_control.set(failing=None)
            self.support.http.delete("/_faults")
        self.record(history, events, statuses, way)

    def inject_failure(self, event: Event) -> str:
        """Make a database call or a Stripe request of the event fail. A POST may fail after Stripe has executed it.
        Returns a description."""
        ours, stripes = calls_for(event)
        if event.rng.random() < 0.5:
            call = event.rng.choice(ours)
            self.database_control.set(failing=f"/rpc/{call}")
            return f"failing at {call}"
        method, path = event.rng.choice(stripes)
        lost = method == "POST" and event.rng.random() < 0.6
        self.billing.fake.control("/_faults", method=method, path=path, status=429, lost=lost)
        return f"failing {'after' if lost else 'at'} {method} {path}"

    def post(self, *ids: str, together: bool = False) -> list[int]:
        return self.billing.deliver(*ids, together=together)

    def record(self, history: History, events: list[Event], statuses: list[int], way: str = "") -> None:
        """Record the results of a delivery. A failed event is delivered again."""
        results = ", ".join(f"{event}: {status}" for event, status in zip(events, statuses, strict=True))
        self.log(history, f"{results} {way if way != 'alone' else ''}".rstrip())
        fresh = [event for event, status in zip(events, statuses, strict=True) if status == 200 and not event.accepted]
        for event in fresh:
            event.accepted = True
        if fresh and not self.deliver_in_order and fresh[0].rng.random() < 0.2:
            self.compare_accepted(history, fresh)
        for event in dict.fromkeys(events):
            if not event.accepted:
                event.tries += 1
                history.deliver_at(self.now + event.rng.choice([60, HOUR, 9 * HOUR, 30 * HOUR]), event)

    def deliver_the_rest(self) -> None:
        """Deliver all remaining events in any order, until each is accepted."""
        self.deliver_in_order = True
        rng = random.Random(self.seed)  # noqa: S311
        if rng.random() < 0.5:
            self.loop.run(retry_events(self.database, self.account, datetime.fromtimestamp(self.now, UTC), str))
        for _ in range(5):
            for history in self.histories:
                waiting = history.waiting()
                random.Random(f"{history.seed}/end").shuffle(waiting)  # noqa: S311
                while waiting:
                    events = [waiting.pop() for _ in range(min(len(waiting), waiting[-1].rng.randint(1, 3)))]
                    self.record(history, events, self.post(*(one.id for one in events), together=len(events) > 1))
            self.collect_events()
            if not any(history.waiting() for history in self.histories):
                break
            self.step(self.now + HOUR)
        for history in self.histories:
            if history.waiting():
                history.problems.append(f"never accepted: {', '.join(map(str, history.waiting()))}")

    def bill(self, history: History) -> None:
        """Bill one user as the job bill-overages does. If Stripe refuses, the next run tries again."""
        twin = history.twins[1]
        if twin.customer:
            try:
                self.loop.run(bill_overage(self.database, self.account, twin.person.id, twin.customer))
            except StripeError as error:
                self.log(history, f"the job: {type(error).__name__}")

    def sweep(self) -> None:
        """Run the job bill-overages for all users."""
        counts = self.loop.run(bill_overages(self.database, self.account, str))
        for name in counts["failed_ids"]:
            if name in self.owners:
                self.owners[name][0].problems.append(f"bill-overages failed for {name}")
        self.collect_events()

    def log(self, history: History, what: str) -> None:
        history.delivery_log.append(f"{self.log_time()}  {what}")

    def log_time(self) -> str:
        return f"{as_time(self.now):%d %b %H:%M:%S}"

    # --- actions ---

    def perform_next(self, history: History) -> None:
        """Perform the next action of the script for both twins, once they are in equal states."""
        action = history.actions[history.done]
        both = [StripeView(self.support, twin) for twin in history.twins]
        performs = [getattr(self, f"_{action.what}")(history, one, **action.how) for one in both]
        differ = (performs[0] is None) != (performs[1] is None)
        differ = differ or (
            action.what in NEEDS_EQUAL_PAYMENTS
            and performs[0] is not None
            and both[0].subscription_states() != both[1].subscription_states()
        )
        history.differs_since = (history.differs_since or self.now) if differ else 0
        if differ and self.now < history.differs_since + MAX_DIFFERENCE_S:
            history.next_action_at = self.now + 2 * HOUR
            return
        if differ and action.what not in INVOICE_PAYMENT_ACTIONS:
            states = [view.subscription_states() for view in both]
            history.problems.append(f"{action}: the twins differ at Stripe: {states[0]}, {states[1]}")
        done = not differ and performs[0] is not None
        history.action_log.append(f"{self.log_time()}  {action}{'' if done else ' (skipped)'}")
        self.log(history, f"--- {action}{'' if done else ' (skipped)'}")
        if done:
            self.during_a_delivery(history, lambda: [perform() for perform in performs])
        history.done += 1
        history.differs_since = 0
        if not history.is_over:
            after = history.actions[history.done]
            view = StripeView(self.support, history.twins[0])
            expected = view.period[1] + after.gap if after.renewal and view.live else self.now + abs(after.gap)
            history.next_action_at = max(self.now + 1, expected)

    def twins_match(self, history: History) -> bool:
        """Whether both twins are in equal states at Stripe, without a draft that is about to change."""
        both = [StripeView(self.support, twin) for twin in history.twins]
        drafts = [one for each in both for one in each.invoices if one["status"] == "draft" and one["auto_advance"]]
        return bool(both[0].subscription_states() == both[1].subscription_states()) and not drafts

    # --- results ---

    def check(self, history: History, when: str, is_end: bool = False) -> None:
        """Compare both twins with Stripe; at the end also with each other, and their bills with the ledger."""
        both = [StripeView(self.support, twin) for twin in history.twins]
        found = []
        for name, view in zip(("first", "second"), both, strict=True):
            row, packs = self.plan_row(view.twin), self.pack_rows(view.twin)
            packs_of_stripe = expected_packs(view, self.used(view.twin))
            allows = row.pop("allow_overages")
            expected = expected_plan(view, has_packs=any(map(has_credits_left, packs_of_stripe)))
            for what, ours, stripes in (("plan", row, expected), ("packs", packs, packs_of_stripe)):
                if ours != stripes:
                    history.problems.append(
                        f"{when}, the {name} twin's {what}: {show(ours)}\n    from Stripe: {show(stripes)}"
                    )
            self.check_counters(history, view, f"{when}, the {name} twin's")
            billed = self.billed(history, view, name) if is_end else None
            found.append((without_ids(row, view.twin), without_ids(packs, view.twin), allows, billed))
        if is_end and both[0].subscription_states() != both[1].subscription_states():
            history.problems.append(
                f"{when} the twins differ at Stripe: {both[0].subscription_states()}, {both[1].subscription_states()}"
            )
        if is_end and found[0] != found[1]:
            history.problems.append(f"{when}, the first: {show(found[0])}\n    the second: {show(found[1])}")

    def compare_accepted(self, history: History, fresh: list[Event]) -> None:
        """The effect of the accepted events must be stored, whichever other events are missing."""
        view = StripeView(self.support, history.twins[1])
        packs = self.pack_rows(view.twin)
        for event in fresh:
            is_of_pack = event.payment in view.pack_payments()
            if event.type in CUSTOMER_EVENTS or (event.type in PAYMENT_EVENTS and not is_of_pack):
                row = self.plan_row(view.twin)
                row.pop("allow_overages")
                expected = expected_plan(view, has_packs=any(map(has_credits_left, packs)))
            elif event.type in PAYMENT_EVENTS:
                sessions = [one["id"] for one in view.sales if one["payment_intent"] == event.payment]
                row, expected = (
                    [pack for pack in them if pack["session"] in sessions]
                    for them in (packs, expected_packs(view, self.used(view.twin)))
                )
            else:
                continue
            if row != expected:
                history.problems.append(
                    f"{self.log_time()}, after {event}: {show(row)}\n    from Stripe: {show(expected)}"
                )

    def check_counters(self, history: History, view: StripeView, whose: str) -> None:
        """Compare what is owed and what was paid for overage."""
        if view.twin.is_deleted:
            return
        row = self.billing.subscription_row(view.twin.person)
        ours = (row["unpaid_overage_usd"], row["paid_overage_usd"])
        billed = {str(one["id"]): one["queries"] for one in self.billing.overage_items(view.twin.person)}
        expected = owed_and_paid(view, history.overage.total(), billed)
        if ours != expected:
            history.problems.append(f"{whose} overage, owed and paid: {show(ours)}\n    from Stripe: {show(expected)}")

    def plan_row(self, twin: Twin) -> Json:
        row = self.billing.subscription_row(twin.person)
        names = (
            "tier next_tier status current_period_start current_period_end canceled_at past_due_since paid_until"
            " allow_overages"
        )
        plan = {name: row[name] for name in names.split()}
        plan |= {"is_blocked": row["blocked_at"] is not None, "open_invoice_url": row["open_invoice_url"]}
        return {**plan, "customer": row["stripe_customer_id"], "subscription": row["stripe_subscription_id"]}

    def pack_rows(self, twin: Twin) -> list[Json]:
        names = {name: f"credits_{name}" for name in ("purchased", "used", "remaining", "revoked", "to_revoke")}
        names |= {
            "session": "stripe_checkout_session_id",
            "frozen": "is_frozen",
            "price": "price_paid",
            "at": "created_at",
        }
        return sorted_packs(
            [{ours: pack[theirs] for ours, theirs in names.items()} for pack in self.billing.packs(twin.person)]
        )

    def billed(self, history: History, view: StripeView, name: str) -> Any:
        """The twin's bills: our rows, and Stripe's items and lines. Records every difference."""
        rows = self.billing.overage_items(view.twin.person)
        price = OVERAGE_PRICE
        expected = sorted(
            (as_time(period), queries, price, queries * price, int(queries * price * 100), True, True)
            for (period, _), queries in history.overage.items()
        )
        ours = sorted(
            (
                *(row[name] for name in ("period_start", "queries", "unit_price_usd", "amount_usd", "amount_cents")),
                row["stripe_invoice_item_id"] is not None,
                row["stripe_invoice_id"] is not None,
            )
            for row in rows
        )
        if ours != expected:
            history.problems.append(f"the {name} twin's overage: {show(ours)}\n    by the ledger: {show(expected)}")
        items = Counter(
            (one["metadata"]["overage_invoice_item"], one["id"], one["invoice"], one["amount"])
            for one in view.items
            if "overage_invoice_item" in one["metadata"]
        )
        lines = Counter(
            (line["metadata"]["overage_invoice_item"], details["invoice_item"], invoice["id"], net_cents(line))
            for invoice in view.invoices
            for line in invoice["lines"]["data"]
            if "overage_invoice_item" in line["metadata"] and (details := line["parent"]["invoice_item_details"])
        )
        named = ("id", "stripe_invoice_item_id", "stripe_invoice_id", "amount_cents")
        expected_items = Counter((str(row["id"]), *(row[name] for name in named[1:])) for row in rows)
        for what, there in (("invoice items", items), ("invoices' lines", lines)):
            if there != expected_items:
                history.problems.append(
                    f"the {name} twin's {what}: {show(there)}\n    by the rows: {show(expected_items)}"
                )
        descriptions = sorted(
            (one["amount"], one["description"]) for one in view.items if "overage_invoice_item" in one["metadata"]
        )
        others = Counter(
            (net_cents(line), line["description"], line["period"]["start"])
            for invoice in view.invoices
            for line in invoice["lines"]["data"]
            if "overage_invoice_item" not in line["metadata"]
        )
        return ours, descriptions, sorted(others.items())
