"""The random script of a history: the actions of a user, and when each happens."""

import random
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

from tests.billing_kit import DAY, HOUR

Json = dict[str, Any]


# Days at the edges of months and years, and one ordinary day.
STARTS = [
    datetime(2026, 1, 31, 10, tzinfo=UTC),
    datetime(2026, 12, 31, 23, 59, 59, tzinfo=UTC),
    datetime(2027, 2, 27, 23, 50, tzinfo=UTC),
    datetime(2028, 2, 28, 23, 59, tzinfo=UTC),
    datetime(2028, 2, 29, tzinfo=UTC),
    datetime(2026, 5, 12, 8, 30, tzinfo=UTC),
]

DISPUTE_STARTS = ["needs_response", "warning_needs_response"]
FAILING_REFUNDS = {
    "refund": "fail_refund",
    "refund_plan": "fail_plan_refund",
    "refund_overage": "fail_overage_refund",
}
DISPUTE_ENDS = ["under_review", "won", "lost", "warning_closed"]


@dataclass(frozen=True, slots=True)
class Action:
    """`what` happens `gap` seconds after the previous action, or with `renewal` after the end of the period."""

    gap: int
    renewal: bool
    what: str
    how: Json

    def __str__(self) -> str:
        return f"{self.what} {', '.join(f'{name}={value}' for name, value in self.how.items())}".rstrip()


NEEDS_EQUAL_PAYMENTS = frozenset(
    {
        "subscribe",
        "card",
        "pay",
        "cancel_now",
        "invoiced_change",
        "refund_plan",
        "fail_plan_refund",
        "dispute_plan",
        "block_finalization",
    }
)
# Actions on a payment for a plan or for overage. On usage_only the only payment of a month may be for overage, which
# moves to the next month if the draft's event was lost. The action is then skipped for both twins.
INVOICE_PAYMENT_ACTIONS = frozenset(
    {
        "refund_plan",
        "fail_plan_refund",
        "dispute_plan",
        "pay_overage",
        "refund_overage",
        "fail_overage_refund",
        "dispute_overage",
    }
)


def _coupon(rng: random.Random, way: str) -> Json:
    """The coupon of a promotion code that the buyer has; mostly none. A page of $0 takes every card."""
    if way != "good_card" or rng.random() < 0.7:
        return {}
    off = rng.choice([{"percent_off": 100}, {"percent_off": 50}, {"amount_off": 150, "currency": "usd"}])
    lasts = rng.choice([{"duration": "forever"}, {"duration": "repeating", "duration_in_months": 1}])
    return {**off, **rng.choice([{"duration": "once"}, lasts])}


def write_script(rng: random.Random) -> tuple[list[Action], bool]:
    """A script, and whether the events that bill overage are delivered immediately (see test_billing_histories.py).

    The script guesses which actions will be possible. An impossible one is skipped for both twins."""
    actions: list[Action] = []
    cards_work = rng.random() < 0.5
    plan, is_cancelled, card_fails, packs, disputed = "", False, False, 0, False
    is_blocked, is_plan_disputed, is_overage_disputed = False, False, False
    is_overage_owed, is_overage_paid = False, False  # on an invoice of its own
    refunds = dict.fromkeys(["refund", "refund_plan", "refund_overage"], 0)

    def gap() -> tuple[int, bool]:
        ends = 0.6 if actions and actions[-1].what == "overage" else 0.25
        if plan and rng.random() < ends:
            return rng.choice([-HOUR, -60, 1, 1200, 2 * HOUR, 30 * HOUR, 4 * DAY, 9 * DAY]), True
        spans = [(1, HOUR), (HOUR, 20 * HOUR), (DAY, 6 * DAY), (6 * DAY, 18 * DAY)]
        ended = bool(actions) and actions[-1].what == "cancel_now"
        shortest, longest = rng.choice(spans[:2] if ended and rng.random() < 0.5 else spans)
        return rng.randint(shortest, longest), False

    def add(what: str, at: tuple[int, bool] | None = None, **how: Any) -> None:
        actions.append(Action(*(at or gap()), what, how))

    for _ in range(rng.randint(4, 9)):
        weights = {"allow": 1, "buy": 2, "unblock" if is_blocked else "block": 5 if is_blocked else 1}
        weights |= {failing: 8 * refunds[made] for made, failing in FAILING_REFUNDS.items()}
        weights |= {"pay_overage": 16 if is_overage_owed else 0, "refund_overage": 10 if is_overage_paid else 0}
        weights |= {"dispute_overage": 16 if is_overage_disputed else 10 if is_overage_paid else 0}
        weights |= {"fail_overage_refund": 24 * refunds["refund_overage"]}
        if not plan:
            weights |= {"subscribe": 12}
        else:
            weights |= {
                "change": 4,
                "invoiced_change": 2,
                "overage": 8,
                "threshold": 6,
                "cancel": 3,
                "cancel_now": 2,
                "wait": 2,
            }
            weights |= {
                "refund_plan": 2,
                "dispute_plan": 6 if is_plan_disputed else 1,
                "block_finalization": 1,
                "resume": 6 if is_cancelled else 0,
            }
            weights |= {"card": 0 if cards_work else 6 if card_fails else 3, "pay": 4 if card_fails else 0}
        if packs:
            weights |= {"refund": 3, "dispute": 6 if disputed else 3, "spend": 3}
        what = rng.choices([*weights], [*weights.values()])[0]
        match what:
            case "subscribe":
                ways = ["good_card"] * 6 + ["bad_card", "later_succeeds"] + ([] if cards_work else ["later_fails"])
                way, chosen = rng.choice(ways), rng.choice(["basic", "basic", "pro", "usage_only"])
                add(what, plan=chosen, way=way, coupon=_coupon(rng, way))
                plan, is_cancelled, card_fails = ("" if way == "bad_card" else chosen), False, way == "later_fails"
            case "buy":
                way = rng.choice(["good_card"] * 4 + ["bad_card", "later_succeeds", "later_fails"])
                add(what, pack=rng.choice(["pack_100", "pack_500"]), way=way, coupon=_coupon(rng, way))
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
                is_cancelled = True
            case "cancel_now":
                add(what, how=rng.choice(["as it is", "invoiced", "with a refund of the rest"]))
                plan, is_cancelled = "", False
            case "card":
                card_fails = not card_fails if rng.random() < 0.8 else card_fails
                ways = ["breaks", "gone", "portal_bad"] if card_fails else ["works", "portal_good"]
                add(what, how=rng.choice(ways))
            case "pay_overage":
                way = rng.choice(["good_card", "good_card", "bad_card", "void"])
                add(what, way=way)
                is_overage_owed, is_overage_paid = way == "bad_card", is_overage_paid or way == "good_card"
            case "pay":
                way = rng.choice(["good_card", "good_card", "bad_card"])
                add(what, way=way)
                card_fails = card_fails and way == "bad_card"
            case "block_finalization":
                add(what, (1200, True))
                add("unblock_finalization", (rng.randint(2, 5) * HOUR, False))
            case "refund":
                add(what, which=rng.randrange(packs), share=rng.choice([0.01, 0.33, 0.5, 1, 1]))
                refunds[what] += 1
            case "refund_plan" | "refund_overage":
                add(what, share=rng.choice([0.2, 1]))
                refunds[what] += 1
            case "fail_refund" | "fail_plan_refund" | "fail_overage_refund":
                add(what, is_counted=rng.random() < 0.5)
                refunds[next(made for made, failing in FAILING_REFUNDS.items() if failing == what)] -= 1
            case "dispute":
                add(what, which=rng.randrange(packs), status=rng.choice(DISPUTE_ENDS if disputed else DISPUTE_STARTS))
                disputed = not disputed
            case "dispute_plan":
                status = rng.choice(DISPUTE_ENDS if is_plan_disputed else DISPUTE_STARTS)
                add(what, status=status)
                is_plan_disputed = not is_plan_disputed
                plan = "" if status == "lost" else plan
            case "dispute_overage":
                add(what, status=rng.choice(DISPUTE_ENDS if is_overage_disputed else DISPUTE_STARTS))
                is_overage_disputed = not is_overage_disputed
            case "threshold":
                is_refused = not card_fails and rng.random() < 0.5
                add(what, is_refused=is_refused)
                is_overage_owed |= is_refused or card_fails
                is_overage_paid |= not (is_refused or card_fails)
            case "spend":
                add(what, credits=rng.choice([1, 5, 90, 500]))
            case "block" | "unblock":
                add(what)
                is_blocked = what == "block"
            case "allow":
                add(what, allow_overages=rng.random() < 0.5)
            case _:
                add(what)
    if rng.random() < 0.05 and all(action.what not in ("overage", "threshold") for action in actions):
        add("delete")
    changes = any(
        action.what in ("change", "invoiced_change")
        or action.how.get("plan") == "usage_only"
        or action.how.get("coupon")
        for action in actions
    )
    return actions, changes and not cards_work
