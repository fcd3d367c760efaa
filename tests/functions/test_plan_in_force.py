"""The plan that bills give, where Stripe's stand-in cannot make them. Times are days."""

import pytest

from functions.common.billing.paid_plans import Payment, PlanBill, PlanLine, plan_in_force

START, END = 30, 60


def line(tier: str, cents: int, start: int = START, end: int = END) -> PlanLine:
    return PlanLine(tier, cents, start, end, is_free=False)


def bill(*lines: PlanLine, payment: Payment = Payment.PAID) -> PlanBill:
    return PlanBill(payment, lines)


PRO, BASIC = bill(line("pro", 2999)), bill(line("basic", 999))
PRO_BEFORE = bill(line("pro", 2999, 0, 30))
UPGRADE = (line("basic", -666, 40), line("pro", 1999, 40))
TRIAL = PlanBill(Payment.PAID, (PlanLine("pro", 0, 16, 30, is_free=True),))


def unpaid(*lines: PlanLine, payment: Payment = Payment.EXPECTED) -> PlanBill:
    return bill(*lines, payment=payment)


@pytest.mark.parametrize(
    ("bills", "bought", "has_failed", "tier", "paid_until"),
    [
        ([], "pro", False, "pro", None),  # support started it without an invoice
        ([], "pro", True, "usage_only", None),
        ([bill(line("pro", 4500, 10, END))], "pro", False, "pro", END),  # backdated
        ([PRO_BEFORE], "pro", False, "pro", START),  # the draft does not exist yet
        ([PRO_BEFORE], "basic", True, "basic", START),
        ([bill(line("basic", 999, 0, 30)), unpaid(line("pro", 2999))], "pro", False, "basic", START),
        ([TRIAL, unpaid(line("pro", 2999))], "pro", False, "pro", START),
        ([TRIAL, unpaid(line("pro", 2999))], "pro", True, "usage_only", None),
        ([BASIC, unpaid(*UPGRADE)], "pro", True, "basic", END),
        ([BASIC, bill(*UPGRADE)], "pro", False, "pro", END),
        ([BASIC, unpaid(*UPGRADE, payment=Payment.RETURNED)], "pro", False, "basic", END),
        # The credit of an upgrade that was refunded does not take the plan before it.
        (
            [
                BASIC,
                unpaid(*UPGRADE, payment=Payment.RETURNED),
                bill(line("pro", -1333, 50), line("basic", 444, 50)),
            ],
            "basic",
            False,
            "basic",
            END,
        ),
        # A refund of the plan before an upgrade: most of the upgrade was paid.
        ([unpaid(line("basic", 999), payment=Payment.RETURNED), bill(*UPGRADE)], "pro", False, "pro", END),
        # A cent per line is rounding.
        (
            [
                unpaid(line("basic", 999), payment=Payment.RETURNED),
                bill(line("basic", -666, 40), line("pro", 668, 40)),
            ],
            "pro",
            False,
            "usage_only",
            None,
        ),
        # The credit for an upgrade that was paid in part.
        (
            [
                unpaid(line("basic", 999), payment=Payment.RETURNED),
                bill(*UPGRADE),
                bill(line("pro", -1333, 50), line("basic", 444, 50)),
            ],
            "basic",
            False,
            "basic",
            END,
        ),
        # The credit of a credit's bill that does not count counts neither.
        (
            [
                unpaid(line("pro", 2999)),
                bill(line("pro", -2000, 40), line("basic", 666, 40)),
                bill(line("basic", -333, 50), line("usage_only", 0, 50)),
            ],
            "pro",
            True,
            "usage_only",
            None,
        ),
        ([unpaid(line("pro", 2999))], "pro", False, "pro", None),  # a first payment that is processing
        # Nothing of the period before is paid either.
        *[
            ([unpaid(line("pro", 2999, 0, START), payment=payment), *bills], "pro", False, "usage_only", None)
            for payment in (Payment.EXPECTED, Payment.NONE, Payment.RETURNED)
            for bills in ([unpaid(line("pro", 2999))], [])
        ],
        ([PRO_BEFORE, unpaid(line("pro", 2999), payment=Payment.RETURNED)], "pro", True, "usage_only", None),
        ([PRO_BEFORE, unpaid(line("pro", 2999), payment=Payment.NONE)], "pro", False, "usage_only", None),
        # A coupon of 100 % after a credit.
        (
            [PRO, bill(line("pro", -2000, 40), line("basic", 666, 40)), bill(line("pro", 0, 41))],
            "pro",
            False,
            "pro",
            END,
        ),
        # Changes in the last minutes leave less than the rounding of their lines: all is paid, so the plan stays.
        ([PRO_BEFORE, bill(line("pro", 30), line("pro", -1, 59), line("pro", 1, 59))], "pro", False, "pro", START),
    ],
)
def test_the_plan_in_force_is_what_was_paid(
    bills: list[PlanBill], bought: str, has_failed: bool, tier: str, paid_until: int | None
) -> None:
    assert plan_in_force(bills, bought, START, END, has_failed=has_failed) == (tier, paid_until)
