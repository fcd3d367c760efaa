"""list_plans: the plans and packs on sale."""

from tests.conftest import Connect
from tests.sql.metering import Db, value


def test_it_lists_what_is_on_sale(db: Db, connect: Connect) -> None:
    on_sale = value(connect("service_role"), "select public.list_plans()")
    assert [(plan["tier"], plan["price_usd"]) for plan in on_sale["plans"]] == [
        ("free", "0.000000"),
        ("usage_only", "0.000000"),
        ("basic", "9.990000"),
        ("pro", "29.990000"),
    ]
    basic = on_sale["plans"][2]
    assert basic.pop("models").keys() == basic.pop("own_key_models").keys() == {"anthropic", "openai"}
    assert basic == {
        "tier": "basic",
        "name": "Basic",
        "currency": "usd",
        "price_usd": "9.990000",
        "daily_quota": 15,
        "lifetime_quota": None,
        "overage_price_usd": "0.025000",
        "overage_limit_usd": "10.000000",
        "allows_credits": True,
        "allows_byok": True,
        "history_days": 30,
    }
    hundred = {
        "id": "pack_100",
        "name": "100 queries",
        "credits": 100,
        "currency": "usd",
        "price_usd": "2.250000",
        "price_per_credit_usd": "0.022500",
        "expires_after_days": None,
    }
    five = {"id": "pack_500", "name": "500 queries", "credits": 500, "currency": "usd"}
    assert on_sale["packs"] == [
        hundred,
        {**five, "price_usd": "10.000000", "price_per_credit_usd": "0.020000", "expires_after_days": None},
    ]
    db.execute("update public.packs set is_sold = false where slug = 'pack_500'")
    assert value(connect("service_role"), "select public.list_plans()")["packs"] == [hundred]
