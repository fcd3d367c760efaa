"""The functions cannot deadlock: what each holds while it waits for a lock is measured, and has no cycle.

The test takes each lock in turn, calls each function, and waits until the call waits for the lock. Then it probes which
other locks the call holds. A deadlock is a cycle of such states, each waiting for a lock that the next one holds, which
can exist at the same time. Two states that hold the same advisory lock or the same conversation cannot: a function that
locks a conversation and then waits has changed or locked it exclusively. A deletion of the user, which locks auth.users
exclusively, cannot exist beside a state that shares auth.users.
"""

import itertools
import threading
import uuid
from collections.abc import Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress

import psycopg
import pytest

from tests.conftest import Connect, new_user
from tests.sql.concurrency import waits_for_lock
from tests.sql.metering import Db, action, admit, key, pack, settle, turn, value

CHAT = "5f0c9a52-4b2c-4d40-9a34-3f6d7a3f2c11"

# The locks that a function can wait for, and how another session takes them.
LOCKS = {
    "the user lock": "select pg_advisory_xact_lock(uuid_hash_extended(%(user)s, 0))",
    "the hold lock": "select pg_advisory_xact_lock(uuid_hash_extended(%(hold)s, 1))",
    "the other hold lock": "select pg_advisory_xact_lock(uuid_hash_extended(%(byok_hold)s, 1))",
    "auth.users": "select from auth.users where id = %(user)s for update",
    "the hold": "select from public.query_holds where id = %(hold)s for update",
    "the other hold": "select from public.query_holds where id = %(byok_hold)s for update",
    "user_subscriptions": "select from public.user_subscriptions where user_id = %(user)s for update",
    "user_api_keys": "select from public.user_api_keys where user_id = %(user)s for update",
    "credit_packs": "select from public.credit_packs where user_id = %(user)s for update",
    "the conversation": "select from public.conversations where id = %(chat)s::uuid for update",
    "the other conversation": "select from public.conversations where external_id = 'another' for update",
    "pending_turns": "select from public.pending_turns where user_id = %(user)s for update",
    "usage_logs": "select from public.usage_logs where id = %(charge)s for update",
    "usage_logs, a later row": "select from public.usage_logs where id = %(later_charge)s for update",
    "overage_invoice_items": "select from public.overage_invoice_items where user_id = %(user)s for update",
    "stripe_events": "select from public.stripe_events for update",
    "daily_costs": "select from public.daily_costs for update",
    "message_feedback": "select from public.message_feedback where user_id = %(user)s for update",
    "shared_conversations": "select from public.shared_conversations where user_id = %(user)s for update",
}
# Statements that fail if a lock is taken.
PROBES = {
    name: lock.replace("select pg_", "select 1 / pg_try_") + "::integer" if "advisory" in lock else f"{lock} nowait"
    for name, lock in LOCKS.items()
}
EXCLUSIVE_LOCKS = {name for name, lock in LOCKS.items() if "advisory" in lock or "public.conversations" in lock}
SETTLE = "select public.settle_query(%(hold)s, 'answered', '{\"cost_usd\": 1}', %(turn)s::jsonb)"
ADMIT = "public.admit_query(%(user)s, gen_random_uuid()::text, gen_random_uuid(), %(chat)s"
ENCRYPTED = (
    "'AA==', encode(repeat('0', 12)::bytea, 'base64'), encode(repeat('0', 16)::bytea, 'base64'), '2', '…5678', true"
)
SIGN_IN = "set_config('request.jwt.claims', jsonb_build_object('sub', %(user)s::text)::text, true)"
SUBSCRIPTION = (
    '{"id": "sub_2", "tier": "pro", "paid_tiers": [], "status": "active", "period_start": "2026-03-01Z",'
    ' "period_end": "2026-04-01Z"}'
)
PACK = (
    'select public.apply_pack(%(user)s, 9, \'{"session_id": "cs_1", "payment_intent_id": "pi_1",'
    ' "pack": "pack_100", "credits": 5, "paid_at": "2026-03-01Z", "price_cents": 500, "paid_cents": 500,'
    ' "refunded_cents": 100, "is_disputed": false, "is_lost": false}\')'
)
CALLS = {
    "admit_query": f"select {ADMIT}, p_own_key => false)",
    "admit_query, with an own key": f"select {ADMIT})",
    "admit_query, with a pending turn": f"select {ADMIT.replace('%(chat)s', chr(39) + 'another' + chr(39))})",
    "admit_query, with an expired hold": f"select set_config('metering.now', '2100-01-01Z', true), {ADMIT}, "
    "p_own_key => false)",
    "admit_query, waiting": f"select {ADMIT}, p_waits => true)",
    "admit_query, replacing": f"select {ADMIT}, p_question_id => 'q1')",
    "admit_tool_call": "select public.admit_tool_call(%(user)s, 30)",
    "settle_query": SETTLE,
    "settle_query, repeated question": SETTLE.replace("hold", "byok_hold").replace("turn", "repeated_turn"),
    "settle_query, after a pending turn": SETTLE.replace("turn", "later_turn"),
    "settle_query, with an own key": SETTLE.replace("hold", "byok_hold"),
    "release_query": "select public.release_query(%(hold)s, 'failed', '{\"cost_usd\": 1}')",
    "release_query, with an own key": "select public.release_query(%(byok_hold)s)",
    "release_stale_holds": "select set_config('metering.now', '2100-01-01Z', true), public.release_stale_holds()",
    "track_query_usage": "select public.track_query_usage(%(user)s, null, null, 1, 1, 'openai', 'm', false, 1)",
    "apply_pending_turns": "select public.apply_pending_turns()",
    "note_progress": "select public.note_progress(jsonb_build_array(jsonb_build_object("
    "'hold_id', %(hold)s, 'position', 0, 'progress', 'Text')))",
    "stop_query": "select public.stop_query(%(user)s, %(chat)s)",
    "follow_query": "select public.follow_query(%(user)s, %(chat)s, gen_random_uuid(), %(hold)s, 0)",
    "reset_monthly_overages": "select set_config('metering.now', '2100-01-01Z', true), public.reset_monthly_overages()",
    "cleanup_expired_conversations": "select set_config('metering.now', '2100-01-01Z', true), "
    "public.cleanup_expired_conversations()",
    "expire_credits": "select set_config('metering.now', '2100-01-01Z', true), public.expire_credits()",
    "purge_events": "select set_config('metering.now', '2100-01-01Z', true), public.purge_events()",
    "repair_counters": "select public.repair_counters(%(user)s)",
    "delete_history": "select public.delete_history(%(user)s)",
    "put_api_key": f"select public.put_api_key(gen_random_uuid(), %(user)s, 'openai', {ENCRYPTED})",
    "put_api_key, first key": f"select public.put_api_key(gen_random_uuid(), %(user)s, 'anthropic', {ENCRYPTED})",
    "note_api_key": "select public.note_api_key(%(key)s, %(user)s, false, 'Rejected')",
    "delete_api_key": "select public.delete_api_key(%(user)s, 'openai')",
    "rotate_api_keys": "select public.rotate_api_keys(jsonb_build_array(jsonb_build_object("
    "'id', k.id, 'old_iv', encode(k.encryption_iv, 'base64'), 'encrypted_key', 'AA==',"
    " 'encryption_iv', encode(k.encryption_iv, 'base64'), 'encryption_tag', encode(k.encryption_tag, 'base64'),"
    " 'encryption_key_id', '2'))) from public.user_api_keys k where k.id = %(key)s",
    "link_stripe_customer": "select public.link_stripe_customer(%(user)s, 'cus_2')",
    "set_overage": f"select {SIGN_IN}, public.set_overage('{{\"allow_overages\": true}}')",
    "apply_customer": f"select public.apply_customer('cus_1', 9, false, '{SUBSCRIPTION}')",
    "apply_customer, deleted": "select public.apply_customer('cus_1', 9, true, null)",
    "apply_pack": PACK,
    "apply_pack, first state": PACK.replace("cs_1", "cs_2").replace("pi_1", "pi_2"),
    "claim_overage": "select public.claim_overage(%(user)s, 'infinity', '{}')",
    "block_user": "select public.block_user(%(user)s, %(action)s)",
    "set_limits": "select public.set_limits(%(user)s, '{\"daily_quota\": 3}', %(action)s)",
    "grant_credits": "select public.grant_credits(%(user)s, 5, null, %(action)s)",
    "credit_back": "select public.credit_back(%(later_charge)s, %(action)s)",
    "retarget_overage": "select public.retarget_overage(%(item)s, 0, '{}')",
    "place_overage": "select public.place_overage(%(item)s, 'ii_1', 'in_1')",
    "claim_stripe_event": "select public.claim_stripe_event('evt_1', 'invoice.paid')",
    "finish_stripe_event": "select public.finish_stripe_event('evt_1')",
    "begin_export": "select public.begin_export(%(user)s)",
    "rate_message": "select public.rate_message(%(user)s, %(charge)s, 'down')",
    "rate_message, removed": "select public.rate_message(%(user)s, %(charge)s, null)",
    "share_conversation": "select public.share_conversation(%(user)s, %(chat)s, repeat('x', 32))",
    "unshare_conversation": "select public.unshare_conversation(%(user)s, %(chat)s)",
    "update_conversation": f"select {SIGN_IN}, public.update_conversation(%(chat)s::uuid, 'Title')",
    "delete_conversation": f"select {SIGN_IN}, public.delete_conversation(%(chat)s::uuid)",
    "the user's deletion": "delete from auth.users where id = %(user)s",
}

SETTLEMENTS = [call for call in CALLS if call.startswith("settle_query")]


@pytest.fixture
def ids(db: Db) -> dict[str, str]:
    """Ids of a user with rows in every table and of their rows: one query runs on a credit, one on an own key.

    The overage is of two conversations. The later one expires first.
    """
    user = new_user(db, "basic", stripe_customer_id="cus_1", stripe_subscription_id="sub_1", daily_quota=1)
    settle(db, admit(db, user)["hold_id"], turn=turn(CHAT, "q1"))
    charges = []
    for chat, question in ((CHAT, "q2"), ("another", "q1")):
        charged = admit(db, user)
        assert charged["funding"] == "overage"
        settle(db, charged["hold_id"], turn=turn(chat, question))
        charges.append(charged["hold_id"])
    db.execute("update public.conversations set expires_at = now() where external_id = 'another'")
    item = value(
        db,
        "insert into public.overage_invoice_items (user_id, period_start, queries, unit_price_usd, target)"
        " values (%s, '2026-01-01Z', 1, 0.025, '{}') returning id::text",
        user,
    )
    value(db, "select public.claim_stripe_event('evt_1', 'invoice.paid')")
    db.execute("update public.credit_packs set stripe_checkout_session_id = 'cs_1' where id = %s", (pack(db, user, 5),))
    hold = admit(db, user)
    assert hold["funding"] == "credit"
    key(db, user, "openai")
    byok_hold = admit(db, user, p_chat_id=CHAT, p_question_id="q1")
    assert byok_hold["funding"] == "byok"
    db.execute("update public.query_holds set chat_id = %s where id = %s", (CHAT, hold["hold_id"]))
    db.execute(
        "update public.user_subscriptions set current_overage_amount = 1, stripe_subscription_id = null,"
        " downgraded_at = '2020-01-01Z' where user_id = %s",
        (user,),
    )
    db.execute("update public.conversations set last_message_at = '2019-01-01Z'")
    db.execute(
        "insert into public.pending_turns (id, user_id, conversation_id, conversation_created_at, expires_at,"
        " is_certain, position, turn) select %s, user_id, id, created_at, expires_at, true, 9, %s"
        " from public.conversations where external_id = 'another'",
        (charges[1], turn("another", "q1")),
    )
    db.execute("update public.credit_packs set expires_at = '2099-01-01Z'")
    db.execute("update public.conversations set expires_at = '2099-01-01Z' where id = %s", (CHAT,))
    value(db, "select public.rate_message(%s, %s, 'up')", user, charges[0])
    value(db, "select public.share_conversation(%s, %s, repeat('x', 32))", user, CHAT)
    db.execute("update public.stripe_events set processed_at = now()")
    return {
        "user": user,
        "hold": hold["hold_id"],
        "byok_hold": byok_hold["hold_id"],
        "key": value(db, "select id::text from public.user_api_keys"),
        "chat": CHAT,
        "turn": turn(CHAT, "q3"),
        "repeated_turn": turn(CHAT, "q1"),
        "later_turn": turn("another", "q3"),
        "charge": charges[0],
        "later_charge": charges[1],
        "item": item,
        "action": action(),
    }


@pytest.fixture
def sessions(connect: Connect) -> tuple[Db, Db, Db]:
    """The connections of lock_waits. They last for all calls, because a new session compiles every function again."""
    return connect(), connect(), connect()


def lock_waits(
    sessions: tuple[Db, Db, Db], db: Db, ids: dict[str, str], call: str
) -> Iterator[tuple[frozenset[str], str]]:
    """For each lock that a call waits for: the locks that it holds then, and this lock. Everything is rolled back."""
    holder, caller, prober = sessions

    def run(done: threading.Event) -> None:
        try:
            with suppress(psycopg.Error), caller.transaction(force_rollback=True):
                caller.execute(CALLS[call].encode(), ids)
        finally:
            done.set()

    with ThreadPoolExecutor(1) as pool:
        for awaited, lock in LOCKS.items():
            done = threading.Event()
            with holder.transaction(force_rollback=True):
                holder.execute(lock.encode(), ids)
                running = pool.submit(run, done)
                if waits_for_lock(db, caller.info.backend_pid, done):
                    held = set()
                    for other in LOCKS.keys() - {awaited}:
                        try:
                            with prober.transaction(force_rollback=True):
                                prober.execute(PROBES[other].encode(), ids)
                        except (psycopg.errors.LockNotAvailable, psycopg.errors.DivisionByZero):
                            held.add(other)
                    yield frozenset(held), awaited
            running.result()


DELETION = "the user's deletion"
State = tuple[str, frozenset[str], str]  # the call, the locks it holds, the lock it waits for


def can_coexist(one: State, other: State) -> bool:
    """Whether both can exist at the same time."""
    held = one[1] & other[1]
    exclusive = "auth.users" in held and DELETION in (one[0], other[0])
    return not held & EXCLUSIVE_LOCKS and not exclusive


def waits_for(one: State, other: State) -> bool:
    """Whether one waits for a lock of the other. Only a deletion locks auth.users exclusively."""
    return one[2] in other[1] and (one[2] != "auth.users" or DELETION in (one[0], other[0]))


def cycles(states: Iterable[State]) -> list[tuple[State, ...]]:
    """Two or three states that wait for each other."""
    states = list(states)
    blockers = {one: [other for other in states if waits_for(one, other)] for one in states}
    pairs = [(one, two) for one in states for two in blockers[one]]
    found: list[tuple[State, ...]] = [(one, two) for one, two in pairs if one in blockers[two]]
    found += [(one, two, three) for one, two in pairs for three in blockers[two] if one in blockers[three]]
    return [cycle for cycle in found if all(can_coexist(*both) for both in itertools.combinations(cycle, 2))]


@pytest.mark.timeout(300)
def test_lock_order_has_no_cycle(sessions: tuple[Db, Db, Db], db: Db, ids: dict[str, str]) -> None:
    states = [(call, held, awaited) for call in CALLS for held, awaited in lock_waits(sessions, db, ids, call)]
    assert cycles(states) == []
    # Without these checks the test would pass if the probes found no lock.
    held = {(call, awaited): held for call, held, awaited in states}
    assert held["admit_query", "auth.users"] == {"the user lock"}
    assert held["admit_query", "credit_packs"] >= {"the user lock", "auth.users"}
    for call in (*SETTLEMENTS, "admit_query", "admit_query, with a pending turn", "apply_pending_turns"):
        # Users lock them.
        assert not {(call, "the conversation"), (call, "the other conversation")} & held.keys()
    waits_for_ledger = held["apply_pending_turns", "usage_logs, a later row"]
    assert waits_for_ledger == {"auth.users", "the other conversation"}
    assert held["settle_query, after a pending turn", "usage_logs, a later row"] >= {"the hold lock", *waits_for_ledger}
    assert held["release_query", "credit_packs"] >= {"the user lock", "the hold lock", "auth.users"}
    # Every query of a connection adds to one row of daily_costs, so nothing is waited for while it is locked.
    for call in ("settle_query", "release_query", "track_query_usage"):
        assert held[call, "daily_costs"]
    assert not [state for state in states if "daily_costs" in state[1]]
    assert held["settle_query, with an own key", "user_api_keys"] >= {"the other hold lock", "the conversation"}
    assert held["put_api_key", "user_api_keys"] == {"auth.users"}
    for change in ("put_api_key", "note_api_key", "delete_api_key"):
        assert held[change, "user_subscriptions"] == {"auth.users", "user_api_keys"}
    assert not {awaited for call, awaited in held if call == "rotate_api_keys"}  # it skips locked rows
    assert held[DELETION, "user_subscriptions"] >= {"auth.users"}
    for job in ("expire_credits", "reset_monthly_overages", "release_stale_holds"):
        assert (job, "the user lock") not in held  # it skips locked users
    for change in ("apply_customer", "set_overage"):
        assert held[change, "user_subscriptions"] == {"the user lock"}
    assert held["link_stripe_customer", "user_subscriptions"] == {"the user lock", "auth.users"}
    assert held["apply_pack", "credit_packs"] == {"the user lock", "auth.users"}
    assert held["claim_overage", "overage_invoice_items"] >= {"the user lock", "auth.users", "usage_logs"}
    repeated = held["settle_query, repeated question", "usage_logs"]
    assert repeated >= {"the other hold lock", "auth.users", "the conversation"}
    assert held["admit_query, waiting", "the other hold"] >= {"the user lock"}
    assert held["admit_query, replacing", "the other hold"] >= {"the user lock"}
    assert held["update_conversation", "the conversation"] == set()
    assert held["rate_message", "message_feedback"] >= {"auth.users"}
    assert held["share_conversation", "the conversation"] == {"auth.users"}
    assert held["delete_conversation", "the conversation"] == {"auth.users"}
    assert held["credit_back", "usage_logs, a later row"] == {"the user lock", "auth.users"}
    assert held["credit_back", "user_subscriptions"] >= {"the user lock", "usage_logs, a later row"}
    assert ("block_user", "the hold") not in held  # it skips locked holds
    for change in ("place_overage", "retarget_overage"):
        assert held[change, "overage_invoice_items"] == set()


def test_a_cycle_would_be_found(sessions: tuple[Db, Db, Db], db: Db, ids: dict[str, str]) -> None:
    """The function locks a key and then the hold lock, settle_query the other way round."""
    db.execute(
        "create function public.wrong_lock_order() returns void language plpgsql as $$ begin"
        f" perform from public.user_api_keys where id = '{ids['key']}' for update;"
        f" perform pg_advisory_xact_lock(uuid_hash_extended('{ids['byok_hold']}', 1)); end $$"
    )
    CALLS["wrong_lock_order"] = "select public.wrong_lock_order()"
    try:
        settlement = "settle_query, with an own key"
        calls = ("wrong_lock_order", "release_query", settlement)
        states = [(call, held, awaited) for call in calls for held, awaited in lock_waits(sessions, db, ids, call)]
        assert {state[0] for cycle in cycles(states) for state in cycle} >= {"wrong_lock_order", settlement}
        assert cycles(state for state in states if state[0] != "wrong_lock_order") == []
    finally:
        del CALLS["wrong_lock_order"]


def test_a_query_of_a_deleted_user_cannot_be_settled(connect: Connect, db: Db, ids: dict[str, str]) -> None:
    """A deletion during a query deletes the hold and the subscription."""
    connect().execute("delete from auth.users where id = %s", (ids["user"],))
    with pytest.raises(psycopg.Error) as caught:
        settle(db, ids["hold"])
    assert caught.value.sqlstate == "NOHLD"
    with pytest.raises(psycopg.Error) as caught:
        admit(db, ids["user"], str(uuid.uuid4()))
    assert caught.value.sqlstate == "NOUSR"
