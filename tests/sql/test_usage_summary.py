"""usage_summary: the billing state of the signed-in user."""

from typing import Any

from tests.conftest import Connect
from tests.sql.billing import apply_customer, claim_overage, new_customer, run_queries
from tests.sql.metering import Db, at, value


def test_usage_summary_shows_the_billing_state(db: Db, connect: Connect) -> None:
    user, other = new_customer(db), new_customer(db, "2")
    me = connect("authenticated", user)

    def billing(moment: str) -> dict[str, Any]:
        at(me, moment)
        shown: dict[str, Any] = value(me, "select public.usage_summary() -> 'billing'")
        return shown

    run_queries(db, other, 7)
    run_queries(db, user, 3)
    subscribed = {
        "is_customer": True,
        "is_subscribed": True,
        "ends_at": None,
        "next_tier": None,
        "past_due_since": None,
    }
    assert billing("2026-03-02T12:00Z") == {**subscribed, "to_be_billed_usd": "0.075000", "billed": []}
    claim_overage(db, other)
    claim_overage(db, user)
    at(db, "2026-04-01T12:00Z")
    run_queries(db, user, 1)
    march = {
        "period_start": "2026-03-01T00:00:00+00:00",
        "queries": 3,
        "unit_price_usd": "0.025000",
        "amount_usd": "0.075000",
        "billed_usd": "0.07",
    }
    april = {**subscribed, "to_be_billed_usd": "0.025000", "billed": [march]}
    apply_customer(db, 1, tier="basic", paid_tiers=["pro"])
    assert billing("2026-03-31T12:00Z") == {**april, "next_tier": "basic"}
    assert billing("2026-04-01T00:00Z") == april
    since = {"status": "past_due", "past_due_since": "2026-03-30T00:00:00Z"}
    apply_customer(db, 2, **since)
    assert billing("2026-03-31T12:00Z") == {**april, "past_due_since": "2026-03-30T00:00:00+00:00"}
    apply_customer(db, 3, status="canceled")
    assert billing("2026-03-31T12:00Z") == {**april, "ends_at": "2026-04-01T00:00:00+00:00"}
    assert billing("2026-04-01T00:00Z") == {**april, "is_subscribed": False}
    apply_customer(db, 4, deleted=True)
    assert billing("2026-04-01T00:00Z") == {**april, "is_customer": False, "is_subscribed": False}
