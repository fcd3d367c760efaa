"""Billing from end to end: bought on Stripe's pages, told by its webhooks, seen in the database and on invoices."""

from decimal import Decimal

from tests.billing_kit import DAY, Town


def test_a_subscription_is_bought_renewed_and_billed_with_its_overage(town: Town) -> None:
    user = town.person()
    town.buy(user, plan="basic")
    assert town.row(user)["tier"] == "free"
    assert set(town.deliver()) == {200}
    row = town.row(user)
    assert (row["tier"], row["status"], row["next_tier"]) == ("basic", "active", None)
    assert row["stripe_subscription_id"]
    start = town.fake.now
    assert row["current_period_start"].timestamp() == start

    town.overage(user, 1, start + DAY, start)
    town.happen(32 * DAY)
    (item,) = town.items(user)
    assert (item["queries"], item["amount_usd"], item["amount_cents"]) == (1, Decimal("0.025"), 2)
    invoice = town.fake.v1.invoices.retrieve(item["stripe_invoice_id"])
    assert invoice.status == "paid"
    assert sorted(line.amount for line in invoice.lines.data) == [2, 999]
    assert invoice.lines.data[0].description == "1 query beyond the plan × $0.025 = $0.025, period from 2026-01-01"
    assert town.row(user)["current_period_start"].timestamp() > start
    assert town.reconcile() == []
