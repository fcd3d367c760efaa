"""users_to_bill: which users have overage of an ended period."""

from typing import Any

from tests.conftest import Connect
from tests.sql.billing import claim_overage, new_customer, run_queries
from tests.sql.metering import Db, at, value


def users_to_bill(db: Db, after: str | None = None, limit: int = 100) -> list[tuple[str, str]]:
    """Calls users_to_bill."""
    rows = db.execute("select * from public.users_to_bill(%s, %s)", (after, limit)).fetchall()
    return [(str(row["user_id"]), row["stripe_customer_id"]) for row in rows]


def test_only_users_with_overage_to_bill_are_listed(db: Db, connect: Connect) -> None:
    april = {"current_period_start": "2026-04-01Z", "current_period_end": "2026-05-01Z"}
    names = (
        "ended",
        "over",
        "gone",
        "open",
        "placed",
        "running",
        "invoiced",
        "no customer",
        "included",
        "nothing",
    )
    users = {name: new_customer(db, name) for name in names}
    db.execute("update public.user_subscriptions set daily_quota = 1 where stripe_customer_id = 'cus_included'")
    for name in ("ended", "over", "gone", "open", "placed", "invoiced", "no customer"):
        run_queries(db, users[name], 1)
    run_queries(db, users["included"], 1, "included")

    def change(name: str, **columns: Any) -> None:
        assignments = ", ".join(f"{column} = %s" for column in columns)
        db.execute(
            f"update public.user_subscriptions set {assignments} where user_id = %s".encode(),
            (*columns.values(), users[name]),
        )

    for name in users:
        if name != "over":
            change(name, **april)
    at(db, "2026-04-10T12:00Z")
    run_queries(db, users["running"], 1)
    change("gone", stripe_subscription_id=None, current_period_start=None, current_period_end=None)
    change("no customer", stripe_customer_id=None)
    for name in ("open", "placed", "invoiced"):
        (item,) = claim_overage(db, users[name])
        if name != "open":
            arguments = (item["id"], f"ii_{name}", "in_1" if name == "invoiced" else None)
            db.execute("select public.place_overage(%s, %s, %s)", arguments)

    due = sorted((users[name], f"cus_{name}") for name in ("ended", "over", "gone", "open", "placed"))
    service = connect("service_role")
    at(service, "2026-04-10T12:00Z")
    assert users_to_bill(service) == due
    assert users_to_bill(service, limit=2) == due[:2]
    assert users_to_bill(service, due[1][0], 2) == due[2:4]
    assert users_to_bill(service, due[-1][0]) == []
    # Until its last second a period is the current one.
    at(service, "2026-03-31T23:59:59Z")
    assert users["over"] not in dict(users_to_bill(service))
    at(service, "2026-04-01T00:00:00Z")
    assert users["over"] in dict(users_to_bill(service))


def test_a_page_has_at_most_a_thousand_users(db: Db) -> None:
    db.execute("insert into auth.users (id, email) select gen_random_uuid(), n from generate_series(1, 1001) n")
    db.execute("update public.user_subscriptions set stripe_customer_id = user_id::text")
    db.execute(
        "insert into public.overage_invoice_items (user_id, period_start, queries, unit_price_usd, target)"
        " select user_id, '2026-03-01Z', 1, 0.025, '{}' from public.user_subscriptions"
    )
    page = users_to_bill(db, limit=5000)
    assert len(page) == 1000
    assert len(users_to_bill(db, page[-1][0], 5000)) == 1


def test_finding_users_does_not_scan_the_ledger(db: Db) -> None:
    """The plan of the statement in the function, over 50,000 billed queries and 50 that are not billed."""
    db.execute("insert into auth.users (id, email) select gen_random_uuid(), n from generate_series(1, 500) n")
    db.execute(
        "update public.user_subscriptions set stripe_customer_id = user_id::text, stripe_subscription_id ="
        " user_id::text, current_period_start = '2026-04-01Z', current_period_end = '2100-01-01Z'"
    )
    db.execute(
        "insert into public.overage_invoice_items (user_id, period_start, queries, unit_price_usd, target,"
        " stripe_invoice_item_id, stripe_invoice_id)"
        " select user_id, '2026-03-01Z', 100, 0.025, '{}', user_id::text, 'in_1' from public.user_subscriptions"
    )
    db.execute(
        "insert into public.usage_logs (id, user_id, request_id, tier, funding, outcome, query_date, query_timestamp,"
        " period_start, quota_used, quota_limit, overage_used, provider, model, used_byo_key, is_charged,"
        " counted_against_quota, was_overage, overage_charge, invoice_item_id)"
        " select gen_random_uuid(), user_id, n::text, 'pro', 'overage', 'answered', '2026-03-02', '2026-03-02Z',"
        " '2026-03-01Z', 40, 40, 0, 'openai', 'm', false, true, false, true, 0.025, id"
        " from public.overage_invoice_items cross join generate_series(1, 100) n"
    )
    db.execute(
        "update public.usage_logs set invoice_item_id = null where request_id = '1'"
        " and user_id in (select user_id from public.user_subscriptions limit 50)"
    )
    db.execute("analyze public.usage_logs, public.user_subscriptions, public.overage_invoice_items")
    source: str = value(db, "select prosrc from pg_proc where oid = 'public.users_to_bill'::regproc")
    query = source.replace("p_after", "null::uuid").replace("p_limit", "100")
    lines = db.execute(f"explain (costs off) {query}".encode()).fetchall()
    plan = "\n".join(line["QUERY PLAN"] for line in lines)
    assert "using usage_logs_not_billed_idx" in plan, plan
    assert "Seq Scan on usage_logs" not in plan, plan
    assert len(users_to_bill(db)) == 50


def test_finding_users_at_a_threshold_reads_only_who_owes(db: Db) -> None:
    """The plan of the statement in the function, over 20,000 users of whom 200 owe, and 20 reach the limit."""
    db.execute("insert into auth.users (id, email) select gen_random_uuid(), n from generate_series(1, 20000) n")
    db.execute("alter table public.user_subscriptions disable trigger user")
    db.execute(
        "with numbered as (select user_id, row_number() over () as n from public.user_subscriptions)"
        " update public.user_subscriptions s set tier = 'usage_only', stripe_customer_id = s.user_id::text,"
        " unpaid_overage_usd = case when n % 1000 = 0 then 10 when n % 100 = 0 then 1 else 0 end"
        " from numbered where numbered.user_id = s.user_id"
    )
    db.execute("alter table public.user_subscriptions enable trigger user")
    db.execute(
        "insert into public.usage_logs (id, user_id, request_id, tier, funding, outcome, query_date, query_timestamp,"
        " period_start, quota_used, quota_limit, overage_used, provider, model, used_byo_key, is_charged,"
        " counted_against_quota, was_overage, overage_charge)"
        " select gen_random_uuid(), user_id, n::text, tier, 'overage', 'answered', '2026-03-02', '2026-03-02Z',"
        " '2026-03-01Z', 0, 0, 0, 'openai', 'm', false, true, false, true, 0.025"
        " from public.user_subscriptions cross join generate_series(1, 20) n where unpaid_overage_usd > 0"
    )
    db.execute("analyze public.usage_logs, public.user_subscriptions")
    source: str = value(db, "select prosrc from pg_proc where oid = 'public.users_at_threshold'::regproc")
    query = source.replace("p_after", "null::uuid").replace("p_limit", "100")
    lines = db.execute(
        f"explain (analyze, costs off, timing off, summary off, buffers off) {query}".encode()
    ).fetchall()
    plan = "\n".join(line["QUERY PLAN"] for line in lines)
    assert "user_subscriptions_owing_idx" in plan, plan
    assert "Seq Scan on user_subscriptions" not in plan, plan
    (ledger,) = (line for line in plan.splitlines() if "usage_logs_not_billed_idx" in line)
    assert "loops=20)" in ledger, plan
    assert db.execute("select from public.users_at_threshold(null, 100)").rowcount == 20
