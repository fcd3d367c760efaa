"""Calls of the metering functions, and the rows that they read and write."""

import json
import uuid
from typing import Any

import psycopg

Db = psycopg.Connection[dict[str, Any]]
USAGE = '{"tokens_input": 100, "tokens_output": 20, "cost_usd": "0.000123"}'


def value(db: Db, query: str, *values: Any) -> Any:
    """The value of a query that returns one row with one column."""
    row = db.execute(query, values).fetchone()
    assert row is not None
    (result,) = row.values()
    return result


def admit(
    db: Db, user_id: str, request_id: str | None = None, hold_id: str | None = None, **more: Any
) -> dict[str, Any]:
    """Calls admit_query. Returns its result with `hold_id`."""
    hold_id = hold_id or str(uuid.uuid4())
    parameters = {"p_user_id": user_id, "p_request_id": request_id or hold_id, "p_hold_id": hold_id, **more}
    arguments = ", ".join(f"{name} => %s" for name in parameters)
    admitted: dict[str, Any] = value(db, f"select public.admit_query({arguments})", *parameters.values())
    return {**admitted, "hold_id": hold_id}


def settle(
    db: Db, hold_id: str, outcome: str = "answered", usage: str = USAGE, turn: str | None = None
) -> dict[str, Any]:
    """Calls settle_query."""
    settled: dict[str, Any] = value(db, "select public.settle_query(%s, %s, %s, %s)", hold_id, outcome, usage, turn)
    return settled


def release(db: Db, hold_id: str, outcome: str = "failed", usage: str = USAGE) -> dict[str, Any]:
    """Calls release_query."""
    released: dict[str, Any] = value(db, "select public.release_query(%s, %s, %s)", hold_id, outcome, usage)
    return released


def turn(chat_id: str, question_id: str, answer_id: str | None = None, **more: Any) -> str:
    """The argument p_turn of settle_query, as the chat sends it."""
    return json.dumps(
        {
            "chat_id": chat_id,
            "title": "A title",
            "context": {"type": "bill", "id": "C-2", "data": {"stage": 2}},
            "question": {"id": question_id, "content": f"Question {question_id}"},
            "answer": {"id": answer_id or str(uuid.uuid4()), "content": "Answer"},
            **more,
        }
    )


def action(reason: str = "A test") -> str:
    """The argument p_action of the functions that operators call."""
    return json.dumps({"id": str(uuid.uuid4()), "operator": "tests", "reason": reason})


def at(db: Db, moment: str) -> None:
    """Sets the clock of this connection."""
    db.execute("select set_config('metering.now', %s, false)", (moment,))


def counters(db: Db, user_id: str) -> dict[str, Any]:
    """The subscription row of a user."""
    row = db.execute("select * from public.user_subscriptions where user_id = %s", (user_id,)).fetchone()
    assert row is not None
    return row


def ledger(db: Db, user_id: str) -> list[dict[str, Any]]:
    """The usage_logs rows of a user, oldest first."""
    return db.execute(
        "select * from public.usage_logs where user_id = %s order by created_at, id", (user_id,)
    ).fetchall()


def holds(db: Db, user_id: str) -> int:
    """The number of running queries of a user."""
    count: int = value(db, "select count(*) from public.query_holds where user_id = %s", user_id)
    return count


def pack(db: Db, user_id: str, credits: int, expires_at: str | None = None, created_at: str = "2026-01-01Z") -> str:  # noqa: A002
    """Adds a paid credit pack. Returns its id."""
    pack_id: str = value(
        db,
        "insert into public.credit_packs (user_id, credits_purchased, credits_remaining, price_paid, expires_at,"
        " created_at) values (%s, %s, %s, 5, %s, %s) returning id::text",
        user_id,
        credits,
        credits,
        expires_at,
        created_at,
    )
    return pack_id


def key(db: Db, user_id: str, provider: str, *, active: bool = True) -> None:
    """Adds an own key of a user."""
    db.execute(
        "insert into public.user_api_keys (user_id, provider, encrypted_key, encryption_iv, encryption_tag,"
        " encryption_key_id, hint, is_active) values (%s, %s, '\\x00', %s, %s, '1', '…1234', %s)",
        (user_id, provider, b"0" * 12, b"0" * 16, active),
    )
