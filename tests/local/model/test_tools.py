"""Tool calls of the model stand-in."""

import json
from typing import Any

import anthropic
import openai
import pytest

from infra.local.model import answer
from tests.local.model.kit import CALLS, CLAUDE, CLAUDE_TOOL, GPT, GPT_TOOL, ask_claude, ask_gpt, text_of


async def test_anthropic_calls_tools_then_answers_from_their_results(claude: anthropic.AsyncAnthropic) -> None:
    messages: Any = [{"role": "user", "content": CALLS}]
    async with claude.messages.stream(model=CLAUDE, max_tokens=500, messages=messages, tools=[CLAUDE_TOOL]) as stream:
        pieces = [event.partial_json async for event in stream if event.type == "input_json"]
        called = await stream.get_final_message()
    assert called.stop_reason == "tool_use"
    uses = [block for block in called.content if block.type == "tool_use"]
    assert [(use.name, use.input) for use in uses] == [
        ("search", {"q": "a ] b", "deep": {"n": [1]}}),
        ("list_members", {}),
    ]
    assert len(pieces) > 4
    results: Any = [{"type": "tool_result", "tool_use_id": use.id, "content": f"{use.name} found 7"} for use in uses]
    results[1]["content"] = [{"type": "text", "text": "list_members found 7"}]
    again = [*messages, {"role": "assistant", "content": called.content}, {"role": "user", "content": results}]
    events = await ask_claude(claude, again, tools=[CLAUDE_TOOL])
    assert text_of(events) == answer(CALLS, ["search found 7", "list_members found 7"])
    assert "“search found 7”" in text_of(events)  # no JSON: an error, for example


async def test_openai_calls_tools_then_answers_from_their_results(gpt: openai.AsyncOpenAI) -> None:
    events = await ask_gpt(gpt, CALLS, tools=[GPT_TOOL])
    kinds = [event.type for event in events]
    assert kinds.count("response.function_call_arguments.delta") > 4
    called = events[-1].response
    uses = [item for item in called.output if item.type == "function_call"]
    assert [use.name for use in uses] == ["search", "list_members"]
    assert [json.loads(use.arguments) for use in uses] == [{"q": "a ] b", "deep": {"n": [1]}}, {}]
    outputs = [
        {"type": "function_call_output", "call_id": use.call_id, "output": f"{use.name} found 7"} for use in uses
    ]
    again = [{"role": "user", "content": CALLS}, *[use.to_dict() for use in uses], *outputs]
    events = await ask_gpt(gpt, again, tools=[GPT_TOOL])
    assert text_of(events) == answer(CALLS, ["search found 7", "list_members found 7"])
    async with gpt.responses.stream(model=GPT, input=CALLS, tools=[GPT_TOOL]) as stream:
        final = await stream.get_final_response()
    assert [item.type for item in final.output] == ["function_call", "function_call"]


async def test_no_tool_is_called_if_none_is_offered_or_allowed(
    claude: anthropic.AsyncAnthropic, gpt: openai.AsyncOpenAI
) -> None:
    assert text_of(await ask_claude(claude, CALLS)) == answer(CALLS)
    assert text_of(await ask_claude(claude, CALLS, tools=[CLAUDE_TOOL], tool_choice={"type": "none"})) == answer(CALLS)
    assert text_of(await ask_gpt(gpt, CALLS)) == answer(CALLS)
    assert text_of(await ask_gpt(gpt, CALLS, tools=[GPT_TOOL], tool_choice="none")) == answer(CALLS)


NAMES = (
    *("find_mps", "how_they_voted", "get_bill", "get_bill_votes", "get_bill_debate", "find_ministers"),
    *("get_house_day", "get_mp_expenses", "largest_expenses", "find_lobbying", "search"),
)
CLAUDE_TOOLS: Any = [{**CLAUDE_TOOL, "name": name} for name in NAMES]
GPT_TOOLS: Any = [{**GPT_TOOL, "name": name} for name in NAMES]


@pytest.mark.parametrize(
    ("question", "name", "arguments"),
    [
        ("Who is my MP? I live at K1A 0A6.", "find_mps", {"postal_code": "K1A 0A6"}),
        ("Qui représente h2x1y4 ?", "find_mps", {"postal_code": "H2X 1Y4"}),
        ("How did V6B-1A1 vote on C-5?", "how_they_voted", {"bill": "C-5", "postal_code": "V6B 1A1"}),
        ("Who lobbied on C-5?", "find_lobbying", {"bill": "C-5"}),
        ("Qui est le ministre des Finances ?", "find_ministers", {"words": "Finances"}),
        ("What happened in Parliament today?", "get_house_day", {}),
        ("Quels sont les derniers votes ?", "get_house_day", {}),
        ("Quels députés dépensent le plus ?", "largest_expenses", {}),
        ("Quelles sont les dépenses en déplacements ?", "largest_expenses", {"category": "travel"}),
        ("Who spent most on hospitality?", "largest_expenses", {"category": "hospitality"}),
        ("Quelles sont les dépenses de Josephine O’Fennimore ?", "get_mp_expenses", {"slug": "josephine-ofennimore"}),
        ("What are Fern Quillwater's expenses?", "get_mp_expenses", {"slug": "fern-quillwater"}),
        ("What is Bill C-5 about?", "get_bill", {"number": "C-5"}),
        ("De quoi parle le projet de loi c-12 ?", "get_bill", {"number": "C-12"}),
        ("Who voted for C-5?", "get_bill_votes", {"number": "C-5"}),
        ("Qui a voté contre S-2 après le débat ?", "get_bill_votes", {"number": "S-2"}),
        ("Show me the votes on c-201", "get_bill_votes", {"number": "C-201"}),
        ("What was said about C-5?", "get_bill_debate", {"number": "C-5"}),
        ("Résume les débats sur C-5", "get_bill_debate", {"number": "C-5"}),
        ("Qu’a-t-on dit du projet de loi C-5 ?", "get_bill_debate", {"number": "C-5"}),
        ("Was the credit in C-5 devoted to ditches?", "get_bill", {"number": "C-5"}),
    ],
)
async def test_a_question_without_directive_calls_its_tool_once(
    claude: anthropic.AsyncAnthropic, gpt: openai.AsyncOpenAI, question: str, name: str, arguments: dict[str, str]
) -> None:
    messages: Any = [{"role": "user", "content": question}]
    message = await claude.messages.create(model=CLAUDE, max_tokens=500, messages=messages, tools=CLAUDE_TOOLS)
    (use,) = message.content
    assert use.type == "tool_use"
    assert (use.name, use.input) == (name, arguments)
    result = {"type": "tool_result", "tool_use_id": use.id, "content": "it found 7"}
    messages += [{"role": "assistant", "content": message.content}, {"role": "user", "content": [result]}]
    assert text_of(await ask_claude(claude, messages, tools=CLAUDE_TOOLS)) == answer(question, ["it found 7"])
    (called,) = (await gpt.responses.create(model=GPT, input=question, tools=GPT_TOOLS)).output
    assert called.type == "function_call"
    assert (called.name, json.loads(called.arguments)) == (name, arguments)


@pytest.mark.parametrize(
    "question",
    [
        "Who is the Speaker?",
        "What is C-0, AC-5, C5 or C-5x?",
        "My parcel is K1A 0A66.",
        "[fault:long 9] What is C-5 about?",
        "[fault:openai drop] What is C-5 about?",
    ],
)
async def test_other_questions_and_directives_choose_no_tool(claude: anthropic.AsyncAnthropic, question: str) -> None:
    messages: Any = [{"role": "user", "content": question}]
    message = await claude.messages.create(model=CLAUDE, max_tokens=500, messages=messages, tools=CLAUDE_TOOLS)
    assert [block.type for block in message.content] == ["text"]


async def test_a_directive_replaces_the_choice_and_unoffered_tools_are_skipped(
    claude: anthropic.AsyncAnthropic, gpt: openai.AsyncOpenAI
) -> None:
    question = "Who voted for C-5?"
    others: Any = [tool for tool in CLAUDE_TOOLS if tool["name"] != "get_bill_votes"]
    assert text_of(await ask_claude(claude, question, tools=others)) == answer(question)
    assert text_of(await ask_claude(claude, question, tools=CLAUDE_TOOLS, tool_choice={"type": "none"})) == answer(
        question
    )
    output = (await gpt.responses.create(model=GPT, input=f"[tool:search] {question}", tools=GPT_TOOLS)).output
    assert [item.name for item in output if item.type == "function_call"] == ["search"]
    assert len(output) == 1


async def test_a_tool_loop_calls_again_after_every_result(claude: anthropic.AsyncAnthropic) -> None:
    messages: Any = [{"role": "user", "content": '[tool-loop:search {"q": 1}]'}]
    for _ in range(3):
        message = await claude.messages.create(model=CLAUDE, max_tokens=500, messages=messages, tools=[CLAUDE_TOOL])
        (use,) = message.content
        assert use.type == "tool_use"
        result = {"type": "tool_result", "tool_use_id": use.id, "content": "more"}
        messages += [{"role": "assistant", "content": message.content}, {"role": "user", "content": [result]}]
    assert text_of(await ask_claude(claude, messages)) == answer(messages[0]["content"], ["more"] * 3)


async def test_a_history_that_the_real_apis_refuse_is_refused(
    claude: anthropic.AsyncAnthropic, gpt: openai.AsyncOpenAI
) -> None:
    question: Any = {"role": "user", "content": "Hello"}
    call: Any = {"type": "tool_use", "id": "toolu_1", "name": "search", "input": {}}
    for messages in (
        [],
        [{"role": "user", "content": ""}],
        [question, {"role": "assistant", "content": [call]}, question],
    ):
        with pytest.raises(anthropic.BadRequestError):
            await ask_claude(claude, messages)
    output = {"type": "function_call_output", "call_id": "call_1", "output": "lost"}
    with pytest.raises(openai.BadRequestError, match="every tool call needs one result"):
        await ask_gpt(gpt, [question, output])
