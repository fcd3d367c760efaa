"""The effect of table size: admission with 10 thousand and 10 million usage rows, and the deletion of a heavy user."""

import statistics
import time
from typing import Any

import psycopg

from bench.metering import USERS, cluster, prepare

FEW, MANY = 10_000, 10_000_000
HEAVY_ROWS, HEAVY_CONVERSATIONS = 200_000, 2_000
SAMPLES = 400

ADMIT = "select public.admit_query(%s, gen_random_uuid()::text, private.time_ordered_id())"


def fill(db: psycopg.Connection[Any], first: int, last: int) -> None:
    """Inserts usage rows with these numbers, spread evenly over the users and the last year."""
    db.execute(
        "insert into public.usage_logs (id, created_at, user_id, request_id, tier, funding, outcome, query_date,"
        " query_timestamp, period_start, quota_used, quota_limit, overage_used, tokens_input, tokens_output, cost_usd,"
        " provider, model, used_byo_key, is_charged, counted_against_quota, was_overage)"
        " select lpad(to_hex(n), 32, '0')::uuid, at, lpad(to_hex(n %% %s + 1), 32, '0')::uuid, n::text, 'pro',"
        " 'included', 'answered', at::date, at, date_trunc('month', at), 1, 40, 0, 100, 20, 0.000123, 'anthropic',"
        " 'claude-haiku-5-5', false, true, true, false"
        " from generate_series(%s::bigint, %s::bigint) n,"
        " lateral (select now() - (n %% 365 + 1) * interval '1 day') as t(at)",
        (USERS, first, last),
    )


def admission(db: psycopg.Connection[Any]) -> tuple[float, float]:
    """The median milliseconds and buffers of an admission, over many users."""
    times, buffers = [], []
    for number in range(SAMPLES):
        user = f"{number * 7 % USERS + 1:032x}"
        with db.transaction(force_rollback=True):
            plan = db.execute(f"explain (analyze, buffers, format json) {ADMIT}", (user,)).fetchone()
        assert plan is not None
        times.append(plan[0][0]["Execution Time"])
        buffers.append(plan[0][0]["Plan"]["Shared Hit Blocks"] + plan[0][0]["Plan"]["Shared Read Blocks"])
    return statistics.median(times[SAMPLES // 2 :]), statistics.median(buffers[SAMPLES // 2 :])


def deletion(db: psycopg.Connection[Any]) -> tuple[float, float]:
    """The milliseconds to delete a user with many rows, and a user without any."""
    heavy, light = "f" * 32, "e" * 32
    db.execute("insert into auth.users (id) values (%s), (%s)", (heavy, light))
    db.execute(
        "insert into public.conversations (user_id, expires_at) select %s, now() from generate_series(1, %s)",
        (heavy, HEAVY_CONVERSATIONS),
    )
    db.execute(
        "insert into public.usage_logs (id, user_id, request_id, conversation_id, tier, funding, outcome, query_date,"
        " query_timestamp, period_start, quota_used, quota_limit, overage_used, provider, model, used_byo_key,"
        " is_charged, counted_against_quota, was_overage)"
        " select gen_random_uuid(), %s, n::text, c.ids[n %% %s + 1], 'pro', 'included', 'answered', current_date,"
        " now(), now(), 1, 40, 0, 'openai', 'm', false, true, true, false"
        " from generate_series(1, %s) n, (select array_agg(id) as ids from public.conversations where user_id = %s) c",
        (heavy, HEAVY_CONVERSATIONS, HEAVY_ROWS, heavy),
    )
    db.execute("vacuum analyze public.usage_logs")
    took = []
    for user in (light, heavy):
        started = time.perf_counter()
        db.execute("delete from auth.users where id = %s", (user,))
        took.append((time.perf_counter() - started) * 1000)
    return took[1], took[0]


def run() -> list[dict[str, Any]]:
    """Measures admission and deletion at both sizes."""
    with cluster() as postgres:
        prepare(postgres)
        with psycopg.connect(postgres.url("supabase_admin"), autocommit=True) as db:
            db.execute("set synchronous_commit = off")
            fill(db, 1, FEW)
            db.execute("vacuum analyze public.usage_logs")
            few_time, few_buffers = admission(db)
            heavy, light = deletion(db)
            print("growth: measured with ten thousand rows", flush=True)
            for first in range(FEW + 1, MANY, 1_000_000):
                fill(db, first, min(first + 999_999, MANY))
                print(f"growth: {min(first + 999_999, MANY):,} of {MANY:,} rows", flush=True)
            db.execute("vacuum analyze public.usage_logs")
            many_time, many_buffers = admission(db)
    return [
        {
            "what": "admission in ms, 10 million rows against 10 thousand",
            "ratio": many_time / few_time,
            "ours": many_time,
            "baseline": few_time,
        },
        {
            "what": "buffers of an admission, 10 million rows against 10 thousand",
            "ratio": many_buffers / few_buffers,
            "ours": many_buffers,
            "baseline": few_buffers,
        },
        {
            "what": "deleting a user in ms, 200,000 rows against none",
            "ratio": heavy / light,
            "ours": heavy,
            "baseline": light,
        },
    ]
