"""Conversations with the AI SDK's client: further questions, edits, regenerated answers, messages sent again."""

import json
import uuid
from collections.abc import Callable
from typing import Any

import psycopg
import pytest

from tests.api import Api, StateOf, question
from tests.clients.browser import Browser, Json
from tests.conftest import Person
from tests.journeys.ai_sdk_kit import (
    calls,
    regenerate,
    text_of,
    valid,
    without_metadata,
)

NewPerson = Callable[..., Person]
Db = psycopg.Connection[dict[str, Any]]
PROVIDERS = ["anthropic", "openai"]


@pytest.mark.parametrize("provider", PROVIDERS)
def test_a_page_asks_twice_and_regenerates(
    browser: Browser, person: NewPerson, state_of: StateOf, api: Api, provider: str
) -> None:
    """The client sends its messages with every question as it built them, with tools, sources, steps and metadata."""
    user, again = person("basic"), f"And then? {uuid.uuid4()}"
    acts = ({"send": f"First {calls(('get_bill', {'number': 'C-5'}))}"}, {"send": again}, {"regenerate": {}})
    asked, asked_on, regenerated = browser.use_page(user, str(uuid.uuid4()), *acts, provider=provider)
    assert [len(messages) for messages in (asked, asked_on, regenerated)] == [2, 4, 4]
    assert asked_on[:2] == asked
    assert regenerated[:3] == asked_on[:3]
    assert regenerated[3]["id"] != asked_on[3]["id"]
    assert state_of(user).messages == [(message["role"], text_of(message)) for message in regenerated]
    assert (state_of(user).outcomes, state_of(user).quota_used) == (["answered"] * 3, 3)
    # The model read the first question, its answer and its tools both times.
    assert len({len(entry["messages"]) for entry in api.provider_requests(again)}) == 1
    assert len(api.provider_requests(again)[0]["messages"]) > 3


@pytest.mark.parametrize("tier", ["pro", "free"])
def test_a_refusal_is_not_sent_to_the_model_again(browser: Browser, person: NewPerson, api: Api, tier: str) -> None:
    """Without history, the client sends the refusal back with its metadata."""
    first, last = f"First {uuid.uuid4()}", f"Last {uuid.uuid4()}"
    acts = ({"send": first}, {"send": "Tell me [fault:refusal]"}, {"send": last})
    *_, shown = browser.use_page(person(tier), str(uuid.uuid4()), *acts)
    assert len(shown) == 6
    (asked,) = api.provider_requests(last)
    assert [message["text"] for message in asked["messages"] if message["role"] == "user"] == [first, last]
    assert [message["role"] for message in asked["messages"]] == ["user", "assistant", "user"]


@pytest.mark.parametrize("tier", ["pro", "free"])
def test_an_edited_question_is_a_new_question(
    browser: Browser, person: NewPerson, state_of: StateOf, tier: str
) -> None:
    """The client keeps the message's id and sends it in messageId, too."""
    user = person(tier)
    acts = ({"send": "What is a quorum?"}, {"edit": "What is prorogation?", "messageId": "question"})
    _, edited = browser.use_page(user, str(uuid.uuid4()), *acts)
    assert "What is prorogation?" in text_of(edited[1])  # the stand-in quotes the question
    if tier == "pro":
        assert state_of(user).messages == [(message["role"], text_of(message)) for message in edited]


def test_a_question_may_be_edited_back(browser: Browser, person: NewPerson, state_of: StateOf) -> None:
    """To a text whose answer was replaced meanwhile. (Without history it is refused, because it cannot be distinguished
    from the same edit sent twice.)"""
    user, words = (
        person("pro"),
        ["What is a quorum?", "What is prorogation?", "What is a writ?", "What is prorogation?"],
    )
    edits = [{"edit": text, "messageId": "question"} for text in words[1:]]
    seen = browser.use_page(user, str(uuid.uuid4()), {"send": words[0]}, *edits)
    for text, messages in zip(words, seen, strict=True):
        assert [message["role"] for message in messages] == ["user", "assistant"]
        assert text in text_of(messages[1])
    assert state_of(user).outcomes == ["answered"] * 4
    assert state_of(user).messages == [(message["role"], text_of(message)) for message in seen[-1]]


def test_an_edit_sent_twice_is_charged_once(browser: Browser, person: NewPerson, state_of: StateOf) -> None:
    """An edit, another one and an edit back, each sent again as by a client that lost the answer."""
    user, body = person("pro"), question("What is a quorum?")
    valid(browser.answer("unedited", user, body))
    edited: dict[str, list[Json]] = {}
    for number, text in enumerate(["What is prorogation?", "What is a writ?", "What is prorogation?"]):
        (message,) = body["messages"]
        edit = {**message, "parts": [{"type": "text", "text": text}]}
        for copy in ("first", "second"):
            name = f"edit-{number}-{copy}"
            received = valid(browser.answer(name, user, {**body, "messageId": message["id"], "messages": [edit]}))
            edited.setdefault(f"edit-{number}", []).append(without_metadata(received))
    assert [first == second for first, second in edited.values()] == [True] * 3
    assert (state_of(user).outcomes, state_of(user).quota_used) == (["answered"] * 4, 4)


def test_regenerating_from_the_question_gives_a_new_answer_each_time(
    browser: Browser, person: NewPerson, state_of: StateOf
) -> None:
    """The client may send the id of a question: its answer is replaced."""
    user = person("basic")
    again = {"regenerate": {"messageId": "question"}}
    first, second, third = browser.use_page(user, str(uuid.uuid4()), {"send": "What is a quorum?"}, again, again)
    assert len({messages[1]["id"] for messages in (first, second, third)}) == 3
    assert state_of(user).quota_used == 3


def test_a_conversation_continues_after_the_largest_answer(browser: Browser, person: NewPerson) -> None:
    """The client sends it back with every later question."""
    user = person("pro")
    tools = [("find_bills", {"limit": 10}), ("find_committees", {"limit": 10}), ("find_mps", {"party": "Heron"})]
    tools += [("get_mp_votes", {"slug": slug, "limit": 10}) for slug in ("fern-quillwater", "barnaby-tidewell")]
    tools += [("get_mp_speeches", {"slug": slug, "limit": 10}) for slug in ("fern-quillwater", "rosalind-copperdale")]
    tools += [("search_debates", {"words": "lighthouse", "limit": 10})]
    first = question(" ".join(f"[tool-loop:{name} {json.dumps(arguments)}]" for name, arguments in tools))
    answer = valid(browser.answer("rich", user, first)).message
    assert answer is not None
    next_one = question("And then?", chat_id=first["id"])
    next_one["messages"] = [*first["messages"], answer, *next_one["messages"]]
    received = browser.answer("after-rich", user, next_one)
    assert received.thrown is None, f"{len(answer['parts'])} parts, {received.thrown}"


@pytest.mark.parametrize("provider", PROVIDERS)
def test_regenerating_replaces_the_message(
    browser: Browser, person: NewPerson, state_of: StateOf, stack_db: Db, provider: str
) -> None:
    user = person("basic")
    body = question(f"Once more {calls(('get_bill', {'number': 'C-5'}))}", provider=provider)
    first = valid(browser.answer(f"original-{provider}", user, body))
    assert first.message is not None
    second = valid(browser.answer(f"again-{provider}", user, regenerate(body, first.message)))
    assert second.message is not None
    assert second.message["id"] != first.message["id"]
    assert second.kinds == first.kinds
    assert second.metadata["remaining"] == first.metadata["remaining"] - 1
    rows = stack_db.execute(
        "select m.id::text, m.role, m.content from public.messages m join public.conversations c"
        " on c.id = m.conversation_id where c.user_id = %s order by m.position",
        (user.id,),
    ).fetchall()
    assert [row["role"] for row in rows] == ["user", "assistant"]
    assert (rows[1]["id"], rows[1]["content"]) == (second.message["id"], second.text)
    assert (state_of(user).outcomes, state_of(user).quota_used) == (["answered"] * 2, 2)


@pytest.mark.parametrize("provider", PROVIDERS)
def test_a_message_sent_again_gets_the_stored_tools_and_sources(
    api: Api, browser: Browser, person: NewPerson, state_of: StateOf, provider: str
) -> None:
    user, marker = person("pro"), str(uuid.uuid4())
    directives = calls(("rm_rf", {}), ("get_bill", {"number": "C-5"}))
    body = question(f"{marker} {directives}", provider=provider)
    first = valid(browser.answer(f"once-{provider}", user, body))
    requests = len(api.provider_requests(marker))
    second = valid(browser.answer(f"twice-{provider}", user, body))
    assert len(api.provider_requests(marker)) == requests  # the provider was not asked
    assert without_metadata(second) == without_metadata(first)
    # In a stored answer, each call is followed by its output.
    assert sorted(second.kinds) == sorted(first.kinds)
    again = {"request_id": second.headers["x-request-id"], "remaining": None, "resets_at": None}
    assert second.metadata == {**first.metadata, **again}
    assert (state_of(user).outcomes, state_of(user).quota_used) == (["answered"], 1)


def test_a_stored_answer_keeps_the_order_of_its_parts(browser: Browser, person: NewPerson) -> None:
    """Including the sources of the first of two calls."""
    user = person("pro")
    body = question(calls(("get_bill", {"number": "C-5"}), ("rm_rf", {})))
    first, second = (valid(browser.answer(name, user, body)) for name in ("original", "repeated"))
    assert without_metadata(second) == without_metadata(first)
