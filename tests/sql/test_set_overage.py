"""set_overage: the overage settings of the signed-in user."""

import json
from decimal import Decimal
from typing import Any

import psycopg
import pytest

from tests.conftest import Connect, new_user
from tests.sql.billing import (
    new_customer,
    run_queries,
)
from tests.sql.metering import Db, admit, counters, value


def test_only_given_settings_change_and_null_restores_the_plan_limit(db: Db, connect: Connect) -> None:
    user, other = new_user(db, "basic"), new_user(db, "basic", overage_limit=3)
    before = counters(db, other)
    me = connect("authenticated", user)

    def set_overage(settings: str) -> dict[str, Any]:
        answer: dict[str, Any] = value(me, "select public.set_overage(%s)", settings)
        assert value(me, "select public.usage_summary()")["overage"] == answer
        return answer

    defaults = {
        "allowed": True,
        "currency": "usd",
        "price_usd": "0.025000",
        "limit_usd": "10.000000",
        "used_usd": "0.000000",
    }
    assert set_overage("{}") == defaults
    assert set_overage('{"overage_limit_usd": 2.5}') == {**defaults, "limit_usd": "2.500000"}
    assert set_overage('{"allow_overages": false}') == {**defaults, "limit_usd": "2.500000", "allowed": False}
    assert set_overage('{"allow_overages": null}') == {**defaults, "limit_usd": "2.500000", "allowed": False}
    assert set_overage('{"allow_overages": true, "overage_limit_usd": null}') == defaults
    assert counters(db, user)["overage_limit"] is None
    assert counters(db, other) == before


def test_a_changed_setting_applies_to_the_next_query(db: Db, connect: Connect) -> None:
    user = new_customer(db)
    me = connect("authenticated", user)
    run_queries(db, user, 2)
    value(me, "select public.set_overage('{\"overage_limit_usd\": 0.05}')")
    assert admit(db, user)["reason"] == "Overage limit reached"
    value(me, "select public.set_overage('{\"overage_limit_usd\": 0.075}')")
    run_queries(db, user, 1)
    value(me, 'select public.set_overage(\'{"allow_overages": false, "overage_limit_usd": 10}\')')
    assert admit(db, user)["reason"] == "Daily quota exceeded"


@pytest.mark.parametrize(
    ("limit", "is_accepted"), [("-0.01", False), ("0", True), ("10000", True), ("10000.01", False)]
)
@pytest.mark.parametrize("quoted", [False, True])
def test_a_limit_is_from_zero_to_ten_thousand_dollars(
    db: Db, connect: Connect, limit: str, is_accepted: bool, quoted: bool
) -> None:
    user = new_user(db, "basic", overage_limit=3, overage_ceiling=10000)
    settings = json.dumps({"overage_limit_usd": limit if quoted else float(limit)})
    call = (connect("authenticated", user), "select public.set_overage(%s)", settings)
    if is_accepted:
        assert Decimal(value(*call)["limit_usd"]) == Decimal(limit)
    else:
        with pytest.raises(psycopg.errors.InvalidParameterValue):
            value(*call)
        assert counters(db, user)["overage_limit"] == 3


@pytest.mark.parametrize("limit", ["NaN", "Infinity", "-Infinity"])
def test_a_limit_is_a_number(db: Db, connect: Connect, limit: str) -> None:
    user = new_user(db, "basic")
    with pytest.raises(psycopg.errors.InvalidParameterValue):
        value(connect("authenticated", user), "select public.set_overage(%s)", json.dumps({"overage_limit_usd": limit}))


def test_only_a_signed_in_user_can_set_overage(db: Db, connect: Connect) -> None:
    user = new_user(db, "basic")
    before = counters(db, user)
    for connection, error in (
        (connect("anon"), "permission denied for function set_overage"),
        (connect("anon", user), "permission denied for function set_overage"),
        (connect("service_role"), "permission denied for function set_overage"),
        (connect("authenticated"), "Sign in to change your overage settings"),
    ):
        with pytest.raises(psycopg.errors.InsufficientPrivilege, match=error):
            value(connection, "select public.set_overage('{\"allow_overages\": false}')")
    assert counters(db, user) == before
