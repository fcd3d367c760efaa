"""Shared by the tests of export and deletion: a user with rows everywhere, and a search for what is left of them."""

import json
import uuid

import psycopg

from tests.billing_kit import DAY, BillingStack
from tests.conftest import Person
from tests.sql.metering import admit, key, settle, turn, value


def user_with_everything(billing: BillingStack, user: Person | None = None) -> Person:
    """A user with a subscription, a pack, a key, conversations, a bill, a rating, a shared copy, a pending turn and a
    running query. `user`: a new one, otherwise it is created."""
    user = user or billing.new_user()
    billing.buy(user, plan="basic")
    billing.buy(user, pack="pack_100")
    assert set(billing.deliver()) == {200}
    start = int(billing.subscription_row(user)["current_period_start"].timestamp())
    billing.add_overage(user, 41, start + DAY, start)
    billing.advance_and_deliver(32 * DAY)
    for chat in ("first", "second"):
        for question in ("q1", "q2"):
            settle(billing.db, admit(billing.db, user.id)["hold_id"], turn=turn(chat, question))
    with psycopg.connect(billing.stack.postgres.url()) as other:
        other.execute("select from public.conversations where user_id = %s for update", (user.id,))
        settle(billing.db, admit(billing.db, user.id)["hold_id"], turn=turn("first", "q3"))
    key(billing.db, user.id, "openai")
    admit(billing.db, user.id)
    stored = "select id from public.usage_logs where user_id = %s and message_id is not null limit 1"
    answer = value(billing.db, stored, user.id)
    value(billing.db, "select public.rate_message(%s, %s, 'down', 'Too short.')", user.id, answer)
    value(billing.db, "select public.share_conversation(%s, 'first', %s)", user.id, uuid.uuid4().hex)
    action = json.dumps({"id": str(uuid.uuid4()), "operator": "Ada Lovelace", "reason": "A bad answer."})
    value(billing.db, "select public.grant_credits(%s, 5, null, %s)", user.id, action)
    return user


def tables_that_name(billing: BillingStack, user: Person) -> list[str]:
    """The tables that contain the user's id or e-mail address anywhere."""
    tables = billing.db.execute(
        "select c.oid::regclass::text as name from pg_class c where c.relkind = 'r'"
        " and c.relnamespace in ('public'::regnamespace, 'private'::regnamespace, 'auth'::regnamespace)"
    ).fetchall()
    return [
        row["name"]
        for row in tables
        if value(billing.db, f"select count(*) from {row['name']} t where t::text ~ %s", f"{user.id}|{user.email}")
    ]
