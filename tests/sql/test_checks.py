"""Checks that a missing or null value would pass: a check refuses only what is false."""

import json
import uuid
from typing import Any

import psycopg
import pytest
from psycopg import sql

from tests.conftest import new_user
from tests.sql.metering import Db, admit

# Values of each type that a column may get. Null is added for columns that allow it, where a check has several.
JSON = [None, 1, "x", [], {}, {"anthropic": None, "openai": None}, {"anthropic": []}, {"anthropic": [], "openai": {}}]
VALUES: dict[str, list[str]] = {
    "jsonb": [json.dumps(value) for value in JSON],
    "text": ["", "x"],
    "text[]": ["{}", "{NULL}"],
    "bytea": ["", "x"],
    "boolean": ["true", "false"],
    "uuid": [str(uuid.UUID(int=1))],
    "date": ["2026-01-01", "infinity"],
    "timestamp with time zone": ["2026-01-01Z", "infinity"],
    **{name: ["-1", "0", "1"] for name in ("integer", "bigint", "numeric")},
}
CHECKS = """
  select c.conrelid::regclass::text as table_name, c.conname as name, pg_get_expr(c.conbin, c.conrelid) as expression,
         jsonb_agg(jsonb_build_object(
           'name', a.attname, 'is_nullable', not a.attnotnull,
           'type', format_type(coalesce(nullif(t.typbasetype, 0), t.oid), null))) as columns
  from pg_constraint c
  join pg_attribute a on a.attrelid = c.conrelid and a.attnum = any (c.conkey)
  join pg_type t on t.oid = a.atttypid
  where c.contype = 'c' and c.connamespace = 'public'::regnamespace
  group by c.oid
"""


def undecided(db: Db, check: dict[str, Any]) -> list[dict[str, Any]]:
    """The values for which a check is null, so that it accepts them."""
    columns = check["columns"]
    sources = [
        sql.SQL("unnest({}::{}[]) as {} ({})").format(
            sql.Literal([*VALUES[column["type"]], *([None] if column["is_nullable"] and len(columns) > 1 else [])]),
            sql.SQL(column["type"]),
            sql.Identifier(f"source_{number}"),
            sql.Identifier(column["name"]),
        )
        for number, column in enumerate(columns)
    ]
    found = sql.SQL("select * from {} where ({}) is null").format(
        sql.SQL(", ").join(sources), sql.SQL(check["expression"])
    )
    return db.execute(found).fetchall()


def test_no_check_is_null_for_values_that_its_columns_allow(db: Db) -> None:
    checks = db.execute(CHECKS).fetchall()
    assert len(checks) > 30
    assert {check["name"]: found for check in checks if (found := undecided(db, check))} == {}


@pytest.mark.parametrize("column", ["models", "own_key_models"])
@pytest.mark.parametrize("models", JSON)
def test_a_plan_needs_a_list_of_models_for_each_provider(db: Db, column: str, models: Any) -> None:
    with pytest.raises(psycopg.errors.CheckViolation):
        db.execute(f"update public.plans set {column} = %s".encode(), (json.dumps(models),))


def test_a_plan_without_models_of_a_provider_uses_another_one(db: Db) -> None:
    db.execute("""update public.plans set models = '{"anthropic": [], "openai": ["gpt-6-luna"]}'""")
    user = new_user(db, "basic")
    admitted = admit(db, user)
    assert (admitted["provider"], admitted["model"]) == ("openai", "gpt-6-luna")
    with pytest.raises(psycopg.Error, match="no_models"):
        admit(db, user, p_provider="anthropic")
    db.execute("""update public.plans set models = '{"anthropic": [], "openai": []}'""")
    with pytest.raises(psycopg.Error, match="no_models"):
        admit(db, user)


def test_a_missing_argument_is_refused(db: Db) -> None:
    user = new_user(db, "basic")
    for name in ("p_hold_seconds", "p_history_messages"):
        with pytest.raises(psycopg.errors.InvalidParameterValue):
            admit(db, user, **{name: None})
    for function in ("release_query", "settle_query"):
        with pytest.raises(psycopg.errors.InvalidParameterValue):
            db.execute(f"select public.{function}(gen_random_uuid(), null)".encode())
