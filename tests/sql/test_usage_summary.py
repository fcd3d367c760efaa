"""usage_summary: the billing state of the signed-in user."""

from typing import Any

from tests.conftest import Connect, new_user
from tests.sql.billing import apply_customer, claim_overage, new_customer, run_queries
from tests.sql.metering import Db, admit, at, key, pack, settle, value


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
        "currency": "usd",
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


def test_usage_summary_shows_what_the_plan_allows(db: Db, connect: Connect) -> None:
    pro: dict[str, Any] = value(connect("authenticated", new_user(db, "pro")), "select public.usage_summary()")
    free: dict[str, Any] = value(connect("authenticated", new_user(db, "free")), "select public.usage_summary()")
    plans = {row["tier"]: row for row in db.execute("select * from public.plans").fetchall()}
    for shown, tier in ((pro, "pro"), (free, "free")):
        for name in ("models", "own_key_models", "concurrent_queries", "history_days"):
            assert shown[name] == plans[tier][name]
    assert (pro["keeps_history"], free["keeps_history"]) == (True, False)
    assert (pro["alerts"], free["alerts"]) == ([], [])


def test_usage_summary_shows_current_announcements(db: Db, connect: Connect) -> None:
    me = connect("authenticated", new_user(db))
    at(me, "2026-03-02T12:00Z")
    announce = (
        "insert into public.announcements (id, kind, en, fr, starts_at, ends_at) values"
        " (gen_random_uuid(), 'notice', 'Over', 'Fini', '2026-03-01Z', '2026-03-02T12:00Z'),"
        " (gen_random_uuid(), 'notice', 'Later', 'Plus tard', '2026-03-02T12:01Z', null),"
        " (gen_random_uuid(), 'chat_paused', 'Back soon', 'De retour', '2026-03-02T12:00Z', null)"
    )
    db.execute(announce)
    shown = value(me, "select public.usage_summary() -> 'announcements'")
    assert [(one["kind"], one["en"], one["fr"], one["ends_at"]) for one in shown] == [
        ("chat_paused", "Back soon", "De retour", None)
    ]


def test_alerts_start_at_eighty_percent(db: Db, connect: Connect) -> None:
    user = new_customer(db, daily_quota=5, overage_limit="0.11")
    me = connect("authenticated", user)
    at(me, "2026-03-02T12:00Z")
    pack(db, user, 10, created_at="2026-03-01Z")
    seen = []
    for _ in range(19):
        settle(db, admit(db, user)["hold_id"])
        seen.append({row["kind"]: row["percent"] for row in value(me, "select public.usage_summary() -> 'alerts'")})
    # Five included queries, ten credits, and four of overage: a fifth would be over the limit.
    included = {"included": 100}
    with_credits = {**included, "credits": 100}
    assert seen == [
        *({}, {}, {}, {"included": 80}, included),
        *([included] * 7), *([{**included, "credits": 80}] * 2), with_credits,
        *([with_credits] * 3), {**with_credits, "overage": 100},
    ]  # fmt: skip
    at(me, "2026-03-03T12:00Z")
    assert [row["kind"] for row in value(me, "select public.usage_summary() -> 'alerts'")] == ["overage", "credits"]
    at(me, "2026-04-03T12:00Z")
    assert value(me, "select public.usage_summary() -> 'alerts'") == []  # the pack was used up before this period


def test_usage_tells_why_the_next_query_is_refused(db: Db, connect: Connect) -> None:
    """What admit_query checks besides the funding."""
    free, pro = (new_user(db, tier, quota_date="2026-03-02") for tier in ("free", "pro"))
    at(db, "2026-03-02T12:00Z")

    def shown(user: str) -> tuple[bool, str, str, str | None]:
        me = connect("authenticated", user)
        at(me, "2026-03-02T12:00Z")
        usage: dict[str, Any] = value(me, "select public.usage_summary()")
        assert usage["reason"]
        assert usage["requires_payment"] is False
        return usage["can_query"], usage["reason_code"], usage["reason"], usage["resets_at"]

    assert shown(free) == (True, "free_quota", "Within free tier quota", None)
    midnight = "2026-03-03T00:00:00+00:00"
    for change in ("email_confirmed_at = null", "email_confirmed_at = now(), is_anonymous = true"):
        db.execute(f"update auth.users set {change}")
        assert shown(free)[:2] == (False, "email_not_confirmed")
        assert shown(pro)[:2] == (True, "daily_quota")
    db.execute("update auth.users set is_anonymous = false")
    db.execute("update public.settings set free_daily_budget_usd = 0")
    assert shown(free) == (False, "free_answers_off", "Free answers are off today", midnight)
    db.execute("update public.user_subscriptions set failed_cost_usd = 1000")
    assert shown(pro) == (False, "too_many_failures", "Too many failed queries today", midnight)
    key(db, pro, "openai")
    assert shown(pro)[:2] == (True, "own_key")
    db.execute("update auth.users set banned_until = '2026-03-03Z'")
    assert shown(pro) == shown(free) == (False, "account_blocked", "Account blocked", None)
