"""Resuming and stopping an answer in another process than the one that runs it, as on Lambda.

The two processes share only their settings and the database. The client that asked is the asker; a client that resumes
in the other process is a follower.
"""

import signal
import uuid
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import psycopg
import pytest
from psycopg import sql

from infra.local.stack import Stack
from tests.api import StateOf, UserState, question
from tests.clients.browser import Browser, Json, Received
from tests.conftest import Person
from tests.journeys.ai_sdk_kit import valid
from tests.journeys.chat_process import Process, chat_process

NewPerson = Callable[..., Person]
Wait = Callable[[Callable[[], bool]], None]
Db = psycopg.Connection[dict[str, Any]]
PROVIDERS = ["anthropic", "openai"]
TIERS = ["pro", "free"]  # with and without stored conversations

TOOLS = '[tool:get_bill {"number": "C-5"}] [tool:rm_rf {"path": "MARKER"}]'
THREE_SECONDS = "[fault:slow 0.1] [fault:long 30]"
TWELVE_SECONDS = "[fault:slow 0.2] [fault:long 60]"
# Metadata that only the asking process has: the id differs, and the other two are from the admission.
ASKER_ONLY = {"request_id", "remaining", "resets_at"}


@pytest.fixture(scope="module")
def other(stack: Stack, tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """The address of a second process."""
    with chat_process(stack, tmp_path_factory.mktemp("other")) as process:
        yield process.url


@pytest.fixture
def killable(stack: Stack, tmp_path: Path) -> Iterator[Process]:
    """A process that the test may kill."""
    with chat_process(stack, tmp_path) as process:
        yield process


@pytest.fixture
def tables_with(stack: Stack) -> Iterator[Callable[[str], list[str]]]:
    """Searches every column of every table of the database for a text. Returns the tables."""
    with psycopg.connect(stack.postgres.url("supabase_admin"), autocommit=True) as db:

        def search(text: str) -> list[str]:
            tables = db.execute(
                "select n.nspname, c.relname from pg_class c join pg_namespace n on n.oid = c.relnamespace"
                " where c.relkind in ('r', 'm') and n.nspname not in ('pg_catalog', 'information_schema')"
                " and n.nspname !~ '^pg_t' order by 1, 2"
            ).fetchall()
            assert ("public", "query_holds") in tables
            # As text, and as the hex form of bytes.
            pattern = f"{text}|{text.encode().hex()}"
            return [
                f"{schema}.{table}"
                for schema, table in tables
                if db.execute(
                    sql.SQL("select 1 from {} t where t::text ~ %s limit 1").format(sql.Identifier(schema, table)),
                    (pattern,),
                ).fetchone()
            ]

        yield search


def ledger(db: Db, person: Person) -> Json:
    """The user's only row of usage_logs."""
    (row,) = db.execute("select * from public.usage_logs where user_id = %s", (person.id,)).fetchall()
    return row


def used(after: UserState) -> int:
    """The number of queries that the user was charged."""
    return after.quota_used + after.lifetime_used


def without_metadata(received: Received) -> list[Json]:
    """The parts without metadata."""
    return [{name: part[name] for name in part if name != "messageMetadata"} for part in received.parts]


def shared(metadata: Json) -> Json:
    """The metadata that both processes have of an ended query."""
    return {name: metadata[name] for name in metadata if name not in ASKER_ONLY}


def check_same(follower: Received, asker: Received) -> None:
    """The follower received the same parts and metadata as the asker."""
    assert without_metadata(valid(follower)) == without_metadata(valid(asker))
    assert shared(follower.metadata) == shared(asker.metadata)
    assert follower.metadata["request_id"] == follower.headers["x-request-id"]
    assert follower.message is not None
    assert asker.message is not None
    assert follower.message["parts"] == asker.message["parts"]
    assert (follower.errors, follower.comments) == (asker.errors, [])


NEW_PROCESS_PROVIDER = "openai"  # for a test's own process, because this SDK is imported a second faster


def body_of(text: str, provider: str = "anthropic") -> tuple[Json, str]:
    """A question, and a marker that only it, its answer and its tools' arguments contain."""
    marker = f"marker-{uuid.uuid4()}"
    return question(f"{marker} {text.replace('MARKER', marker)}", provider=provider), marker


# Resuming -------------------------------------------------------------------------------------------------------------


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
def test_a_whole_answer_is_resumed_in_another_process(
    browser: Browser,
    other: str,
    person: NewPerson,
    state_of: StateOf,
    stack_db: Db,
    tables_with: Callable[[str], list[str]],
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
    assert tables_with(marker) == ["public.query_holds"]  # and in no other table

    asker = valid(browser.end(name))
    for follower in ("early", "late"):
        check_same(browser.end(f"{follower}-{name}"), asker)
    assert valid(browser.end(f"here-{name}")).parts == asker.parts
    assert asker.parts[-1]["finishReason"] == "stop"
    assert len(asker.all_of("tool-output-available")) == len(asker.all_of("tool-output-error")) == bool(tools)
    assert asker.metadata["persisted"] is (tier == "pro")

    browser.resume(f"over-{name}", user, body["id"], at=other)
    over = browser.end(f"over-{name}")
    assert (over.status, over.was_empty, over.thrown) == (204, True, None)
    after = state_of(user)
    assert (after.outcomes, after.holds, used(after)) == (["answered"], 0, 1)
    assert [role for role, _ in after.messages] == (["user", "assistant"] if tier == "pro" else [])
    assert tables_with(marker) == (["public.conversations", "public.messages"] if tier == "pro" else [])
    row = ledger(stack_db, user)
    metadata = asker.metadata
    assert (float(row["cost_usd"]), float(row["overage_charge"])) == (metadata["cost_usd"], metadata["charged_usd"])
    assert (row["tokens_input"], row["tokens_output"]) == (
        metadata["usage"]["input_tokens"],
        metadata["usage"]["output_tokens"],
    )


def test_a_follower_gets_the_charge_of_an_overage_query(
    browser: Browser, other: str, person: NewPerson, state_of: StateOf
) -> None:
    user = person("usage_only", stripe_subscription_id=f"sub_{uuid.uuid4()}")
    body, _ = body_of(THREE_SECONDS)
    browser.ask("overage", user, body)
    browser.until("overage")
    browser.resume("again-overage", user, body["id"], at=other)
    asker, follower = browser.end("overage"), browser.end("again-overage")
    check_same(follower, asker)
    assert (follower.metadata["funding"], follower.metadata["charged_usd"]) == ("overage", 0.025)
    assert state_of(user).overage == "0.025000"


@pytest.mark.parametrize("asked_here", [True, False], ids=["here", "there"])
def test_an_asker_that_disconnected_resumes_in_another_process(
    browser: Browser, other: str, person: NewPerson, state_of: StateOf, asked_here: bool
) -> None:
    """A page is reloaded twice."""
    user, name = person("pro"), f"reloaded-{asked_here}"
    body, _ = body_of(f"{TOOLS} {THREE_SECONDS}")
    browser.ask(name, user, body, at=None if asked_here else other)
    browser.until(name, parts=2)
    browser.disconnect(name)
    browser.resume(f"once-{name}", user, body["id"], at=other if asked_here else None)
    browser.until(f"once-{name}", parts=2)
    browser.disconnect(f"once-{name}")
    browser.resume(f"twice-{name}", user, body["id"], at=other if asked_here else None)
    received = valid(browser.end(f"twice-{name}"))
    assert received.parts[: len(browser.end(name).parts)] == browser.end(name).parts
    assert state_of(user).messages[-1] == ("assistant", received.text)
    assert (state_of(user).outcomes, state_of(user).quota_used) == (["answered"], 1)


def test_only_a_running_answer_of_the_user_is_resumed(
    browser: Browser, other: str, person: NewPerson, state_of: StateOf
) -> None:
    user, stranger = person("pro"), person("pro")
    body, _ = body_of(TWELVE_SECONDS)
    browser.ask("mine", user, body)
    browser.until("mine", parts=8)  # its progress is stored by now
    browser.resume("not-mine", stranger, body["id"], at=other)
    browser.resume("another-chat", user, str(uuid.uuid4()), at=other)
    for name in ("not-mine", "another-chat"):
        received = browser.end(name)
        assert (received.status, received.was_empty, received.parts) == (204, True, [])
    browser.stop("strangers-stop", stranger, body["id"], at=other)
    assert not browser.stopped("strangers-stop")
    browser.until("mine", parts=16)
    browser.stop("own-stop", user, body["id"], at=other)
    assert browser.stopped("own-stop")
    assert valid(browser.end("mine")).kinds[-1] == "abort"
    browser.stop("late-stop", user, body["id"], at=other)
    assert not browser.stopped("late-stop")
    assert state_of(stranger) == UserState([], 0, [], 0, 0, "0.000000")


def test_a_duplicate_does_not_hide_the_answer_running_elsewhere(
    browser: Browser, other: str, person: NewPerson, state_of: StateOf, stack: Stack
) -> None:
    """The duplicate waits in the other process to be refused. Meanwhile the user resumes there, and then stops."""
    user = person("pro")
    body, _ = body_of(TWELVE_SECONDS)
    browser.ask("first-copy", user, body)
    browser.until("first-copy", parts=8)
    with psycopg.connect(stack.postgres.url()) as locked:
        # Every admission of the user waits for this lock.
        locked.execute("select pg_advisory_xact_lock(uuid_hash_extended(%s, 0))", (user.id,))
        browser.ask("second-copy", user, body, at=other)
        browser.until("first-copy", parts=11)
        browser.resume("returning", user, body["id"], at=other)
        browser.until("first-copy", parts=13)
        browser.stop("stopping", user, body["id"], at=other)
    assert browser.end("second-copy").refusal() == (409, "request_in_progress")
    first, returning = valid(browser.end("first-copy")), browser.end("returning")
    assert first.kinds[-1] == "abort"
    check_same(returning, first)
    assert state_of(user).outcomes == ["stopped"]


@pytest.mark.parametrize("provider", PROVIDERS)
def test_a_follower_gets_the_whole_failure(
    browser: Browser, other: str, person: NewPerson, state_of: StateOf, provider: str
) -> None:
    user, name = person("free"), f"failing-{provider}"
    body, _ = body_of(f"{TOOLS} {THREE_SECONDS} [fault:after-tools drop]", provider)
    browser.ask(name, user, body)
    browser.until(name, parts=2)
    browser.resume(f"again-{name}", user, body["id"], at=other)
    asker, follower = valid(browser.end(name)), valid(browser.end(f"again-{name}"))
    assert follower.kinds == asker.kinds
    assert follower.kinds[-3:] == ["finish-step", "error", "finish"]
    assert follower.text == asker.text
    assert (follower.metadata["charged_usd"], follower.metadata["persisted"]) == (0, False)
    assert shared(follower.metadata) == shared(asker.metadata)
    assert state_of(user) == UserState(["failed"], 0, [], 0, 0, "0.000000")


def test_resuming_a_turn_that_fails_before_text_finds_nothing(
    browser: Browser, other: str, person: NewPerson, state_of: StateOf, eventually: Wait
) -> None:
    user = person("pro")
    body, _ = body_of("[fault:stall-before 3] [fault:status 400]")
    browser.ask("refused", user, body)
    eventually(lambda: state_of(user).holds == 1)
    browser.resume("hopeful", user, body["id"], at=other)
    assert browser.end("refused").refusal() == (502, "provider_error")
    assert browser.end("hopeful").was_empty


def test_a_follower_gets_keep_alive_comments(browser: Browser, other: str, person: NewPerson) -> None:
    """A real wait of 12 seconds."""
    user = person("pro")
    body, _ = body_of("[fault:slow 0.1] [fault:stall 12]")
    browser.ask("silent", user, body)
    browser.until("silent", parts=2)
    browser.resume("waiting", user, body["id"], at=other)
    asker, follower = valid(browser.end("silent")), valid(browser.end("waiting"))
    assert follower.comments == [": keep-alive"]
    assert without_metadata(follower) == without_metadata(asker)


def test_a_slow_follower_gets_the_rest_or_an_error(browser: Browser, killable: Process, person: NewPerson) -> None:
    """The turn waits for it only briefly. Then it gets the rest, or an error that the rest is missing."""
    user = person("pro")
    body, _ = body_of(THREE_SECONDS)
    browser.ask("fast", user, body)
    browser.until("fast", parts=2)
    browser.resume("slow", user, body["id"], at=killable.url)
    browser.until("slow")
    killable.signal(signal.SIGSTOP)
    asker = valid(browser.end("fast"))
    killable.signal(signal.SIGCONT)
    follower = browser.end("slow")
    assert follower.text == asker.text or follower.kinds[-1] == "error"
    assert follower.violations == []


# Stopping -------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("provider", PROVIDERS)
@pytest.mark.parametrize("tier", TIERS)
def test_a_stop_elsewhere_ends_the_answer_for_all_clients(
    browser: Browser,
    other: str,
    person: NewPerson,
    state_of: StateOf,
    stack_db: Db,
    tables_with: Callable[[str], list[str]],
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
    check_same(follower, asker)
    assert asker.kinds[-4:] == ["text-end", "finish-step", "message-metadata", "abort"]
    assert asker.metadata["persisted"] is (tier == "pro")
    after = state_of(user)
    assert (after.outcomes, after.holds, used(after)) == (["stopped"], 0, 1)
    assert after.messages[1:] == ([("assistant", asker.text)] if tier == "pro" else [])
    assert ledger(stack_db, user)["tokens_output"] == asker.metadata["usage"]["output_tokens"]
    assert bool(tables_with(marker)) == (tier == "pro")


@pytest.mark.parametrize("followed", [False, True], ids=["alone", "followed"])
def test_a_stop_elsewhere_ends_the_answer_at_any_moment(
    browser: Browser, other: str, person: NewPerson, state_of: StateOf, followed: bool
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
            received = valid(browser.end(stream))
            assert received.kinds[-1] == "abort"
        assert state_of(user).outcomes == ["stopped"]


@pytest.mark.parametrize("stopped_here", [True, False], ids=["here", "there"])
def test_a_follower_that_disconnected_does_not_prevent_a_stop(
    browser: Browser, other: str, person: NewPerson, stopped_here: bool
) -> None:
    user, name = person("pro"), f"closed-{stopped_here}"
    body, _ = body_of(TWELVE_SECONDS)
    browser.ask(name, user, body)
    browser.until(name)
    browser.resume(f"tab-{name}", user, body["id"], at=other)
    browser.until(f"tab-{name}")
    browser.disconnect(f"tab-{name}")
    browser.end(f"tab-{name}")
    browser.until(name, parts=15)
    browser.stop(f"stop-{name}", user, body["id"], at=None if stopped_here else other)
    browser.stopped(f"stop-{name}")
    assert valid(browser.end(name)).kinds[-1] == "abort"


@pytest.mark.parametrize("provider", PROVIDERS)
def test_a_stop_elsewhere_before_text_ends_the_answer(
    browser: Browser, other: str, person: NewPerson, state_of: StateOf, eventually: Wait, provider: str
) -> None:
    user, name = person("pro"), f"before-text-{provider}"
    body, _ = body_of("[fault:stall-before 30]", provider)
    browser.ask(name, user, body)
    eventually(lambda: state_of(user).holds == 1)
    browser.resume(f"again-{name}", user, body["id"], at=other)
    browser.stop(f"stop-{name}", user, body["id"], at=other)
    assert browser.stopped(f"stop-{name}")
    asker, follower = browser.end(name), browser.end(f"again-{name}")
    check_same(follower, asker)
    assert asker.kinds == ["start", "start-step", "finish-step", "message-metadata", "abort"]
    assert state_of(user).outcomes == ["stopped"]


# Killed processes -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("tier", "is_released"),
    [("pro", False), ("free", False), ("free", True)],
    ids=["pro", "free", "free, hold released"],
)
def test_a_follower_gets_an_error_after_the_process_was_killed(
    browser: Browser,
    killable: Process,
    person: NewPerson,
    state_of: StateOf,
    stack_db: Db,
    tables_with: Callable[[str], list[str]],
    tier: str,
    is_released: bool,
) -> None:
    user, name = person(tier), f"killed-{tier}-{is_released}"
    body, marker = body_of(f"{TOOLS} {TWELVE_SECONDS}", NEW_PROCESS_PROVIDER)
    browser.ask(name, user, body, at=killable.url)
    browser.until(name, parts=8)
    browser.resume(f"again-{name}", user, body["id"])
    received = browser.until(f"again-{name}")
    killable.kill()
    assert browser.end(name).thrown is not None  # the asker's connection broke
    stack_db.execute("update public.query_holds set expires_at = now() where user_id = %s", (user.id,))
    if is_released:
        stack_db.execute("select public.release_stale_holds()")
    follower = browser.end(f"again-{name}")
    assert follower.parts[: len(received)] == received
    assert follower.all_of("error")
    assert (follower.errors, follower.thrown) == ([follower.all_of("error")[0]["errorText"]], None)
    assert "Nothing was charged" in follower.errors[0]
    browser.resume(f"late-{name}", user, body["id"])
    assert browser.end(f"late-{name}").was_empty

    stack_db.execute("select public.release_stale_holds()")
    assert state_of(user) == UserState(["lost"], 0, [], 0, 0, "0.000000")
    assert tables_with(marker) == []


def test_a_killed_turns_open_parts_are_closed_for_followers(
    browser: Browser, killable: Process, person: NewPerson, stack_db: Db
) -> None:
    user = person("pro")
    body, _ = body_of(TWELVE_SECONDS, NEW_PROCESS_PROVIDER)
    browser.ask("broken-off", user, body, at=killable.url)
    browser.until("broken-off", parts=8)
    browser.resume("follower-of-killed", user, body["id"])
    browser.until("follower-of-killed")
    killable.kill()
    stack_db.execute("update public.query_holds set expires_at = now() where user_id = %s", (user.id,))
    assert browser.end("follower-of-killed").violations == []


def test_a_follower_gets_an_error_after_a_shutdown(
    browser: Browser, killable: Process, person: NewPerson, state_of: StateOf
) -> None:
    user = person("pro")
    body, _ = body_of(TWELVE_SECONDS, NEW_PROCESS_PROVIDER)
    browser.ask("shut-down", user, body, at=killable.url)
    browser.until("shut-down", parts=8)
    browser.resume("follower", user, body["id"])
    browser.until("follower")
    browser.disconnect("shut-down")
    killable.signal(signal.SIGTERM)
    follower = browser.end("follower")
    assert follower.kinds[-2:] == ["error", "finish"]
    assert (follower.metadata["charged_usd"], follower.metadata["persisted"]) == (0, False)
    assert state_of(user) == UserState(["failed"], 0, [], 0, 0, "0.000000")
    assert follower.violations == []
