"""All prices have one currency, which can change until something was sold."""

import psycopg
import pytest

from tests.conftest import new_user
from tests.sql.billing import apply_pack
from tests.sql.metering import Db, value

TO_CANADIAN = "update public.settings set currency = 'cad', usd_per_unit = 0.72"


def test_a_change_reaches_all_prices(db: Db) -> None:
    new_user(db)
    db.execute(TO_CANADIAN)
    on_sale = value(db, "select public.list_plans()")
    assert {one["currency"] for one in (*on_sale["plans"], *on_sale["packs"])} == {"cad"}
    assert value(db, "select public.price_currency()") == {"currency": "cad", "usd_per_unit": "0.720000"}


@pytest.mark.parametrize(
    ("statement", "broken"),
    [
        ("update public.plans set currency = 'cad' where tier = 'pro'", "plans_currency_is_that_of_all_prices"),
        ("update public.packs set currency = 'cad' where slug = 'pack_100'", "packs_currency_is_that_of_all_prices"),
        ("update public.settings set currency = 'eur'", "currency_is_sold_in"),
        ("update public.settings set currency = 'cad'", "settings_rate_of_us_dollars_is_one"),
        ("update public.settings set usd_per_unit = 0.72", "settings_rate_of_us_dollars_is_one"),
    ],
)
def test_prices_in_two_currencies_are_refused(db: Db, statement: str, broken: str) -> None:
    with pytest.raises(psycopg.errors.IntegrityError, match=broken):
        db.execute(statement.encode())


def test_the_currency_stays_after_the_first_sale(db: Db) -> None:
    user = new_user(db)
    apply_pack(db, user, 1)
    with pytest.raises(psycopg.errors.CheckViolation, match="subscriptions or charges in usd"):
        db.execute(TO_CANADIAN)
    db.execute("update public.settings set free_daily_budget_usd = 5")


def test_the_currency_stays_while_there_are_subscriptions(db: Db) -> None:
    user = new_user(db)
    db.execute("update public.user_subscriptions set stripe_subscription_id = 'sub_1' where user_id = %s", (user,))
    with pytest.raises(psycopg.errors.CheckViolation, match="subscriptions or charges in usd"):
        db.execute(TO_CANADIAN)
