"""reconcile: each difference, planted on clean books one at a time, is found, without other findings."""

import json
import uuid
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from datetime import timedelta
from typing import Any

import psycopg
import pytest

from functions.maintenance.findings import KINDS
from functions.maintenance.reconcile import reconcile
from tests.billing_kit import DAY, STRIPE_HEADERS, BillingStack, dropped_events, stripe_get, stripe_post
from tests.conftest import Person
from tests.functions.maintenance.kit import no_progress, run, today
from tests.functions.webhooks.kit import change_plan, price_id
from tests.sql.metering import action, admit, settle, turn, value

pytestmark = pytest.mark.usefixtures("empty_billing")  # counts and compares everything that there is


@dataclass(frozen=True, slots=True)
class Books:
    """Clean books. `billed` has a plan, a pack and a billed period; `other` a plan, a pack and a conversation; `gifted`
    a plan and an operator's grant, limits and block; `free` never paid; `former` has cancelled."""

    billing: BillingStack
    billed: Person
    other: Person
    gifted: Person
    free: Person
    former: Person

    def sql(self, statement: str, *values: Any) -> None:
        self.billing.db.execute(statement.encode(), values)

    def new_user(self) -> str:
        """The id of one more free user, whom the end of the module deletes."""
        return self.billing.new_user().id

    def findings(self, later: timedelta = timedelta(0)) -> list[dict[str, str]]:
        now = today(self.billing) + later
        found: list[dict[str, str]] = run(self.billing, reconcile, now, no_progress)["findings"]
        return found


def overage_of(billing: BillingStack, user: Person, queries: int) -> None:
    """Overage of the current period, counted as admission counts it."""
    start = billing.subscription_row(user)["current_period_start"]
    billing.add_overage(user, queries, int(start.timestamp()) + DAY, int(start.timestamp()))
    billing.db.execute(
        "update public.user_subscriptions set current_overage_amount = %s * 0.025, overage_period_start = %s"
        " where user_id = %s",
        (queries, start, user.id),
    )


@pytest.fixture(autouse=True)
def no_subscription_outlives_its_test() -> None:
    """The subscriptions are shared by this module's tests, and end with it."""


@pytest.fixture(scope="module")
def books(billing: BillingStack, empty_billing: None) -> Iterator[Books]:
    billed, other, gifted, free, former = users = [billing.new_user() for _ in range(5)]
    for user, plan in zip(users, ("basic", "pro", "basic", None, "usage_only"), strict=True):
        if plan is not None:
            billing.buy(user, plan=plan)
    billing.buy(billed, pack="pack_100")
    billing.buy(other, pack="pack_100")
    assert set(billing.deliver()) == {200}
    overage_of(billing, billed, 41)
    billing.advance_and_deliver(32 * DAY)
    (subscription,) = stripe_get(billing, "subscriptions", customer=billing.customer_id(former))["data"]
    billing.fake.http.delete(f"/v1/subscriptions/{subscription['id']}", headers=STRIPE_HEADERS).raise_for_status()
    assert set(billing.deliver()) == {200}
    db = billing.db
    # One of each funding, and a conversation.
    for user in (other, gifted):
        settle(db, admit(db, user.id)["hold_id"], turn=turn(str(uuid.uuid4()), str(uuid.uuid4())))
    for person, size in ((gifted, 20), (free, 5)):
        value(db, "select public.grant_credits(%s, %s, null, %s)", person.id, size, action())
    value(db, "select public.set_limits(%s, %s, %s)", other.id, json.dumps({"daily_quota": 0}), action())
    for person in (other, free):
        settle(db, admit(db, person.id)["hold_id"])
    value(db, "select public.set_limits(%s, %s, %s)", gifted.id, json.dumps({"daily_quota": 50}), action())
    value(db, "select public.block_user(%s, %s)", former.id, action())
    query = value(db, "select min(id::text) from public.usage_logs where user_id = %s", gifted.id)
    value(db, "select public.credit_back(%s, %s)", query, action())
    paid_with_credits = db.execute("select from public.usage_logs where funding = 'credit' and is_charged").rowcount
    assert paid_with_credits == 2
    yield Books(billing, billed, other, gifted, free, former)
    billing.cancel_subscriptions()


TABLES = (
    "user_subscriptions", "credit_packs", "usage_logs", "overage_invoice_items", "query_holds", "conversations",
    "usage_reversals", "operator_actions",
)  # fmt: skip


@pytest.fixture
def restored(books: Books) -> Iterator[None]:
    """The tables are as before at the end of the test, whatever it planted."""
    with psycopg.connect(books.billing.stack.postgres.url("supabase_admin"), autocommit=True) as db:
        db.execute("set session_replication_role = replica")  # without triggers and foreign keys
        for table in TABLES:
            db.execute(f"create temporary table clean_{table} as table public.{table}".encode())
        yield
        for table in TABLES:
            columns = db.execute(
                "select string_agg(quote_ident(attname), ', ') from pg_attribute where attrelid = %s::regclass"
                " and attnum > 0 and not attisdropped and attgenerated = ''",
                (f"public.{table}",),
            ).fetchone()
            assert columns is not None
            db.execute(f"delete from public.{table}".encode())
            insert = f"insert into public.{table} ({columns[0]}) select {columns[0]} from clean_{table}"
            db.execute(insert.encode())


Plant = Callable[[Books], None]


def sql(statement: str, *users: str) -> Plant:
    """Damages rows. `users` name the users whose ids the statement takes."""
    return lambda books: books.sql(statement, *(getattr(books, name).id for name in users))


def swap_customers(books: Books) -> None:
    customers = [books.billing.customer_id(user) for user in (books.billed, books.other)]
    books.sql("update public.user_subscriptions set stripe_customer_id = null where user_id = %s", books.other.id)
    for user, customer in zip((books.billed, books.other), reversed(customers), strict=True):
        books.sql("update public.user_subscriptions set stripe_customer_id = %s where user_id = %s", customer, user.id)


def second_item(metadata: Callable[[Books], str]) -> Plant:
    def plant(books: Books) -> None:
        with dropped_events(books.billing):
            customer = books.billing.customer_id(books.billed)
            params = {"metadata[overage_invoice_item]": metadata(books), "currency": "usd", "amount": 5}
            stripe_post(books.billing, "invoiceitems", customer=customer, **params)

    return plant


def misplaced_item(books: Books) -> None:
    """The item of one user on another's customer, otherwise as it was billed."""
    (row,), billing = books.billing.overage_items(books.billed), books.billing
    with dropped_events(billing):
        item = stripe_post(
            billing,
            "invoiceitems",
            customer=billing.customer_id(books.other),
            currency="usd",
            amount=row["amount_cents"],
            discountable="false",
            **{"metadata[overage_invoice_item]": str(uuid.uuid4())},
        )
    our_id = item["metadata"]["overage_invoice_item"]
    books.sql(
        "insert into public.overage_invoice_items (id, user_id, period_start, queries, unit_price_usd, target,"
        " stripe_invoice_item_id)"
        " select %s, user_id, period_start - interval '1 year', queries, unit_price_usd, '{}', %s"
        " from public.overage_invoice_items where id = %s",
        our_id,
        item["id"],
        row["id"],
    )


def item_of(books: Books) -> str:
    return str(books.billing.overage_items(books.billed)[0]["id"])


# Every sale of the books is older than what is listed then.
LATER = timedelta(days=90)
SUBSCRIPTIONS = "update public.user_subscriptions set"
PLANTED: dict[str, tuple[Plant, set[str]]] = {
    "a credit row without a pack": (
        sql("update public.usage_logs set credit_pack_id = null where funding = 'credit' and user_id = %s", "free"),
        {"I3"}),
    "two credit rows on each other's pack": (
        sql("update public.usage_logs u set credit_pack_id = (select o.credit_pack_id from public.usage_logs o where"
            " o.funding = 'credit' and o.user_id <> u.user_id limit 1) where u.funding = 'credit'"),
        {"I3"}),
    "overage at another price": (
        sql("update public.usage_logs set overage_charge = 0.03 where was_overage and user_id = %s and id = (select"
            " min(id::text)::uuid from public.usage_logs where was_overage)", "billed"),
        {"price", "I4", "I7"}),
    "overage and its bill at another price": (
        sql("with i as (update public.overage_invoice_items set unit_price_usd = 0.0251 where user_id = %s"
            " returning id) update public.usage_logs u set overage_charge = 0.0251 from i"
            " where u.invoice_item_id = i.id", "billed"),
        {"price", "I4"}),
    "a payment without a pack": (
        sql("delete from public.credit_packs where user_id = %s", "billed"), {"pack missing"}),
    "a pack without a payment": (
        sql("insert into public.credit_packs (user_id, credits_purchased, credits_remaining, price_paid)"
            " values (%s, 50, 50, 5)", "other"),
        {"pack unpaid"}),
    "a pack of a session that does not exist": (
        sql("insert into public.credit_packs (user_id, credits_purchased, credits_remaining, price_paid,"
            " stripe_checkout_session_id) values (%s, 50, 50, 5, 'cs_none')", "other"),
        {"pack unpaid"}),
    "a pack of another size than was paid": (
        sql("update public.credit_packs set credits_purchased = 99, credits_remaining = 99 where user_id = %s",
            "billed"),
        {"pack differs"}),
    "a pack without a payment, dated back": (
        sql("insert into public.credit_packs (created_at, user_id, credits_purchased, credits_remaining, price_paid)"
            " values ('2020-01-01Z', %s, 50, 50, 5)", "other"),
        {"pack unpaid"}),
    "a pack of a session that does not exist, dated back": (
        sql("insert into public.credit_packs (created_at, user_id, credits_purchased, credits_remaining, price_paid,"
            " stripe_checkout_session_id) values ('2020-01-01Z', %s, 50, 50, 5, 'cs_none')", "other"),
        {"pack unpaid"}),
    "a paid pack expired by hand": (
        sql("update public.credit_packs set lapsed_at = now(), credits_expired = credits_remaining,"
            " credits_remaining = 0 where user_id = %s", "billed"),
        {"I3"}),
    "a paid pack that expires": (
        sql("update public.credit_packs set expires_at = now() + interval '1 day' where user_id = %s", "billed"),
        {"pack differs"}),
    "a grant that expires earlier": (
        sql("update public.credit_packs set expires_at = now() + interval '1 day' where user_id = %s", "gifted"),
        {"operator"}),
    "a subscription on a free user": (
        sql(f"{SUBSCRIPTIONS} tier = 'free', stripe_subscription_id = null, current_period_start = null,"
            " current_period_end = null where user_id = %s", "other"),
        {"plan differs"}),
    "a lower plan than is paid": (sql(f"{SUBSCRIPTIONS} tier = 'basic' where user_id = %s", "other"), {"plan differs"}),
    "pro without a subscription": (sql(f"{SUBSCRIPTIONS} tier = 'pro' where user_id = %s", "former"), {"plan differs"}),
    "a subscription without a user": (
        sql(f"{SUBSCRIPTIONS} tier = 'free', stripe_subscription_id = null, stripe_customer_id = null,"
            " current_period_start = null, current_period_end = null where user_id = %s", "other"),
        {"plan unknown", "customer missing"}),
    "a better plan than the subscription's": (
        sql(f"{SUBSCRIPTIONS} tier = 'pro' where user_id = %s", "billed"), {"plan differs"}),
    "a better plan until the subscription's follows": (
        sql(f"{SUBSCRIPTIONS} tier = 'pro', next_tier = 'basic' where user_id = %s", "billed"), {"plan differs"}),
    "a better plan that follows": (
        sql(f"{SUBSCRIPTIONS} next_tier = 'pro' where user_id = %s", "billed"), {"plan differs"}),
    "a period that does not end": (
        sql(f"{SUBSCRIPTIONS} current_period_end = '2030-01-01Z' where user_id = %s", "billed"), {"plan differs"}),
    "a canceled plan that does not end": (
        sql(f"{SUBSCRIPTIONS} status = 'canceled', current_period_end = '2030-01-01Z' where user_id = %s", "billed"),
        {"plan differs"}),
    "an invoice to pay on another site": (
        sql(f"{SUBSCRIPTIONS} open_invoice_url = 'https://evil.example/pay' where user_id = %s", "billed"),
        {"plan differs"}),
    "pay as you go without a pack or a subscription": (
        sql(f"{SUBSCRIPTIONS} tier = 'usage_only' where user_id = %s", "former"), {"plan differs"}),
    "pay as you go of a user without a customer": (
        lambda books: books.sql(f"{SUBSCRIPTIONS} tier = 'usage_only' where user_id = %s", books.new_user()),
        {"plan differs"}),
    "a limit of overage beyond what was paid": (
        sql(f"{SUBSCRIPTIONS} overage_limit = 1000 where user_id = %s", "other"), {"operator"}),
    "two users' customers swapped": (swap_customers, {"customer differs"}),
    "a conversation's tokens off": (
        sql("update public.conversations set total_tokens = total_tokens + 1 where user_id = %s", "other"), {"I4"}),
    "a conversation's messages off": (
        sql("update public.conversations set message_count = message_count + 1 where user_id = %s", "other"), {"I4"}),
    "a limit that no operator set": (
        sql(f"{SUBSCRIPTIONS} daily_quota = 60 where user_id = %s", "gifted"), {"operator"}),
    "a block that was lifted by hand": (
        sql(f"{SUBSCRIPTIONS} blocked_at = null, blocked_reason = null where user_id = %s", "former"), {"operator"}),
    "a grant that is not in the books": (
        sql("delete from public.credit_packs where user_id = %s", "gifted"), {"operator"}),
    "a counter off": (sql(f"{SUBSCRIPTIONS} quota_used = quota_used + 1 where user_id = %s", "other"), {"I4"}),
    "a hold too many": (
        sql("insert into public.query_holds (id, user_id, request_id, tier, funding, query_date, period_start,"
            " quota_used, quota_limit, overage_used, provider, model, expires_at) select gen_random_uuid(), user_id,"
            " 'planted', tier, 'included', quota_date, overage_period_start, 0, 40, 0, 'anthropic', 'm',"
            " now() + interval '1 day' from public.user_subscriptions where user_id = %s", "other"),
        {"I4"}),
    "an invoice item without ledger rows": (
        sql("update public.usage_logs set invoice_item_id = null where user_id = %s", "billed"),
        {"I4", "I7", "overdue"}),
    "a payment of overage that is not counted": (
        sql("with i as (update public.overage_invoice_items set settled_as = 'returned' where user_id = %s)"
            f" {SUBSCRIPTIONS} unpaid_overage_usd = paid_overage_usd, paid_overage_usd = 0 where user_id = %s",
            "billed", "billed"),
        {"overage payment"}),
    "overage that is paid at Stripe and owed here": (
        sql("with i as (update public.overage_invoice_items set settled_as = null where user_id = %s)"
            f" {SUBSCRIPTIONS} unpaid_overage_usd = paid_overage_usd, paid_overage_usd = 0 where user_id = %s",
            "billed", "billed"),
        {"overage payment"}),
    "overage that is paid at Stripe and forgiven here": (
        sql("with i as (update public.overage_invoice_items set settled_as = 'void' where user_id = %s)"
            f" {SUBSCRIPTIONS} paid_overage_usd = 0 where user_id = %s", "billed", "billed"),
        {"overage payment"}),
    "an invoice item without its row": (second_item(lambda books: str(uuid.uuid4())), {"item unknown"}),
    "an invoice item on another user's customer": (misplaced_item, {"item misplaced", "I7"}),
    "two invoice items for one row": (second_item(item_of), {"item doubled"}),
}  # fmt: skip


def test_clean_books_have_no_findings(books: Books) -> None:
    assert books.findings() == []
    assert books.findings(LATER) == []


@pytest.mark.usefixtures("restored")
@pytest.mark.parametrize("name", PLANTED)
def test_each_planted_difference_is_found(books: Books, name: str) -> None:
    plant, kinds = PLANTED[name]
    billing = books.billing
    ours = {row["stripe_invoice_item_id"] for row in billing.overage_items(books.billed)}
    plant(books)
    found = books.findings()
    assert {one["kind"] for one in found} == kinds
    assert all(one["what_to_do"] == KINDS[one["kind"]] for one in found)
    for item in stripe_get(billing, "invoiceitems", limit=100)["data"]:
        if item["id"] not in ours:
            with dropped_events(billing):
                billing.fake.http.delete(f"/v1/invoiceitems/{item['id']}", headers=STRIPE_HEADERS).raise_for_status()


@pytest.mark.usefixtures("restored")
@pytest.mark.parametrize("name", ["a pack of another size than was paid", "a payment without a pack"])
def test_a_difference_of_an_old_sale_is_found(books: Books, name: str) -> None:
    plant, kinds = PLANTED[name]
    plant(books)
    assert {one["kind"] for one in books.findings(LATER)} == kinds


def test_wrong_customers_are_found_at_any_age(books: Books) -> None:
    billing = books.billing
    first, second = (billing.new_user() for _ in range(2))
    for user in (first, second):
        billing.buy(user, pack="pack_100")
    assert set(billing.deliver()) == {200}
    customers = [billing.customer_id(user) for user in (first, second)]

    def found(*linked: str | None) -> list[tuple[str, str]]:
        for customers_now in ((None, None), linked):
            for user, customer in zip((first, second), customers_now, strict=True):
                books.sql(f"{SUBSCRIPTIONS} stripe_customer_id = %s where user_id = %s", customer, user.id)
        return sorted((one["kind"], one["user_id"]) for one in books.findings(LATER))

    assert found(*customers) == []
    assert found(*reversed(customers)) == sorted(("customer differs", user.id) for user in (first, second))
    assert found("cus_none", customers[1]) == [("customer missing", first.id)]
    assert found(None, customers[1]) == [("customer missing", first.id)]
    assert found(*customers) == []


def lost_events(billing: BillingStack, act: Callable[[], Any]) -> list[str]:
    """The ids of the events of an act at Stripe, which never arrived."""
    before = {event["id"] for event in billing.fake.http.get("/_events").json()}
    with dropped_events(billing):
        act()
    return [event["id"] for event in billing.fake.http.get("/_events").json() if event["id"] not in before]


def test_a_lost_dispute_of_a_plan_is_found_until_applied(books: Books) -> None:
    billing = books.billing
    user = billing.new_user()
    billing.buy(user, plan="basic")
    assert set(billing.deliver()) == {200}
    (charge,) = stripe_get(billing, "charges", customer=billing.customer_id(user))["data"]
    lost = lost_events(billing, lambda: billing.fake.control("/_disputes", charge=charge["id"], status="lost"))
    assert [(one["kind"], one["user_id"]) for one in books.findings()] == [("plan disputed", user.id)]
    assert set(billing.deliver(*lost)) == {200}
    assert set(billing.deliver()) == {200}
    assert books.findings() == []


def test_several_plans_of_a_user_are_found_until_one_is_left(books: Books) -> None:
    billing = books.billing
    user = billing.new_user()
    billing.buy(user, plan="basic")
    assert set(billing.deliver()) == {200}
    customer = billing.customer_id(user)
    (first,) = stripe_get(billing, "subscriptions", customer=customer)["data"]
    card, price = first["default_payment_method"], {"items[0][price]": price_id(billing, "plan_pro")}
    second = stripe_post(billing, "subscriptions", customer=customer, default_payment_method=card, **price)["id"]
    assert set(billing.deliver()) == {200}
    assert [(one["kind"], one["user_id"]) for one in books.findings()] == [("plan doubled", user.id)]
    for subscription in (second, first["id"]):
        billing.fake.v1.subscriptions.cancel(subscription)
        assert set(billing.deliver()) == {200}
        assert books.findings() == []


@pytest.mark.parametrize(("paid", "subscribed"), [("pro", "basic"), ("basic", "pro")])
def test_a_wrong_plan_after_an_unbilled_change_is_found(books: Books, paid: str, subscribed: str) -> None:
    billing = books.billing
    user = billing.new_user()
    billing.buy(user, plan=paid)
    assert set(billing.deliver()) == {200}
    change_plan(billing, user, subscribed, proration_behavior="none")
    assert books.findings() == []
    books.sql(f"{SUBSCRIPTIONS} tier = %s, next_tier = null where user_id = %s", subscribed, user.id)
    assert [(one["kind"], one["user_id"]) for one in books.findings()] == [("plan differs", user.id)]
    billing.fake.v1.subscriptions.cancel(billing.subscription_row(user)["stripe_subscription_id"])
    assert set(billing.deliver()) == {200}


@pytest.mark.parametrize("way", ["refund", "dispute"])
def test_a_lost_refund_or_dispute_is_found_until_applied(books: Books, way: str) -> None:
    billing = books.billing
    (pack,) = billing.packs(books.billed)
    intent = pack["stripe_payment_intent_id"]

    def act() -> None:
        if way == "refund":
            stripe_post(billing, "refunds", payment_intent=intent, amount=100)
        else:
            billing.fake.control("/_disputes", charge=intent)

    lost = lost_events(billing, act)
    assert [(one["kind"], one["user_id"]) for one in books.findings()] == [("pack refund", books.billed.id)]
    assert set(billing.deliver(*lost)) == {200}
    assert books.findings() == []


def test_a_lost_refund_of_overage_is_found_until_applied(books: Books) -> None:
    billing = books.billing
    charge = stripe_get(billing, "charges", customer=billing.customer_id(books.billed))["data"][0]
    lost = lost_events(billing, lambda: stripe_post(billing, "refunds", charge=charge["id"]))
    # The same payment paid a month of the plan.
    found = {(one["kind"], one["user_id"]) for one in books.findings()}
    assert found == {("overage payment", books.billed.id), ("plan differs", books.billed.id)}
    assert set(billing.deliver(*lost)) == {200}
    assert books.findings() == []
