"""Postgres, PostgREST and the chat killed with SIGKILL under chatting clients: every answer that a client saw finish is
charged once and stored, a refused one is not charged, and a message sent again is answered once.

`PROVE=1` kills 40 times under 20 clients, otherwise 6 times under 6. `SEED=n` repeats the kills and the questions.
"""

import json
import os
import random
import signal
import threading
import time
import uuid
from collections import Counter
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import httpx
import psycopg
import pytest
from psycopg.rows import dict_row

from infra.local.reaper import alive
from infra.local.stack import Stack
from tests.api import question
from tests.conftest import Person
from tests.journeys.chat_process import Process, chat_process

FULL = bool(os.environ.get("PROVE"))
KILLS, CLIENTS = (40, 20) if FULL else (6, 6)


@dataclass(slots=True)
class Asked:
    """A question and what its client saw."""

    person: Person
    body: dict[str, Any]
    status: int | None = None  # None: no response
    error: dict[str, Any] = field(default_factory=dict)
    parts: list[dict[str, Any]] = field(default_factory=list)
    is_whole: bool = False

    @property
    def message_id(self) -> str:
        """The request id in the ledger."""
        return str(self.body["messages"][-1]["id"])

    @property
    def text(self) -> str:
        """The answer's text so far."""
        return "".join(part["delta"] for part in self.parts if part["type"] == "text-delta")

    @property
    def has_finished(self) -> bool:
        """Whether the client saw the whole answer and its end."""
        return self.is_whole and self.parts[-1].get("finishReason") == "stop"

    def read(self, response: httpx.Response) -> None:
        """Read a response to its end."""
        self.status = response.status_code
        if self.status != 200:
            self.error = json.loads(response.read())["error"]
            return
        for line in response.iter_lines():
            if line == "data: [DONE]":
                self.is_whole = True
            elif line.startswith("data: "):
                self.parts.append(json.loads(line.removeprefix("data: ")))


def slow_question(chance: random.Random) -> dict[str, Any]:
    """A question whose answer takes a second or two."""
    pause = chance.choice(["stall 1", "slow 0.02", "long 2"])
    return question(f"A killed service {uuid.uuid4()} [fault:{pause}]")


def ask(http: httpx.Client, person: Person, body: dict[str, Any]) -> Asked | None:
    """Ask a question. The chat may be killed during the answer. Returns None if the connection was refused."""
    asked = Asked(person, body)
    try:
        with http.stream("POST", "/chat", json=asked.body, headers=person.headers) as response:
            asked.read(response)
    except httpx.ConnectError:
        return None
    except httpx.TransportError:
        pass
    return asked


def kill_postgres(stack: Stack) -> None:
    """Kill the postmaster and its children, whose shared memory a new one could not use."""
    with psycopg.connect(stack.postgres.url("supabase_admin"), autocommit=True) as db:
        children = [pid for (pid,) in db.execute("select pid from pg_stat_activity")]
    stack.stop_database(signal.SIGKILL)
    for child in children:
        with suppress(ProcessLookupError):
            os.kill(child, signal.SIGKILL)
    while any(alive(child) for child in children):  # the test's timeout limits this
        time.sleep(0.01)


def kill_and_restart(stack: Stack, chat: Process, chance: random.Random) -> None:
    """Kill the services in random order, each as often, and start each again a moment later."""
    kinds: list[tuple[Callable[[], None], Callable[[], None]]] = [
        (lambda: kill_postgres(stack), stack.start_database),
        (stack.kill_postgrest, stack.start_postgrest),
        (chat.kill, chat.start),
    ]
    for kill, start in chance.sample(kinds * (KILLS // 3 + 1), KILLS):
        time.sleep(chance.uniform(0.5, 2))  # chooses the moment of the kill
        kill()
        time.sleep(chance.uniform(0, 10 if FULL else 2))  # the length of the outage
        start()


@pytest.mark.prove
@pytest.mark.timeout(1800 if FULL else 300)
def test_every_answer_that_finished_is_charged_once_and_kept(
    stack: Stack, person: Callable[..., Person], many_at_once_in_the_stack: None, tmp_path: Path,
    eventually: Callable[..., None],
) -> None:  # fmt: skip
    seed = os.environ.get("SEED") or str(uuid.uuid4())
    print(f"repeat the kills with SEED={seed}")  # noqa: T201 -- pytest shows it if the test fails
    persons = [person("pro", daily_quota=100_000) for _ in range(CLIENTS)]
    is_over = threading.Event()
    with chat_process(stack, tmp_path) as chat, ThreadPoolExecutor(CLIENTS) as pool:

        def chat_on(user: Person, chance: random.Random) -> list[Asked]:
            everything: list[Asked] = []
            body, attempts = slow_question(chance), 0
            with httpx.Client(base_url=chat.url, timeout=200) as http:
                while not is_over.is_set():
                    asked = ask(http, user, body)
                    if asked is not None:
                        everything.append(asked)
                        attempts += 1
                    if asked is not None and (asked.has_finished or attempts == 2):
                        body, attempts = slow_question(chance), 0
                    else:  # the answer is incomplete: send the same message again
                        is_over.wait(0.2)
            return everything

        def ask_again(asked: Asked) -> Asked | None:
            with httpx.Client(base_url=chat.url, timeout=60) as http:
                return ask(http, asked.person, asked.body)

        chances = [random.Random(f"{seed} {number}") for number in range(CLIENTS)]  # noqa: S311
        clients = [pool.submit(chat_on, *client) for client in zip(persons, chances, strict=True)]
        try:
            kill_and_restart(stack, chat, random.Random(seed))  # noqa: S311
        finally:
            is_over.set()
        everything = [asked for client in clients for asked in client.result()]

        check_seen(everything)
        check_ledger(stack, persons, everything)
        finished = {asked.message_id for asked in everything if asked.has_finished}
        unanswered = {asked.message_id: asked for asked in everything if asked.message_id not in finished}
        eventually(lambda: (asked := ask_again(everything[-1])) is not None and asked.status == 200)
        again = [asked for asked in pool.map(ask_again, unanswered.values()) if asked is not None]
    print(f"{len(again)} messages without an answer were sent again")  # noqa: T201
    assert len(again) == len(unanswered)
    assert [(asked.status, asked.error) for asked in again if not asked.has_finished] == []
    check_ledger(stack, persons, [*everything, *again])


def check_seen(everything: list[Asked]) -> None:
    """Check what the clients saw: answers, broken streams, and refusals that say to try again."""
    seen = Counter("finished" if asked.has_finished else asked.status or "no response" for asked in everything)
    print(dict(seen))  # noqa: T201 -- 200: the stream broke off
    assert seen["finished"] >= KILLS
    first = {asked.message_id: asked for asked in reversed(everything)}
    refusals = {(asked is first[asked.message_id], asked.status, asked.error.get("code")) for asked in everything}
    refusals = {refusal for refusal in refusals if refusal[1] not in (None, 200)}
    # The hold of a killed process is there until it expires. Only a message that is sent again can meet it.
    assert refusals <= {(True, 503, "unavailable"), (False, 503, "unavailable"), (False, 409, "request_in_progress")}
    assert [part for asked in everything for part in asked.parts if part["type"] == "error"] == []
    assert [
        asked.body for asked in everything if asked.has_finished and "outcome" in asked.parts[-1]["messageMetadata"]
    ] == []


def check_ledger(stack: Stack, persons: list[Person], everything: list[Asked]) -> None:
    """Check that finished questions are charged once and stored as streamed, all charged ones are stored, and those
    that were only refused are not charged."""
    users = [user.id for user in persons]
    with psycopg.connect(stack.postgres.url(), autocommit=True, row_factory=dict_row) as db:
        db.execute("update public.query_holds set expires_at = created_at where user_id = any(%s::uuid[])", (users,))
        while db.execute("select public.release_stale_holds() as released").fetchone() != {"released": 0}:
            pass
        ledger = db.execute(
            "select u.request_id, u.message_id::text, m.content, q.external_id as question"
            " from public.usage_logs u left join public.messages m on m.id = u.message_id"
            " left join public.messages q on q.conversation_id = m.conversation_id and q.position = m.position - 1"
            " where u.user_id = any(%s::uuid[]) and u.is_charged",
            (users,),
        ).fetchall()
        charged = {row["request_id"]: row for row in ledger}
        assert len(charged) == len(ledger), "nothing is charged twice"
        # A request without a response may have been answered; a refused one may not.
        assert set(charged) <= {asked.message_id for asked in everything if asked.status in (None, 200)}
        for asked in everything:
            if not asked.has_finished:
                continue
            row = charged[asked.message_id]
            assert row["message_id"] == asked.parts[0]["messageId"]
            assert (row["question"], row["content"]) == (asked.message_id, asked.text)
        assert [row for row in ledger if row["content"] is None] == []
        assert (
            db.execute("select id from public.query_holds where user_id = any(%s::uuid[])", (users,)).fetchall() == []
        )
        broken = db.execute("select * from public.reconcile() where user_id = any(%s::uuid[])", (users,)).fetchall()
        assert broken == []
        used = db.execute(
            "select sum(quota_used)::integer as used from public.user_subscriptions where user_id = any(%s::uuid[])",
            (users,),
        ).fetchone()
        assert used == {"used": len(ledger)}
