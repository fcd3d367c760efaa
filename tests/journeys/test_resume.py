"""Coming back to an answer, and stopping it, as on Lambda: in another process than the one that runs it.

Two processes have the same settings and nothing in common but the database. Whoever asks is called the asker, whoever
comes back in the other process the follower.
"""

import os
import signal
import socket
import sys
import uuid
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import psycopg
import pytest
from psycopg import sql

from infra.local.postgres import ROOT
from infra.local.processes import Child, Processes
from infra.local.stack import Stack, answers, locked
from tests.api import Left, question
from tests.clients.browser import Browser, Heard, Json
from tests.conftest import Person

People = Callable[..., Person]
Look = Callable[[Person], Left]
Wait = Callable[[Callable[[], bool]], None]
Db = psycopg.Connection[dict[str, Any]]
PROVIDERS = ["anthropic", "openai"]
TIERS = ["pro", "free"]  # one keeps conversations, one keeps nothing

TOOLS = '[tool:get_bill {"number": "C-5"}] [tool:rm_rf {"path": "MARKER"}]'
THREE_SECONDS = "[fault:slow 0.1] [fault:long 30]"
TWELVE_SECONDS = "[fault:slow 0.2] [fault:long 60]"
# What only the process that asked knows: each response has its own id, and what is left is told at admission.
OWN = {"request_id", "remaining", "resets_at"}


@dataclass(frozen=True, slots=True)
class Process:
    """A chat function that listens at `url`."""

    url: str
    child: Child
    processes: Processes

    def signal(self, number: signal.Signals) -> None:
        """Send it a signal."""
        self.child.process.send_signal(number)

    def kill(self) -> None:
        """As Lambda does, at any moment."""
        self.processes.stop_one(self.child, signal.SIGKILL)


@contextmanager
def chat_process(stack: Stack, folder: Path) -> Iterator[Process]:
    """A process of the chat function beside the stack's own, started as on Lambda."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    info = stack.info
    env = {
        "PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}",
        "AWS_LWA_PORT": str(port),
        "SUPABASE_URL": info["supabase_url"],
        "SUPABASE_ANON_KEY": info["anon_key"],
        "SUPABASE_SERVICE_ROLE_KEY": info["service_role_key"],
        "ENCRYPTION_KEY": (stack.config.folder / "encryption-key").read_text(),
        "ANTHROPIC_API_KEY": "stand-in",
        "ANTHROPIC_BASE_URL": info["model_url"],
        "OPENAI_API_KEY": "stand-in",
        "OPENAI_BASE_URL": f"{info['model_url']}/v1",
        "PARLIAMENT_API_URL": info["parliament_url"],
        "REPRESENT_API_URL": info["parliament_url"],
    }
    with locked(folder) as lock, Processes(folder, lock) as processes:
        child = processes.start("chat", ["sh", str(ROOT / "functions/chat/run.sh")], env=env)
        url = f"http://127.0.0.1:{port}"
        child.wait_until(lambda: answers(f"{url}/health"))
        yield Process(url, child, processes)


@pytest.fixture(scope="module")
def other(stack: Stack, tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """The address of another process than the one that is asked."""
    with chat_process(stack, tmp_path_factory.mktemp("other")) as process:
        yield process.url


@pytest.fixture
def mortal(stack: Stack, tmp_path: Path) -> Iterator[Process]:
    """A process for one test, which may end it."""
    with chat_process(stack, tmp_path) as process:
        yield process


@pytest.fixture(scope="module")
def browser(stack: Stack) -> Iterator[Browser]:
    """The AI SDK's client, in several tabs."""
    with Browser(stack.info["functions_url"]) as browser:
        yield browser


@pytest.fixture
def everything(stack: Stack) -> Iterator[Callable[[str], list[str]]]:
    """Searches every column of every table of the database for a text; names the tables."""
    with psycopg.connect(stack.postgres.url("supabase_admin"), autocommit=True) as db:

        def search(text: str) -> list[str]:
            tables = db.execute(
                "select n.nspname, c.relname from pg_class c join pg_namespace n on n.oid = c.relnamespace"
                " where c.relkind in ('r', 'm') and n.nspname not in ('pg_catalog', 'information_schema')"
                " and n.nspname !~ '^pg_t' order by 1, 2"
            ).fetchall()
            assert ("public", "query_holds") in tables
            # As text, and as bytes are shown.
            wanted = f"{text}|{text.encode().hex()}"
            return [
                f"{schema}.{table}"
                for schema, table in tables
                if db.execute(
                    sql.SQL("select 1 from {} t where t::text ~ %s limit 1").format(sql.Identifier(schema, table)),
                    (wanted,),
                ).fetchone()
            ]

        yield search


def ledger(db: Db, person: Person) -> Json:
    """A person's only row of the ledger."""
    (row,) = db.execute("select * from public.usage_logs where user_id = %s", (person.id,)).fetchall()
    return row


def used(after: Left) -> int:
    """How many queries a person has been charged."""
    return after.quota_used + after.lifetime_used


def well_told(heard: Heard) -> Heard:
    """The same, if it broke no rule."""
    assert heard.thrown is None
    assert not heard.nothing
    assert heard.wrong == []
    assert heard.headers["x-vercel-ai-ui-message-stream"] == "v1"
    assert heard.message is not None
    assert heard.message["id"] == heard.parts[0]["messageId"]
    return heard


def words(heard: Heard) -> list[Json]:
    """Everything but the metadata."""
    return [{name: part[name] for name in part if name != "messageMetadata"} for part in heard.parts]


def known(metadata: Json) -> Json:
    """What both processes know of a query that has ended."""
    return {name: metadata[name] for name in metadata if name not in OWN}


def the_same(follower: Heard, asker: Heard) -> None:
    """What the follower heard is what the asker heard, to the last word and the last cent."""
    assert words(well_told(follower)) == words(well_told(asker))
    assert known(follower.metadata) == known(asker.metadata)
    assert follower.metadata["request_id"] == follower.headers["x-request-id"]
    assert follower.message is not None
    assert asker.message is not None
    assert follower.message["parts"] == asker.message["parts"]
    assert (follower.errors, follower.comments) == (asker.errors, [])


def body_of(text: str, provider: str = "anthropic") -> tuple[Json, str]:
    """A question, and the text that it, the answer, the tools' arguments and nothing else contain."""
    marker = f"marker-{uuid.uuid4()}"
    return question(f"{marker} {text.replace('MARKER', marker)}", provider=provider), marker


# Coming back ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("tier", "tools", "provider"),
    [
        ("pro", "", "anthropic"),
        ("pro", TOOLS, "openai"),
        ("free", "", "openai"),
        ("free", TOOLS, "anthropic"),
    ],
    ids=["pro", "pro with tools", "free", "free with tools"],
)
def test_an_answer_is_resumed_in_another_process_whole(
    browser: Browser,
    other: str,
    person: People,
    left: Look,
    stack_db: Db,
    everything: Callable[[str], list[str]],
    tier: str,
    tools: str,
    provider: str,
) -> None:
    user, name = person(tier), f"{tier}-{provider}-{bool(tools)}"
    body, marker = body_of(f"{tools} {THREE_SECONDS}", provider)
    browser.ask(name, user, body)
    browser.until(name, parts=2)
    browser.resume(f"early-{name}", user, body["id"], at=other)
    browser.until(name, parts=16)
    browser.resume(f"late-{name}", user, body["id"].upper(), at=other)
    browser.resume(f"here-{name}", user, body["id"])
    browser.until(f"late-{name}", parts=14)
    assert everything(marker) == ["public.query_holds"]  # the search does find it, and nowhere else

    asker = well_told(browser.end(name))
    for follower in ("early", "late"):
        the_same(browser.end(f"{follower}-{name}"), asker)
    assert well_told(browser.end(f"here-{name}")).parts == asker.parts
    assert asker.parts[-1]["finishReason"] == "stop"
    assert len(asker.all_of("tool-output-available")) == len(asker.all_of("tool-output-error")) == bool(tools)
    assert asker.metadata["persisted"] is (tier == "pro")

    browser.resume(f"over-{name}", user, body["id"], at=other)
    over = browser.end(f"over-{name}")
    assert (over.status, over.nothing, over.thrown) == (204, True, None)
    after = left(user)
    assert (after.outcomes, after.holds, used(after)) == (["answered"], 0, 1)
    assert [role for role, _ in after.messages] == (["user", "assistant"] if tier == "pro" else [])
    assert everything(marker) == (["public.conversations", "public.messages"] if tier == "pro" else [])
    row = ledger(stack_db, user)
    told = asker.metadata
    assert (float(row["cost_usd"]), float(row["overage_charge"])) == (told["cost_usd"], told["charged_usd"])
    assert (row["tokens_input"], row["tokens_output"]) == (
        told["usage"]["input_tokens"],
        told["usage"]["output_tokens"],
    )


def test_what_an_overage_query_costs_is_told_to_the_follower(
    browser: Browser, other: str, person: People, left: Look
) -> None:
    user = person("usage_only", stripe_subscription_id=f"sub_{uuid.uuid4()}")
    body, _ = body_of(THREE_SECONDS)
    browser.ask("overage", user, body)
    browser.until("overage")
    browser.resume("again-overage", user, body["id"], at=other)
    asker, follower = browser.end("overage"), browser.end("again-overage")
    the_same(follower, asker)
    assert (follower.metadata["funding"], follower.metadata["charged_usd"]) == ("overage", 0.025)
    assert left(user).overage == "0.025000"


@pytest.mark.parametrize("asked_here", [True, False], ids=["here", "there"])
def test_an_asker_who_left_comes_back_in_another_process(
    browser: Browser, other: str, person: People, left: Look, asked_here: bool
) -> None:
    """A page that is loaded anew, and once more."""
    user, name = person("pro"), f"reloaded-{asked_here}"
    body, _ = body_of(f"{TOOLS} {THREE_SECONDS}")
    browser.ask(name, user, body, at=None if asked_here else other)
    browser.until(name, parts=2)
    browser.leave(name)
    browser.resume(f"once-{name}", user, body["id"], at=other if asked_here else None)
    browser.until(f"once-{name}", parts=2)
    browser.leave(f"once-{name}")
    browser.resume(f"twice-{name}", user, body["id"], at=other if asked_here else None)
    heard = well_told(browser.end(f"twice-{name}"))
    assert heard.parts[: len(browser.end(name).parts)] == browser.end(name).parts
    assert left(user).messages[-1] == ("assistant", heard.text)
    assert (left(user).outcomes, left(user).quota_used) == (["answered"], 1)


def test_nobody_follows_what_is_anothers_or_what_does_not_run(
    browser: Browser, other: str, person: People, left: Look
) -> None:
    user, stranger = person("pro"), person("pro")
    body, _ = body_of(TWELVE_SECONDS)
    browser.ask("mine", user, body)
    browser.until("mine", parts=8)  # by now it has been noted
    browser.resume("not-mine", stranger, body["id"], at=other)
    browser.resume("another-chat", user, str(uuid.uuid4()), at=other)
    for name in ("not-mine", "another-chat"):
        heard = browser.end(name)
        assert (heard.status, heard.nothing, heard.parts) == (204, True, [])
    browser.stop("strangers-stop", stranger, body["id"], at=other)
    assert not browser.stopped("strangers-stop")
    browser.until("mine", parts=16)
    browser.stop("own-stop", user, body["id"], at=other)
    assert browser.stopped("own-stop")
    assert well_told(browser.end("mine")).kinds[-1] == "abort"
    browser.stop("late-stop", user, body["id"], at=other)
    assert not browser.stopped("late-stop")
    assert left(stranger) == Left([], 0, [], 0, 0, "0.000000")


def test_a_message_sent_twice_does_not_hide_the_answer_that_runs_elsewhere(
    browser: Browser, other: str, person: People, left: Look, stack: Stack
) -> None:
    """The second copy waits in the other process to be refused, when somebody comes back there and then stops it."""
    user = person("pro")
    body, _ = body_of(TWELVE_SECONDS)
    browser.ask("first-copy", user, body)
    browser.until("first-copy", parts=8)
    with psycopg.connect(stack.postgres.url()) as queue:
        # The user's queue, in which every admission waits.
        queue.execute("select pg_advisory_xact_lock(uuid_hash_extended(%s, 0))", (user.id,))
        browser.ask("second-copy", user, body, at=other)
        browser.until("first-copy", parts=11)
        browser.resume("returning", user, body["id"], at=other)
        browser.stop("stopping", user, body["id"], at=other)
        browser.until("first-copy", parts=13)
    assert browser.end("second-copy").refusal() == (409, "request_in_progress")
    first, returning = well_told(browser.end("first-copy")), browser.end("returning")
    assert first.kinds[-1] == "abort"
    the_same(returning, first)
    assert left(user).outcomes == ["stopped"]


@pytest.mark.parametrize("provider", PROVIDERS)
def test_a_follower_hears_a_failure_to_its_end(
    browser: Browser, other: str, person: People, left: Look, provider: str
) -> None:
    user, name = person("free"), f"failing-{provider}"
    body, _ = body_of(f"{TOOLS} {THREE_SECONDS} [fault:after-tools drop]", provider)
    browser.ask(name, user, body)
    browser.until(name, parts=2)
    browser.resume(f"again-{name}", user, body["id"], at=other)
    asker, follower = well_told(browser.end(name)), well_told(browser.end(f"again-{name}"))
    assert follower.kinds == asker.kinds
    assert follower.kinds[-3:] == ["finish-step", "error", "finish"]
    assert follower.text == asker.text
    assert (follower.metadata["charged_usd"], follower.metadata["persisted"]) == (0, False)
    assert known(follower.metadata) == known(asker.metadata)
    assert left(user) == Left(["failed"], 0, [], 0, 0, "0.000000")


def test_following_what_fails_before_its_first_word_finds_nothing(
    browser: Browser, other: str, person: People, left: Look, eventually: Wait
) -> None:
    user = person("pro")
    body, _ = body_of("[fault:stall-before 3] [fault:status 400]")
    browser.ask("refused", user, body)
    eventually(lambda: left(user).holds == 1)
    browser.resume("hopeful", user, body["id"], at=other)
    assert browser.end("refused").refusal() == (502, "provider_error")
    assert browser.end("hopeful").nothing


def test_a_silence_is_filled_with_comments_for_a_follower_too(browser: Browser, other: str, person: People) -> None:
    """A real wait."""
    user = person("pro")
    body, _ = body_of("[fault:slow 0.1] [fault:stall 12]")
    browser.ask("silent", user, body)
    browser.until("silent", parts=2)
    browser.resume("waiting", user, body["id"], at=other)
    asker, follower = well_told(browser.end("silent")), well_told(browser.end("waiting"))
    assert follower.comments == [": keep-alive"]
    assert words(follower) == words(asker)


def test_a_follower_that_cannot_keep_up_is_not_told_that_half_an_answer_is_all(
    browser: Browser, mortal: Process, person: People
) -> None:
    """The turn does not wait for it for ever. What it then is told is the rest, or that the rest is missing."""
    user = person("pro")
    body, _ = body_of(THREE_SECONDS)
    browser.ask("fast", user, body)
    browser.until("fast", parts=2)
    browser.resume("slow", user, body["id"], at=mortal.url)
    browser.until("slow")
    mortal.signal(signal.SIGSTOP)
    asker = well_told(browser.end("fast"))
    mortal.signal(signal.SIGCONT)
    follower = browser.end("slow")
    assert follower.text == asker.text or follower.kinds[-1] == "error"
    assert follower.wrong == []


# Stopping -------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("provider", PROVIDERS)
@pytest.mark.parametrize("tier", TIERS)
def test_a_stop_from_another_process_ends_the_answer_for_asker_and_follower(
    browser: Browser,
    other: str,
    person: People,
    left: Look,
    stack_db: Db,
    everything: Callable[[str], list[str]],
    tier: str,
    provider: str,
) -> None:
    user, name = person(tier), f"stopped-{tier}-{provider}"
    body, marker = body_of(f"{TOOLS} {TWELVE_SECONDS}", provider)
    browser.ask(name, user, body)
    browser.until(name, parts=3)
    browser.resume(f"again-{name}", user, body["id"], at=other)
    browser.until(f"again-{name}")
    browser.stop(f"stop-{name}", user, body["id"], at=other)
    assert browser.stopped(f"stop-{name}")
    asker, follower = browser.end(name), browser.end(f"again-{name}")
    the_same(follower, asker)
    assert asker.kinds[-4:] == ["text-end", "finish-step", "message-metadata", "abort"]
    assert asker.metadata["persisted"] is (tier == "pro")
    after = left(user)
    assert (after.outcomes, after.holds, used(after)) == (["stopped"], 0, 1)
    assert after.messages[1:] == ([("assistant", asker.text)] if tier == "pro" else [])
    assert ledger(stack_db, user)["tokens_output"] == asker.metadata["usage"]["output_tokens"]
    assert bool(everything(marker)) == (tier == "pro")


@pytest.mark.parametrize("followed", [False, True], ids=["alone", "followed"])
def test_a_stop_from_another_process_ends_an_answer_at_any_moment(
    browser: Browser, other: str, person: People, left: Look, followed: bool
) -> None:
    """At ten moments between two calls in which the turn asks whether to stop."""
    asked = []
    for number in range(10):
        user, name = person("pro"), f"moment-{followed}-{number}"
        body, _ = body_of(TWELVE_SECONDS)
        asked.append((user, name, body["id"]))
        browser.ask(name, user, body)
    for user, name, chat_id in asked:
        browser.until(name)
        if followed:
            browser.resume(f"again-{name}", user, chat_id, at=other)
    for number, (user, name, chat_id) in enumerate(asked):
        browser.stop(f"stop-{name}", user, chat_id, at=other, when=(name, 10 + number))
    for user, name, _ in asked:
        assert browser.stopped(f"stop-{name}")
        for stream in [name, *([f"again-{name}"] if followed else [])]:
            heard = well_told(browser.end(stream))
            assert heard.kinds[-1] == "abort"
        assert left(user).outcomes == ["stopped"]


@pytest.mark.parametrize("stopped_here", [True, False], ids=["here", "there"])
def test_a_tab_that_was_closed_does_not_delay_a_stop(
    browser: Browser, other: str, person: People, stopped_here: bool
) -> None:
    user, name = person("pro"), f"closed-{stopped_here}"
    body, _ = body_of(TWELVE_SECONDS)
    browser.ask(name, user, body)
    browser.until(name)
    browser.resume(f"tab-{name}", user, body["id"], at=other)
    browser.until(f"tab-{name}")
    browser.leave(f"tab-{name}")
    browser.end(f"tab-{name}")
    browser.until(name, parts=15)
    browser.stop(f"stop-{name}", user, body["id"], at=None if stopped_here else other)
    browser.stopped(f"stop-{name}")
    assert well_told(browser.end(name)).kinds[-1] == "abort"


@pytest.mark.parametrize("provider", PROVIDERS)
def test_a_stop_from_another_process_before_the_first_word(
    browser: Browser, other: str, person: People, left: Look, eventually: Wait, provider: str
) -> None:
    user, name = person("pro"), f"speechless-{provider}"
    body, _ = body_of("[fault:stall-before 30]", provider)
    browser.ask(name, user, body)
    eventually(lambda: left(user).holds == 1)
    browser.resume(f"again-{name}", user, body["id"], at=other)
    browser.stop(f"stop-{name}", user, body["id"], at=other)
    assert browser.stopped(f"stop-{name}")
    asker, follower = browser.end(name), browser.end(f"again-{name}")
    the_same(follower, asker)
    assert asker.kinds == ["start", "start-step", "finish-step", "message-metadata", "abort"]
    assert left(user).outcomes == ["stopped"]


# Dying ----------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("tier", "is_swept"), [("pro", False), ("free", False), ("free", True)], ids=["pro", "free", "free, and swept"]
)
def test_when_the_turns_process_is_killed_its_follower_is_told_once_the_hold_is_over(
    browser: Browser,
    mortal: Process,
    person: People,
    left: Look,
    stack_db: Db,
    everything: Callable[[str], list[str]],
    tier: str,
    is_swept: bool,
) -> None:
    user, name = person(tier), f"killed-{tier}-{is_swept}"
    body, marker = body_of(f"{TOOLS} {TWELVE_SECONDS}")
    browser.ask(name, user, body, at=mortal.url)
    browser.until(name, parts=8)
    browser.resume(f"again-{name}", user, body["id"])
    has = browser.until(f"again-{name}")
    mortal.kill()
    assert browser.end(name).thrown is not None  # the asker's connection broke
    stack_db.execute("update public.query_holds set expires_at = now() where user_id = %s", (user.id,))
    if is_swept:
        stack_db.execute("select public.release_stale_holds()")
    follower = browser.end(f"again-{name}")
    assert follower.parts[: len(has)] == has
    assert follower.all_of("error")
    assert (follower.errors, follower.thrown) == ([follower.all_of("error")[0]["errorText"]], None)
    assert "Nothing was charged" in follower.errors[0]
    browser.resume(f"late-{name}", user, body["id"])
    assert browser.end(f"late-{name}").nothing

    stack_db.execute("select public.release_stale_holds()")
    assert left(user) == Left(["lost"], 0, [], 0, 0, "0.000000")
    assert everything(marker) == []


def test_what_a_killed_turn_left_open_is_closed_for_its_follower(
    browser: Browser, mortal: Process, person: People, stack_db: Db
) -> None:
    user = person("pro")
    body, _ = body_of(TWELVE_SECONDS)
    browser.ask("broken-off", user, body, at=mortal.url)
    browser.until("broken-off", parts=8)
    browser.resume("witness-of-all", user, body["id"])
    browser.until("witness-of-all")
    mortal.kill()
    stack_db.execute("update public.query_holds set expires_at = now() where user_id = %s", (user.id,))
    assert browser.end("witness-of-all").wrong == []


def test_when_the_turns_process_is_shut_down_its_follower_is_told(
    browser: Browser, mortal: Process, person: People, left: Look
) -> None:
    user = person("pro")
    body, _ = body_of(TWELVE_SECONDS)
    browser.ask("shut-down", user, body, at=mortal.url)
    browser.until("shut-down", parts=8)
    browser.resume("witness", user, body["id"])
    browser.until("witness")
    browser.leave("shut-down")
    mortal.signal(signal.SIGTERM)
    follower = browser.end("witness")
    assert follower.kinds[-2:] == ["error", "finish"]
    assert (follower.metadata["charged_usd"], follower.metadata["persisted"]) == (0, False)
    assert left(user) == Left(["failed"], 0, [], 0, 0, "0.000000")
    assert follower.wrong == []
