"""The plan and the packs that a user must have, computed from Stripe's state."""

from collections import Counter
from datetime import UTC, datetime
from decimal import Decimal
from typing import Any

from tests.functions.billing_histories.stripe_view import StripeView, Twin

Json = dict[str, Any]


TIERS = {"canadagpt_plan_usage_only": "usage_only", "canadagpt_plan_basic": "basic", "canadagpt_plan_pro": "pro"}
OVERAGE_PRICE = Decimal("0.025")
RANKS = ["free", "usage_only", "basic", "pro"]


def as_time(seconds: int | None) -> datetime | None:
    return None if seconds is None else datetime.fromtimestamp(seconds, UTC)


def expected_plan(view: StripeView, has_packs: bool) -> Json:
    """The user's plan according to Stripe's state."""
    live = view.live
    plan: Json = dict.fromkeys(("next_tier", "current_period_start", "current_period_end", "canceled_at"))
    plan |= {"tier": "usage_only" if has_packs else "free", "status": "active", "past_due_since": None}
    plan |= {"customer": view.twin.customer if not view.twin.is_deleted else None, "subscription": None}
    plan |= {"is_blocked": view.twin.is_blocked, "open_invoice_url": open_invoice_url(view)}
    if live is None:
        return {**plan, "customer": plan["customer"] or None}
    start, end = view.period
    tier_bought = TIERS[view.product]
    paid = paid_tiers(view, end)
    tier = max([tier_bought, *paid], key=RANKS.index)
    if live["status"] == "past_due" and tier_bought not in paid:
        before = paid_tiers(view, start)
        was_paid = any(RANKS.index(one) >= RANKS.index(tier_bought) for one in before)
        if paid or not was_paid:
            tier = max([*(paid or before), "usage_only"], key=RANKS.index)
            tier_bought = tier
    plan |= {"tier": tier, "next_tier": tier_bought if tier_bought != tier else None, "subscription": live["id"]}
    if live["cancel_at"] and live["cancel_at"] <= end:
        end, plan["status"] = live["cancel_at"], "canceled"
    if live["status"] == "past_due":
        plan |= {"status": "past_due", "past_due_since": as_time(past_due_since(view))}
    if plan["status"] == "canceled":
        plan["next_tier"] = None
    plan |= {"current_period_start": as_time(start), "current_period_end": as_time(end)}
    return {**plan, "canceled_at": as_time(live["canceled_at"])}


def open_invoice_url(view: StripeView) -> str | None:
    """The page of the oldest invoice that the user has to pay: for a plan that has started, or for overage."""
    customer = view.twin.customer
    # Also of a customer that was deleted, whose other lists the view leaves out.
    for invoice in view.support.all("invoices", customer=customer, status="open") if customer else []:
        subscription = subscription_of(invoice)
        is_first = invoice["billing_reason"] == "subscription_create"
        if not is_first or (view.live and subscription == view.live["id"]):
            url: str = invoice["hosted_invoice_url"]
            return url
    return None


def subscription_of(invoice: Json) -> str | None:
    return str(invoice["parent"]["subscription_details"]["subscription"]) if invoice["parent"] else None


def owed_and_paid(view: StripeView, used: int, billed: dict[str, int]) -> tuple[Decimal, Decimal]:
    """What the user owes for overage, and what they have paid for it, in dollars.

    `used`: all overage queries. `billed`: the queries of each invoice item of ours, by our id of it.
    """
    counts = Counter[str]()
    settlements = {invoice["id"]: settlement(view, invoice) for invoice in view.invoices}
    for item in view.items:
        name = item["metadata"].get("overage_invoice_item")
        if name:
            counts[settlements.get(item["invoice"], "waits")] += billed[name]
    owed = used - counts["paid"] - counts["void"] - counts["credited"]
    return owed * OVERAGE_PRICE, counts["paid"] * OVERAGE_PRICE


def settlement(view: StripeView, invoice: Json) -> str:
    """paid, void, credited, or something that is owed."""
    if invoice["id"] in view.returned_invoices:
        return "returned"
    if invoice["status"] != "paid" or invoice["amount_paid"] >= invoice["total"]:
        return str(invoice["status"])
    if max(0, invoice["ending_balance"]) > max(0, invoice["starting_balance"]):
        is_owed = view.balance > 0 or any(one["status"] == "open" for one in view.invoices)
        return "carried over" if is_owed else "credited"
    returned = [name for one in view.invoices if one["id"] in view.returned_invoices for name in view.payments_of(one)]
    paid_before = [name for name in returned if view.charges[name]["created"] <= finalized_at(invoice)]
    return "returned" if paid_before else "credited"


def finalized_at(invoice: Json) -> int:
    return int(invoice["status_transitions"]["finalized_at"])


def past_due_since(view: StripeView) -> int:
    """When the oldest unpaid invoice of the live subscription was due."""
    assert view.live
    latest = next(one for one in view.invoices if one["id"] == view.live["latest_invoice"])
    unpaid = [
        one
        for one in view.plan_invoices("open")
        if one["parent"]["subscription_details"]["subscription"] == view.live["id"]
    ]
    return min(one["status_transitions"]["finalized_at"] or one["created"] for one in unpaid or [latest])


def net_cents(line: Json) -> int:
    """The amount of an invoice's line after discounts. No discount lowers overage."""
    amount: int = line["amount"] - sum(one["amount"] for one in line["discount_amounts"])
    return amount


def paid_tiers(view: StripeView, until: int) -> list[str]:
    """The tiers that the live subscription has paid until that time: each credit takes one payment back."""
    assert view.live
    counts = dict.fromkeys(RANKS, 0)
    for invoice in view.plan_invoices("paid"):
        is_own = invoice["parent"]["subscription_details"]["subscription"] == view.live["id"]
        if not is_own or invoice["id"] in view.refunded_invoices:
            continue
        for line in invoice["lines"]["data"]:
            pricing = line["pricing"]
            if pricing["price_details"]["product"] in TIERS and line["period"]["end"] >= until:
                is_free = Decimal(pricing["unit_amount_decimal"]) == 0
                # A coupon may lower a payment to $0, which is paid. A credit of $0 takes nothing back.
                is_credit = line["description"].startswith("Unused time")
                sign = -1 if line["amount"] < 0 else 1 if is_free or not is_credit else 0
                counts[TIERS[pricing["price_details"]["product"]]] += sign
    return [tier for tier, count in counts.items() if count > 0]


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
