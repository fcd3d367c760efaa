"""The plan and the packs that a user must have, computed from Stripe's state."""

from collections import Counter
from datetime import UTC, datetime
from decimal import Decimal
from typing import Any

from tests.functions.billing_histories.stripe_view import StripeView, Twin

Json = dict[str, Any]


TIERS = {"canadagpt_plan_usage_only": "usage_only", "canadagpt_plan_basic": "basic", "canadagpt_plan_pro": "pro"}
OVERAGE_PRICE = Decimal("0.025")
KEPT = ("open", "paid", "uncollectible")  # finalized and not voided
RANKS = ["free", "usage_only", "basic", "pro"]


def as_time(seconds: int | None) -> datetime | None:
    return None if seconds is None else datetime.fromtimestamp(seconds, UTC)


def expected_plan(view: StripeView, has_packs: bool) -> Json:
    """The user's plan according to Stripe's state."""
    live = view.live
    plan: Json = dict.fromkeys(("next_tier", "current_period_start", "current_period_end", "canceled_at"))
    plan |= {"tier": "usage_only" if has_packs else "free", "status": "active"}
    plan |= {"past_due_since": None, "paid_until": None}
    plan |= {"customer": view.twin.customer if not view.twin.is_deleted else None, "subscription": None}
    plan |= {"is_blocked": view.twin.is_blocked, "open_invoice_url": open_invoice_url(view)}
    if live is None:
        return {**plan, "customer": plan["customer"] or None}
    start, end = view.period
    bought = TIERS[view.product]
    tier, paid_until = tier_and_end(view)
    scheduled = TIERS.get(view.product_from(end) or "", bought) if live["status"] == "active" else bought
    bought = min(bought, scheduled, key=RANKS.index)
    follows = bought if RANKS.index(bought) < RANKS.index(tier) else None
    plan |= {"tier": tier, "next_tier": follows, "subscription": live["id"]}
    if live["cancel_at"] and live["cancel_at"] <= end:
        end, plan["status"] = live["cancel_at"], "canceled"
    if live["status"] == "past_due":
        plan |= {"status": "past_due", "past_due_since": as_time(past_due_since(view)), "paid_until": paid_until}
    if plan["status"] == "canceled":
        plan["next_tier"] = None
    plan |= {"current_period_start": as_time(start), "current_period_end": as_time(end)}
    return {**plan, "canceled_at": as_time(live["canceled_at"])}


def tier_and_end(view: StripeView) -> tuple[str, datetime | None]:
    """The tier that the live subscription gives, and the end of what was paid for it."""
    assert view.live
    start, end = view.period
    bought, has_failed = TIERS[view.product], view.live["status"] == "past_due"
    paid = {"usage_only": end} if bought == "usage_only" else {}
    if paid := paid | paid_tiers(view, end, None):
        tier = max(paid, key=RANKS.index)
        return tier, as_time(end) if tier != "usage_only" else None
    billed = [one for one in view.live_invoices if any(line["period"]["end"] >= end for line in plan_lines(one))]
    comes = [one for one in billed if one["status"] == "open" or (one["status"] == "draft" and one["auto_advance"])]
    returned = [one for one in billed if one["status"] == "paid" and one["id"] in view.refunded_invoices]
    given_up = [one for one in billed if one["status"] != "paid" and one not in comes]
    if returned or (given_up and not comes and not has_failed):
        return "usage_only", None
    before = paid_tiers(view, start, end)
    if has_failed:
        before.pop("usage_only", None)
    if not before:
        ends = [line["period"]["end"] for one in view.live_invoices for line in plan_lines(one)]
        was_billed = any(start <= one < end for one in ends)
        return ("usage_only" if has_failed or was_billed else bought), None
    best = max(before, key=RANKS.index)
    return min(bought, best, key=RANKS.index), as_time(before[best])


def grace_starts_at(view: StripeView) -> int:
    """When the days of grace of a past due subscription start."""
    plan = expected_plan(view, has_packs=False)
    return int(max(plan["past_due_since"], plan["paid_until"] or plan["past_due_since"]).timestamp())


def open_invoice_url(view: StripeView) -> str | None:
    """The page of the oldest invoice that the user has to pay: for a plan that runs, or for overage."""
    customer = view.twin.customer
    # Also of a customer that was deleted, whose other lists the view leaves out.
    for invoice in view.support.all("invoices", customer=customer, status="open") if customer else []:
        subscription = subscription_of(invoice)
        has_overage = any(overage_item(line) for line in invoice["lines"]["data"])
        if has_overage or (view.live and subscription == view.live["id"]):
            url: str = invoice["hosted_invoice_url"]
            return url
    return None


def subscription_of(thing: Json) -> str | None:
    """The subscription of an invoice or an invoice item."""
    return str(thing["parent"]["subscription_details"]["subscription"]) if thing["parent"] else None


def owed_and_paid(view: StripeView, used: int, billed: dict[str, int]) -> tuple[Decimal, Decimal]:
    """What the user owes for overage, and what they have paid for it, in dollars.

    `used`: all overage queries. `billed`: the queries of each invoice item of ours, by our id of it.
    """
    counts = Counter[str]()
    settlements = {invoice["id"]: settlement(view, invoice) for invoice in view.invoices}
    for item in view.items:
        name = overage_item(item)
        if name:
            counts[settlements.get(item["invoice"], "waits")] += billed[name]
    owed = used - counts["paid"] - counts["void"] - counts["credited"]
    return owed * OVERAGE_PRICE, counts["paid"] * OVERAGE_PRICE


def overage_item(thing: Json) -> str | None:
    """Our id of an invoice item or its line; None for other ones."""
    name: str | None = thing["metadata"].get("overage_invoice_item")
    return name


def settlement(view: StripeView, invoice: Json) -> str:
    """paid, void, credited, or something that is owed."""
    if invoice["id"] in view.returned_invoices:
        return "returned"
    if invoice["status"] == "void" and invoice["billing_reason"] == "subscription_create":
        return "never started"
    overage = sum(line["amount"] for line in invoice["lines"]["data"] if overage_item(line))
    if invoice["status"] != "paid" or invoice["amount_paid"] >= max(overage, invoice["total"]):
        return str(invoice["status"])
    if max(0, invoice["ending_balance"]) > max(0, invoice["starting_balance"]):
        after = sorted((one for one in view.invoices if one["status"] in KEPT), key=finalized_at)
        after = after[[one["id"] for one in after].index(invoice["id"]) + 1 :]
        taken = next((one for one in after if one["starting_balance"] > 0 and one["ending_balance"] <= 0), None)
        is_paid = taken["status"] == "paid" if taken else view.balance <= 0
        return "credited" if is_paid else "carried over"
    returned = [name for one in view.invoices if one["id"] in view.returned_invoices for name in view.payments_of(one)]
    paid_before = [name for name in returned if view.charges[name]["created"] <= finalized_at(invoice)]
    if paid_before:
        return "returned"
    return "credited by nothing" if credits_of_nothing(view.invoices, finalized_at(invoice)) else "credited"


def credits_of_nothing(invoices: list[Json], until: int) -> bool:
    """Whether the credits that may be left at that time include one for a charge that was not paid."""
    kept = [one for one in invoices if one["status"] in KEPT and finalized_at(one) <= until]
    kept.sort(key=finalized_at)
    paid, is_doubtful = list[tuple[str, int]](), False
    for invoice in kept:
        is_doubtful = is_doubtful and invoice["starting_balance"] < 0
        lines = [(tier_of(line), line["period"]["end"], line["amount"]) for line in plan_lines(invoice)]
        is_by_card = invoice["amount_paid"] >= invoice["total"]
        if invoice["status"] == "paid" and (is_by_card or not is_doubtful):
            paid += [(tier, end) for tier, end, cents in lines if cents > 0]
        for tier, end, cents in lines:
            if cents < 0 and (tier, end) in paid:
                paid.remove((tier, end))
            elif cents < 0:
                is_doubtful = True
    return is_doubtful


def finalized_at(invoice: Json) -> int:
    return int(invoice["status_transitions"]["finalized_at"])


def past_due_since(view: StripeView) -> int:
    """When the oldest unpaid invoice of the live subscription was due."""
    assert view.live
    latest = next(one for one in view.invoices if one["id"] == view.live["latest_invoice"])
    unpaid = [one for one in view.live_invoices if one["status"] == "open"]
    return min(one["status_transitions"]["finalized_at"] or one["created"] for one in unpaid or [latest])


def net_cents(line: Json) -> int:
    """The amount of an invoice's line after discounts. No discount lowers overage."""
    amount: int = line["amount"] - sum(one["amount"] for one in line.get("discount_amounts", ()))
    return amount


def plan_lines(invoice: Json) -> list[Json]:
    return [line for line in invoice["lines"]["data"] if line["pricing"]["price_details"]["product"] in TIERS]


def paid_tiers(view: StripeView, until: int, before: int | None) -> dict[str, int]:
    """The tiers that the live subscription has paid until that time, and the end of each: every credit takes one
    payment back. With `before`: of lines that end before that time.

    Prorations without an invoice count like one if that would charge nothing. What takes back more than was paid counts
    as far as money was paid beside it.
    """
    paid = [one for one in view.live_invoices if one["status"] == "paid" and one["id"] not in view.refunded_invoices]
    waiting = [one for one in view.items if one["proration"] and one["invoice"] is None]
    waiting = [one for one in waiting if view.live and subscription_of(one) == view.live["id"]]
    groups = [plan_lines(one) for one in paid]
    if sum(one["amount"] for one in waiting) <= 0:
        groups.append(waiting)
    groups = [
        [one for one in lines if until <= one["period"]["end"] and (before is None or one["period"]["end"] < before)]
        for lines in groups
    ]
    counts, ends = Counter[str](), dict[str, int]()
    while groups:
        fits = [lines for lines in groups if min(changes(lines, counts).values(), default=0) >= 0]
        if not fits:
            rests = [paid_rest(lines, counts) for lines in groups]
            fits = [rest for rest in rests if rest][:1]
            groups = [rest if [rest] == fits else lines for lines, rest in zip(groups, rests, strict=True)]
        if not fits:
            break
        counts, lines = changes(fits[0], counts), groups.pop(groups.index(fits[0]))
        ends |= {tier_of(one): max(one["period"]["end"], ends.get(tier_of(one), 0)) for one in lines}
    return {tier: ends[tier] for tier, count in counts.items() if count > 0}


def paid_rest(lines: list[Json], counts: Counter[str]) -> list[Json]:
    """The lines of an invoice without the tiers whose credits take back what was not paid. Nothing, if those credits
    are as large as what is charged."""
    after, cents = changes(lines, counts), Counter[str]()
    for line in lines:
        cents[tier_of(line)] += net_cents(line)
    charged = sum(amount for tier, amount in cents.items() if amount > 0 or after[tier] < 0)
    return [line for line in lines if after[tier_of(line)] >= 0] if charged > len(lines) else []


def tier_of(line: Json) -> str:
    return TIERS[line["pricing"]["price_details"]["product"]]


def changes(lines: list[Json], counts: Counter[str]) -> Counter[str]:
    """The payments of each tier after those of the lines. A coupon may lower a payment to $0, which is paid; a credit
    of $0 takes nothing back."""
    after = Counter(counts)
    for line in lines:
        is_credit = line["description"].startswith("Unused time")
        after[tier_of(line)] += -1 if line["amount"] < 0 else 0 if is_credit else 1
    return after


def has_credits_left(pack: Json) -> bool:
    """Whether a refund or dispute left any of the pack."""
    left: bool = pack["to_revoke"] < pack["purchased"]
    return left


def expected_packs(view: StripeView, used: dict[str, int]) -> list[Json]:
    """The user's packs according to payments and refunds. `used`: credits used, by session."""
    packs = []
    for sale in view.sales:
        bought = int(sale["metadata"]["credits"])
        payment, due, disputes, price, paid_at = sale["payment_intent"], 0, [], 0, sale["created"]
        if payment:
            charge = view.charges[payment]
            disputes = [one["status"] for one in view.disputes(payment)]
            price, paid_at = charge["amount"], charge["created"]
            due = bought if "lost" in disputes else bought * view.refunded_cents(payment) // price
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
                "price": Decimal(price) / 100,
                "at": as_time(paid_at),
            }
        )
    return sorted_packs(packs)


def sorted_packs(packs: list[Json]) -> list[Json]:
    return sorted(packs, key=lambda pack: (pack["at"], pack["purchased"], pack["session"]))


def without_ids(thing: Any, twin: Twin) -> Any:
    """With each id replaced by whether it is None: twins have different ids."""
    if isinstance(thing, list):
        return [without_ids(one, twin) for one in thing]
    own = ("customer", "subscription", "session", "past_due_since")  # the last one moves with a late draft
    # Late overage may be on an invoice of its own.
    return {
        name: value is None if name in own else value for name, value in thing.items() if name != "open_invoice_url"
    }
