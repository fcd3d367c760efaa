"""The cost of metering in Postgres with durable commits: admit + settle against baselines.

(a) A plpgsql function that inserts a usage row (four indexes) and increments a counter, called twice: two commits.
(b) The lower limit: two commits of one small insert each.
(c) For a turn that is stored: (a), and the second call also stores a conversation and two messages.
A stored turn has the parameters and the size that the chat sends. Its settlement is also timed inside the database.
Rounds are interleaved, because a disk's speed changes by the minute; the medians are compared.
"""

import json
import os
import statistics
import subprocess
import tempfile
from collections import defaultdict
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import psycopg

from functions.chat import limits
from infra.local.postgres import Postgres
from infra.local.processes import Processes
from infra.local.stack import POSTGRES, free_offset, locked

USERS = 10_000
ROUNDS = 5
SECONDS = 4

SETUP = """
create table public.baseline_usage (
  id uuid primary key, user_id uuid not null, request_id text not null, conversation_id uuid, day date not null,
  tokens integer not null, cost numeric(14,6) not null, created_at timestamptz not null default now());
create index on public.baseline_usage (user_id, day);
create index on public.baseline_usage (user_id, request_id);
create index on public.baseline_usage (conversation_id);
create table public.baseline_counter (user_id uuid primary key, used integer not null);
create function public.baseline(p_user_id uuid, p_id uuid) returns void language plpgsql as $$
begin
  insert into public.baseline_usage (id, user_id, request_id, day, tokens, cost)
  values (p_id, p_user_id, p_id::text, current_date, 120, 0.000123);
  update public.baseline_counter set used = used + 1 where user_id = p_user_id;
end $$;
create table public.baseline_conversation (
  id uuid primary key, user_id uuid not null, title text, messages integer not null, updated_at timestamptz not null);
create index on public.baseline_conversation (user_id, updated_at);
create table public.baseline_message (
  id uuid primary key, conversation_id uuid not null, role text not null, content text not null,
  function_calls jsonb, function_results jsonb, created_at timestamptz not null default now());
create index on public.baseline_message (conversation_id);
create function public.baseline_turn(p_user_id uuid, p_id uuid, p_chat_id uuid, p_turn jsonb) returns void
language plpgsql as $$
begin
  perform public.baseline(p_user_id, p_id);
  insert into public.baseline_conversation as c (id, user_id, title, messages, updated_at)
  values (p_chat_id, p_user_id, p_turn ->> 'title', 2, now())
  on conflict (id) do update set messages = c.messages + 2, updated_at = now();
  insert into public.baseline_message (id, conversation_id, role, content, function_calls, function_results)
  values (gen_random_uuid(), p_chat_id, 'user', p_turn -> 'question' ->> 'content', null, null),
         (p_id, p_chat_id, 'assistant', p_turn -> 'answer' ->> 'content', p_turn -> 'answer' -> 'function_calls',
          p_turn -> 'answer' -> 'function_results');
end $$;
create unlogged table public.duration (microseconds numeric not null);
create function public.timed_settlement(p_hold_id uuid, p_usage jsonb, p_turn jsonb) returns void
language plpgsql as $$
declare
  v_start constant timestamptz := clock_timestamp();
begin
  perform public.settle_query(p_hold_id, 'answered', p_usage, p_turn);
  insert into public.duration (microseconds) values (extract(epoch from clock_timestamp() - v_start) * 1000000);
end $$;
create table public.raw (id bigint generated always as identity primary key, value integer);
"""
# Ids grow with time, like the chat's: a sequence number, then the client.
ID = "(lpad(to_hex(:seq::bigint * 2 + {half}), 16, '0') || lpad(to_hex(:client_id::bigint), 16, '0'))::uuid"
USER = "lpad(to_hex(:u::bigint), 32, '0')::uuid"
USAGE = (
    """'{"provider": "anthropic", "model": "claude-haiku-5-5", "tokens_input": 100, "tokens_output": 20, """
    """"cost_usd": "0.000123"}'"""
)
# Three turns a conversation, with two tool calls each, as in a short chat about a bill.
CHAT = "(lpad(to_hex(:seq::bigint / 3), 16, '0') || lpad(to_hex(:client_id::bigint), 16, '0'))::uuid"
ANSWER = {
    "content": "The member for Ottawa Centre voted Yea on second reading of Bill C-5. " * 20,
    "function_calls": [
        {"id": "toolu_1", "name": "search_bills", "input": {"query": "C-5"}, "step": 0, "at": 0},
        {"id": "toolu_2", "name": "list_votes", "input": {"bill": "C-5", "limit": 10}, "step": 1, "at": 70},
    ],
    "function_results": [
        {
            "id": "toolu_1",
            "output": {"bills": [{"number": f"C-{number}", "status": "Royal assent"} for number in range(10)]},
            "sources": [{"url": "https://openparliament.ca/bills/45-1/C-5/", "title": "Bill C-5"}],
        },
        {
            "id": "toolu_2",
            "output": {"votes": [{"number": number, "yea": 306, "nay": 31} for number in range(20)]},
            "sources": [{"url": "https://openparliament.ca/votes/45-1/", "title": "Votes"}],
        },
    ],
}
CONTEXT = {"type": "bill", "id": "C-5", "data": {"stage": 2}}
TURN = (
    f"jsonb_build_object('chat_id', {CHAT}, 'title', 'How did my MP vote on C-5?', 'context', '{json.dumps(CONTEXT)}'"
    "::jsonb, 'question', jsonb_build_object('id', 'q' || :seq::text, 'content', 'How did my MP vote on Bill C-5?'),"
    f" 'answer', '{json.dumps(ANSWER)}'::jsonb || jsonb_build_object('id', {ID.format(half=1)}))"
)
CHAT_ADMISSION = (
    f"select public.admit_query({{user}}, {CHAT}::text || ':' || :seq::text, {ID.format(half=0)}, {CHAT}::text,"
    f" null, null, null, {limits.HOLD_S}, {limits.HISTORY_MESSAGES}, {limits.HISTORY_BYTES},"
    " p_question => jsonb_build_object('id', 'q' || :seq::text, 'content', 'How did my MP vote on Bill C-5?'));\n"
)
# A conversation belongs to one user.
CHAT_USER = "lpad(to_hex((:seq::bigint / 3 * 16 + :client_id::bigint) % :users::bigint + 1), 32, '0')::uuid"
PREFIX = "\\set seq :seq + 1\n\\set u random(1, :users)\n"
SCRIPTS = {
    "ours": PREFIX
    + f"select public.admit_query({USER}, :seq::text || '-' || :client_id::text, {ID.format(half=0)});\n"
    + f"select public.settle_query({ID.format(half=0)}, 'answered', {USAGE});\n",
    "baseline": PREFIX + "".join(f"select public.baseline({USER}, {ID.format(half=half)});\n" for half in (0, 1)),
    "ours, turn stored": PREFIX
    + CHAT_ADMISSION.format(user=CHAT_USER)
    + f"select public.settle_query({ID.format(half=0)}, 'answered', {USAGE}, {TURN});\n",
    "baseline, turn stored": PREFIX
    + f"select public.baseline({CHAT_USER}, {ID.format(half=0)});\n"
    + f"select public.baseline_turn({CHAT_USER}, {ID.format(half=1)}, {CHAT}, {TURN});\n",
    "timed": PREFIX
    + CHAT_ADMISSION.format(user=CHAT_USER)
    + f"select public.timed_settlement({ID.format(half=0)}, {USAGE}, null);\n",
    "timed, turn stored": PREFIX
    + CHAT_ADMISSION.format(user=CHAT_USER)
    + f"select public.timed_settlement({ID.format(half=0)}, {USAGE}, {TURN});\n",
    "raw": PREFIX + "insert into public.raw (value) values (1);\n" * 2,
}


@dataclass(frozen=True, slots=True)
class Load:
    """The number of clients, and of users that they choose from."""

    name: str
    clients: int
    users: int


MANY = Load("many users, 16 clients", 16, USERS)
HOT = Load("one hot user, 16 clients", 16, 1)
ONE = Load("many users, one client", 1, USERS)
HOT_64 = Load("one hot user, 64 clients", 64, 1)


@contextmanager
def cluster() -> Iterator[Postgres]:
    """A new durable cluster with every migration."""
    with (
        tempfile.TemporaryDirectory() as folder,
        locked(Path(folder)) as lock,
        Processes(Path(folder), lock) as processes,
    ):
        postgres = Postgres(Path(folder) / "postgres", POSTGRES + free_offset())
        postgres.start(processes)
        postgres.migrate()
        yield postgres


def prepare(postgres: Postgres) -> None:
    """Creates the baseline's tables, and users with limits that no benchmark reaches."""
    with psycopg.connect(postgres.url("supabase_admin"), autocommit=True) as db:
        db.execute(SETUP)
        db.execute(
            f"insert into auth.users (id) select lpad(to_hex(u), 32, '0')::uuid from generate_series(1, {USERS}) u"
        )
        db.execute("update public.user_subscriptions set tier = 'pro', daily_quota = 1000000000")
        db.execute("update public.plans set concurrent_queries = 1000")
        db.execute("insert into public.baseline_counter select user_id, 0 from public.user_subscriptions")
        db.execute("vacuum analyze")


class Bench:
    """Runs pgbench. Each run has its own range of sequence numbers."""

    def __init__(self, postgres: Postgres, folder: Path) -> None:
        self._postgres = postgres
        self._folder = folder
        self._run = 0

    def settlement(self, script: str) -> float:
        """Microseconds of a settlement in the database, without its commit: the median of one client's calls."""
        with psycopg.connect(self._postgres.url("supabase_admin"), autocommit=True) as db:
            db.execute("truncate public.duration")
            self.measure(script, ONE)
            row = db.execute(
                "select percentile_cont(0.5) within group (order by microseconds::float8) from public.duration"
            ).fetchone()
        assert row is not None
        return float(row[0])

    def measure(self, script: str, load: Load) -> tuple[float, float]:
        """Pairs of commits per second, and the 99th percentile of a pair in milliseconds."""
        self._run += 1
        path = self._folder / f"{script.replace(', ', '_').replace(' ', '_')}.sql"
        path.write_text(SCRIPTS[script])
        log = self._folder / f"log{self._run}"
        command = self._postgres.command(
            "pgbench",
            *("-n", "-M", "prepared", "-f", str(path), "-T", str(SECONDS), "-c", str(load.clients), "-j", "1"),
            *("-D", f"users={load.users}", "-D", f"seq={self._run * 10_000_000}"),
            *("-l", "--log-prefix", str(log)),
            self._postgres.url("supabase_admin"),
        )
        # Slower calls fail, as in the chat: its admission waits for so long.
        options = {"PGOPTIONS": f"-c statement_timeout={limits.ADMIT_S:.1f}s"}
        done = subprocess.run(command, capture_output=True, text=True, check=False, env={**os.environ, **options})
        if done.returncode != 0:
            raise RuntimeError(done.stderr)
        rate = next(float(line.split()[2]) for line in done.stdout.splitlines() if line.startswith("tps ="))
        times = sorted(
            int(line.split()[2])
            for part in self._folder.glob(f"{log.name}.*")
            for line in part.read_text().splitlines()
        )
        return rate, times[int(len(times) * 0.99)] / 1000


def run() -> list[dict[str, Any]]:
    """Measures the medians of interleaved rounds."""
    rates: dict[tuple[str, str], list[float]] = defaultdict(list)
    tails: dict[tuple[str, str], list[float]] = defaultdict(list)
    timed: dict[str, list[float]] = defaultdict(list)
    plan = [(script, load) for load in (MANY, HOT, HOT_64) for script in ("baseline", "ours")]
    plan += [("baseline, turn stored", MANY), ("ours, turn stored", MANY), ("raw", MANY)]
    with cluster() as postgres, tempfile.TemporaryDirectory() as folder:
        prepare(postgres)
        bench = Bench(postgres, Path(folder))
        for number in range(ROUNDS):
            for script, load in plan:
                rate, tail = bench.measure(script, load)
                rates[script, load.name].append(rate)
                tails[script, load.name].append(tail)
            for script in ("timed", "timed, turn stored"):
                timed[script].append(bench.settlement(script))
            print(f"metering: round {number + 1} of {ROUNDS}", flush=True)
    results = []
    for load, kind in ((MANY, ""), (HOT, ""), (HOT_64, ""), (MANY, ", turn stored")):
        ours, baseline = (statistics.median(rates[side + kind, load.name]) for side in ("ours", "baseline"))
        ours_p99, baseline_p99 = (statistics.median(tails[side + kind, load.name]) for side in ("ours", "baseline"))
        results += [
            {
                "what": f"admit + settle per second, {load.name}{kind}",
                "ratio": ours / baseline,
                "ours": ours,
                "baseline": baseline,
            },
            {
                "what": f"p99 of a pair in ms, {load.name}{kind}",
                "ratio": ours_p99 / baseline_p99,
                "ours": ours_p99,
                "baseline": baseline_p99,
            },
        ]
    ours, raw = statistics.median(rates["ours", MANY.name]), statistics.median(rates["raw", MANY.name])
    results.append(
        {
            "what": f"admit + settle against two raw commits, {MANY.name}",
            "ratio": ours / raw,
            "ours": ours,
            "baseline": raw,
        }
    )
    stored, alone = (statistics.median(timed[script]) for script in ("timed, turn stored", "timed"))
    results.append(
        {
            "what": "µs in the database to settle with a turn, against without",
            "ratio": stored / alone,
            "ours": stored,
            "baseline": alone,
        }
    )
    return results
