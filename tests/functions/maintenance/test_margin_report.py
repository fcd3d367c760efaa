"""margin-report: by tier and model, and plan fees."""

import uuid
from datetime import UTC, date, datetime
from decimal import Decimal

import pytest

from functions.maintenance.margin_report import margin_report, month_before
from tests.billing_kit import BillingStack, stripe_post
from tests.functions.maintenance.kit import command, run
from tests.sql.metering import admit, settle

pytestmark = pytest.mark.usefixtures("empty_billing")  # counts and compares everything that there is


@pytest.mark.parametrize(
    ("day", "month"), [("2026-01-01", "2025-12-01"), ("2026-03-31", "2026-02-01"), ("2026-12-31", "2026-11-01")]
)
def test_month_before(day: str, month: str) -> None:
    assert month_before(date.fromisoformat(day)) == date.fromisoformat(month)


def test_a_month_is_reported_by_tier_and_model(billing: BillingStack) -> None:
    """In a random year, because other tests use the same ledger. A later one, because counters do not go back."""
    month = date(2027 + uuid.uuid4().int % 870, 2, 1)
    user = billing.new_user()
    billing.buy(user, pack="pack_100")
    assert set(billing.deliver()) == {200}
    billing.add_overage(user, 4, int(datetime(month.year, 2, 28, 23, 59, 59, tzinfo=UTC).timestamp()), 1)
    billing.add_overage(user, 8, int(datetime(month.year, 3, 1, tzinfo=UTC).timestamp()), 1)
    spent = "update public.usage_logs set cost_usd = 0.001, model = 'm1' where user_id = %s"
    billing.db.execute(spent, (user.id,))
    with billing.db.transaction():
        billing.db.execute("select set_config('metering.now', %s, true)", (f"{month.year}-02-01T00:00Z",))
        asked = admit(billing.db, user.id)
        assert asked["funding"] == "credit"
        settle(billing.db, asked["hold_id"])
    own = "update public.usage_logs set used_byo_key = true where user_id = %s and funding = 'byok'"
    billing.db.execute(own, (user.id,))
    result = run(billing, margin_report, month)
    (overage, credit) = sorted(result["rows"], key=lambda row: row["model"] != "m1")
    assert (overage["tier"], overage["queries"], overage["overage"], overage["cost"], overage["margin"]) == (
        "usage_only", 4, "0.100000", "0.004000", "0.096000",
    )  # fmt: skip
    assert (credit["queries"], credit["credits"], credit["cost"]) == (1, "0.022500", "0.000123")
    assert (result["queries"], result["margin_usd"]) == (5, "0.118377")
    assert result["report"][0] == f"February {month.year}, UTC, US dollars"
    # The rows of a deleted user stay in the report.
    billing.db.execute("delete from auth.users where id = %s", (user.id,))
    after = run(billing, margin_report, month)
    assert (after["rows"], after["written_off_usd"]) == (result["rows"], "0.100000")


def test_plan_fees_equal_the_payments_at_stripe(billing: BillingStack) -> None:
    month = datetime.fromtimestamp(billing.fake.now, UTC).date().replace(day=1)

    def fees() -> dict[str, Decimal]:
        rows = run(billing, margin_report, month)["rows"]
        return {row["tier"]: Decimal(row["fees"]) for row in rows if row["model"] == "plan fees"}

    before = fees()
    for plan in ("basic", "pro", "usage_only"):
        billing.buy(billing.new_user(), plan=plan)
    discounted = billing.new_user()
    page = billing.checkout_page(discounted, plan="basic")
    half = stripe_post(billing, "coupons", percent_off=50)["id"]
    billing.fake.control(f"/_customers/{billing.customer_id(discounted)}/discount", coupon=half)
    billing.fake.http.post(page, data={"way": "good_card"})
    after = fees()
    assert {tier: paid - before.get(tier, 0) for tier, paid in after.items()} == {
        "basic": Decimal("9.99") + Decimal("4.99"),
        "pro": Decimal("29.99"),
    }
    printed = command(billing, "margin-report", "--month", f"{month:%Y-%m}").stdout.splitlines()
    assert printed[0] == f"{month:%B %Y}, UTC, US dollars"
    assert any(line.startswith("basic       plan fees") for line in printed)
