"""Within a turn: tools and their results, the page's context, retries and the other provider, history."""

import json
import uuid
from collections.abc import AsyncIterator, Callable, Iterator
from datetime import UTC, datetime
from typing import Any, get_args

import httpx
import psycopg
import pytest

from functions.chat import limits
from functions.chat.answer import Answer, Call, Step
from functions.chat.history import bytes_of, fitting
from functions.chat.providers import Message, Prompt, ToolCall, ToolResult, Usage
from functions.chat.request import Context, ContextType
from functions.chat.sources import Parliament
from functions.chat.sources.base import Language
from functions.chat.spending import estimated
from functions.chat.system_prompt import situation
from functions.chat.tools import Outcome, Source
from functions.chat.wire import MessageStream
from infra.local.stack import Stack
from tests.api import Api, StateOf, Streamed, question
from tests.conftest import Person
from tests.sources import parliament_at

NewPerson = Callable[..., Person]
Db = psycopg.Connection[dict[str, Any]]
PROVIDERS = ["anthropic", "openai"]
BILL = '[tool:get_bill {"number": "C-5"}]'


def of_kind(streamed: Streamed, kind: str) -> list[dict[str, Any]]:
    return [part for part in streamed.parts if part["type"] == kind]


@pytest.fixture
def parliament(stack: Stack) -> Iterator[httpx.Client]:
    """A client of the stand-in of openparliament.ca."""
    with httpx.Client(base_url=stack.info["parliament_url"], headers={"accept": "application/json"}) as http:
        http.delete("/_requests")
        yield http


def fail(parliament: httpx.Client, **how: Any) -> None:
    """Make the stand-in's next responses fail."""
    assert parliament.post("/_fail", json=how).is_success


# Tools ---------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("provider", PROVIDERS)
def test_model_and_client_get_the_same_tool_output(api: Api, person: NewPerson, provider: str) -> None:
    text = f"{BILL} {uuid.uuid4()}"
    streamed = api.stream(person("pro"), question(text, provider=provider))
    (output,) = of_kind(streamed, "tool-output-available")
    assert output["output"]["bill"] == "C-5"
    first, second = api.provider_requests(text)
    assert [message["role"] for message in first["messages"]] == ["user"]
    assert [message["role"] for message in second["messages"]] == ["user", "tool"]
    assert json.loads(second["messages"][1]["text"]) == output["output"]
    assert output["output"]["url"] in [source["url"] for source in of_kind(streamed, "source-url")]


@pytest.mark.parametrize("provider", PROVIDERS)
def test_two_steps_are_counted_and_charged_as_one_query(
    api: Api, person: NewPerson, state_of: StateOf, stack_db: Db, provider: str
) -> None:
    user = person("pro")
    one = api.stream(user, question("Hello there friend", provider=provider)).metadata["usage"]
    two = api.stream(user, question(BILL, provider=provider)).metadata
    assert two["usage"]["input_tokens"] > 1.9 * one["input_tokens"]
    assert state_of(user).quota_used == 2
    logged = stack_db.execute(
        "select tokens_input, cost_usd from public.usage_logs where user_id = %s order by query_timestamp", (user.id,)
    ).fetchall()
    assert logged[1]["tokens_input"] == two["usage"]["input_tokens"]
    assert float(logged[1]["cost_usd"]) == pytest.approx(two["cost_usd"])


@pytest.mark.parametrize("provider", PROVIDERS)
def test_a_later_turn_reads_the_tool_results_of_earlier_turns(api: Api, person: NewPerson, provider: str) -> None:
    user, chat_id = person("pro"), str(uuid.uuid4())
    text = f"And the sponsor? {uuid.uuid4()}"
    output = of_kind(
        api.stream(user, question(f"Look it up {BILL}", chat_id=chat_id, provider=provider)),
        "tool-output-available",
    )[0]["output"]
    other = "openai" if provider == "anthropic" else "anthropic"
    assert api.stream(user, question(text, chat_id=chat_id, provider=other)).done
    (asked,) = api.provider_requests(text)
    assert [message["role"] for message in asked["messages"]] == ["user", "tool", "assistant", "user"]
    assert json.loads(asked["messages"][1]["text"]) == output


def test_an_answer_with_tools_is_repeated_from_storage(api: Api, person: NewPerson) -> None:
    user = person("basic")
    body = question(f"{BILL} [tool:no_such_tool {{}}] {uuid.uuid4()}")
    first, second = api.stream(user, body), api.stream(user, body)
    assert second.text == first.text
    for kind in ("tool-input-available", "tool-output-available", "tool-output-error", "source-url"):
        assert of_kind(second, kind) == of_kind(first, kind) != []
    whole = api.chat(user, body).json()["message"]["parts"]
    states = [part["state"] for part in whole if part["type"].startswith("tool-")]
    assert states == ["output-available", "output-error"]


def test_the_record_of_the_page_is_a_source_of_the_answer(api: Api, person: NewPerson, stack: Stack) -> None:
    user, page = person("basic"), f"{stack.info['parliament_url']}/bills/45-1/C-5/"
    body = question(f"What is it about? {uuid.uuid4()}", context={"type": "bill", "id": "C-5"})
    first, repeated = api.stream(user, body), api.stream(user, body)
    for streamed in (first, repeated):
        assert [part["url"] for part in of_kind(streamed, "source-url")] == [page]
        assert [part["type"] for part in streamed.parts][:3] == ["start", "start-step", "source-url"]
    answer = api.chat(user, body).json()["message"]
    assert [part["url"] for part in answer["parts"] if part["type"] == "source-url"] == [page]
    later = question("And again?", chat_id=body["id"], context={"type": "bill", "id": "C-5"})
    assert api.stream(user, later).done


def test_a_source_of_two_calls_is_sent_once(api: Api, person: NewPerson) -> None:
    streamed = api.stream(person("basic"), question(f"{BILL} {BILL}"))
    urls = [source["url"] for source in of_kind(streamed, "source-url")]
    assert len(of_kind(streamed, "tool-output-available")) == 2
    assert len(urls) == len(set(urls)) > 0


def test_a_failed_tool_does_not_end_the_answer(
    api: Api, person: NewPerson, state_of: StateOf, parliament: httpx.Client
) -> None:
    user = person("basic")
    fail(parliament, path_prefix="/committees/", status=500)
    streamed = api.stream(user, question("[tool:find_committees {}] Well?"))
    (failed,) = of_kind(streamed, "tool-output-error")
    assert failed["errorText"] in streamed.text  # the model received it too
    assert state_of(user).outcomes == ["answered"]


@pytest.mark.parametrize(("provider", "model"), [("anthropic", "claude-haiku-5-5"), ("openai", "gpt-6-luna")])
def test_the_last_of_eight_steps_calls_no_tools(api: Api, person: NewPerson, provider: str, model: str) -> None:
    text = f'[tool-loop:get_bill {{"number": "C-5"}}] {uuid.uuid4()}'
    streamed = api.stream(person("pro"), question(text, provider=provider, model=model))
    assert len(api.provider_requests(text)) == limits.STEPS
    assert streamed.kinds.count("start-step") == limits.STEPS
    assert len(of_kind(streamed, "tool-output-available")) == limits.STEPS - 1
    assert streamed.text
    assert streamed.parts[-1]["finishReason"] == "stop"


@pytest.mark.parametrize("provider", PROVIDERS)
def test_too_long_arguments_are_an_error_for_the_model(api: Api, person: NewPerson, provider: str) -> None:
    words = "x" * limits.ARGUMENTS_BYTES
    streamed = api.stream(person("basic"), question(f'[tool:find_bills {{"words": "{words}"}}]', provider=provider))
    (failed,) = of_kind(streamed, "tool-input-error")
    assert failed["errorText"] == "The arguments are longer than 4000 bytes."
    assert not of_kind(streamed, "tool-input-available")


# Retries and the other provider --------------------------------------------------------------------------------------


@pytest.mark.parametrize(("first", "second"), [("anthropic", "openai"), ("openai", "anthropic")])
def test_the_other_provider_answers_if_one_is_overloaded(
    api: Api, person: NewPerson, stack_db: Db, first: str, second: str
) -> None:
    user = person("basic")
    text = f"Who answers? {uuid.uuid4()} [fault:{first} overloaded]"
    streamed = api.stream(user, question(text, provider=first))
    assert [entry["provider"] for entry in api.provider_requests(text)] == [first, second]
    models = stack_db.execute("select models from public.plans where tier = 'basic'").fetchone()
    assert models is not None
    assert (streamed.metadata["provider"], streamed.metadata["model"]) == (second, models["models"][second][0])
    (logged,) = stack_db.execute("select * from public.usage_logs where user_id = %s", (user.id,)).fetchall()
    assert (logged["provider"], logged["model"]) == (second, streamed.metadata["model"])
    assert logged["cost_usd"] > 0


@pytest.mark.parametrize("provider", PROVIDERS)
def test_a_failure_before_the_first_byte_is_retried_once(api: Api, person: NewPerson, provider: str) -> None:
    text = f"Again? {uuid.uuid4()} [fault:first-only status 500]"
    assert api.stream(person("basic"), question(text, provider=provider)).done
    assert [entry["provider"] for entry in api.provider_requests(text)] == [provider, provider]


@pytest.mark.parametrize("provider", PROVIDERS)
@pytest.mark.parametrize("fault", ["drop", "error-event", "early-end"])
def test_a_failure_after_the_first_byte_is_not_retried(api: Api, person: NewPerson, provider: str, fault: str) -> None:
    text = f"No {uuid.uuid4()} [fault:{fault}]"
    assert api.stream(person("basic"), question(text, provider=provider)).parts[-1]["finishReason"] == "error"
    assert len(api.provider_requests(text)) == 1


# The page in the prompt -------------------------------------------------------------------------------------------


@pytest.fixture
async def record(stack: Stack) -> AsyncIterator[Parliament]:
    """The chat's client of the public record."""
    url = stack.info["parliament_url"]
    record = parliament_at(url)
    yield record
    await record.close()


def some_member(parliament: httpx.Client) -> tuple[str, str]:
    """The slug and the name of a member."""
    member = parliament.get("/politicians/?limit=1").json()["objects"][0]
    return member["url"].split("/")[2], member["name"]


def bill_names(parliament: httpx.Client) -> dict[str, str]:
    """The names of bill C-5 by language."""
    names: dict[str, str] = parliament.get("/bills/45-1/C-5/").json()["name"]
    return names


async def whole_situation(*arguments: Any) -> str:
    """The situation with what the page sent about itself."""
    plain, hint, _ = await situation(*arguments)
    return plain + hint


NOW = datetime(2026, 11, 22, 3, 30, tzinfo=UTC)  # still the day before in Toronto


@pytest.mark.parametrize("language", ["en", "fr"])
async def test_the_prompt_has_the_date_in_toronto_and_the_language(record: Parliament, language: Language) -> None:
    prompt = await whole_situation(Context(), language, NOW, record)
    assert "2026-11-21" in prompt
    assert {"en": "English", "fr": "French"}[language] in prompt


async def test_the_prompt_separates_the_record_from_the_pages_data(
    record: Parliament, parliament: httpx.Client
) -> None:
    slug, name = some_member(parliament)
    prompt = await whole_situation(Context(type="mp", id=slug, data={"name": "Another Name"}), "en", NOW, record)
    before, after = prompt.split("It is not verified")
    assert name in before
    assert "Another Name" not in before
    assert "Another Name" in after


@pytest.mark.parametrize("bill", ["C-5", "c-5", "45-1/C-5"])
async def test_the_prompt_has_the_bill_in_the_users_language(
    record: Parliament, parliament: httpx.Client, bill: str
) -> None:
    names = bill_names(parliament)
    for language in get_args(Language):
        assert names[language] in await whole_situation(Context(type="bill", id=bill), language, NOW, record)


@pytest.mark.parametrize(
    ("bill", "text"),
    [("44-1/C-5", "grain elevators"), ("C-10A", "paddles"), ("c-10a", "paddles"), ("C-13", "C-13"), ("C-44", "lamps")],
)
async def test_the_prompt_has_bills_of_old_sessions_and_odd_numbers(record: Parliament, bill: str, text: str) -> None:
    prompt = await whole_situation(Context(type="bill", id=bill), "en", NOW, record)
    assert "public record" in prompt
    assert text in prompt


@pytest.mark.parametrize(
    "context",
    [
        Context(type="mp", id="../bills/45-1/C-5"),
        Context(type="mp", id="no-such-member"),
        Context(type="bill", id="45-1/C-5/../../politicians"),
        Context(type="bill", id="C-999"),
        Context(type="bill"),
        Context(type="dashboard", id="C-5"),
    ],
)
async def test_a_page_without_a_record_is_only_a_hint(record: Parliament, context: Context) -> None:
    prompt = await whole_situation(context, "en", NOW, record)
    assert "public record" not in prompt
    assert ("It is not verified" in prompt) == (context.id is not None)


async def test_a_slow_record_does_not_delay_the_answer(
    record: Parliament, parliament: httpx.Client, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(limits, "CONTEXT_S", 0.05)
    fail(parliament, path_prefix="/bills/45-1/C-6/", times=1, slow=1)
    assert "public record" not in await whole_situation(Context(type="bill", id="45-1/C-6"), "en", NOW, record)


@pytest.mark.parametrize("kind", get_args(ContextType))
async def test_every_type_of_page_has_a_prompt(record: Parliament, kind: ContextType) -> None:
    plain = await whole_situation(Context(), "en", NOW, record)
    assert (await whole_situation(Context(type=kind), "en", NOW, record) == plain) == (kind == "general")


# Storage and history, without the stack ------------------------------------------------------------------------------


ANSWER = Answer(
    "the-id",
    [
        Step(
            "Let me see. ", [Call("1", "get_bill", {"number": "C-5"}, Outcome({"b": 1}, None, [Source("u", "t")]), 12)]
        ),
        Step("", [Call("2", "get_mp", {"slug": "x"}, Outcome(None, "No such member.", []))]),
        Step("« Voilà. »"),
    ],
)


def test_an_answer_is_the_same_after_storage() -> None:
    row = json.loads(json.dumps(ANSWER.row()))
    stored = Answer.from_row(row)
    assert stored == ANSWER
    assert stored.text == "Let me see. « Voilà. »"
    assert stored.events(MessageStream("the-id")) == ANSWER.events(MessageStream("the-id"))


def test_a_call_without_result_is_an_error_for_the_model() -> None:
    cut = Answer("", [Step("", [Call("1", "get_bill", {})])])
    *_, results = cut.messages()
    assert [(result.id, result.is_error) for result in results.results] == [("1", True)]
    assert Answer.from_row(json.loads(json.dumps(cut.row()))).text == ""


def _turn(question: str, answer: str, result: str = "") -> list[Message]:
    messages = [Message("user", question)]
    if result:
        messages += [
            Message("assistant", calls=[ToolCall("1", "t", "{}")]),
            Message("tool", results=[ToolResult("1", result, False)]),
        ]
    return [*messages, Message("assistant", answer)]


def test_history_drops_tool_results_before_it_drops_turns() -> None:
    old, new = _turn("Old?", "Old."), _turn("New?", "New.", "x" * 100)
    new_text = [Message("user", "New?"), Message("assistant", "New.")]
    assert fitting([old, new], 1_000, bytes_of) == [old, new]
    assert fitting([old, new], 20, bytes_of) == [old, new_text]
    assert fitting([old, new], 12, bytes_of) == [new_text]
    assert fitting([old, new], 7, bytes_of) == []


def test_an_interrupted_step_counts_at_least_its_text() -> None:
    prompt = Prompt("m", "s" * 300, "t" * 300, [Message("user", "q" * 300)], [], True, 100)
    nothing = estimated(prompt, Step("a" * 300), Usage())
    assert (nothing.tokens_input, nothing.tokens_output) == (360, 120)
    counted = estimated(prompt, Step("a" * 300), Usage(tokens_input=77, tokens_output=1, cache_read_tokens=7))
    assert counted == Usage(77, 120, 7, 0)
