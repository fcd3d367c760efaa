"""link_stripe_customer and billing_profile."""

import uuid

import psycopg
import pytest

from tests.conftest import Connect, new_user
from tests.sql.billing import apply_customer
from tests.sql.concurrency import CLIENTS, run_concurrently
from tests.sql.metering import Db, counters, value


def test_a_user_has_one_stripe_customer(db: Db, connect: Connect) -> None:
    user, other = new_user(db), new_user(db)
    service = connect("service_role")
    link = "select public.link_stripe_customer(%s, %s)"
    assert value(service, link, user, "cus_1") == "cus_1"
    assert value(service, link, user, "cus_2") == "cus_1"
    assert counters(db, user)["stripe_customer_id"] == "cus_1"
    assert value(service, link, str(uuid.uuid4()), "cus_3") is None
    db.execute("delete from public.user_subscriptions where user_id = %s", (other,))
    assert value(service, "select public.billing_profile(%s)", other)["stripe_customer_id"] is None
    assert value(service, link, other, "cus_4") == "cus_4"
    assert counters(db, other)["tier"] == "free"
    with pytest.raises(psycopg.errors.UniqueViolation):
        value(service, link, new_user(db), "cus_1")


def test_concurrent_calls_link_one_customer(connect: Connect, db: Db) -> None:
    user = new_user(db)
    link = "select public.link_stripe_customer(%s, %s)"
    calls = [lambda connection, n=number: value(connection, link, user, f"cus_{n}") for number in range(CLIENTS)]
    assert set(run_concurrently(connect, calls)) == {counters(db, user)["stripe_customer_id"]}


def test_billing_profile_returns_email_customer_and_sequence(db: Db, connect: Connect) -> None:
    user = new_user(db)
    service = connect("service_role")
    profile = "select public.billing_profile(%s)"
    assert value(service, profile, user) == {
        "email": f"{user}@example.test",
        "stripe_customer_id": None,
        "stripe_sequence": 0,
        "is_blocked": False,
        "refusal": None,
    }
    value(service, "select public.link_stripe_customer(%s, 'cus_1')", user)
    apply_customer(service, 7, tier="pro")
    assert value(service, profile, user)["stripe_customer_id"] == "cus_1"
    assert value(service, profile, user)["stripe_sequence"] == 7
    db.execute("update public.user_subscriptions set status = 'suspended', open_invoice_url = 'https://x.test/i'")
    assert value(service, profile, user)["refusal"] == {
        "reason_code": "subscription_unpaid",
        "reason": "Subscription not active: suspended",
        "url": "https://x.test/i",
    }
    assert value(service, profile, str(uuid.uuid4())) is None
