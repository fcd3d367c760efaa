"""The chat as the AI SDK's own client sees it: every part and every order of them, and what is kept of it.

The client builds the message that its user sees, and tolerates much on the way. tests/clients/stream_rules.mjs does
not; that it would notice is tested first.
"""

import json
import uuid
from collections.abc import Callable, Iterator
from typing import Any

import httpx
import psycopg
import pytest

from infra.local.stack import Stack
from tests.api import Api, Left, question
from tests.clients.browser import Browser, Heard, Json
from tests.conftest import Person

People = Callable[..., Person]
Look = Callable[[Person], Left]
Db = psycopg.Connection[dict[str, Any]]
PROVIDERS = ["anthropic", "openai"]

# How it begins, how text is told, and how a failure ends.
OPENING = ["start", "start-step"]
TEXT = ["text-start", "text-delta", "text-end"]
BROKEN = ["finish-step", "error", "finish"]
SLOWLY = "[fault:slow 0.2] [fault:long 60]"  # twelve seconds
UNHEARD = "The answer ended before this tool was run."

PREFIX = "This is a stand-in answer"


@pytest.fixture(scope="module")
def browser(stack: Stack) -> Iterator[Browser]:
    """The AI SDK's client."""
    with Browser(stack.info["functions_url"]) as browser:
        yield browser


@pytest.fixture
def parliament(stack: Stack) -> Iterator[Callable[..., None]]:
    """Spoils answers of the public record: `parliament("/bills/45-1/C-5/", status=500)`."""
    url = f"{stack.info['parliament_url']}/_fail"

    def spoil(path_prefix: str, **fault: Any) -> None:
        assert httpx.post(url, json={"path_prefix": path_prefix, **fault}).status_code == 204

    yield spoil
    assert httpx.delete(url).status_code == 204


def calls(*wanted: tuple[str, Json]) -> str:
    """What makes the stand-in call these tools, in one step."""
    return " ".join(f"[tool:{name} {json.dumps(arguments)}]" for name, arguments in wanted)


def asked_again(body: Json, answer: Json) -> Json:
    """What the client sends to have an answer replaced: the messages before it, and its id."""
    return {**body, "trigger": "regenerate-message", "messageId": answer["id"]}


def found(parts: list[Json], kind: str) -> list[Json]:
    return [part for part in parts if part["type"] == kind]


def well_told(heard: Heard) -> Heard:
    """The same, if it broke no rule."""
    assert heard.thrown is None
    assert heard.wrong == []
    assert heard.headers["content-type"].startswith("text/event-stream")
    assert heard.headers["x-vercel-ai-ui-message-stream"] == "v1"
    assert heard.headers["cache-control"].startswith("no-cache")
    assert heard.headers["x-accel-buffering"] == "no"
    assert heard.message is not None
    assert heard.message["role"] == "assistant"
    assert heard.message["id"] == heard.parts[0]["messageId"]
    return heard


def text_part(text: str) -> Json:
    """A text as the client keeps it."""
    return {"type": "text", "text": text, "state": "done"}


def said(message: Json) -> str:
    """The text of a message as the client keeps it."""
    return "".join(part["text"] for part in message["parts"] if part["type"] == "text")


def without_metadata(heard: Heard) -> Json:
    """The message that the client built."""
    assert heard.message is not None
    return {name: value for name, value in heard.message.items() if name != "metadata"}


def unordered(heard: Heard) -> list[str]:
    """The id and the parts of that message, wherever they stand."""
    assert heard.message is not None
    return [heard.message["id"], *sorted(json.dumps(part, sort_keys=True) for part in heard.message["parts"])]


# The rules themselves -------------------------------------------------------------------------------------------------

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
}


def part(kind: str, **fields: Any) -> Json:
    return {"type": kind, **fields}


START, STEP, STEPPED = part("start", messageId="a"), part("start-step"), part("finish-step")
TEXT_START, TEXT_END = part("text-start", id="t"), part("text-end", id="t")
DELTA = part("text-delta", id="t", delta="Hear, hear")
CALLING = part("tool-input-start", toolCallId="c", toolName="get_bill")
CALLED = part("tool-input-available", toolCallId="c", toolName="get_bill", input={})
MISCALLED = part("tool-input-error", toolCallId="c", toolName="get_bill", input={}, errorText="No.")
GAVE = part("tool-output-available", toolCallId="c", output={"bill": "C-5"})
GAVE_NOTHING = part("tool-output-error", toolCallId="c", errorText="No.")
SOURCE = part("source-url", sourceId="source-1", url="https://example.test/", title="A page")
FINISH = part("finish", finishReason="stop", messageMetadata=METADATA)
FAILED = part("error", errorText="It failed.")
FINISHED_FAILED = {**FINISH, "finishReason": "error"}
KNOWN, ABORT = part("message-metadata", messageMetadata=METADATA), part("abort", reason="stopped")

GOOD = {
    "text": [START, STEP, TEXT_START, DELTA, TEXT_END, STEPPED, FINISH],
    "a tool": [START, STEP, CALLING, CALLED, GAVE, SOURCE, STEPPED, STEP, TEXT_START, DELTA, TEXT_END, STEPPED, FINISH],
    "a tool that fails": [START, STEP, CALLING, CALLED, GAVE_NOTHING, STEPPED, FINISH],
    "a call that cannot be read": [START, STEP, CALLING, MISCALLED, STEPPED, FINISH],
    "a failure": [START, STEP, TEXT_START, DELTA, TEXT_END, STEPPED, FAILED, FINISHED_FAILED],
    "a failure of which no more is known": [START, STEP, STEPPED, FAILED],
    "a stop": [START, STEP, TEXT_START, DELTA, TEXT_END, STEPPED, KNOWN, ABORT],
}
BAD = {
    "no start": ([STEP, STEPPED, FINISH], "start-step before start"),
    "two starts": ([START, START, STEP, STEPPED, FINISH], "a second start"),
    "no end": ([START, STEP, STEPPED], "no end"),
    "words after the end": ([*GOOD["text"], STEP, STEPPED], "start-step after finish"),
    "two ends": ([*GOOD["text"], FINISH], "finish after finish"),
    "words after a stop": ([*GOOD["a stop"], FINISH], "finish after abort"),
    "words after a failure": ([START, FAILED, STEP, STEPPED, FINISHED_FAILED], "start-step after error"),
    "a step in a step": ([START, STEP, STEP, STEPPED, STEPPED, FINISH], "a step within a step"),
    "a step that never began": ([START, STEPPED, FINISH], "the end of a step that was not begun"),
    "a step that stays open": ([START, STEP, FINISH], "a step is open at the finish"),
    "a step that is open at a failure": ([START, STEP, FAILED, FINISHED_FAILED], "a step is open at the error"),
    "text outside of a step": ([START, TEXT_START, DELTA, TEXT_END, FINISH], "text-start outside of a step"),
    "text that stays open": (
        [START, STEP, TEXT_START, DELTA, STEPPED, FINISH],
        "text t is open at the end of the step",
    ),
    "text that was not opened": ([START, STEP, DELTA, STEPPED, FINISH], "text for t, which is not open"),
    "text after its end": (
        [START, STEP, TEXT_START, TEXT_END, DELTA, STEPPED, FINISH],
        "text for t, which is not open",
    ),
    "a text's name twice": (
        [START, STEP, TEXT_START, TEXT_END, TEXT_START, TEXT_END, STEPPED, FINISH],
        "a second text t",
    ),
    "a tool outside of a step": ([START, CALLING, CALLED, GAVE, FINISH], "tool-input-start outside of a step"),
    "an output before its input": (
        [START, STEP, CALLING, GAVE, CALLED, STEPPED, FINISH],
        "call c is answered, but was begun",
    ),
    "an output of no call": ([START, STEP, GAVE, STEPPED, FINISH], "call c is answered, but was not begun"),
    "two outputs": (
        [START, STEP, CALLING, CALLED, GAVE, GAVE_NOTHING, STEPPED, FINISH],
        "call c is answered, but was answered",
    ),
    "no output": ([START, STEP, CALLING, CALLED, STEPPED, FINISH], "call c is only called at the end of the step"),
    "an error of an input that was read": (
        [START, STEP, CALLING, CALLED, MISCALLED, STEPPED, FINISH],
        "call c is answered, but was called",
    ),
    "a call that changes its tool": (
        [START, STEP, CALLING, {**CALLED, "toolName": "get_mp"}, GAVE, STEPPED, FINISH],
        "call c is of get_bill and of get_mp",
    ),
    "a source of nothing": ([START, STEP, SOURCE, STEPPED, FINISH], "a source after start-step"),
    "a source before its output": (
        [START, STEP, CALLING, CALLED, SOURCE, GAVE, STEPPED, FINISH],
        "a source after tool-input-available",
    ),
    "a source twice": (
        [START, STEP, CALLING, CALLED, GAVE, SOURCE, {**SOURCE, "sourceId": "source-2"}, STEPPED, FINISH],
        "https://example.test/ is told twice",
    ),
    "two sources of one name": (
        [START, STEP, CALLING, CALLED, GAVE, SOURCE, {**SOURCE, "url": "https://example.test/2"}, STEPPED, FINISH],
        "a second source source-1",
    ),
    "a stop without its price": ([START, STEP, STEPPED, ABORT], "an abort that does not say what it cost"),
    "a failure that finishes well": ([START, FAILED, FINISH], "finishReason stop, error: true"),
    "a key too many": ([{**START, "model": "m"}, STEP, STEPPED, FINISH], "start has model"),
    "a key too few": ([START, STEP, STEPPED, part("finish", messageMetadata=METADATA)], "finish has no finishReason"),
    "a part that is not known": ([START, part("data-cost", data={}), FINISH], "a part data-cost"),
    "a value that the client refuses": (
        [START, STEP, TEXT_START, {**DELTA, "delta": None}, TEXT_END, STEPPED, FINISH],
        "the AI SDK refuses text-delta",
    ),
    "metadata with a secret": (
        [START, {**FINISH, "messageMetadata": {**METADATA, "api_key": "sk"}}],
        "the metadata has api_key",
    ),
    "metadata without the price": (
        [START, {**FINISH, "messageMetadata": {name: METADATA[name] for name in METADATA if name != "charged_usd"}}],
        "the metadata has no charged_usd",
    ),
    "usage in other words": (
        [START, {**FINISH, "messageMetadata": {**METADATA, "usage": {**METADATA["usage"], "total": 2}}}],
        "the usage has total",
    ),
}


@pytest.mark.parametrize("kind", GOOD)
def test_the_rules_let_a_good_stream_pass(browser: Browser, kind: str) -> None:
    assert browser.wrong(GOOD[kind]) == []


@pytest.mark.parametrize("kind", BAD)
def test_the_rules_reject_a_broken_stream(browser: Browser, kind: str) -> None:
    parts, complaint = BAD[kind]
    assert complaint in browser.wrong(parts)


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
def test_the_rules_are_about_the_wire_too(browser: Browser, ending: str, complaint: str | None) -> None:
    events = "".join(f"data: {json.dumps(part)}\n\n" for part in GOOD["text"])
    wrong = browser.wrong(GOOD["text"], events + ending)
    assert (wrong == []) if complaint is None else (complaint in wrong)


# Answers --------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("provider", PROVIDERS)
def test_a_text_is_told_word_by_word(browser: Browser, person: People, left: Look, provider: str) -> None:
    user = person("basic")
    heard = well_told(browser.hear(f"text-{provider}", user, question("What is a quorum?", provider=provider)))
    assert heard.kinds == [*OPENING, *TEXT, "finish-step", "finish"]
    assert len(heard.all_of("text-delta")) > 3
    assert heard.message is not None
    assert heard.message["parts"] == [{"type": "step-start"}, text_part(heard.text)]
    assert heard.text.startswith(PREFIX)
    assert heard.parts[-1]["finishReason"] == "stop"
    assert (heard.metadata["provider"], heard.metadata["persisted"]) == (provider, True)
    assert heard.metadata["request_id"] == heard.headers["x-request-id"]
    assert (heard.errors, heard.comments) == ([], [])
    assert left(user).messages == [("user", "What is a quorum?"), ("assistant", heard.text)]


@pytest.mark.parametrize("provider", PROVIDERS)
def test_a_tool_is_called_answers_and_gives_its_sources(
    stack: Stack, browser: Browser, person: People, left: Look, stack_db: Db, provider: str
) -> None:
    user, site = person("basic"), stack.info["parliament_url"]
    text = f"What of it? {calls(('get_bill', {'number': 'C-5'}))}"
    heard = well_told(browser.hear(f"tool-{provider}", user, question(text, provider=provider)))
    assert heard.kinds == [
        *OPENING,
        *("tool-input-start", "tool-input-available", "tool-output-available", "source-url", "source-url"),
        *("finish-step", "start-step"),
        *TEXT,
        *("finish-step", "finish"),
    ]
    (given,), (gave,) = heard.all_of("tool-input-available"), heard.all_of("tool-output-available")
    assert (given["toolName"], given["input"]) == ("get_bill", {"number": "C-5"})
    assert (gave["output"]["bill"], gave["output"]["sponsor"]["mp"]) == ("C-5", "fern-quillwater")
    assert [source["url"] for source in heard.all_of("source-url")] == [
        f"{site}/bills/45-1/C-5/",
        f"{site}/politicians/fern-quillwater/",
    ]
    assert heard.message is not None
    tool = {"type": "tool-get_bill", "toolCallId": given["toolCallId"], "state": "output-available"}
    assert heard.message["parts"] == [
        {"type": "step-start"},
        {**tool, "input": given["input"], "output": gave["output"]},
        *heard.all_of("source-url"),
        {"type": "step-start"},
        text_part(heard.text),
    ]
    assert "The tools answered" in heard.text  # the model was told
    assert left(user).outcomes == ["answered"]
    assert left(user).quota_used == 1
    (kept,) = stack_db.execute("select * from public.messages where id = %s", (heard.message["id"],)).fetchall()
    assert [call["id"] for call in kept["function_calls"]] == [given["toolCallId"]]
    assert [result["output"] for result in kept["function_results"]] == [gave["output"]]


@pytest.mark.parametrize("provider", PROVIDERS)
def test_two_calls_of_a_step_answer_in_their_order_and_a_source_is_told_once(
    browser: Browser, person: People, provider: str
) -> None:
    text = calls(("get_bill", {"number": "C-5"}), ("get_mp", {"slug": "fern-quillwater"}))
    heard = well_told(browser.hear(f"two-{provider}", person("basic"), question(text, provider=provider)))
    called = ["tool-input-start", "tool-input-available"]
    assert heard.kinds == [
        *OPENING,
        *called,
        *called,
        *("tool-output-available", "source-url", "source-url"),  # the bill and its sponsor
        "tool-output-available",  # the sponsor, who has been told
        *("finish-step", "start-step"),
        *TEXT,
        *("finish-step", "finish"),
    ]
    names = {call["toolCallId"]: call["toolName"] for call in heard.all_of("tool-input-available")}
    assert [names[gave["toolCallId"]] for gave in heard.all_of("tool-output-available")] == ["get_bill", "get_mp"]
    assert heard.message is not None
    assert [part["type"] for part in heard.message["parts"]] == [
        *("step-start", "tool-get_bill", "tool-get_mp", "source-url", "source-url", "step-start", "text"),
    ]


@pytest.mark.parametrize("provider", PROVIDERS)
@pytest.mark.parametrize(
    ("name", "arguments", "complaint"),
    [
        ("rm_rf", {}, "No tool has that name; the tools are"),
        ("get_bill", {"number": "C5"}, "Wrong arguments: number:"),
        ("get_bill", {"number": "C-5", "colour": "green"}, "Wrong arguments: colour:"),
        ("get_mp", {"slug": "nobody-at-all"}, "No MP has the slug nobody-at-all"),
    ],
    ids=["unknown", "bad", "surplus", "nobody"],
)
def test_a_call_that_cannot_be_carried_out_is_an_error_of_that_tool_and_the_answer_goes_on(
    browser: Browser, person: People, left: Look, provider: str, name: str, arguments: Json, complaint: str
) -> None:
    user, text = person("basic"), calls((name, arguments), ("get_vote", {"number": 1}))
    heard = well_told(browser.hear(f"{uuid.uuid4()}", user, question(text, provider=provider)))
    called = ["tool-input-start", "tool-input-available"]
    told = [kind for kind in heard.kinds if kind != "source-url"]
    assert told == [
        *OPENING,
        *called,
        *called,
        *("tool-output-error", "tool-output-available"),
        *("finish-step", "start-step"),
        *TEXT,
        *("finish-step", "finish"),
    ]
    (failed,) = heard.all_of("tool-output-error")
    assert failed["errorText"].startswith(complaint)
    assert heard.message is not None
    assert heard.message["parts"][1] == {
        "type": f"tool-{name}",
        "toolCallId": failed["toolCallId"],
        "state": "output-error",
        "input": arguments,
        "errorText": failed["errorText"],
    }
    assert heard.errors == []
    assert left(user).outcomes == ["answered"]


@pytest.mark.parametrize(("provider", "number"), [("anthropic", "C-11"), ("openai", "C-12")])
def test_a_tool_whose_service_fails_says_so_and_the_answer_goes_on(
    browser: Browser, person: People, left: Look, parliament: Callable[..., None], provider: str, number: str
) -> None:
    user = person("basic")
    parliament(f"/bills/45-1/{number}/", status=500)
    text = calls(("get_bill", {"number": number, "session": "45-1"}))
    heard = well_told(browser.hear(f"fails-{provider}", user, question(text, provider=provider)))
    assert heard.kinds == [
        *OPENING,
        *("tool-input-start", "tool-input-available", "tool-output-error"),
        *("finish-step", "start-step"),
        *TEXT,
        *("finish-step", "finish"),
    ]
    (failed,) = heard.all_of("tool-output-error")
    assert failed["errorText"] == "openparliament.ca failed to answer."
    assert failed["errorText"] in heard.text  # the model was told
    assert left(user).outcomes == ["answered"]


@pytest.mark.parametrize("provider", PROVIDERS)
def test_more_calls_than_a_step_may_have_each_get_their_answer(browser: Browser, person: People, provider: str) -> None:
    text = calls(*(("get_vote", {"number": number}) for number in range(1, 11)))
    heard = well_told(browser.hear(f"many-{provider}", person("pro"), question(text, provider=provider)))
    assert len(heard.all_of("tool-input-available")) == 10
    assert len(heard.all_of("tool-output-available")) == 8
    assert {failed["errorText"] for failed in heard.all_of("tool-output-error")} == {
        "At most 8 tools are run at once. Call it again."
    }


@pytest.mark.parametrize("provider", PROVIDERS)
def test_tools_that_are_called_on_and_on_end_in_words(browser: Browser, person: People, provider: str) -> None:
    """Step after step, until the model may call no more or the query has cost enough."""
    text = "[tool-loop:get_mp_votes " + json.dumps({"slug": "fern-quillwater"}) + "]"
    heard = well_told(browser.hear(f"loop-{provider}", person("pro"), question(text, provider=provider)))
    assert heard.kinds.count("start-step") > 2
    assert heard.kinds[-5:] == [*TEXT, "finish-step", "finish"]
    assert heard.parts[-1]["finishReason"] in ("stop", "length")


# Conversations --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("provider", PROVIDERS)
def test_a_page_asks_asks_on_and_asks_again(
    browser: Browser, person: People, left: Look, api: Api, provider: str
) -> None:
    """With every question it sends its messages as it built them: tools, sources, steps and metadata among them."""
    user, again = person("basic"), f"And then? {uuid.uuid4()}"
    acts = ({"send": f"First {calls(('get_bill', {'number': 'C-5'}))}"}, {"send": again}, {"regenerate": {}})
    asked, asked_on, regenerated = browser.talk(user, str(uuid.uuid4()), *acts, provider=provider)
    assert [len(messages) for messages in (asked, asked_on, regenerated)] == [2, 4, 4]
    assert asked_on[:2] == asked
    assert regenerated[:3] == asked_on[:3]
    assert regenerated[3]["id"] != asked_on[3]["id"]
    assert left(user).messages == [(message["role"], said(message)) for message in regenerated]
    assert (left(user).outcomes, left(user).quota_used) == (["answered"] * 3, 3)
    # The model knew the first question, its answer and its tools, both times.
    assert len({len(entry["messages"]) for entry in api.asked(again)}) == 1
    assert len(api.asked(again)[0]["messages"]) > 3


@pytest.mark.parametrize("tier", ["pro", "free"])
def test_a_question_that_is_edited_is_another_question(browser: Browser, person: People, left: Look, tier: str) -> None:
    """The client keeps the message's id, and says in messageId that it is to replace what was there."""
    user = person(tier)
    acts = ({"send": "What is a quorum?"}, {"edit": "What is prorogation?", "messageId": "question"})
    _, edited = browser.talk(user, str(uuid.uuid4()), *acts)
    assert "What is prorogation?" in said(edited[1])  # the stand-in quotes the question
    if tier == "pro":
        assert left(user).messages == [(message["role"], said(message)) for message in edited]


def test_a_question_may_be_edited_back(browser: Browser, person: People, left: Look) -> None:
    """To words that were answered before, and whose answer has been replaced since. (Where nothing is kept it cannot
    be told from the same edit sent twice, and is refused rather than charged.)"""
    user, words = (
        person("pro"),
        ["What is a quorum?", "What is prorogation?", "What is a writ?", "What is prorogation?"],
    )
    edits = [{"edit": text, "messageId": "question"} for text in words[1:]]
    seen = browser.talk(user, str(uuid.uuid4()), {"send": words[0]}, *edits)
    for text, messages in zip(words, seen, strict=True):
        assert [message["role"] for message in messages] == ["user", "assistant"]
        assert text in said(messages[1])
    assert left(user).outcomes == ["answered"] * 4
    assert left(user).messages == [(message["role"], said(message)) for message in seen[-1]]


def test_an_edit_that_is_sent_twice_is_charged_once_whatever_was_there_before(
    browser: Browser, person: People, left: Look
) -> None:
    """The client sends a message again where it has lost the answer: an edit, and an edit back."""
    user, body = person("pro"), question("What is a quorum?")
    well_told(browser.hear("unedited", user, body))
    edited: dict[str, list[Json]] = {}
    for number, text in enumerate(["What is prorogation?", "What is a writ?", "What is prorogation?"]):
        (message,) = body["messages"]
        edit = {**message, "parts": [{"type": "text", "text": text}]}
        for copy in ("first", "second"):
            name = f"edit-{number}-{copy}"
            heard = well_told(browser.hear(name, user, {**body, "messageId": message["id"], "messages": [edit]}))
            edited.setdefault(f"edit-{number}", []).append(without_metadata(heard))
    assert [first == second for first, second in edited.values()] == [True] * 3
    assert (left(user).outcomes, left(user).quota_used) == (["answered"] * 4, 4)


def test_regenerating_from_the_question_gives_another_answer_each_time(
    browser: Browser, person: People, left: Look
) -> None:
    """The client takes the id of a question too: what follows it is asked for anew."""
    user = person("basic")
    anew = {"regenerate": {"messageId": "question"}}
    first, second, third = browser.talk(user, str(uuid.uuid4()), {"send": "What is a quorum?"}, anew, anew)
    assert len({messages[1]["id"] for messages in (first, second, third)}) == 3
    assert left(user).quota_used == 3


def test_the_richest_answer_is_no_end_of_a_conversation(browser: Browser, person: People) -> None:
    """The client sends it back with every question that follows."""
    user = person("pro")
    wanted = [("find_bills", {"limit": 10}), ("find_committees", {"limit": 10}), ("find_mps", {"party": "Heron"})]
    wanted += [("get_mp_votes", {"slug": slug, "limit": 10}) for slug in ("fern-quillwater", "barnaby-tidewell")]
    wanted += [("get_mp_speeches", {"slug": slug, "limit": 10}) for slug in ("fern-quillwater", "rosalind-copperdale")]
    wanted += [("search_debates", {"words": "lighthouse", "limit": 10})]
    first = question(" ".join(f"[tool-loop:{name} {json.dumps(given)}]" for name, given in wanted))
    answer = well_told(browser.hear("rich", user, first)).message
    assert answer is not None
    next_one = question("And then?", chat_id=first["id"])
    next_one["messages"] = [*first["messages"], answer, *next_one["messages"]]
    heard = browser.hear("after-rich", user, next_one)
    assert heard.thrown is None, f"{len(answer['parts'])} parts, {heard.thrown}"


@pytest.mark.parametrize("provider", PROVIDERS)
def test_regenerating_gives_another_message_that_replaces_the_first(
    browser: Browser, person: People, left: Look, stack_db: Db, provider: str
) -> None:
    user = person("basic")
    body = question(f"Once more {calls(('get_bill', {'number': 'C-5'}))}", provider=provider)
    first = well_told(browser.hear(f"original-{provider}", user, body))
    assert first.message is not None
    second = well_told(browser.hear(f"again-{provider}", user, asked_again(body, first.message)))
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
    assert (left(user).outcomes, left(user).quota_used) == (["answered"] * 2, 2)


@pytest.mark.parametrize("provider", PROVIDERS)
def test_the_same_message_gets_the_same_answer_from_storage_with_its_tools_and_sources(
    api: Api, browser: Browser, person: People, left: Look, provider: str
) -> None:
    user, marker = person("pro"), str(uuid.uuid4())
    wanted = calls(("rm_rf", {}), ("get_bill", {"number": "C-5"}))
    body = question(f"{marker} {wanted}", provider=provider)
    first = well_told(browser.hear(f"once-{provider}", user, body))
    requests = len(api.asked(marker))
    second = well_told(browser.hear(f"twice-{provider}", user, body))
    assert len(api.asked(marker)) == requests  # nobody was asked
    assert without_metadata(second) == without_metadata(first)
    # Calls are told one after the other this time; each still before its output.
    assert sorted(second.kinds) == sorted(first.kinds)
    again = {"request_id": second.headers["x-request-id"], "remaining": None, "resets_at": None}
    assert second.metadata == {**first.metadata, **again}
    assert (left(user).outcomes, left(user).quota_used) == (["answered"], 1)


def test_what_is_told_again_from_storage_stands_where_it_stood(browser: Browser, person: People) -> None:
    """The sources of the first of two calls too."""
    user = person("pro")
    body = question(calls(("get_bill", {"number": "C-5"}), ("rm_rf", {})))
    first, second = (well_told(browser.hear(name, user, body)) for name in ("stands", "stood"))
    assert without_metadata(second) == without_metadata(first)


# Failures -------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("provider", PROVIDERS)
@pytest.mark.parametrize("fault", ["drop", "error-event", "early-end", "bad-json", "failed"])
def test_a_fault_in_the_middle_closes_what_is_open_and_ends_in_an_error(
    browser: Browser, person: People, left: Look, provider: str, fault: str
) -> None:
    user = person("basic")
    heard = well_told(browser.hear(f"{fault}-{provider}", user, question(f"Hm [fault:{fault}]", provider=provider)))
    assert heard.kinds == [*OPENING, *TEXT, *BROKEN]
    assert heard.errors == [heard.all_of("error")[0]["errorText"]]
    assert heard.message is not None
    assert heard.message["parts"] == [{"type": "step-start"}, text_part(heard.text)]
    assert (heard.metadata["charged_usd"], heard.metadata["persisted"]) == (0, False)
    assert left(user) == Left(["failed"], 0, [], 0, 0, "0.000000")


@pytest.mark.parametrize("provider", PROVIDERS)
@pytest.mark.parametrize("fault", ["drop", "error-event"])
def test_a_fault_after_tools_keeps_what_was_told_of_them(
    browser: Browser, person: People, left: Look, provider: str, fault: str
) -> None:
    user = person("basic")
    text = f"{calls(('get_bill', {'number': 'C-5'}))} [fault:after-tools {fault}]"
    heard = well_told(browser.hear(f"after-{fault}-{provider}", user, question(text, provider=provider)))
    assert heard.kinds == [
        *OPENING,
        *("tool-input-start", "tool-input-available", "tool-output-available", "source-url", "source-url"),
        *("finish-step", "start-step"),
        *TEXT,
        *BROKEN,
    ]
    assert left(user) == Left(["failed"], 0, [], 0, 0, "0.000000")


@pytest.mark.parametrize("provider", PROVIDERS)
@pytest.mark.parametrize(("fault", "told"), [("after-tools status 500", "provider_error"), ("drop", None)])
def test_a_fault_between_a_call_and_the_answer_leaves_no_call_without_an_end(
    browser: Browser, person: People, left: Look, provider: str, fault: str, told: str | None
) -> None:
    """The provider refuses the results of its tools; or it is gone while it writes the call."""
    user = person("basic")
    text = f"{calls(('get_bill', {'number': 'C-5'}))} [fault:{fault}]"
    heard = well_told(browser.hear(f"between-{fault}-{provider}", user, question(text, provider=provider)))
    if told:
        called = ["tool-input-start", "tool-input-available", "tool-output-available", "source-url", "source-url"]
        assert heard.kinds == [*OPENING, *called, *BROKEN]
    else:
        assert heard.kinds == [*OPENING, "tool-input-start", "tool-input-error", *BROKEN]
        assert heard.all_of("tool-input-error")[0]["errorText"] == UNHEARD
    assert left(user) == Left(["failed"], 0, [], 0, 0, "0.000000")


@pytest.mark.parametrize("provider", PROVIDERS)
@pytest.mark.parametrize(
    ("fault", "status", "code"),
    [("status 400", 502, "provider_error"), ("overloaded", 503, "provider_overloaded")],
)
def test_a_refusal_before_the_first_byte_is_an_error_that_the_client_raises(
    browser: Browser, person: People, left: Look, provider: str, fault: str, status: int, code: str
) -> None:
    user = person("basic")
    heard = browser.hear(f"refused-{fault}-{provider}", user, question(f"Hm [fault:{fault}]", provider=provider))
    assert heard.refusal() == (status, code)
    assert (heard.parts, heard.message) == ([], None)
    assert left(user) == Left(["failed"], 0, [], 0, 0, "0.000000")


def test_a_refusal_of_ours_is_an_error_that_the_client_raises(browser: Browser, person: People, left: Look) -> None:
    spent = person("free", lifetime_used=10)
    assert browser.hear("spent", spent, question("Once more?")).refusal() == (402, "payment_required")
    assert left(spent).outcomes == []
    stranger = Person(spent.id, spent.email, "no-token")
    assert browser.hear("stranger", stranger, question("Hello?")).refusal() == (401, "unauthenticated")


# Leaving, stopping, coming back ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("provider", PROVIDERS)
def test_a_client_that_leaves_finds_the_whole_answer_kept(
    browser: Browser, person: People, left: Look, eventually: Callable[..., None], provider: str
) -> None:
    user = person("basic")
    body = question("At length [fault:slow 0.05]", provider=provider)
    browser.ask(f"leaving-{provider}", user, body)
    browser.until(f"leaving-{provider}", parts=2)
    browser.leave(f"leaving-{provider}")
    heard = browser.end(f"leaving-{provider}")
    assert heard.thrown is not None
    assert heard.thrown["name"] == "AbortError"
    eventually(lambda: left(user).outcomes == ["answered"])
    after = left(user)
    assert (after.holds, after.quota_used) == (0, 1)
    assert after.messages[1][1].startswith(heard.text)
    assert len(after.messages[1][1]) > len(heard.text)
    again = well_told(browser.hear(f"back-{provider}", user, body))
    assert (again.text, again.message and again.message["id"]) == (after.messages[1][1], heard.parts[0]["messageId"])


@pytest.mark.parametrize("provider", PROVIDERS)
def test_a_stop_ends_the_answer_with_what_was_said(browser: Browser, person: People, left: Look, provider: str) -> None:
    user, name = person("basic"), f"stopped-{provider}"
    body = question(f"At length {SLOWLY}", provider=provider)
    browser.ask(name, user, body)
    browser.until(name, parts=3)
    browser.stop(f"stop-{name}", user, body["id"])
    assert browser.stopped(f"stop-{name}")
    heard = well_told(browser.end(name))
    assert heard.kinds == [*OPENING, *TEXT, "finish-step", "message-metadata", "abort"]
    assert heard.parts[-1] == {"type": "abort", "reason": "stopped"}
    assert (heard.metadata["persisted"], heard.metadata["remaining"]) == (True, 14)
    assert heard.metadata["usage"]["output_tokens"] > 0
    assert heard.message is not None
    assert heard.message["parts"] == [{"type": "step-start"}, text_part(heard.text)]
    after = left(user)
    assert after == Left(["stopped"], 0, [("user", body["messages"][0]["parts"][0]["text"]), ("assistant", heard.text)],
                         1, 0, "0.000000")  # fmt: skip
    again = well_told(browser.hear(f"again-{name}", user, body))
    assert without_metadata(again) == without_metadata(heard)
    assert left(user) == after


@pytest.mark.parametrize("provider", PROVIDERS)
def test_a_stop_while_a_tool_runs_closes_the_call(
    browser: Browser,
    person: People,
    left: Look,
    parliament: Callable[..., None],
    stack_db: Db,
    provider: str,
) -> None:
    user, name = person("basic"), f"stopped-tool-{provider}"
    slug = {"anthropic": "imogen-tallowby", "openai": "dmitri-elmsparrow"}[provider]
    parliament(f"/politicians/{slug}/", slow=7)
    body = question(calls(("get_bill", {"number": "C-5"}), ("get_mp", {"slug": slug})), provider=provider)
    browser.ask(name, user, body)
    browser.until(name, "tool-output-available")
    browser.stop(f"stop-{name}", user, body["id"])
    browser.stopped(f"stop-{name}")
    heard = well_told(browser.end(name))
    called = ["tool-input-start", "tool-input-available"]
    assert heard.kinds == [
        *OPENING,
        *called,
        *called,
        *("tool-output-available", "source-url", "source-url", "tool-output-error"),
        *("finish-step", "message-metadata", "abort"),
    ]
    assert heard.all_of("tool-output-error")[0]["errorText"] == UNHEARD
    assert left(user).outcomes == ["stopped"]
    (row,) = stack_db.execute(
        "select m.function_calls, m.function_results from public.messages m join public.conversations c"
        " on c.id = m.conversation_id where c.user_id = %s and m.role = 'assistant'",
        (user.id,),
    ).fetchall()
    assert [call["name"] for call in row["function_calls"]] == ["get_bill", "get_mp"]
    assert [result.get("error") for result in row["function_results"]] == [None, UNHEARD]
    again = well_told(browser.hear(f"again-{name}", user, body))
    assert unordered(again) == unordered(heard)


@pytest.mark.parametrize("provider", PROVIDERS)
def test_a_stop_before_the_first_word_is_a_message_without_words(
    browser: Browser, person: People, left: Look, eventually: Callable[..., None], provider: str
) -> None:
    user, name = person("basic"), f"speechless-{provider}"
    body = question("Hm [fault:stall-before 30]", provider=provider)
    browser.ask(name, user, body)
    eventually(lambda: left(user).holds == 1)
    browser.stop(f"stop-{name}", user, body["id"])
    assert browser.stopped(f"stop-{name}")
    heard = well_told(browser.end(name))
    assert heard.kinds == [*OPENING, "finish-step", "message-metadata", "abort"]
    assert left(user).outcomes == ["stopped"]


def test_stopping_again_and_again_is_stopping_once(browser: Browser, person: People, left: Look) -> None:
    """Somebody who clicks the button twice, and more."""
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
        assert well_told(browser.end(name)).kinds[-1] == "abort"
        assert left(user).outcomes == ["stopped"]


def test_a_stop_where_nothing_runs_changes_nothing(browser: Browser, person: People, left: Look) -> None:
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
    assert well_told(browser.end("undisturbed")).kinds[-1] == "abort"
    browser.stop("over", user, body["id"])
    assert not browser.stopped("over")
    assert left(user).outcomes == ["stopped"]


@pytest.mark.parametrize("provider", PROVIDERS)
@pytest.mark.parametrize("chat_id", ["", "bills/45-1 & more? 100% #é"], ids=["uuid", "of any name"])
def test_resuming_tells_the_whole_answer_from_its_start(
    browser: Browser, person: People, left: Look, provider: str, chat_id: str
) -> None:
    user, name = person("basic"), f"{uuid.uuid4()}"
    text = f"At length {calls(('get_bill', {'number': 'C-5'}))} [fault:slow 0.07]"
    body = question(text, chat_id=chat_id or None, provider=provider)
    browser.ask(name, user, body)
    has = browser.until(name, parts=2)
    browser.resume(f"early-{name}", user, body["id"])
    assert found(has, "finish") == []
    browser.until(name, parts=10)
    browser.resume(f"late-{name}", user, body["id"].upper() if not chat_id else body["id"])
    (page,) = browser.talk(user, body["id"], {"resume": {}})
    first = well_told(browser.end(name))
    assert page == [first.message]
    for late in (f"early-{name}", f"late-{name}"):
        heard = well_told(browser.end(late))
        assert heard.parts == first.parts
        assert heard.message == first.message
    browser.resume(f"over-{name}", user, body["id"])
    over = browser.end(f"over-{name}")
    assert (over.status, over.nothing, over.thrown) == (204, True, None)
    assert browser.talk(user, body["id"], {"resume": {}}) == [[]]
    assert (left(user).outcomes, left(user).quota_used) == (["answered"], 1)


def test_nobody_resumes_what_is_anothers_or_what_does_not_run(browser: Browser, person: People, left: Look) -> None:
    user, other = person("basic"), person("basic")
    body = question("At length [fault:slow 0.1]")
    browser.ask("mine", user, body)
    browser.until("mine")
    browser.resume("not-mine", other, body["id"])
    browser.resume("another-chat", user, str(uuid.uuid4()))
    for name in ("not-mine", "another-chat"):
        heard = browser.end(name)
        assert (heard.status, heard.nothing, heard.parts) == (204, True, [])
    assert browser.until("mine")[-1]["type"] == "text-delta"  # it still runs
    well_told(browser.end("mine"))
    assert left(other) == Left([], 0, [], 0, 0, "0.000000")


def test_resuming_what_fails_before_its_first_word_finds_nothing(
    browser: Browser, person: People, left: Look, eventually: Callable[..., None]
) -> None:
    user = person("basic")
    body = question("Hm [fault:stall-before 1] [fault:status 400]")
    browser.ask("failing", user, body)
    eventually(lambda: left(user).holds == 1)
    browser.resume("hopeful", user, body["id"])
    assert browser.end("failing").refusal() == (502, "provider_error")
    assert browser.end("hopeful").nothing


def test_a_message_sent_twice_does_not_hide_the_answer_that_runs(
    browser: Browser, person: People, stack_db: Db, stack: Stack
) -> None:
    """Whoever comes back while the second copy is still waiting to be refused finds the answer to the first."""
    user = person("basic")
    body = question("At length [fault:slow 0.2]")
    browser.ask("first-copy", user, body)
    browser.until("first-copy", parts=2)
    with psycopg.connect(stack.postgres.url()) as queue:
        # The user's queue, in which every admission waits.
        queue.execute("select pg_advisory_xact_lock(uuid_hash_extended(%s, 0))", (user.id,))
        browser.ask("second-copy", user, body)
        browser.until("first-copy", parts=5)
        browser.resume("returning", user, body["id"])
        browser.until("first-copy", parts=7)
    assert browser.end("second-copy").refusal() == (409, "request_in_progress")
    first, returning = well_told(browser.end("first-copy")), browser.end("returning")
    assert not returning.nothing
    assert well_told(returning).parts == first.parts


# Silence --------------------------------------------------------------------------------------------------------------


def test_a_silence_of_twenty_seconds_is_filled_with_comments(browser: Browser, person: People, left: Look) -> None:
    """A real wait: before the first word and in the middle, with each provider; and one that ends in a refusal."""
    answered, refused = {"before": "stall-before 21", "within": "stall 21"}, "stall-before 21] [fault:status 400"
    people: dict[str, Person] = {}
    for situation, fault in {**answered, "refused": refused}.items():
        for provider in PROVIDERS:
            people[f"{situation}-{provider}"] = user = person("basic")
            browser.ask(f"{situation}-{provider}", user, question(f"Hm [fault:{fault}]", provider=provider))
    heard = {name: browser.end(name) for name in people}
    for provider in PROVIDERS:
        for situation in answered:
            told = well_told(heard[f"{situation}-{provider}"])
            assert told.kinds == [*OPENING, *TEXT, "finish-step", "finish"]
            assert left(people[f"{situation}-{provider}"]).outcomes == ["answered"]
        refusal = well_told(heard[f"refused-{provider}"])
        assert refusal.kinds == [*OPENING, *BROKEN]
        assert "Nothing was charged" in refusal.errors[0]
        assert (refusal.metadata["charged_usd"], refusal.metadata["persisted"]) == (0, False)
        assert left(people[f"refused-{provider}"]) == Left(["failed"], 0, [], 0, 0, "0.000000")
        # Before the first word there is no stream at first, as long as there may be an error in place of it.
        assert len(heard[f"within-{provider}"].comments) == 2
    assert [name for name, told in heard.items() if not told.comments] == []


def test_a_refusal_while_the_stream_is_being_promised_is_a_whole_stream(
    stack: Stack, browser: Browser, person: People, left: Look, eventually: Callable[..., None]
) -> None:
    """A real wait: the provider refuses just before the first comment, the query is given back just after it."""
    user = person("basic")
    browser.ask("promised", user, question("Hm [fault:stall-before 9] [fault:status 400]"))
    eventually(lambda: left(user).holds == 1)
    with psycopg.connect(stack.postgres.url()) as queue:
        # The user's queue, in which the release waits.
        queue.execute("select pg_advisory_xact_lock(uuid_hash_extended(%s, 0))", (user.id,))
        eventually(lambda: browser.comments("promised") > 0)
    assert well_told(browser.end("promised")).kinds == [*OPENING, *BROKEN]
    assert left(user) == Left(["failed"], 0, [], 0, 0, "0.000000")
