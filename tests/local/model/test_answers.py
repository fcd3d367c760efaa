"""Answers of the model stand-in, through both SDKs."""

from typing import Any

import anthropic
import httpx2
import openai
import pytest

from infra.local.model import answer, tokens
from infra.local.model.text import to_json
from tests.local.model.kit import CLAUDE, CLAUDE_TOOL, GPT, GPT_TOOL, QUESTION, ask_claude, ask_gpt, text_of


async def test_anthropic_streams_the_answer_in_events(claude: anthropic.AsyncAnthropic) -> None:
    events = await ask_claude(claude, QUESTION)
    kinds = [event.type for event in events]
    deltas = kinds.count("content_block_delta")
    assert kinds == [
        "message_start",
        "content_block_start",
        *["content_block_delta"] * deltas,
        "content_block_stop",
        "message_delta",
        "message_stop",
    ]
    assert text_of(events) == answer(QUESTION)
    assert deltas == len(answer(QUESTION).split())
    start, end = events[0].message, events[-2]
    assert (start.usage.input_tokens, start.usage.cache_read_input_tokens) == (tokens(QUESTION) + 4, 0)
    assert start.usage.cache_creation_input_tokens == 0
    assert (start.stop_reason, end.delta.stop_reason) == (None, "end_turn")
    assert end.usage.output_tokens == tokens(answer(QUESTION))


async def test_openai_streams_the_answer_in_events(gpt: openai.AsyncOpenAI) -> None:
    events = await ask_gpt(gpt, QUESTION)
    kinds = [event.type for event in events]
    assert kinds == [
        "response.created",
        "response.in_progress",
        "response.output_item.added",
        "response.content_part.added",
        *["response.output_text.delta"] * len(answer(QUESTION).split()),
        "response.output_text.done",
        "response.content_part.done",
        "response.output_item.done",
        "response.completed",
    ]
    assert [event.sequence_number for event in events] == list(range(len(events)))
    final = events[-1].response
    assert text_of(events) == final.output_text == answer(QUESTION)
    assert (final.usage.input_tokens, final.usage.output_tokens) == (tokens(QUESTION) + 4, tokens(answer(QUESTION)))
    assert final.usage.total_tokens == final.usage.input_tokens + final.usage.output_tokens
    assert final.usage.input_tokens_details.cached_tokens == final.usage.output_tokens_details.reasoning_tokens == 0


async def test_the_sdks_accumulators_return_the_answer(
    claude: anthropic.AsyncAnthropic, gpt: openai.AsyncOpenAI
) -> None:
    messages: Any = [{"role": "user", "content": QUESTION}]
    async with claude.messages.stream(model=CLAUDE, max_tokens=500, messages=messages) as claude_stream:
        message = await claude_stream.get_final_message()
    assert [block.text for block in message.content if block.type == "text"] == [answer(QUESTION)]
    async with gpt.responses.stream(model=GPT, input=QUESTION) as gpt_stream:
        assert (await gpt_stream.get_final_response()).output_text == answer(QUESTION)


async def test_both_providers_answer_without_a_stream(
    claude: anthropic.AsyncAnthropic, gpt: openai.AsyncOpenAI
) -> None:
    message = await claude.messages.create(
        model=CLAUDE, max_tokens=500, messages=[{"role": "user", "content": QUESTION}]
    )
    assert [block.text for block in message.content if block.type == "text"] == [answer(QUESTION)]
    assert (message.stop_reason, message.model) == ("end_turn", CLAUDE)
    assert message._request_id
    assert message._request_id.startswith("req_")
    response = await gpt.responses.create(model=GPT, input=QUESTION)
    assert (response.output_text, response.status) == (answer(QUESTION), "completed")


@pytest.mark.parametrize(
    ("question", "french"),
    [
        ("Qui est la députée de Québec ?", True),
        ("Qu’a dit le ministre sur l’inflation ?", True),
        ("Who represents Québec?", False),
        ("How did Ms. Gérin-Lajoie vote on the bill?", False),
        ("[fault:stall 1] Combien de projets de loi ?", True),
    ],
)
def test_the_answer_has_the_questions_language_and_quotes_it(question: str, french: bool) -> None:
    assert ("Réponse factice" in answer(question)) is french
    assert ("stand-in" in answer(question)) is not french
    assert question in answer(question)


BILL = {
    "bill": "C-5",
    "title": "Loi sur les quais",
    "law": False,
    "introduced": "2026-02-01",
    "sponsor": {"name": "Fern Quillwater", "party": "Heron", "url": "https://x.test/fern"},
    "url": "https://x.test/c-5",
}
VOTES = {
    "items": [
        {
            "about": f"Reading {number}",
            "date": "2026-02-12",
            "result": "Passed",
            "yea": number,
            "url": "https://x.test/v",
        }
        for number in range(1, 8)
    ],
    "left_out": 3,
}
SPENDER = {"items": [{"mp": "A Heron", "amount": "127030.98"}], "left_out": 0}
NOTE_EN = "\n\n*Stand-in: no model was asked.*"
NOTE_FR = "\n\n*Réponse factice : aucun modèle n’a été consulté.*"


@pytest.mark.parametrize(
    ("question", "result", "expected"),
    [
        (
            "Où en est le projet de loi C-5 ?",
            BILL,
            "[Projet de loi C-5](https://x.test/c-5), *Loi sur les quais* : n’est pas encore une loi, déposé le 1er "
            "février 2026, parrainé par [Fern Quillwater](https://x.test/fern) (Heron)." + NOTE_FR,
        ),
        (
            "What was voted on?",
            VOTES,
            "\n".join(
                ["", *(f"- [Reading {n}](https://x.test/v), February 12, 2026: Passed, {n} for" for n in range(1, 4))]
            )
            + "\n- and 7 more"
            + NOTE_EN,
        ),
        ("Who spent most?", SPENDER, "A Heron: $127,030.98." + NOTE_EN),
        ("Qui dépense le plus ?", SPENDER, "A Heron : 127\u00a0030,98\u00a0$." + NOTE_FR),
        ("What is there?", {"items": [], "left_out": 0}, "The public record has nothing on this." + NOTE_EN),
    ],
)
def test_results_become_sentences_with_links_in_the_questions_language(
    question: str, result: dict[str, Any], expected: str
) -> None:
    assert answer(question, [to_json(result).decode()]) == expected


@pytest.mark.parametrize(
    ("text", "count"),
    [("", 1), ("a", 1), ("the House votes", 3), ("C-5, 2026", 9), ('{"bill":"C-5"}', 8), ("ᐃᓄᒃ", 9), ("🍁", 4)],
)
def test_tokens_are_as_dense_as_the_providers(text: str, count: int) -> None:
    assert tokens(text) == count


async def test_no_reply_is_longer_than_the_request_allows(
    claude: anthropic.AsyncAnthropic, gpt: openai.AsyncOpenAI
) -> None:
    message = await claude.messages.create(model=CLAUDE, max_tokens=9, messages=[{"role": "user", "content": QUESTION}])
    assert (message.stop_reason, message.usage.output_tokens) == ("max_tokens", 9)
    response = await gpt.responses.create(model=GPT, max_output_tokens=9, input=QUESTION)
    assert response.usage
    assert (response.status, response.usage.output_tokens) == ("incomplete", 9)
    assert response.output_text == answer(QUESTION)[: len(response.output_text)]


async def test_usage_and_the_counting_call_count_the_same_tokens(
    claude: anthropic.AsyncAnthropic, gpt: openai.AsyncOpenAI
) -> None:
    history: Any = [
        {"role": "user", "content": "One?"},
        {"role": "assistant", "content": [{"type": "text", "text": "An answer"}]},
        {"role": "user", "content": QUESTION},
    ]
    more: Any = {"model": CLAUDE, "messages": history, "system": "Be brief.", "tools": [CLAUDE_TOOL]}
    expected = sum(map(tokens, ["One?", "An answer", QUESTION, "Be brief.", to_json([CLAUDE_TOOL]).decode()])) + 12
    assert (await claude.messages.count_tokens(**more)).input_tokens == expected
    assert (await claude.messages.create(**more, max_tokens=9)).usage.input_tokens == expected
    history[1] = {"role": "assistant", "content": [{"type": "output_text", "text": "An answer"}]}
    more = {"model": GPT, "input": history, "instructions": "Be brief.", "tools": [GPT_TOOL]}
    counted = await gpt.responses.input_tokens.count(**more)
    created = await gpt.responses.create(**more)
    assert created.usage
    assert counted.input_tokens == created.usage.input_tokens
    expected = sum(map(tokens, ["One?", "An answer", QUESTION, "Be brief.", to_json([GPT_TOOL]).decode()])) + 12
    assert counted.input_tokens == expected


async def test_what_other_requests_left_in_the_cache_is_read(
    claude: anthropic.AsyncAnthropic, gpt: openai.AsyncOpenAI
) -> None:
    system: Any = [{"type": "text", "text": "x" * 500, "cache_control": {"type": "ephemeral"}}]
    start = (await ask_claude(claude, "y" * 480, system=system))[0].message.usage
    assert (start.input_tokens, start.cache_read_input_tokens, start.cache_creation_input_tokens) == (100, 100, 0)
    start = (await ask_claude(claude, 'Is "cache_control": {} a secret?'))[0].message.usage
    assert start.cache_read_input_tokens == 0
    for length, cached in ((100, False), (10_000, True)):
        tools: Any = [{**GPT_TOOL, "description": "x" * length}]
        usage = (await ask_gpt(gpt, "Hello", tools=tools))[-1].response.usage
        read = tokens(to_json(tools).decode()) if cached else 0
        assert (usage.input_tokens_details.cached_tokens, usage.input_tokens_details.cache_write_tokens) == (read, 0)


async def test_a_cold_cache_is_written_as_far_as_the_provider_caches(
    claude: anthropic.AsyncAnthropic, gpt: openai.AsyncOpenAI
) -> None:
    system: Any = [{"type": "text", "text": "x" * 500, "cache_control": {"type": "ephemeral"}}]
    start = (await ask_claude(claude, "[fault:cold] Well?", system=system, tools=[CLAUDE_TOOL]))[0].message.usage
    marked = 100 + tokens(to_json([CLAUDE_TOOL]).decode())
    assert (start.cache_read_input_tokens, start.cache_creation_input_tokens) == (0, marked)
    usage = (await ask_gpt(gpt, "[fault:cold] Well?"))[-1].response.usage
    assert usage.input_tokens_details.cache_write_tokens == usage.input_tokens


async def test_one_http_client_serves_both_sdks(origin: str) -> None:
    for kind in (httpx2.AsyncClient, anthropic.DefaultAioHttpClient, openai.DefaultAioHttpClient):
        async with kind() as http:
            claude = anthropic.AsyncAnthropic(api_key="k", base_url=origin, http_client=http)
            assert text_of(await ask_claude(claude, QUESTION)) == answer(QUESTION)
            gpt = openai.AsyncOpenAI(api_key="k", base_url=f"{origin}/v1", http_client=http)
            assert text_of(await ask_gpt(gpt, QUESTION)) == answer(QUESTION)
