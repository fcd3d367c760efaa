"""The chat's streams as the AI SDK's own client reads them: all parts, their order, and what is stored.

The client builds the message that the user sees and tolerates mistakes. tests/clients/stream_rules.mjs does not;
test_stream_rules.py tests it.
"""

import json
import uuid
from collections.abc import Callable
from typing import Any

import psycopg
import pytest

from infra.local.stack import Stack
from tests.api import StateOf, UserState, question
from tests.clients.browser import Browser, Json
from tests.conftest import Person
from tests.journeys.ai_sdk_kit import (
    FAILED_END,
    NOT_RUN,
    OPENING,
    TEXT,
    calls,
    text_part,
    valid,
)

NewPerson = Callable[..., Person]
Db = psycopg.Connection[dict[str, Any]]
PROVIDERS = ["anthropic", "openai"]

PREFIX = "This is a stand-in answer"


# Answers --------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("provider", PROVIDERS)
def test_a_text_arrives_in_deltas(browser: Browser, person: NewPerson, state_of: StateOf, provider: str) -> None:
    user = person("basic")
    received = valid(browser.answer(f"text-{provider}", user, question("What is a quorum?", provider=provider)))
    assert received.kinds == [*OPENING, *TEXT, "finish-step", "finish"]
    assert len(received.all_of("text-delta")) > 3
    assert received.message is not None
    assert received.message["parts"] == [{"type": "step-start"}, text_part(received.text)]
    assert received.text.startswith(PREFIX)
    assert received.parts[-1]["finishReason"] == "stop"
    assert (received.metadata["provider"], received.metadata["persisted"]) == (provider, True)
    assert received.metadata["request_id"] == received.headers["x-request-id"]
    assert (received.errors, received.comments) == ([], [])
    assert state_of(user).messages == [("user", "What is a quorum?"), ("assistant", received.text)]


@pytest.mark.parametrize("provider", PROVIDERS)
def test_a_tool_call_has_an_output_and_sources(
    stack: Stack, browser: Browser, person: NewPerson, state_of: StateOf, stack_db: Db, provider: str
) -> None:
    user, site = person("basic"), stack.info["parliament_url"]
    text = f"What of it? {calls(('get_bill', {'number': 'C-5'}))}"
    received = valid(browser.answer(f"tool-{provider}", user, question(text, provider=provider)))
    assert received.kinds == [
        *OPENING,
        *(
            "tool-input-start",
            "tool-input-available",
            "tool-output-available",
            "source-url",
            "source-url",
            "source-url",
        ),
        *("finish-step", "start-step"),
        *TEXT,
        *("finish-step", "finish"),
    ]
    (call,), (output,) = received.all_of("tool-input-available"), received.all_of("tool-output-available")
    assert (call["toolName"], call["input"]) == ("get_bill", {"number": "C-5"})
    assert (output["output"]["bill"], output["output"]["sponsor"]["mp"]) == ("C-5", "fern-quillwater")
    assert [source["url"] for source in received.all_of("source-url")] == [
        f"{site}/bills/45-1/C-5/",
        f"{site}/legisinfo/en/bill/45-1/c-5",
        f"{site}/politicians/fern-quillwater/",
    ]
    assert received.message is not None
    tool = {"type": "tool-get_bill", "toolCallId": call["toolCallId"], "state": "output-available"}
    assert received.message["parts"] == [
        {"type": "step-start"},
        {**tool, "input": call["input"], "output": output["output"]},
        *received.all_of("source-url"),
        {"type": "step-start"},
        text_part(received.text),
    ]
    assert f"[Bill C-5]({site}/bills/45-1/C-5/)" in received.text  # the model received it
    assert state_of(user).outcomes == ["answered"]
    assert state_of(user).quota_used == 1
    (kept,) = stack_db.execute("select * from public.messages where id = %s", (received.message["id"],)).fetchall()
    assert [call["id"] for call in kept["function_calls"]] == [call["toolCallId"]]
    assert [result["output"] for result in kept["function_results"]] == [output["output"]]


@pytest.mark.parametrize("provider", PROVIDERS)
def test_two_calls_keep_their_order_and_share_a_source(browser: Browser, person: NewPerson, provider: str) -> None:
    text = calls(("get_bill", {"number": "C-5"}), ("get_mp", {"slug": "fern-quillwater"}))
    received = valid(browser.answer(f"two-{provider}", person("basic"), question(text, provider=provider)))
    called = ["tool-input-start", "tool-input-available"]
    assert received.kinds == [
        *OPENING,
        *called,
        *called,
        *("tool-output-available", "source-url", "source-url", "source-url"),  # the bill twice, and its sponsor
        "tool-output-available",  # the sponsor, whose page was sent before
        *("finish-step", "start-step"),
        *TEXT,
        *("finish-step", "finish"),
    ]
    names = {call["toolCallId"]: call["toolName"] for call in received.all_of("tool-input-available")}
    assert [names[part["toolCallId"]] for part in received.all_of("tool-output-available")] == ["get_bill", "get_mp"]
    assert received.message is not None
    assert [part["type"] for part in received.message["parts"]] == [
        *("step-start", "tool-get_bill", "tool-get_mp", "source-url", "source-url", "source-url", "step-start", "text"),
    ]


@pytest.mark.parametrize("provider", PROVIDERS)
@pytest.mark.parametrize(
    ("name", "arguments", "complaint"),
    [
        ("rm_rf", {}, "No tool has that name; the tools are"),
        ("get_bill", {"number": "C5"}, "Wrong arguments: number:"),
        ("get_bill", {"number": "C-5", "colour": "green"}, "Wrong arguments: colour:"),
        ("get_mp", {"slug": "no-such-member"}, "No MP has the slug no-such-member"),
    ],
    ids=["unknown tool", "invalid", "unknown argument", "not found"],
)
def test_an_invalid_call_does_not_end_the_answer(
    browser: Browser, person: NewPerson, state_of: StateOf, provider: str, name: str, arguments: Json, complaint: str
) -> None:
    user, text = person("basic"), calls((name, arguments), ("get_vote", {"number": 1}))
    received = valid(browser.answer(f"{uuid.uuid4()}", user, question(text, provider=provider)))
    called = ["tool-input-start", "tool-input-available"]
    kinds = [kind for kind in received.kinds if kind != "source-url"]
    assert kinds == [
        *OPENING,
        *called,
        *called,
        *("tool-output-error", "tool-output-available"),
        *("finish-step", "start-step"),
        *TEXT,
        *("finish-step", "finish"),
    ]
    (failed,) = received.all_of("tool-output-error")
    assert failed["errorText"].startswith(complaint)
    assert received.message is not None
    assert received.message["parts"][1] == {
        "type": f"tool-{name}",
        "toolCallId": failed["toolCallId"],
        "state": "output-error",
        "input": arguments,
        "errorText": failed["errorText"],
    }
    assert received.errors == []
    assert state_of(user).outcomes == ["answered"]


@pytest.mark.parametrize(("provider", "number"), [("anthropic", "C-11"), ("openai", "C-12")])
def test_a_tool_whose_service_fails_does_not_end_the_answer(
    browser: Browser,
    person: NewPerson,
    state_of: StateOf,
    break_record: Callable[..., None],
    provider: str,
    number: str,
) -> None:
    user = person("basic")
    break_record(f"/bills/45-1/{number}/", status=500)
    text = calls(("get_bill", {"number": number, "session": "45-1"}))
    received = valid(browser.answer(f"fails-{provider}", user, question(text, provider=provider)))
    assert received.kinds == [
        *OPENING,
        *("tool-input-start", "tool-input-available", "tool-output-error"),
        *("finish-step", "start-step"),
        *TEXT,
        *("finish-step", "finish"),
    ]
    (failed,) = received.all_of("tool-output-error")
    assert failed["errorText"] == "openparliament.ca failed to answer."
    assert failed["errorText"] in received.text  # the model received it
    assert state_of(user).outcomes == ["answered"]


@pytest.mark.parametrize("provider", PROVIDERS)
def test_calls_beyond_the_limit_of_a_step_get_an_error(browser: Browser, person: NewPerson, provider: str) -> None:
    text = calls(*(("get_vote", {"number": number}) for number in range(1, 11)))
    received = valid(browser.answer(f"many-{provider}", person("pro"), question(text, provider=provider)))
    assert len(received.all_of("tool-input-available")) == 10
    assert len(received.all_of("tool-output-available")) == 8
    assert {failed["errorText"] for failed in received.all_of("tool-output-error")} == {
        "At most 8 tools are run at once. Call it again."
    }


@pytest.mark.parametrize("provider", PROVIDERS)
def test_repeated_tool_calls_end_in_text(browser: Browser, person: NewPerson, provider: str) -> None:
    """Until the limit of steps or of the query's cost is reached."""
    text = "[tool-loop:get_mp_votes " + json.dumps({"slug": "fern-quillwater"}) + "]"
    received = valid(browser.answer(f"loop-{provider}", person("pro"), question(text, provider=provider)))
    assert received.kinds.count("start-step") > 2
    assert received.kinds[-5:] == [*TEXT, "finish-step", "finish"]
    assert received.parts[-1]["finishReason"] in ("stop", "length")


# Failures -------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("provider", PROVIDERS)
@pytest.mark.parametrize("fault", ["drop", "error-event", "early-end", "bad-json", "failed"])
def test_a_fault_within_the_text_closes_all_open_parts(
    browser: Browser, person: NewPerson, state_of: StateOf, provider: str, fault: str
) -> None:
    user = person("basic")
    body = question(f"Hm [fault:{fault}]", provider=provider, language="fr")
    received = valid(browser.answer(f"{fault}-{provider}", user, body))
    assert received.kinds == [*OPENING, *TEXT, *FAILED_END]
    assert received.errors == [received.all_of("error")[0]["errorText"]]
    assert "Rien n’a été facturé" in received.errors[0]
    assert received.metadata["error"]["action"] == "wait"
    assert received.message is not None
    assert received.message["parts"] == [{"type": "step-start"}, text_part(received.text)]
    assert (received.metadata["charged_usd"], received.metadata["persisted"]) == (0, False)
    assert state_of(user) == UserState(["failed"], 0, [], 0, 0, "0.000000")


@pytest.mark.parametrize("provider", PROVIDERS)
@pytest.mark.parametrize("fault", ["drop", "error-event"])
def test_a_fault_after_tools_keeps_their_parts(
    browser: Browser, person: NewPerson, state_of: StateOf, provider: str, fault: str
) -> None:
    user = person("basic")
    text = f"{calls(('get_bill', {'number': 'C-5'}))} [fault:after-tools {fault}]"
    received = valid(browser.answer(f"after-{fault}-{provider}", user, question(text, provider=provider)))
    assert received.kinds == [
        *OPENING,
        *(
            "tool-input-start",
            "tool-input-available",
            "tool-output-available",
            "source-url",
            "source-url",
            "source-url",
        ),
        *("finish-step", "start-step"),
        *TEXT,
        *FAILED_END,
    ]
    assert state_of(user) == UserState(["failed"], 0, [], 0, 0, "0.000000")


@pytest.mark.parametrize("provider", PROVIDERS)
@pytest.mark.parametrize(("fault", "code"), [("after-tools status 500", "provider_error"), ("drop", None)])
def test_a_fault_after_a_call_closes_the_call(
    browser: Browser, person: NewPerson, state_of: StateOf, provider: str, fault: str, code: str | None
) -> None:
    """The provider refuses the tool results, or disconnects while it writes the call."""
    user = person("basic")
    text = f"{calls(('get_bill', {'number': 'C-5'}))} [fault:{fault}]"
    received = valid(browser.answer(f"between-{fault}-{provider}", user, question(text, provider=provider)))
    if code:
        called = [
            "tool-input-start",
            "tool-input-available",
            "tool-output-available",
            "source-url",
            "source-url",
            "source-url",
        ]
        assert received.kinds == [*OPENING, *called, *FAILED_END]
    else:
        assert received.kinds == [*OPENING, "tool-input-start", "tool-input-error", *FAILED_END]
        assert received.all_of("tool-input-error")[0]["errorText"] == NOT_RUN
    assert state_of(user) == UserState(["failed"], 0, [], 0, 0, "0.000000")


@pytest.mark.parametrize("provider", PROVIDERS)
@pytest.mark.parametrize(
    ("fault", "status", "code"),
    [("status 400", 502, "provider_error"), ("overloaded", 503, "provider_overloaded")],
)
def test_a_providers_refusal_is_raised_by_the_client(
    browser: Browser, person: NewPerson, state_of: StateOf, provider: str, fault: str, status: int, code: str
) -> None:
    user = person("basic")
    received = browser.answer(f"refused-{fault}-{provider}", user, question(f"Hm [fault:{fault}]", provider=provider))
    assert received.refusal() == (status, code)
    assert (received.parts, received.message) == ([], None)
    assert state_of(user) == UserState(["failed"], 0, [], 0, 0, "0.000000")


def test_our_refusal_is_raised_by_the_client(browser: Browser, person: NewPerson, state_of: StateOf) -> None:
    spent = person("free", lifetime_used=10)
    assert browser.answer("spent", spent, question("Once more?")).refusal() == (402, "payment_required")
    assert state_of(spent).outcomes == []
    stranger = Person(spent.id, spent.email, "no-token")
    assert browser.answer("stranger", stranger, question("Hello?")).refusal() == (401, "unauthenticated")
