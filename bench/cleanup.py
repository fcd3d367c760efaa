"""The cleanup during chats: deletes a million messages of fifty thousand expired conversations, with sixteen clients.

The job runs with its own pacing on a durable cluster. Slices with and without it alternate, because a disk's speed
changes by the second. The vacuum's work falls into both. A chat is its database calls: admission, then settlement with
a stored turn.
"""

import asyncio
import itertools
import subprocess
import tempfile
import threading
import time
from pathlib import Path
from typing import Any

import psycopg

from bench.metering import cluster
from functions.maintenance.batches import run_batches
from infra.local.postgres import Postgres

USERS = 2_000
CONVERSATIONS, MESSAGES = 50_000, 20  # messages per conversation
CLIENTS = 16
CHATS_S = 160  # of all clients: 10 chats per second and client, far more than in production
SLICE_S = 5
LOCK_WAIT_MS = 100

USER = "lpad(to_hex(:u::bigint), 32, '0')::uuid"
HOLD = "(lpad(to_hex(:seq::bigint), 16, '0') || lpad(to_hex(:client_id::bigint), 16, '0'))::uuid"
CHAT = f"""
\\set seq :seq + 1
\\set u random(1, {USERS})
select public.admit_query({USER}, :seq::text || '-' || :client_id::text, {HOLD}, 'chat ' || :seq % 5);
select public.settle_query({HOLD}, 'answered', '{{"tokens_input": 100, "tokens_output": 20, "cost_usd": "0.000123"}}',
  jsonb_build_object('chat_id', 'chat ' || :seq % 5, 'title', 'Budget', 'context', '{{}}'::jsonb,
    'question', jsonb_build_object('id', {HOLD}::text, 'content', 'Who voted for it?'),
    'answer', jsonb_build_object('id', gen_random_uuid(), 'content', repeat('They did. ', 60))));
"""


def prepare(db: psycopg.Connection[Any]) -> None:
    """Creates users of a plan with history, and makes Postgres log every wait for a lock longer than LOCK_WAIT_MS."""
    db.execute(f"alter system set deadlock_timeout = '{LOCK_WAIT_MS}ms'")
    db.execute("alter system set log_lock_waits = on")
    db.execute("select pg_reload_conf()")
    db.execute(f"insert into auth.users (id) select lpad(to_hex(u), 32, '0')::uuid from generate_series(1, {USERS}) u")
    db.execute("update public.user_subscriptions set tier = 'pro', daily_quota = 1000000000")
    db.execute("update public.plans set concurrent_queries = 1000000")


def fill(db: psycopg.Connection[Any]) -> None:
    """Inserts conversations that expired yesterday, their messages, and a charged query for every answer."""
    db.execute("set synchronous_commit = off")
    db.execute(
        "insert into public.conversations (id, user_id, message_count, expires_at, last_message_at)"
        " select private.time_ordered_id(), lpad(to_hex(n %% %s + 1), 32, '0')::uuid, %s,"
        " now() - interval '1 day' - n * interval '1 second', now() - interval '91 days'"
        " from generate_series(1, %s) n",
        (USERS, MESSAGES, CONVERSATIONS),
    )
    db.execute(
        "insert into public.messages (conversation_id, position, role, content)"
        " select c.id, n, case n %% 2 when 1 then 'user' else 'assistant' end, repeat('They did. ', 60)"
        " from public.conversations c, generate_series(1, %s) n where c.expires_at < now()",
        (MESSAGES,),
    )
    db.execute(
        "insert into public.usage_logs (id, user_id, request_id, conversation_id, message_id, tier, funding, outcome,"
        " query_date, query_timestamp, period_start, quota_used, quota_limit, overage_used, provider, model,"
        " used_byo_key, is_charged, counted_against_quota, was_overage)"
        " select private.time_ordered_id(), c.user_id, m.id::text, c.id, m.id, 'pro', 'included', 'answered',"
        " '2026-01-01', '2026-01-01', '2026-01-01', 1, 40, 0, 'openai', 'm', false, true, true, false"
        " from public.conversations c join public.messages m on m.conversation_id = c.id"
        " where c.expires_at < now() and m.role = 'assistant'"
    )
    db.execute("vacuum analyze")


class Batches:
    """Calls the job's batches and records how long each took."""

    def __init__(self, postgres: Postgres) -> None:
        self.took_ms: list[float] = []
        self._db = psycopg.connect(postgres.url(), autocommit=True)

    async def call(self, function: str, **_: Any) -> int:
        started = time.perf_counter()
        row = self._db.execute(f"select public.{function}()".encode()).fetchone()
        self.took_ms.append((time.perf_counter() - started) * 1000)
        assert row is not None
        return int(row[0])


def no_report(line: str) -> None:
    """Ignores the job's progress lines."""


def chat(postgres: Postgres, folder: Path, number: int) -> list[float]:
    """The milliseconds of each chat of a slice, including the time that it waits for a client."""
    script, log = folder / "chat.sql", folder / f"log{number}"
    script.write_text(CHAT)
    command = postgres.command(
        "pgbench",
        *("-n", "-M", "prepared", "-f", str(script), "-T", str(SLICE_S), "-c", str(CLIENTS), "-j", "1"),
        *("-R", str(CHATS_S), "-D", f"seq={number * 1_000_000}", "-l", "--log-prefix", str(log)),
        postgres.url("supabase_admin"),
    )
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode != 0:
        raise RuntimeError(done.stderr)
    return [
        int(line.split()[2]) / 1000 for part in folder.glob(f"{log.name}.*") for line in part.read_text().splitlines()
    ]


def percentile(times: list[float], share: float) -> float:
    """The duration that this share of the chats did not exceed."""
    return sorted(times)[int(len(times) * share)]


def run() -> list[dict[str, Any]]:
    """Measures the cleanup."""
    without: list[float] = []
    during: list[float] = []
    with cluster() as postgres, tempfile.TemporaryDirectory() as folder:
        with psycopg.connect(postgres.url("supabase_admin"), autocommit=True) as db:
            prepare(db)
            fill(db)
            sizes = [size(db)]
            print("cleanup: filled", flush=True)
            batches = Batches(postgres)
            cleaned = 0
            may_run = threading.Event()

            async def pause(seconds: float) -> None:
                await asyncio.sleep(seconds)
                await asyncio.to_thread(may_run.wait)

            def clean() -> None:
                nonlocal cleaned
                unfinished = 1
                while unfinished:  # a run has a time limit; the scheduler starts the next one
                    cleaning = run_batches(batches, "cleanup_expired_conversations", "conversations", no_report, pause)  # type: ignore[arg-type]
                    done = asyncio.run(cleaning)
                    cleaned, unfinished = cleaned + done["conversations"], done["unfinished"]

            job, number = threading.Thread(target=clean), itertools.count(1)
            chat(postgres, Path(folder), next(number))  # warm-up
            job.start()
            while job.is_alive():
                may_run.clear()
                without += chat(postgres, Path(folder), next(number))
                may_run.set()
                during += chat(postgres, Path(folder), next(number))
                print(f"cleanup: {len(batches.took_ms):,} batches", flush=True)
            row = db.execute("select count(*) from public.conversations where expires_at < now()").fetchone()
            assert row == (0,)
            db.execute("vacuum analyze")
            fill(db)
            sizes.append(size(db))
        waits = waits_in(postgres)
    print(f"cleanup: {cleaned:,} conversations in {len(batches.took_ms):,} batches", flush=True)
    slow = 1.5 * percentile(without, 0.95)
    return [
        {
            "what": f"p95 of a chat in ms, {CLIENTS} clients, during the cleanup",
            "ratio": percentile(during, 0.95) / percentile(without, 0.95),
            "ours": percentile(during, 0.95),
            "baseline": percentile(without, 0.95),
        },
        {
            "what": "chats in 10,000 slower than 1.5 x the p95 without cleanup",
            "ratio": share(during, slow) / max(share(without, slow), 1e-9),
            "ours": share(during, slow),
            "baseline": share(without, slow),
        },
        {
            "what": "slowest chat in ms, during the cleanup",
            "ratio": max(during) / max(without),
            "ours": max(during),
            "baseline": max(without),
        },
        {
            "what": f"p99 of a batch in ms, against the limit of {LOCK_WAIT_MS}",
            "ratio": percentile(batches.took_ms, 0.99) / LOCK_WAIT_MS,
            "ours": percentile(batches.took_ms, 0.99),
            "baseline": float(LOCK_WAIT_MS),
        },
        {
            "what": f"waits for locks over {LOCK_WAIT_MS} ms, against none",
            "ratio": waits,
            "ours": waits,
            "baseline": 0.0,
        },
        {
            "what": "bytes per message, tables filled again, against the first time",
            "ratio": sizes[1] / sizes[0],
            "ours": sizes[1],
            "baseline": sizes[0],
        },
    ]


def share(times: list[float], slow: float) -> float:
    """How many of ten thousand chats are slower."""
    return sum(one > slow for one in times) / len(times) * 10_000


def size(db: psycopg.Connection[Any]) -> float:
    """The bytes of conversations and messages with their indexes, per message."""
    row = db.execute(
        "select (pg_total_relation_size('public.conversations') + pg_total_relation_size('public.messages'))"
        " / (select count(*) from public.messages)"
    ).fetchone()
    assert row is not None
    return float(row[0])


def waits_in(postgres: Postgres) -> float:
    """The waits for locks longer than LOCK_WAIT_MS in Postgres's log."""
    logs = list(postgres.data.parent.glob("**/postgres*.log"))
    assert logs
    waits = [line for log in logs for line in log.read_text(errors="replace").splitlines() if "still waiting" in line]
    for line in waits:
        print(f"cleanup: {line}", flush=True)
    return float(len(waits))
