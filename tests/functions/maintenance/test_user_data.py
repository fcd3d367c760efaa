"""export-user and delete-user: completeness, secrets, billing and what remains."""

import json
import re
import uuid
from pathlib import Path

import pytest

from functions.common.errors import Forbidden
from tests.billing_kit import (
    BillingStack,
    stripe_get,
)
from tests.conftest import Person
from tests.functions.leaving_kit import tables_that_name, user_with_everything
from tests.functions.maintenance.kit import command, deletion, findings
from tests.sql.metering import admit, settle, turn, value

pytestmark = pytest.mark.usefixtures("empty_billing")  # counts and compares everything that there is


def test_an_export_is_complete_and_contains_no_secrets(billing: BillingStack, tmp_path: Path) -> None:
    user, file = user_with_everything(billing), tmp_path / "me.json"
    done = command(billing, "export-user", "--user", user.id, "--to", str(file))
    assert done.returncode == 0, done.stderr
    assert file.stat().st_mode & 0o777 == 0o600
    assert [one.name for one in tmp_path.iterdir()] == ["me.json"]
    exported = json.loads(file.read_text(), parse_float=lambda text: pytest.fail(f"{text} is a float"))
    assert json.loads(done.stdout) == {part: len(rows) for part, rows in exported.items()}
    assert exported["account"][0]["email"] == user.email
    assert exported["subscription"][0]["tier"] == "basic"
    assert [(len(chat["messages"]), chat["message_count"]) for chat in exported["conversations"]] == [(4, 4), (4, 4)]
    assert [message["position"] for message in exported["conversations"][0]["messages"]] == [1, 2, 3, 4]
    assert len(exported["usage"]) == 46
    assert {row["overage_charge"] for row in exported["usage"]} == {"0.025000", "0.000000"}
    assert exported["bills"][0]["amount_usd"] == "1.025000"
    assert (exported["packs"][0]["price_paid"], len(exported["keys"]), len(exported["running"])) == ("2.250000", 1, 1)
    assert not re.search("encrypted|encryption|password|token_hash", file.read_text())
    # Every table with rows of the user is in the export.
    tables = billing.db.execute(
        "select c.relname from pg_class c join pg_attribute a on a.attrelid = c.oid and a.attname = 'user_id'"
        " where c.relnamespace = 'public'::regnamespace and c.relkind = 'r'"
    ).fetchall()
    parts = {"conversations": "conversations", "credit_packs": "packs", "overage_invoice_items": "bills",
             "message_feedback": "feedback", "pending_turns": "pending", "query_holds": "running",
             "query_refusals": "refusals", "shared_conversations": "shared", "usage_logs": "usage",
             "usage_reversals": "reversals",
             "user_api_keys": "keys", "user_subscriptions": "subscription"}  # fmt: skip
    assert {row["relname"] for row in tables} == parts.keys()
    assert [row["action"] for row in exported["operator_actions"]] == ["grant"]
    for table, part in parts.items():
        rows = value(billing.db, f"select count(*) from public.{table} where user_id = %s", user.id)
        assert len(exported[part]) == rows, table


def test_a_long_export_is_read_in_pages(billing: BillingStack, tmp_path: Path) -> None:
    user = billing.new_user("basic")
    billing.add_overage(user, 2500, billing.fake.now, billing.fake.now)
    for chat in range(15):
        settle(billing.db, admit(billing.db, user.id)["hold_id"], turn=turn(str(chat), "q"))
    file = tmp_path / "long.json"
    assert command(billing, "export-user", "--user", user.id, "--to", str(file)).returncode == 0
    exported = json.loads(file.read_text())
    assert len({row["id"] for row in exported["usage"]}) == 2515
    assert len({chat["id"] for chat in exported["conversations"]}) == 15


def test_an_unknown_user_exports_nothing(billing: BillingStack, tmp_path: Path) -> None:
    done = command(billing, "export-user", "--user", str(uuid.uuid4()), "--to", str(tmp_path / "x.json"))
    assert (done.returncode, done.stderr) == (1, "export-user: There is no such user.\n")
    assert list(tmp_path.iterdir()) == []


def test_a_deleted_user_is_billed_and_only_sums_remain(billing: BillingStack) -> None:
    user = user_with_everything(billing)
    start = int(billing.subscription_row(user)["current_period_start"].timestamp())
    billing.add_overage(user, 40, start + 60, start)
    customer, subscription = billing.customer_id(user), billing.subscription_row(user)["stripe_subscription_id"]
    asked = billing.db.execute("select id from public.usage_logs where user_id = %s", (user.id,)).fetchall()
    items = [row["id"] for row in billing.overage_items(user)]
    assert len(tables_that_name(billing, user)) >= 8
    done = command(billing, "delete-user", "--user", user.id)
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout) == {"subscriptions": 1, "items": 1, "conversations": 2, "users": 1}
    assert stripe_get(billing, f"subscriptions/{subscription}")["status"] == "canceled"
    (last,) = stripe_get(billing, "invoices", customer=customer, limit=1)["data"]
    assert (last["total"], last["status"] != "void") == (100, True)
    assert tables_that_name(billing, user) == []
    kept = billing.db.execute("select amount_cents from public.retained_invoice_items where id = any(%s)", (items,))
    assert [row["amount_cents"] for row in kept] == [102]
    assert (
        value(billing.db, "select count(*) from public.usage_logs where id = any(%s)", [row["id"] for row in asked])
        == 0
    )
    # A second deletion does nothing, and Stripe's later events belong to no user.
    assert json.loads(command(billing, "delete-user", "--user", user.id).stdout)["users"] == 0
    assert set(billing.deliver()) <= {200}
    theirs = stripe_get(billing, "invoiceitems", customer=customer)["data"]
    ids = {item["metadata"]["overage_invoice_item"] for item in theirs}
    assert (len(ids), findings(billing, user, ids)) == (2, set())
    billing.db.execute("delete from public.retained_invoice_items where id = any(%s)", (items,))
    assert findings(billing, user, ids) == {"item unknown"}


def test_unbilled_overage_must_be_written_off_explicitly(billing: BillingStack) -> None:
    user = billing.new_user("basic")
    billing.add_overage(user, 3, billing.fake.now, billing.fake.now)
    with pytest.raises(Forbidden, match="owes overage"):
        deletion(billing, user.id)
    assert billing.subscription_row(user)["tier"] == "basic"
    done = command(billing, "delete-user", "--user", user.id)
    assert (done.returncode, done.stderr.splitlines()[-1]) == (
        1,
        "delete-user: The account owes overage for which there is no invoice to pay, so it was not deleted. "
        "Contact support.",
    )
    assert deletion(billing, user.id, write_off=True)["users"] == 1


def test_sql_refuses_to_delete_a_subscriber(billing: BillingStack, billed: Person) -> None:
    with pytest.raises(Exception, match="has a subscription at Stripe") as caught:
        billing.db.execute("select public.check_deletion(%s, true)", (billed.id,))
    assert caught.value.sqlstate == "OWING"  # type: ignore[attr-defined]
