"""Which plan a subscription gives, from the lines that bill it. No requests. Times are seconds since 1970.

docs/decisions/0034-a-plan-gives-what-is-paid.md has the reasons.
"""

from collections.abc import Collection, Sequence
from dataclasses import dataclass
from enum import Enum
from fractions import Fraction

CHEAPEST_FIRST = ("usage_only", "basic", "pro")
# Where nothing is paid: it includes no queries.
UNPAID_TIER = CHEAPEST_FIRST[0]


@dataclass(frozen=True, slots=True)
class PlanLine:
    """A line for a plan; a credit has negative `cents`. Discounts are taken off. `is_free`: it costs nothing without a
    coupon, as the plan of $0 and a trial."""

    tier: str
    cents: int
    start: int
    end: int
    is_free: bool

    def cents_after(self, time: int) -> Fraction:
        """The part of the amount that is for the time after `time`."""
        return Fraction(self.cents * (self.end - max(time, self.start)), max(1, self.end - self.start))


class Payment(Enum):
    """Whether an invoice is paid."""

    PAID = "paid"
    RETURNED = "paid, and all of it refunded"
    EXPECTED = "open, or a draft that Stripe will finalize"
    NONE = "void, uncollectible, or a draft that stays one"


@dataclass(frozen=True, slots=True)
class PlanBill:
    """An invoice's lines for plans, or the prorations that wait for the next invoice."""

    payment: Payment
    lines: tuple[PlanLine, ...]


def pending_bills(lines: Sequence[PlanLine]) -> list[PlanBill]:
    """What prorations that wait for the next invoice pay. If they charge nothing, an invoice of them would be paid at
    once. Otherwise they pay nothing yet."""
    return [PlanBill(Payment.PAID, tuple(lines))] if sum(line.cents for line in lines) <= 0 else []


def paid_tiers(bills: Sequence[PlanBill], until: int) -> list[str]:
    """The tiers paid until that time at least: after a downgrade without a credit the user keeps the higher one.

    A credit gives back what is left of a period. Of its tier nothing is left then, but for rounding: a cent per line.
    Without a credit, or after it, the amount does not matter: an invoice that a coupon lowered to $0 is paid.
    """
    paid = []
    lines = _backed_lines(bills, until)
    for tier in sorted({line.tier for line in lines}):
        own = [line for line in lines if line.tier == tier]
        changed_at = max(line.start for line in own)
        credited_at = max((line.start for line in own if line.cents < 0), default=None)
        is_free_again = any(line.cents == 0 and line.start >= (credited_at or 0) for line in own)
        if credited_at is None or is_free_again or sum(line.cents_after(changed_at) for line in own) > len(own):
            paid.append(tier)
    return paid


def _backed_lines(bills: Sequence[PlanBill], until: int) -> list[PlanLine]:
    """The lines until that time that money paid for. A credit for what was not paid is taken off its own invoice."""
    paid = [[line for line in bill.lines if line.end >= until] for bill in bills if bill.payment is Payment.PAID]
    charged = {line.tier for lines in paid for line in lines}
    while True:
        backed = [_without_unbacked(lines, charged) for lines in paid]
        found = {tier for lines in backed for tier, cents in _cents_by_tier(lines).items() if cents >= 0}
        if found == charged:
            return [line for lines in backed for line in lines]
        charged = found


def _without_unbacked(lines: list[PlanLine], charged: Collection[str]) -> list[PlanLine]:
    """A paid invoice's lines without credits for tiers that are not `charged`; none if those credits paid for the rest,
    but for rounding."""
    net = _cents_by_tier(lines)
    unbacked = {tier: cents for tier, cents in net.items() if cents < 0 and tier not in charged}
    left = sum(unbacked.values()) + sum(cents for cents in net.values() if cents > 0)
    return [line for line in lines if line.tier not in unbacked] if not unbacked or left > len(lines) else []


def _cents_by_tier(lines: Sequence[PlanLine]) -> dict[str, int]:
    return {tier: sum(line.cents for line in lines if line.tier == tier) for tier in {line.tier for line in lines}}


def dearest(tiers: Sequence[str]) -> str:
    return max(tiers, key=CHEAPEST_FIRST.index)


def cheapest(tiers: Sequence[str]) -> str:
    return min(tiers, key=CHEAPEST_FIRST.index)


def plan_in_force(
    bills: Sequence[PlanBill], bought: str, start: int, end: int, *, has_failed: bool
) -> tuple[str, int | None]:
    """The tier that a subscription to `bought` gives in the period, and until when that is paid; None: not at all.

    `has_failed`: a payment failed. Nothing is free then: a trial is followed by no days of grace.
    """
    if paid := paid_tiers(bills, end):
        tier = dearest(paid)
        costs = any(line.tier == tier and not line.is_free for line in _backed_lines(bills, end))
        return tier, end if costs else None
    payments = [bill.payment for bill in bills if any(line.end >= end for line in bill.lines)]
    is_given_up = Payment.NONE in payments and Payment.EXPECTED not in payments
    if Payment.RETURNED in payments or (is_given_up and not has_failed):
        return UNPAID_TIER, None
    # A renewal that waits for its payment is no upgrade: its plan continues, at most the one before it.
    earlier = [
        PlanBill(
            bill.payment, tuple(line for line in bill.lines if line.end < end and not (has_failed and line.is_free))
        )
        for bill in bills
    ]
    if before := paid_tiers(earlier, start):
        tier = dearest(before)
        paid_until = max(line.end for line in _backed_lines(earlier, start) if line.tier == tier)
        return cheapest([bought, tier]), paid_until
    was_billed = any(line.end >= start for bill in earlier for line in bill.lines)
    return (UNPAID_TIER, None) if has_failed or was_billed else (bought, None)
