"""No functions can wait for each other: what each holds while it waits for what is read off, and has no circle.

One thing after another is locked by somebody else; a function is called, and waits for it. What the function holds by
then is tried, lock by lock. A deadlock would be a circle of such states, each waiting for what the next one holds, that
can be at the same time: two that hold the same user's queue cannot, nor can a user's deletion, which has auth.users for
itself, beside one that shares auth.users.
"""

import itertools
import threading
import uuid
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress

import psycopg
import pytest

from tests.conftest import new_user
from tests.sql.metering import Db, admit, key, pack, settle, value
from tests.sql.test_settle_query import turn

Connect = Callable[..., Db]
CHAT = "5f0c9a52-4b2c-4d40-9a34-3f6d7a3f2c11"

# What can be waited for, and how somebody else would hold it.
THINGS = {
    "the user's queue": "select pg_advisory_xact_lock(uuid_hash_extended(%(user)s, 0))",
    "the hold's queue": "select pg_advisory_xact_lock(uuid_hash_extended(%(hold)s, 1))",
    "the other hold's queue": "select pg_advisory_xact_lock(uuid_hash_extended(%(own_hold)s, 1))",
    "auth.users": "select from auth.users where id = %(user)s for update",
    "the hold": "select from public.query_holds where id = %(hold)s for update",
    "the other hold": "select from public.query_holds where id = %(own_hold)s for update",
    "user_subscriptions": "select from public.user_subscriptions where user_id = %(user)s for update",
    "user_api_keys": "select from public.user_api_keys where user_id = %(user)s for update",
    "credit_packs": "select from public.credit_packs where user_id = %(user)s for update",
    "conversations": "select from public.conversations where user_id = %(user)s for update",
    "usage_logs": "select from public.usage_logs where id = %(charge)s for update",
    "usage_logs, a later row": "select from public.usage_logs where id = %(later_charge)s for update",
    "overage_invoice_items": "select from public.overage_invoice_items where user_id = %(user)s for update",
    "stripe_events": "select from public.stripe_events for update",
}
# Whether a thing is held: the same lock again, without waiting.
PROBES = {
    thing: lock.replace("select pg_", "select 1 / pg_try_") + "::integer" if "queue" in thing else f"{lock} nowait"
    for thing, lock in THINGS.items()
}
QUEUES = {thing for thing in THINGS if "queue" in thing}
SETTLE = "select public.settle_query(%(hold)s, 'answered', '{}', %(turn)s::jsonb)"
ADMIT = "public.admit_query(%(user)s, gen_random_uuid()::text, gen_random_uuid(), %(chat)s"
SEALED = (
    "'AA==', encode(repeat('0', 12)::bytea, 'base64'), encode(repeat('0', 16)::bytea, 'base64'), '2', '…5678', true"
)
SUBSCRIPTION = (
    '{"id": "sub_2", "tier": "pro", "paid_tiers": [], "status": "active", "period_start": "2026-03-01Z",'
    ' "period_end": "2026-04-01Z"}'
)
PACK = (
    'select public.apply_pack(%(user)s, 9, \'{"session_id": "cs_1", "payment_intent_id": "pi_1",'
    ' "pack": "pack_100", "credits": 5, "paid_at": "2026-03-01Z", "paid_cents": 500, "refunded_cents": 100,'
    ' "is_disputed": false, "is_lost": false}\')'
)
CALLS = {
    "admit_query": f"select {ADMIT}, p_own_key => false)",
    "admit_query, with an own key": f"select {ADMIT})",
    "admit_query, with a lost hold": f"select set_config('metering.now', '2100-01-01Z', true), {ADMIT}, "
    "p_own_key => false)",
    "settle_query": SETTLE,
    "settle_query, asked again": SETTLE.replace("turn", "turn_again"),
    "settle_query, with an own key": SETTLE.replace("hold", "own_hold"),
    "release_query": "select public.release_query(%(hold)s)",
    "release_query, with an own key": "select public.release_query(%(own_hold)s)",
    "release_stale_holds": "select set_config('metering.now', '2100-01-01Z', true), public.release_stale_holds()",
    "track_query_usage": "select public.track_query_usage(%(user)s, null, null, 1, 1, 'openai', 'm', false, 0)",
    "note_progress": "select public.note_progress(%(hold)s, 0, 'Said')",
    "stop_query": "select public.stop_query(%(user)s, %(chat)s)",
    "follow_query": "select public.follow_query(%(user)s, %(chat)s, %(hold)s, 0)",
    "reset_monthly_overages": "select set_config('metering.now', '2100-01-01Z', true), public.reset_monthly_overages()",
    "cleanup_expired_conversations": "select set_config('metering.now', '2100-01-01Z', true), "
    "public.cleanup_expired_conversations()",
    "expire_credits": "select set_config('metering.now', '2100-01-01Z', true), public.expire_credits()",
    "purge_events": "select set_config('metering.now', '2100-01-01Z', true), public.purge_events()",
    "repair_counters": "select public.repair_counters(%(user)s)",
    "delete_history": "select public.delete_history(%(user)s)",
    "put_api_key": f"select public.put_api_key(gen_random_uuid(), %(user)s, 'openai', {SEALED})",
    "put_api_key, a first one": f"select public.put_api_key(gen_random_uuid(), %(user)s, 'anthropic', {SEALED})",
    "note_api_key": "select public.note_api_key(%(key)s, %(user)s, false, 'Rejected')",
    "delete_api_key": "select public.delete_api_key(%(user)s, 'openai')",
    "rotate_api_keys": "select public.rotate_api_keys(jsonb_build_array(jsonb_build_object("
    "'id', k.id, 'old_iv', encode(k.encryption_iv, 'base64'), 'encrypted_key', 'AA==',"
    " 'encryption_iv', encode(k.encryption_iv, 'base64'), 'encryption_tag', encode(k.encryption_tag, 'base64'),"
    " 'encryption_key_id', '2'))) from public.user_api_keys k where k.id = %(key)s",
    "link_stripe_customer": "select public.link_stripe_customer(%(user)s, 'cus_2')",
    "set_overage": "select set_config('request.jwt.claims', jsonb_build_object('sub', %(user)s::text)::text, true), "
    "public.set_overage('{\"allow_overages\": true}')",
    "apply_customer": f"select public.apply_customer('cus_1', 9, false, '{SUBSCRIPTION}')",
    "apply_customer, deleted": "select public.apply_customer('cus_1', 9, true, null)",
    "apply_pack": PACK,
    "apply_pack, a first one": PACK.replace("cs_1", "cs_2").replace("pi_1", "pi_2"),
    "claim_overage": "select public.claim_overage(%(user)s, 'infinity', '{}')",
    "retarget_overage": "select public.retarget_overage(%(item)s, 0, '{}')",
    "place_overage": "select public.place_overage(%(item)s, 'ii_1', 'in_1')",
    "claim_stripe_event": "select public.claim_stripe_event('evt_1', 'invoice.paid')",
    "finish_stripe_event": "select public.finish_stripe_event('evt_1')",
    "the user's deletion": "delete from auth.users where id = %(user)s",
    "delete_user": "select public.delete_user(%(user)s, true)",
}


@pytest.fixture
def someone(db: Db) -> dict[str, str]:
    """A user who has used everything, with a query that runs on a credit and one on a key of their own.

    What is to be billed is of two conversations, of which the later one expires first.
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
    own_hold = admit(db, user)
    assert own_hold["funding"] == "byok"
    db.execute("update public.query_holds set chat_id = %s where id = %s", (CHAT, hold["hold_id"]))
    db.execute(
        "update public.user_subscriptions set current_overage_amount = 1, stripe_subscription_id = null,"
        " downgraded_at = '2020-01-01Z' where user_id = %s",
        (user,),
    )
    db.execute("update public.conversations set last_message_at = '2019-01-01Z'")
    db.execute("update public.credit_packs set expires_at = '2099-01-01Z'")
    db.execute("update public.stripe_events set processed_at = now()")
    return {
        "user": user,
        "hold": hold["hold_id"],
        "own_hold": own_hold["hold_id"],
        "key": value(db, "select id::text from public.user_api_keys"),
        "chat": CHAT,
        "turn": turn(CHAT, "q3"),
        "turn_again": turn(CHAT, "q1"),
        "charge": charges[0],
        "later_charge": charges[1],
        "item": item,
    }


def waits(db: Db, pid: int, done: threading.Event) -> bool:
    """Whether that session comes to wait for a lock; False if its call is done first."""
    while not done.is_set():
        row = db.execute("select wait_event_type from pg_stat_activity where pid = %s", (pid,)).fetchone()
        if row is not None and row["wait_event_type"] == "Lock":
            return True
    return False


def edges(connect: Connect, db: Db, someone: dict[str, str], call: str) -> Iterator[tuple[frozenset[str], str]]:
    """What one function holds when it waits for each thing it waits for. Everything is rolled back."""
    for thing, lock in THINGS.items():
        holder, caller, prober = connect(), connect(), connect()
        done = threading.Event()

        def run(caller: Db = caller, done: threading.Event = done) -> None:
            try:
                with suppress(psycopg.Error), caller.transaction(force_rollback=True):
                    caller.execute(CALLS[call].encode(), someone)
            finally:
                done.set()

        with ThreadPoolExecutor(1) as pool:
            with holder.transaction(force_rollback=True):
                holder.execute(lock.encode(), someone)
                running = pool.submit(run)
                if waits(db, caller.info.backend_pid, done):
                    held = set()
                    for other in THINGS.keys() - {thing}:
                        try:
                            with prober.transaction(force_rollback=True):
                                prober.execute(PROBES[other].encode(), someone)
                        except (psycopg.errors.LockNotAvailable, psycopg.errors.DivisionByZero):
                            held.add(other)
                    yield frozenset(held), thing
            running.result()
        for connection in (holder, caller, prober):
            connection.close()


DELETION = "the user's deletion"
DELETIONS = {DELETION, "delete_user"}
State = tuple[str, frozenset[str], str]  # the function, what it holds, what it waits for


def together(one: State, other: State) -> bool:
    """Whether both can be at the same time."""
    held = one[1] & other[1]
    alone = "auth.users" in held and bool(DELETIONS & {one[0], other[0]})
    return not held & QUEUES and not alone


def waits_for(one: State, other: State) -> bool:
    """Whether one waits for what the other holds. auth.users is shared by all but the deletion."""
    return one[2] in other[1] and (one[2] != "auth.users" or bool(DELETIONS & {one[0], other[0]}))


def circles(states: Iterable[State]) -> list[tuple[State, ...]]:
    """Two or three states that wait for each other."""
    return [
        ring
        for length in (2, 3)
        for ring in itertools.permutations(states, length)
        if all(waits_for(one, other) for one, other in zip(ring, ring[1:] + ring[:1], strict=True))
        and all(together(one, other) for one, other in itertools.combinations(ring, 2))
    ]


@pytest.mark.timeout(300)
def test_the_order_of_locks_has_no_circle(connect: Connect, db: Db, someone: dict[str, str]) -> None:
    states = [(call, held, thing) for call in CALLS for held, thing in edges(connect, db, someone, call)]
    assert circles(states) == []
    # The probes see what is there, or this test would prove nothing.
    held = {(call, thing): held for call, held, thing in states}
    assert held["admit_query", "auth.users"] == {"the user's queue"}
    assert held["admit_query", "credit_packs"] >= {"the user's queue", "auth.users"}
    assert held["settle_query", "conversations"] == {"the hold's queue", "auth.users"}
    assert held["release_query", "credit_packs"] >= {"the user's queue", "the hold's queue", "auth.users"}
    assert held["settle_query, with an own key", "user_api_keys"] >= {"the other hold's queue", "conversations"}
    assert held["put_api_key", "user_api_keys"] == {"auth.users"}
    for change in ("put_api_key", "note_api_key", "delete_api_key"):
        assert held[change, "user_subscriptions"] == {"auth.users", "user_api_keys"}
    assert not {thing for call, thing in held if call == "rotate_api_keys"}  # it takes what it can get
    assert held[DELETION, "user_subscriptions"] >= {"auth.users"}
    assert held["delete_user", "auth.users"] == {"the user's queue"}
    for sweep in ("expire_credits", "reset_monthly_overages", "release_stale_holds"):
        assert (sweep, "the user's queue") not in held  # whoever is being served is left to the next sweep
    for change in ("apply_customer", "link_stripe_customer", "set_overage"):
        assert held[change, "user_subscriptions"] == {"the user's queue"}
    assert held["apply_pack", "credit_packs"] == {"the user's queue", "auth.users"}
    assert held["claim_overage", "overage_invoice_items"] >= {"the user's queue", "auth.users", "usage_logs"}
    assert held["settle_query, asked again", "usage_logs"] >= {"the hold's queue", "auth.users", "conversations"}
    for change in ("place_overage", "retarget_overage"):
        assert held[change, "overage_invoice_items"] == set()


def test_a_circle_would_be_found(connect: Connect, db: Db, someone: dict[str, str]) -> None:
    """Against the order: a conversation first, then the hold's queue, which settle_query has while it waits for one."""
    db.execute(
        "create function public.against_the_order() returns void language plpgsql as $$ begin"
        f" perform from public.conversations where id = '{CHAT}' for update;"
        f" perform pg_advisory_xact_lock(uuid_hash_extended('{someone['hold']}', 1)); end $$"
    )
    CALLS["against_the_order"] = "select public.against_the_order()"
    try:
        calls = ("against_the_order", "release_query", "settle_query")
        states = [(call, held, thing) for call in calls for held, thing in edges(connect, db, someone, call)]
        assert {state[0] for ring in circles(states) for state in ring} >= {"against_the_order", "settle_query"}
        assert circles(state for state in states if state[0] != "against_the_order") == []
    finally:
        del CALLS["against_the_order"]


def test_a_deletion_in_the_middle_of_a_query_leaves_nothing(connect: Connect, db: Db, someone: dict[str, str]) -> None:
    """The user goes while a query runs: settling finds no query, and no row of theirs stays."""
    connect().execute("delete from auth.users where id = %s", (someone["user"],))
    with pytest.raises(psycopg.Error) as caught:
        settle(db, someone["hold"])
    assert caught.value.sqlstate == "NOHLD"
    assert admit(db, someone["user"], str(uuid.uuid4()))["reason"] == "No subscription found"
