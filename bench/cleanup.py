"""Cleanup beside chats: a million messages in fifty thousand expired conversations go while sixteen clients chat.

The job with its own pacing, on a durable cluster. Slices with and without it alternate, because a disk's mood changes
by the second; what it leaves to the vacuum falls into both. A chat here is what it asks of the database: admission,
then settling with a turn that is kept.
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
CONVERSATIONS, MESSAGES = 50_000, 20  # of each
CLIENTS = 16
CHATS_S = 160  # together: a chat every tenth of a second a client, far more than people do
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
    """Users of a plan with history, and Postgres telling of every wait for a lock that is longer than allowed."""
    db.execute(f"alter system set deadlock_timeout = '{LOCK_WAIT_MS}ms'")
    db.execute("alter system set log_lock_waits = on")
    db.execute("select pg_reload_conf()")
    db.execute(f"insert into auth.users (id) select lpad(to_hex(u), 32, '0')::uuid from generate_series(1, {USERS}) u")
    db.execute("update public.user_subscriptions set tier = 'pro', daily_quota = 1000000000")


def fill(db: psycopg.Connection[Any]) -> None:
    """Conversations that expired yesterday, their messages, and a charged query for every answer."""
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
        " used_byo_key, counted_against_quota, was_overage)"
        " select private.time_ordered_id(), c.user_id, m.id::text, c.id, m.id, 'pro', 'included', 'answered',"
        " '2026-01-01', '2026-01-01', '2026-01-01', 1, 40, 0, 'openai', 'm', false, true, false"
        " from public.conversations c join public.messages m on m.conversation_id = c.id"
        " where c.expires_at < now() and m.role = 'assistant'"
    )
    db.execute("vacuum analyze")


class Batches:
    """What the job calls its batches through, and how long each took."""

    def __init__(self, postgres: Postgres) -> None:
        self.took_ms: list[float] = []
        self._db = psycopg.connect(postgres.url(), autocommit=True)

    async def call(self, function: str, **_: Any) -> int:
        started = time.perf_counter()
        row = self._db.execute(f"select public.{function}()".encode()).fetchone()
        self.took_ms.append((time.perf_counter() - started) * 1000)
        assert row is not None
        return int(row[0])


def quietly(line: str) -> None:
    """The slices tell how far it is."""


def chat(postgres: Postgres, folder: Path, number: int) -> list[float]:
    """Milliseconds of each chat of a slice, its waiting for its turn included."""
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
    """The time within which that share of chats was done."""
    return sorted(times)[int(len(times) * share)]


def run() -> list[dict[str, Any]]:
    """Figures on the cleanup."""
    usual: list[float] = []
    during: list[float] = []
    with cluster() as postgres, tempfile.TemporaryDirectory() as folder:
        with psycopg.connect(postgres.url("supabase_admin"), autocommit=True) as db:
            prepare(db)
            fill(db)
            sizes = [size(db)]
            print("cleanup: filled", flush=True)
            batches = Batches(postgres)
            cleaned = 0
            goes = threading.Event()

            async def rest(seconds: float) -> None:
                await asyncio.sleep(seconds)
                await asyncio.to_thread(goes.wait)

            def clean() -> None:
                nonlocal cleaned
                unfinished = 1
                while unfinished:  # a run has its time; the scheduler starts the next one
                    cleaning = run_batches(batches, "cleanup_expired_conversations", "conversations", quietly, rest)  # type: ignore[arg-type]
                    done = asyncio.run(cleaning)
                    cleaned, unfinished = cleaned + done["conversations"], done["unfinished"]

            job, number = threading.Thread(target=clean), itertools.count(1)
            chat(postgres, Path(folder), next(number))  # warms up
            job.start()
            while job.is_alive():
                goes.clear()
                usual += chat(postgres, Path(folder), next(number))
                goes.set()
                during += chat(postgres, Path(folder), next(number))
                print(f"cleanup: {len(batches.took_ms):,} batches", flush=True)
            row = db.execute("select count(*) from public.conversations where expires_at < now()").fetchone()
            assert row == (0,)
            db.execute("vacuum analyze")
            fill(db)
            sizes.append(size(db))
        waits = waits_in(postgres)
    print(f"cleanup: {cleaned:,} conversations in {len(batches.took_ms):,} batches", flush=True)
    slow = 1.5 * percentile(usual, 0.95)
    return [
        {
            "what": f"p95 of a chat in ms, {CLIENTS} clients, beside the cleanup",
            "ratio": percentile(during, 0.95) / percentile(usual, 0.95),
            "ours": percentile(during, 0.95),
            "baseline": percentile(usual, 0.95),
        },
        {
            "what": "chats in 10,000 that take over 1.5 x the usual p95",
            "ratio": share(during, slow) / max(share(usual, slow), 1e-9),
            "ours": share(during, slow),
            "baseline": share(usual, slow),
        },
        {
            "what": "slowest chat in ms, beside the cleanup",
            "ratio": max(during) / max(usual),
            "ours": max(during),
            "baseline": max(usual),
        },
        {
            "what": f"99 of 100 batches in ms, against the {LOCK_WAIT_MS} that they may last",
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
            "what": "bytes a message takes, tables filled again, against the first time",
            "ratio": sizes[1] / sizes[0],
            "ours": sizes[1],
            "baseline": sizes[0],
        },
    ]


def share(times: list[float], slow: float) -> float:
    """How many in ten thousand take longer."""
    return sum(one > slow for one in times) / len(times) * 10_000


def size(db: psycopg.Connection[Any]) -> float:
    """Bytes of conversations and messages with their indexes, a message."""
    row = db.execute(
        "select (pg_total_relation_size('public.conversations') + pg_total_relation_size('public.messages'))"
        " / (select count(*) from public.messages)"
    ).fetchone()
    assert row is not None
    return float(row[0])


def waits_in(postgres: Postgres) -> float:
    """How often somebody waited for a lock longer than allowed, by Postgres's log."""
    logs = list(postgres.data.parent.glob("**/postgres*.log"))
    assert logs
    told = [line for log in logs for line in log.read_text(errors="replace").splitlines() if "still waiting" in line]
    for line in told:
        print(f"cleanup: {line}", flush=True)
    return float(len(told))
