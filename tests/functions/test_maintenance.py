"""The jobs that compare, report, export and delete: against a Stripe stand-in and the stack's database, by their users'
commands and events."""

import asyncio
import json
import os
import re
import subprocess
import sys
import time
import uuid
from collections.abc import Callable, Collection
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, date, datetime
from decimal import Decimal
from pathlib import Path
from typing import Any
from unittest import mock

import pytest

from functions.common.database import Database
from functions.common.errors import Forbidden
from functions.common.observe import Observer
from functions.common.settings import SupabaseSettings, load
from functions.maintenance.delete_user import delete_user
from functions.maintenance.handler import JOBS, handler
from functions.maintenance.margin_report import margin_report, month_before
from functions.maintenance.reconcile import KINDS, reconcile
from infra.local.postgres import ROOT
from tests.billing_kit import AS_US, DAY, Town, at_stripe, change, environment, log_of, with_account
from tests.conftest import Person
from tests.sql.metering import USAGE, admit, key, settle, value
from tests.sql.test_settle_query import turn

FULL = bool(os.environ.get("PROVE"))
ROWS = 1_000_000 if FULL else 20_000

Json = dict[str, Any]
Observer("maintenance")  # whose lines log_of takes


def quietly(line: str) -> None:
    """Progress that nobody reads."""


def run(town: Town, job: Callable[..., Any], *arguments: Any, **options: Any) -> Any:
    """A job with the database and the account at Stripe."""

    async def both(stripe: Any) -> Any:
        database = Database(load(SupabaseSettings, environment(town.stack, town.fake.url)))
        try:
            return await job(database, stripe, *arguments, **options)
        finally:
            await database.close()

    return asyncio.run(with_account(town, both))


def command(town: Town, *arguments: str) -> "subprocess.CompletedProcess[str]":
    """`python -m functions.maintenance …`."""
    return subprocess.run(
        [sys.executable, "-m", "functions.maintenance", *arguments],
        env={**os.environ, **environment(town.stack, town.fake.url)},
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )


@pytest.fixture
def billed(town: Town) -> Person:
    """Somebody who has subscribed, used forty-one queries of overage, was billed for them, and bought a pack."""
    user = town.person()
    town.buy(user, plan="basic")
    town.buy(user, pack="pack_100")
    assert set(town.deliver()) == {200}
    start = int(town.row(user)["current_period_start"].timestamp())
    town.overage(user, 41, start + DAY, start)
    town.db.execute(
        "update public.user_subscriptions set current_overage_amount = 41 * 0.025, overage_period_start = %s"
        " where user_id = %s",
        (datetime.fromtimestamp(start, UTC), user.id),
    )
    town.happen(32 * DAY)
    assert len(town.items(user)) == 1
    return user


def today(town: Town) -> datetime:
    """Stripe's clock here, or ours: whichever is behind, so that what is compared is recent by both."""
    return min(datetime.fromtimestamp(town.fake.now, UTC), datetime.now(UTC))


def findings(town: Town, user: Person, subjects: Collection[str] = (), **options: Any) -> set[str]:
    """What reconcile finds of a user, or of nobody's subjects."""
    result = run(town, reconcile, today(town), quietly, **options)
    assert result["by_kind"].keys() <= KINDS.keys()
    return {one["kind"] for one in result["findings"] if one["user_id"] == user.id or one["subject"] in subjects}


# reconcile ---------------------------------------------------------------------------------------------------------


def test_what_was_billed_as_it_should_adds_up(town: Town, billed: Person) -> None:
    assert findings(town, billed) == set()


def doubled(town: Town, user: Person) -> None:
    (item,) = town.items(user)
    told = {"metadata[overage_invoice_item]": str(item["id"]), "currency": "usd", "amount": item["amount_cents"]}
    change(town, "invoiceitems", customer=town.customer(user), **told)


def sql(statement: str) -> Callable[[Town, Person], None]:
    """What somebody does to a user's rows."""
    return lambda town, user: (town.db.execute(statement.encode(), (user.id,)), None)[1]


@pytest.mark.parametrize(
    ("damage", "kinds"),
    [
        (doubled, {"item doubled"}),
        (sql("update public.overage_invoice_items set stripe_invoice_item_id = 'ii_gone' where user_id = %s"),
         {"item differs"}),
        (sql("update public.overage_invoice_items set stripe_invoice_id = 'in_other' where user_id = %s"),
         {"item differs"}),
        # Another price and row: what Stripe has is then nobody's, and what we have is not at Stripe.
        (sql("update public.overage_invoice_items set queries = 40 where user_id = %s"), {"item differs", "I7"}),
        (sql("delete from public.usage_logs where ctid = (select min(ctid) from public.usage_logs where user_id = %s)"),
         {"I4", "I7"}),
        (sql("update public.credit_packs set credits_purchased = 99, credits_remaining = 99 where user_id = %s"),
         {"pack differs"}),
        (sql("update public.credit_packs set credits_used = 1, credits_remaining = 99 where user_id = %s"), {"I3"}),
        (sql("delete from public.credit_packs where user_id = %s"), {"pack missing"}),
        (sql("update public.user_subscriptions set quota_used = quota_used + 1 where user_id = %s"), {"I4"}),
    ],
)  # fmt: skip
def test_every_planted_difference_is_found(
    town: Town, billed: Person, damage: Callable[[Town, Person], None], kinds: set[str]
) -> None:
    damage(town, billed)
    assert findings(town, billed) == kinds


def test_an_item_that_we_do_not_have_is_found(town: Town) -> None:
    user, our_id = town.person(), str(uuid.uuid4())
    town.buy(user, pack="pack_100")
    assert set(town.deliver()) == {200}
    told = {"metadata[overage_invoice_item]": our_id, "currency": "usd", "amount": 5}
    item = change(town, "invoiceitems", customer=town.customer(user), **told)
    unknown = [one for one in run(town, reconcile, today(town), quietly)["findings"] if one["subject"] == our_id]
    assert [(one["kind"], one["found"]) for one in unknown] == [("item unknown", item["id"])]
    town.fake.http.delete(f"/v1/invoiceitems/{item['id']}", headers=AS_US).raise_for_status()


def test_an_item_that_somebody_deleted_at_stripe_is_found(town: Town) -> None:
    user = town.person()
    town.buy(user, plan="basic")
    assert set(town.deliver()) == {200}
    start = int(town.row(user)["current_period_start"].timestamp())
    town.overage(user, 41, start + DAY, start)
    town.fake.advance(32 * DAY)
    town.fake.advance(4 * DAY)  # the draft is final before we hear of it, so the item waits for the next invoice
    assert set(town.deliver()) == {200}
    (item,) = town.items(user)
    assert findings(town, user) <= {"I4"}
    town.fake.http.delete(f"/v1/invoiceitems/{item['stripe_invoice_item_id']}", headers=AS_US).raise_for_status()
    assert findings(town, user) >= {"item missing"}


def among_many(town: Town, users: list[Person], rows: int) -> None:
    """So many queries of others, and of the users themselves: of no day or period that a counter counts."""
    town.db.execute(
        "insert into public.usage_logs (id, created_at, user_id, request_id, tier, funding, outcome, query_date,"
        " query_timestamp, period_start, quota_used, quota_limit, overage_used, tokens_input, tokens_output, cost_usd,"
        " provider, model, used_byo_key, counted_against_quota, was_overage)"
        " select gen_random_uuid(), at, (%(users)s::uuid[])[n %% %(count)s + 1], 'many ' || n, 'pro', 'included',"
        " 'answered', at::date, at, date_trunc('month', at), 1, 40, 0, 100, 20, 0.000123, 'anthropic', 'm', false,"
        " true, false from generate_series(1, %(rows)s) n,"
        " lateral (select '2025-12-31Z'::timestamptz - n / %(count)s / 20 * interval '1 day' as at) t",
        {"users": [user.id for user in users], "count": len(users), "rows": rows},
    )
    town.db.execute("analyze public.usage_logs")


@pytest.mark.prove
def test_every_difference_is_found_among_many_queries(town: Town, capfd: pytest.CaptureFixture[str]) -> None:
    others = [town.person("pro") for _ in range(200)]
    lost, off, charged, missing, doubling, short = six = [town.person() for _ in range(6)]
    for user in six:
        town.buy(user, plan="basic")
    town.buy(short, pack="pack_100")
    assert set(town.deliver()) == {200}
    for user in (charged, missing, doubling):
        start = int(town.row(user)["current_period_start"].timestamp())
        town.overage(user, 41, start + DAY, start)
    town.fake.advance(36 * DAY)  # the drafts are final before we hear of them, so the items wait for the next invoice
    assert set(town.deliver()) == {200}
    town.db.execute(
        "update public.user_subscriptions s set current_overage_amount = 1.025, overage_period_start = u.period_start"
        " from public.usage_logs u where u.user_id = s.user_id and u.was_overage and s.user_id = any(%s)",
        ([user.id for user in (charged, missing, doubling)],),
    )
    among_many(town, [*others, *six], ROWS)
    assert {kind for user in six for kind in findings(town, user)} == set()

    admit(town.db, lost.id)
    town.db.execute(
        "update public.query_holds set expires_at = now() - interval '2 hours' where user_id = %s", (lost.id,)
    )
    town.db.execute("update public.user_subscriptions set quota_used = quota_used + 1 where user_id = %s", (off.id,))
    town.db.execute(
        "insert into public.usage_logs (id, created_at, user_id, request_id, tier, funding, outcome, query_date,"
        " query_timestamp, period_start, quota_used, quota_limit, overage_used, provider, model, used_byo_key,"
        " counted_against_quota, was_overage, overage_charge, invoice_item_id)"
        " select gen_random_uuid(), created_at, user_id, request_id || ' again', tier, funding, outcome, query_date,"
        " query_timestamp, period_start, quota_used, quota_limit, overage_used, provider, model, used_byo_key,"
        " counted_against_quota, was_overage, overage_charge, invoice_item_id"
        " from public.usage_logs where user_id = %s and was_overage limit 1",
        (charged.id,),
    )
    (item,) = town.items(missing)
    town.fake.http.delete(f"/v1/invoiceitems/{item['stripe_invoice_item_id']}", headers=AS_US).raise_for_status()
    doubled(town, doubling)
    town.db.execute(
        "update public.credit_packs set credits_purchased = 99, credits_remaining = 99 where user_id = %s", (short.id,)
    )
    began = time.monotonic()
    assert [findings(town, user) for user in six[:1]] == [{"I5"}]
    took = time.monotonic() - began
    assert [findings(town, user) for user in six[1:]] == [
        {"I4"}, {"I4", "I7"}, {"item missing"}, {"item doubled"}, {"pack differs"},
    ]  # fmt: skip
    if FULL:
        with capfd.disabled():
            sys.stderr.write(f"reconcile over {ROWS:,} queries: {took:.1f} s\n")
    town.db.execute("delete from auth.users where id = any(%s)", ([one.id for one in others],))


def test_fix_mends_counters_and_never_money(town: Town, billed: Person) -> None:
    columns = "quota_used = 3, lifetime_used = 7, current_overage_amount = 9, uses_byo_key = true"
    town.db.execute(f"update public.user_subscriptions set {columns} where user_id = %s", (billed.id,))
    town.db.execute(
        "update public.credit_packs set credits_used = 1, credits_remaining = 99 where user_id = %s", (billed.id,)
    )
    town.db.execute("update public.overage_invoice_items set queries = 40 where user_id = %s", (billed.id,))
    assert findings(town, billed) == {"I3", "I4", "I7", "item differs"}
    assert findings(town, billed, fix=True) == {"I3", "I7", "item differs"}
    row, (pack,), (item,) = town.row(billed), town.packs(billed), town.items(billed)
    assert [row[name] for name in ("quota_used", "lifetime_used", "uses_byo_key")] == [0, 0, False]
    assert row["current_overage_amount"] in (Decimal(0), Decimal("1.025"))  # of the period that the row counts
    assert (pack["credits_used"], item["queries"]) == (1, 40)


def test_the_report_says_what_to_do_and_the_command_fails_on_a_difference(town: Town, billed: Person) -> None:
    town.db.execute("update public.user_subscriptions set quota_used = quota_used + 1 where user_id = %s", (billed.id,))
    done = command(town, "reconcile")
    assert done.returncode == 1
    lines = done.stdout.splitlines()
    assert any(
        re.match(r" +\d+  I4: a counter that differs from the ledger: `reconcile --fix` corrects it", line)
        for line in lines
    )
    assert any(f"(user {billed.id})" in line for line in lines)
    assert json.loads(lines[-1])["differences"] >= 1
    assert json.loads(command(town, "reconcile", "--fix").stdout.splitlines()[-1])["repaired"] >= 1
    assert town.row(billed)["quota_used"] == 0


# margin-report -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("day", "month"), [("2026-01-01", "2025-12-01"), ("2026-03-31", "2026-02-01"), ("2026-12-31", "2026-11-01")]
)
def test_the_month_before(day: str, month: str) -> None:
    assert month_before(date.fromisoformat(day)) == date.fromisoformat(month)


def test_a_month_is_reported_by_tier_and_model(town: Town) -> None:
    """In a year of its own, because the stack's ledger is everybody's."""
    month = date(2001 + uuid.uuid4().int % 900, 2, 1)
    user = town.person()
    town.buy(user, pack="pack_100")
    assert set(town.deliver()) == {200}
    town.overage(user, 4, int(datetime(month.year, 2, 28, 23, 59, 59, tzinfo=UTC).timestamp()), 1)
    town.overage(user, 8, int(datetime(month.year, 3, 1, tzinfo=UTC).timestamp()), 1)
    spent = "update public.usage_logs set cost_usd = 0.001, model = 'm1' where user_id = %s"
    town.db.execute(spent, (user.id,))
    with town.db.transaction():
        town.db.execute("select set_config('metering.now', %s, true)", (f"{month.year}-02-01T00:00Z",))
        asked = admit(town.db, user.id)
        assert asked["funding"] == "credit"
        settle(town.db, asked["hold_id"])
    own = "update public.usage_logs set used_byo_key = true where user_id = %s and funding = 'byok'"
    town.db.execute(own, (user.id,))
    result = run(town, margin_report, month)
    (overage, credit) = sorted(result["rows"], key=lambda row: row["model"] != "m1")
    assert (overage["tier"], overage["queries"], overage["overage"], overage["cost"], overage["margin"]) == (
        "usage_only", 4, "0.100000", "0.004000", "0.096000",
    )  # fmt: skip
    assert (credit["queries"], credit["credits"], credit["cost"]) == (1, "0.022500", "0.000123")
    assert (result["queries"], result["margin_usd"]) == (5, "0.118377")
    assert result["report"][0] == f"February {month.year}, UTC, US dollars"
    # Who has left stays in the books.
    town.db.execute("delete from auth.users where id = %s", (user.id,))
    after = run(town, margin_report, month)
    assert (after["rows"], after["written_off_usd"]) == (result["rows"], "0.100000")


def test_plan_fees_are_what_was_paid_at_stripe(town: Town) -> None:
    month = datetime.fromtimestamp(town.fake.now, UTC).date().replace(day=1)

    def fees() -> dict[str, Decimal]:
        rows = run(town, margin_report, month)["rows"]
        return {row["tier"]: Decimal(row["fees"]) for row in rows if row["model"] == "plan fees"}

    before = fees()
    for plan in ("basic", "pro", "usage_only"):
        town.buy(town.person(), plan=plan)
    after = fees()
    assert {tier: paid - before.get(tier, 0) for tier, paid in after.items()} == {
        "basic": Decimal("9.99"),
        "pro": Decimal("29.99"),
    }
    printed = command(town, "margin-report", "--month", f"{month:%Y-%m}").stdout.splitlines()
    assert printed[0] == f"{month:%B %Y}, UTC, US dollars"
    assert any(line.startswith("basic       plan fees") for line in printed)


# export-user -------------------------------------------------------------------------------------------------------


def full_life(town: Town) -> Person:
    """Somebody who subscribed, bought a pack, brought a key, talked, was billed, was refused, and talks right now."""
    user = town.person()
    town.buy(user, plan="basic")
    town.buy(user, pack="pack_100")
    assert set(town.deliver()) == {200}
    start = int(town.row(user)["current_period_start"].timestamp())
    town.overage(user, 41, start + DAY, start)
    town.happen(32 * DAY)
    for chat in ("first", "second"):
        for question in ("q1", "q2"):
            settle(town.db, admit(town.db, user.id)["hold_id"], turn=turn(chat, question))
    key(town.db, user.id, "openai")
    admit(town.db, user.id)
    return user


def test_an_export_is_everything_and_nothing_secret(town: Town, tmp_path: Path) -> None:
    user, file = full_life(town), tmp_path / "me.json"
    done = command(town, "export-user", "--user", user.id, "--to", str(file))
    assert done.returncode == 0, done.stderr
    assert file.stat().st_mode & 0o777 == 0o600
    assert [one.name for one in tmp_path.iterdir()] == ["me.json"]
    told = json.loads(file.read_text(), parse_float=lambda text: pytest.fail(f"{text} is a float"))
    assert json.loads(done.stdout) == {part: len(rows) for part, rows in told.items()}
    assert told["account"][0]["email"] == user.email
    assert told["subscription"][0]["tier"] == "basic"
    assert [(len(chat["messages"]), chat["message_count"]) for chat in told["conversations"]] == [(4, 4), (4, 4)]
    assert [message["position"] for message in told["conversations"][0]["messages"]] == [1, 2, 3, 4]
    assert len(told["usage"]) == 45
    assert {row["overage_charge"] for row in told["usage"]} == {"0.025000", "0.000000"}
    assert told["bills"][0]["amount_usd"] == "1.025000"
    assert (told["packs"][0]["price_paid"], len(told["keys"]), len(told["running"])) == ("2.250000", 1, 1)
    assert not re.search("encrypted|encryption|password|token_hash", file.read_text())
    # Whatever has rows of theirs is in it.
    tables = town.db.execute(
        "select c.relname from pg_class c join pg_attribute a on a.attrelid = c.oid and a.attname = 'user_id'"
        " where c.relnamespace = 'public'::regnamespace and c.relkind = 'r'"
    ).fetchall()
    parts = {"conversations": "conversations", "credit_packs": "packs", "overage_invoice_items": "bills",
             "query_holds": "running", "query_refusals": "refusals", "usage_logs": "usage", "user_api_keys": "keys",
             "user_subscriptions": "subscription"}  # fmt: skip
    assert {row["relname"] for row in tables} == parts.keys()
    for table, part in parts.items():
        rows = value(town.db, f"select count(*) from public.{table} where user_id = %s", user.id)
        assert len(told[part]) == rows, table


def test_a_long_export_comes_in_pages(town: Town, tmp_path: Path) -> None:
    user = town.person("basic")
    town.overage(user, 2500, town.fake.now, town.fake.now)
    for chat in range(15):
        settle(town.db, admit(town.db, user.id)["hold_id"], turn=turn(str(chat), "q"))
    file = tmp_path / "long.json"
    assert command(town, "export-user", "--user", user.id, "--to", str(file)).returncode == 0
    told = json.loads(file.read_text())
    assert len({row["id"] for row in told["usage"]}) == 2515
    assert len({chat["id"] for chat in told["conversations"]}) == 15


def test_nobody_is_exported_to_nothing(town: Town, tmp_path: Path) -> None:
    done = command(town, "export-user", "--user", str(uuid.uuid4()), "--to", str(tmp_path / "x.json"))
    assert (done.returncode, done.stderr) == (1, "export-user: There is no such user.\n")
    assert list(tmp_path.iterdir()) == []


# delete-user -------------------------------------------------------------------------------------------------------


def rows_that_name(town: Town, user: Person) -> list[str]:
    """The tables in which a user's id, address or customer stands anywhere."""
    tables = town.db.execute(
        "select c.oid::regclass::text as name from pg_class c where c.relkind = 'r'"
        " and c.relnamespace in ('public'::regnamespace, 'private'::regnamespace, 'auth'::regnamespace)"
    ).fetchall()
    return [
        row["name"]
        for row in tables
        if value(town.db, f"select count(*) from {row['name']} t where t::text ~ %s", f"{user.id}|{user.email}")
    ]


def test_who_leaves_is_billed_and_leaves_nothing_but_sums(town: Town) -> None:
    user = full_life(town)
    start = int(town.row(user)["current_period_start"].timestamp())
    town.overage(user, 40, start + 60, start)
    customer, subscription = town.customer(user), town.row(user)["stripe_subscription_id"]
    asked = town.db.execute("select id from public.usage_logs where user_id = %s", (user.id,)).fetchall()
    items = [row["id"] for row in town.items(user)]
    assert len(rows_that_name(town, user)) >= 8
    done = command(town, "delete-user", "--user", user.id)
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout) == {"subscriptions": 1, "items": 1, "conversations": 2, "users": 1}
    assert at_stripe(town, f"subscriptions/{subscription}")["status"] == "canceled"
    (last,) = at_stripe(town, "invoices", customer=customer, limit=1)["data"]
    assert (last["total"], last["status"] != "void") == (100, True)
    assert rows_that_name(town, user) == []
    kept = town.db.execute("select amount_cents from public.retained_invoice_items where id = any(%s)", (items,))
    assert [row["amount_cents"] for row in kept] == [102]
    assert (
        value(town.db, "select count(*) from public.usage_logs where id = any(%s)", [row["id"] for row in asked]) == 0
    )
    # Again is nothing, and what Stripe still says of them is nobody's.
    assert json.loads(command(town, "delete-user", "--user", user.id).stdout)["users"] == 0
    assert set(town.deliver()) <= {200}
    theirs = at_stripe(town, "invoiceitems", customer=customer)["data"]
    ids = {item["metadata"]["overage_invoice_item"] for item in theirs}
    assert (len(ids), findings(town, user, ids)) == (2, set())
    town.db.execute("delete from public.retained_invoice_items where id = any(%s)", (items,))
    assert findings(town, user, ids) == {"item unknown"}


def test_what_cannot_be_billed_has_to_be_written_off_by_name(town: Town) -> None:
    user = town.person("basic")
    town.overage(user, 3, town.fake.now, town.fake.now)
    with pytest.raises(Forbidden, match="owes overage"):
        run(town, delete_user, user.id, quietly)
    assert town.row(user)["tier"] == "basic"
    done = command(town, "delete-user", "--user", user.id)
    assert (done.returncode, done.stderr.splitlines()[-1]) == (
        1, "delete-user: The user owes overage that has not been billed.",
    )  # fmt: skip
    assert run(town, delete_user, user.id, quietly, write_off=True)["users"] == 1


def test_sql_alone_does_not_delete_who_would_go_on_paying(town: Town, billed: Person) -> None:
    with pytest.raises(Exception, match="has a subscription at Stripe") as caught:
        town.db.execute("select public.delete_user(%s, true)", (billed.id,))
    assert caught.value.sqlstate == "OWING"  # type: ignore[attr-defined]


# Commands and events -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "job", [name for name in JOBS if name not in ("rotate-keys", "export-user", "delete-user", "publish-catalog")]
)
def test_an_event_runs_a_job_logs_a_line_and_emits_a_metric(
    town: Town, capsys: pytest.CaptureFixture[str], job: str
) -> None:
    with mock.patch.dict(os.environ, environment(town.stack, town.fake.url)):
        with log_of("maintenance") as lines:
            counts = handler({"job": job}, None)
        (line,) = lines()
    assert (line["message"], line["job"]) == ("job", job)
    assert line["counts"] == {name: number for name, number in counts.items() if type(number) is int}
    (metric,) = [json.loads(text) for text in capsys.readouterr().out.splitlines() if "_aws" in text]
    assert (metric["job"], metric["JobsDone"], metric["service"]) == (job, [1.0], "maintenance")
    assert ("Differences" in metric) == (job == "reconcile")


@pytest.mark.parametrize(
    ("event", "sentence"),
    [
        ({}, "An event can start"),
        ({"job": "reconsile"}, "An event can start"),
        ({"job": "export-user", "user": str(uuid.uuid4()), "to": "me.json"}, "An event can start"),
        ({"job": "reconcile", "fixx": True}, "reconcile has no option fixx."),
        ({"job": "reconcile", "fix": "yes"}, "fix of reconcile must be true or false."),
        ({"job": "delete-user"}, "delete-user needs user."),
        ({"job": "delete-user", "user": "me"}, "A user id is a UUID."),
        ({"job": "margin-report", "month": "2026-13"}, "A month is written like"),
    ],
)
def test_an_event_that_asks_for_nothing_that_there_is_fails_and_counts(
    capsys: pytest.CaptureFixture[str], event: Json, sentence: str
) -> None:
    with log_of("maintenance") as lines, pytest.raises(ValueError, match=sentence):
        handler(event, None)
    assert [(line["message"], line["error_type"]) for line in lines()] == [("job failed", "ValueError")]
    (metric,) = [json.loads(text) for text in capsys.readouterr().out.splitlines() if "_aws" in text]
    assert metric["JobsFailed"] == [1.0]


def test_stripe_out_of_reach_is_a_sentence(town: Town) -> None:
    with mock.patch.dict(os.environ, {}):
        done = subprocess.run(
            [sys.executable, "-m", "functions.maintenance", "margin-report"],
            env={**os.environ, **environment(town.stack, "http://127.0.0.1:9")},
            cwd=ROOT, capture_output=True, text=True, timeout=120, check=False,
        )  # fmt: skip
    assert done.returncode == 1
    assert done.stderr.startswith("margin-report: ")
    assert "Traceback" not in done.stderr


def test_a_question_is_charged_or_not_when_its_asker_leaves(town: Town) -> None:
    """Nobody settles it any more, and nothing is charged: USAGE's cost is ours."""
    user = town.person("basic")
    hold = admit(town.db, user.id)["hold_id"]
    assert run(town, delete_user, user.id, quietly)["users"] == 1
    with pytest.raises(Exception, match=r"NOHLD|never admitted|no such"):
        settle(town.db, hold, usage=USAGE)


def test_two_cleanups_at_once_delete_each_conversation_once(town: Town) -> None:
    user = town.person("basic")
    town.db.execute(
        "insert into public.conversations (user_id, message_count, expires_at)"
        " select %s, 10, now() - interval '1 day' from generate_series(1, 600)",
        (user.id,),
    )
    town.db.execute(
        "insert into public.messages (conversation_id, position, role, content)"
        " select c.id, n, 'user', 'Who?' from public.conversations c, generate_series(1, 10) n where c.user_id = %s",
        (user.id,),
    )
    with ThreadPoolExecutor(2) as pool:
        ends = list(pool.map(lambda _: command(town, "cleanup-expired-conversations"), range(2)))
    assert [end.returncode for end in ends] == [0, 0]
    counts = [json.loads(end.stdout) for end in ends]
    assert sum(one["conversations"] for one in counts) >= 600
    assert [one["unfinished"] for one in counts] == [0, 0]
    assert value(town.db, "select count(*) from public.conversations where user_id = %s", user.id) == 0
