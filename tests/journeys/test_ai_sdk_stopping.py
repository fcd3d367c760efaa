"""The AI SDK's client disconnects, stops, resumes and waits."""

import uuid
from collections.abc import Callable
from typing import Any

import psycopg
import pytest

from infra.local.stack import Stack
from tests.api import StateOf, UserState, question
from tests.clients.browser import Browser
from tests.conftest import Person
from tests.journeys.ai_sdk_kit import (
    FAILED_END,
    NOT_RUN,
    OPENING,
    TEXT,
    calls,
    of_type,
    text_part,
    unordered,
    valid,
    without_metadata,
)

NewPerson = Callable[..., Person]
Db = psycopg.Connection[dict[str, Any]]
PROVIDERS = ["anthropic", "openai"]

SLOWLY = "[fault:slow 0.2] [fault:long 60]"  # twelve seconds


# Disconnecting, stopping, resuming ------------------------------------------------------------------------------------


@pytest.mark.parametrize("provider", PROVIDERS)
def test_a_client_that_disconnects_finds_the_whole_answer_stored(
    browser: Browser, person: NewPerson, state_of: StateOf, eventually: Callable[..., None], provider: str
) -> None:
    user = person("basic")
    body = question("At length [fault:slow 0.05]", provider=provider)
    browser.ask(f"leaving-{provider}", user, body)
    browser.until(f"leaving-{provider}", parts=2)
    browser.disconnect(f"leaving-{provider}")
    received = browser.end(f"leaving-{provider}")
    assert received.thrown is not None
    assert received.thrown["name"] == "AbortError"
    eventually(lambda: state_of(user).outcomes == ["answered"])
    after = state_of(user)
    assert (after.holds, after.quota_used) == (0, 1)
    assert after.messages[1][1].startswith(received.text)
    assert len(after.messages[1][1]) > len(received.text)
    again = valid(browser.answer(f"back-{provider}", user, body))
    assert (again.text, again.message and again.message["id"]) == (after.messages[1][1], received.parts[0]["messageId"])


@pytest.mark.parametrize("provider", PROVIDERS)
def test_a_stop_ends_the_answer_with_its_text_so_far(
    browser: Browser, person: NewPerson, state_of: StateOf, provider: str
) -> None:
    user, name = person("basic"), f"stopped-{provider}"
    body = question(f"At length {SLOWLY}", provider=provider)
    browser.ask(name, user, body)
    browser.until(name, parts=3)
    browser.stop(f"stop-{name}", user, body["id"])
    assert browser.stopped(f"stop-{name}")
    received = valid(browser.end(name))
    assert received.kinds == [*OPENING, *TEXT, "finish-step", "message-metadata", "abort"]
    assert received.parts[-1] == {"type": "abort", "reason": "stopped"}
    assert (received.metadata["persisted"], received.metadata["remaining"]) == (True, 14)
    assert received.metadata["usage"]["output_tokens"] > 0
    assert received.message is not None
    assert received.message["parts"] == [{"type": "step-start"}, text_part(received.text)]
    after = state_of(user)
    text = body["messages"][0]["parts"][0]["text"]
    assert after == UserState(["stopped"], 0, [("user", text), ("assistant", received.text)], 1, 0, "0.000000")
    again = valid(browser.answer(f"again-{name}", user, body))
    assert without_metadata(again) == without_metadata(received)
    assert state_of(user) == after


@pytest.mark.parametrize("provider", PROVIDERS)
def test_a_stop_during_a_tool_closes_the_call(
    browser: Browser,
    person: NewPerson,
    state_of: StateOf,
    break_record: Callable[..., None],
    stack_db: Db,
    provider: str,
) -> None:
    user, name = person("basic"), f"stopped-tool-{provider}"
    slug = {"anthropic": "imogen-tallowby", "openai": "dmitri-elmsparrow"}[provider]
    break_record(f"/politicians/{slug}/", slow=7)
    body = question(calls(("get_bill", {"number": "C-5"}), ("get_mp", {"slug": slug})), provider=provider)
    browser.ask(name, user, body)
    browser.until(name, "tool-output-available")
    browser.stop(f"stop-{name}", user, body["id"])
    browser.stopped(f"stop-{name}")
    received = valid(browser.end(name))
    called = ["tool-input-start", "tool-input-available"]
    assert received.kinds == [
        *OPENING,
        *called,
        *called,
        *("tool-output-available", "source-url", "source-url", "source-url", "tool-output-error"),
        *("finish-step", "message-metadata", "abort"),
    ]
    assert received.all_of("tool-output-error")[0]["errorText"] == NOT_RUN
    assert state_of(user).outcomes == ["stopped"]
    (row,) = stack_db.execute(
        "select m.function_calls, m.function_results from public.messages m join public.conversations c"
        " on c.id = m.conversation_id where c.user_id = %s and m.role = 'assistant'",
        (user.id,),
    ).fetchall()
    assert [call["name"] for call in row["function_calls"]] == ["get_bill", "get_mp"]
    assert [result.get("error") for result in row["function_results"]] == [None, NOT_RUN]
    again = valid(browser.answer(f"again-{name}", user, body))
    assert unordered(again) == unordered(received)


@pytest.mark.parametrize("provider", PROVIDERS)
def test_a_stop_before_text_is_a_message_without_text(
    browser: Browser, person: NewPerson, state_of: StateOf, eventually: Callable[..., None], provider: str
) -> None:
    user, name = person("basic"), f"speechless-{provider}"
    body = question("Hm [fault:stall-before 30]", provider=provider)
    browser.ask(name, user, body)
    eventually(lambda: state_of(user).holds == 1)
    browser.stop(f"stop-{name}", user, body["id"])
    assert browser.stopped(f"stop-{name}")
    received = valid(browser.end(name))
    assert received.kinds == [*OPENING, "finish-step", "message-metadata", "abort"]
    assert state_of(user).outcomes == ["stopped"]


def test_repeated_stops_stop_once(browser: Browser, person: NewPerson, state_of: StateOf) -> None:
    """A user clicks the button eight times."""
    for turn in range(2):
        user, name = person("basic"), f"clicked-{turn}"
        body = question(f"{calls(('get_bill', {'number': 'C-5'}))} At length {SLOWLY}")
        browser.ask(name, user, body)
        browser.until(name, parts=1)
        for click in range(8):
            browser.stop(f"click-{turn}-{click}", user, body["id"])
        assert browser.stopped(f"click-{turn}-0")
        for click in range(8):
            browser.stopped(f"click-{turn}-{click}")
        assert valid(browser.end(name)).kinds[-1] == "abort"
        assert state_of(user).outcomes == ["stopped"]


def test_a_stop_without_a_running_answer_changes_nothing(
    browser: Browser, person: NewPerson, state_of: StateOf
) -> None:
    user, other = person("basic"), person("basic")
    body = question(f"At length {SLOWLY}")
    browser.stop("nothing", user, body["id"])
    assert not browser.stopped("nothing")
    browser.ask("undisturbed", user, body)
    browser.until("undisturbed")
    browser.stop("anothers", other, body["id"])
    assert not browser.stopped("anothers")
    browser.until("undisturbed", parts=8)
    browser.stop("own", user, body["id"])
    assert valid(browser.end("undisturbed")).kinds[-1] == "abort"
    browser.stop("over", user, body["id"])
    assert not browser.stopped("over")
    assert state_of(user).outcomes == ["stopped"]


@pytest.mark.parametrize("provider", PROVIDERS)
@pytest.mark.parametrize("chat_id", ["", "bills/45-1 & more? 100% #é"], ids=["uuid", "of any name"])
def test_resuming_sends_the_whole_answer_from_its_start(
    browser: Browser, person: NewPerson, state_of: StateOf, provider: str, chat_id: str
) -> None:
    user, name = person("basic"), f"{uuid.uuid4()}"
    text = f"At length {calls(('get_bill', {'number': 'C-5'}))} [fault:slow 0.07]"
    body = question(text, chat_id=chat_id or None, provider=provider)
    browser.ask(name, user, body)
    has = browser.until(name, parts=2)
    browser.resume(f"early-{name}", user, body["id"])
    assert of_type(has, "finish") == []
    browser.until(name, parts=10)
    browser.resume(f"late-{name}", user, body["id"].upper() if not chat_id else body["id"])
    (page,) = browser.use_page(user, body["id"], {"resume": {}})
    first = valid(browser.end(name))
    assert page == [first.message]
    for late in (f"early-{name}", f"late-{name}"):
        received = valid(browser.end(late))
        assert received.parts == first.parts
        assert received.message == first.message
    browser.resume(f"over-{name}", user, body["id"])
    over = browser.end(f"over-{name}")
    assert (over.status, over.was_empty, over.thrown) == (204, True, None)
    assert browser.use_page(user, body["id"], {"resume": {}}) == [[]]
    assert (state_of(user).outcomes, state_of(user).quota_used) == (["answered"], 1)


def test_only_a_running_answer_of_the_user_is_resumed(browser: Browser, person: NewPerson, state_of: StateOf) -> None:
    user, other = person("basic"), person("basic")
    body = question("At length [fault:slow 0.1]")
    browser.ask("mine", user, body)
    browser.until("mine")
    browser.resume("not-mine", other, body["id"])
    browser.resume("another-chat", user, str(uuid.uuid4()))
    for name in ("not-mine", "another-chat"):
        received = browser.end(name)
        assert (received.status, received.was_empty, received.parts) == (204, True, [])
    assert browser.until("mine")[-1]["type"] == "text-delta"  # it is still running
    valid(browser.end("mine"))
    assert state_of(other) == UserState([], 0, [], 0, 0, "0.000000")


def test_resuming_a_turn_that_fails_before_text_finds_nothing(
    browser: Browser, person: NewPerson, state_of: StateOf, eventually: Callable[..., None]
) -> None:
    user = person("basic")
    body = question("Hm [fault:stall-before 1] [fault:status 400]")
    browser.ask("failing", user, body)
    eventually(lambda: state_of(user).holds == 1)
    browser.resume("hopeful", user, body["id"])
    assert browser.end("failing").refusal() == (502, "provider_error")
    assert browser.end("hopeful").was_empty


def test_a_duplicate_does_not_hide_the_running_answer(
    browser: Browser, person: NewPerson, stack_db: Db, stack: Stack
) -> None:
    """Resuming while the duplicate waits to be refused finds the first answer."""
    user = person("basic")
    body = question("At length [fault:slow 0.2]")
    browser.ask("first-copy", user, body)
    browser.until("first-copy", parts=2)
    with psycopg.connect(stack.postgres.url()) as locked:
        # Every admission of the user waits for this lock.
        locked.execute("select pg_advisory_xact_lock(uuid_hash_extended(%s, 0))", (user.id,))
        browser.ask("second-copy", user, body)
        browser.until("first-copy", parts=5)
        browser.resume("returning", user, body["id"])
        browser.until("first-copy", parts=7)
    assert browser.end("second-copy").refusal() == (409, "request_in_progress")
    first, returning = valid(browser.end("first-copy")), browser.end("returning")
    assert not returning.was_empty
    assert valid(returning).parts == first.parts


# Silence --------------------------------------------------------------------------------------------------------------


def test_a_long_silence_is_filled_with_comments(browser: Browser, person: NewPerson, state_of: StateOf) -> None:
    """A real wait: before the text and within it, with each provider, and one that ends in a refusal."""
    answered, refused = {"before": "stall-before 21", "within": "stall 21"}, "stall-before 21] [fault:status 400"
    people: dict[str, Person] = {}
    for situation, fault in {**answered, "refused": refused}.items():
        for provider in PROVIDERS:
            people[f"{situation}-{provider}"] = user = person("basic")
            browser.ask(f"{situation}-{provider}", user, question(f"Hm [fault:{fault}]", provider=provider))
    received = {name: browser.end(name) for name in people}
    for provider in PROVIDERS:
        for situation in answered:
            answer = valid(received[f"{situation}-{provider}"])
            assert answer.kinds == [*OPENING, *TEXT, "finish-step", "finish"]
            assert state_of(people[f"{situation}-{provider}"]).outcomes == ["answered"]
        refusal = valid(received[f"refused-{provider}"])
        assert refusal.kinds == [*OPENING, *FAILED_END]
        assert "Nothing was charged" in refusal.errors[0]
        assert (refusal.metadata["charged_usd"], refusal.metadata["persisted"]) == (0, False)
        assert state_of(people[f"refused-{provider}"]) == UserState(["failed"], 0, [], 0, 0, "0.000000")
        # Before the text the stream starts late, because an HTTP error is still possible.
        assert len(received[f"within-{provider}"].comments) == 2
    assert [name for name, stream in received.items() if not stream.comments] == []


def test_a_refusal_after_a_stream_was_promised_is_a_stream(
    stack: Stack, browser: Browser, person: NewPerson, state_of: StateOf, eventually: Callable[..., None]
) -> None:
    """A real wait: the provider refuses just before the first comment, and the query is released just after it."""
    user = person("basic")
    browser.ask("promised", user, question("Hm [fault:stall-before 9] [fault:status 400]"))
    eventually(lambda: state_of(user).holds == 1)
    with psycopg.connect(stack.postgres.url()) as locked:
        # The release waits for this lock.
        locked.execute("select pg_advisory_xact_lock(uuid_hash_extended(%s, 0))", (user.id,))
        eventually(lambda: browser.comments("promised") > 0)
    assert valid(browser.end("promised")).kinds == [*OPENING, *FAILED_END]
    assert state_of(user) == UserState(["failed"], 0, [], 0, 0, "0.000000")
