"""The rules of tests/clients/stream_rules.mjs themselves: they accept valid streams and reject invalid ones."""

import json
from collections.abc import Callable
from typing import Any

import psycopg
import pytest

from tests.clients.browser import Browser, Json
from tests.conftest import Person

NewPerson = Callable[..., Person]
Db = psycopg.Connection[dict[str, Any]]
PROVIDERS = ["anthropic", "openai"]


METADATA = {
    "request_id": "r",
    "provider": "anthropic",
    "model": "m",
    "funding": "included",
    "usage": {"input_tokens": 1, "output_tokens": 1, "cache_read_tokens": 0, "cache_write_tokens": 0},
    "cost_usd": 0.001,
    "charged_usd": 0,
    "remaining": 1,
    "resets_at": None,
    "persisted": True,
    "finish_reason": "stop",
}


def part(kind: str, **fields: Any) -> Json:
    return {"type": kind, **fields}


START, STEP, END = part("start", messageId="a"), part("start-step"), part("finish-step")
TEXT_START, TEXT_END = part("text-start", id="t"), part("text-end", id="t")
DELTA = part("text-delta", id="t", delta="Order, order")
INPUT_START = part("tool-input-start", toolCallId="c", toolName="get_bill")
INPUT = part("tool-input-available", toolCallId="c", toolName="get_bill", input={})
INPUT_ERROR = part("tool-input-error", toolCallId="c", toolName="get_bill", input={}, errorText="No.")
OUTPUT = part("tool-output-available", toolCallId="c", output={"bill": "C-5"})
TOOL_FAILED = part("tool-output-error", toolCallId="c", errorText="No.")
SOURCE = part("source-url", sourceId="source-1", url="https://example.test/", title="A page")
FINISH = part("finish", finishReason="stop", messageMetadata=METADATA)
FAILED = part("error", errorText="It failed.")
ERROR = {"code": "provider_error", "reason_code": "provider_error", "action": "wait"}
FINISHED_FAILED = part("finish", finishReason="error", messageMetadata={**METADATA, "error": ERROR})
BROKEN, REFUSED = (part(kind, messageMetadata={"error": ERROR}) for kind in ("message-metadata", "start"))
MESSAGE_METADATA, ABORT = part("message-metadata", messageMetadata=METADATA), part("abort", reason="stopped")

VALID = {
    "text": [START, STEP, TEXT_START, DELTA, TEXT_END, END, FINISH],
    "a tool": [
        START,
        STEP,
        INPUT_START,
        INPUT,
        OUTPUT,
        SOURCE,
        END,
        STEP,
        TEXT_START,
        DELTA,
        TEXT_END,
        END,
        FINISH,
    ],
    "a tool that fails": [START, STEP, INPUT_START, INPUT, TOOL_FAILED, END, FINISH],
    "a call that cannot be read": [START, STEP, INPUT_START, INPUT_ERROR, END, FINISH],
    "a lost answer": [START, STEP, END, {**FINISH, "messageMetadata": {**METADATA, "outcome": "lost"}}],
    "a failure": [START, STEP, TEXT_START, DELTA, TEXT_END, END, FAILED, FINISHED_FAILED],
    "a failure of unknown outcome": [START, STEP, END, BROKEN, FAILED],
    "a refusal": [REFUSED, FAILED],
    "a stop": [START, STEP, TEXT_START, DELTA, TEXT_END, END, MESSAGE_METADATA, ABORT],
}
INVALID = {
    "no start": ([STEP, END, FINISH], "start-step before start"),
    "two starts": ([START, START, STEP, END, FINISH], "a second start"),
    "an error without its code": ([START, STEP, END, FAILED], "error: true, in the metadata: false"),
    "no end": ([START, STEP, END], "no end"),
    "parts after the end": ([*VALID["text"], STEP, END], "start-step after finish"),
    "two ends": ([*VALID["text"], FINISH], "finish after finish"),
    "parts after a stop": ([*VALID["a stop"], FINISH], "finish after abort"),
    "parts after a failure": ([START, FAILED, STEP, END, FINISHED_FAILED], "start-step after error"),
    "a step in a step": ([START, STEP, STEP, END, END, FINISH], "a step within a step"),
    "a step that did not start": ([START, END, FINISH], "the end of a step that was not started"),
    "a step that stays open": ([START, STEP, FINISH], "a step is open at the finish"),
    "a step that is open at a failure": ([START, STEP, FAILED, FINISHED_FAILED], "a step is open at the error"),
    "text outside of a step": ([START, TEXT_START, DELTA, TEXT_END, FINISH], "text-start outside of a step"),
    "text that stays open": (
        [START, STEP, TEXT_START, DELTA, END, FINISH],
        "text t is open at the end of the step",
    ),
    "text that was not opened": ([START, STEP, DELTA, END, FINISH], "text for t, which is not open"),
    "text after its end": (
        [START, STEP, TEXT_START, TEXT_END, DELTA, END, FINISH],
        "text for t, which is not open",
    ),
    "two texts with one id": (
        [START, STEP, TEXT_START, TEXT_END, TEXT_START, TEXT_END, END, FINISH],
        "a second text t",
    ),
    "a tool outside of a step": (
        [START, INPUT_START, INPUT, OUTPUT, FINISH],
        "tool-input-start outside of a step",
    ),
    "an output before its input": (
        [START, STEP, INPUT_START, OUTPUT, INPUT, END, FINISH],
        "call c is answered, but was started",
    ),
    "an output of no call": ([START, STEP, OUTPUT, END, FINISH], "call c is answered, but was not started"),
    "two outputs": (
        [START, STEP, INPUT_START, INPUT, OUTPUT, TOOL_FAILED, END, FINISH],
        "call c is answered, but was answered",
    ),
    "no output": ([START, STEP, INPUT_START, INPUT, END, FINISH], "call c is only called at the end of the step"),
    "an error of an input that was read": (
        [START, STEP, INPUT_START, INPUT, INPUT_ERROR, END, FINISH],
        "call c is answered, but was called",
    ),
    "a call that changes its tool": (
        [START, STEP, INPUT_START, {**INPUT, "toolName": "get_mp"}, OUTPUT, END, FINISH],
        "call c has the names get_bill and get_mp",
    ),
    "a source without an output": ([START, STEP, SOURCE, END, FINISH], "a source after start-step"),
    "a source before its output": (
        [START, STEP, INPUT_START, INPUT, SOURCE, OUTPUT, END, FINISH],
        "a source after tool-input-available",
    ),
    "a source twice": (
        [START, STEP, INPUT_START, INPUT, OUTPUT, SOURCE, {**SOURCE, "sourceId": "source-2"}, END, FINISH],
        "https://example.test/ is sent twice",
    ),
    "two sources with one id": (
        [
            START,
            STEP,
            INPUT_START,
            INPUT,
            OUTPUT,
            SOURCE,
            {**SOURCE, "url": "https://example.test/2"},
            END,
            FINISH,
        ],
        "a second source source-1",
    ),
    "a stop without metadata": ([START, STEP, END, ABORT], "an abort without metadata before it"),
    "a failure that finishes with stop": ([START, FAILED, FINISH], "finishReason stop, error: true"),
    "an unknown key": ([{**START, "model": "m"}, STEP, END, FINISH], "start has model"),
    "a missing key": ([START, STEP, END, part("finish", messageMetadata=METADATA)], "finish has no finishReason"),
    "an unknown part": ([START, part("data-cost", data={}), FINISH], "a part data-cost"),
    "a value that the client rejects": (
        [START, STEP, TEXT_START, {**DELTA, "delta": None}, TEXT_END, END, FINISH],
        "the AI SDK refuses text-delta",
    ),
    "metadata with a secret": (
        [START, {**FINISH, "messageMetadata": {**METADATA, "api_key": "sk"}}],
        "the metadata has api_key",
    ),
    "metadata with another outcome": (
        [START, STEP, END, {**FINISH, "messageMetadata": {**METADATA, "outcome": "answered"}}],
        "the metadata have the outcome answered",
    ),
    "metadata without the price": (
        [START, {**FINISH, "messageMetadata": {name: METADATA[name] for name in METADATA if name != "charged_usd"}}],
        "the metadata has no charged_usd",
    ),
    "an unknown key in the usage": (
        [START, {**FINISH, "messageMetadata": {**METADATA, "usage": {**METADATA["usage"], "total": 2}}}],
        "the usage has total",
    ),
}


@pytest.mark.parametrize("kind", VALID)
def test_the_rules_accept_a_valid_stream(browser: Browser, kind: str) -> None:
    assert browser.violations(VALID[kind]) == []


@pytest.mark.parametrize("kind", INVALID)
def test_the_rules_reject_an_invalid_stream(browser: Browser, kind: str) -> None:
    parts, complaint = INVALID[kind]
    assert complaint in browser.violations(parts)


@pytest.mark.parametrize(
    ("ending", "complaint"),
    [
        ("data: [DONE]\n\n", None),
        (": keep-alive\n\ndata: [DONE]\n\n", None),
        ("", "no [DONE]"),
        ("data: [DONE]\n\ndata: [DONE]\n\n", "data: [DONE] after [DONE]"),
        ("data: [DONE]\n\n: keep-alive\n\n", ": keep-alive after [DONE]"),
        ("data: [DONE]", "the last event is cut off"),
        (": sk-secret\n\ndata: [DONE]\n\n", "a comment : sk-secret"),
        ("event: end\ndata: {}\n\ndata: [DONE]\n\n", "no event: event: end\ndata: {}"),
        (f"data: {json.dumps(STEP)}\n\ndata: [DONE]\n\n", "the AI SDK read something else"),
    ],
)
def test_the_rules_check_the_body_too(browser: Browser, ending: str, complaint: str | None) -> None:
    events = "".join(f"data: {json.dumps(part)}\n\n" for part in VALID["text"])
    violations = browser.violations(VALID["text"], events + ending)
    assert (violations == []) if complaint is None else (complaint in violations)
