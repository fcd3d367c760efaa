"""Budget: what the next step may read and write, without the stack."""

from decimal import Decimal

import pytest

from functions.chat import limits
from functions.chat.budget import Budget, prefix_tokens, tokens_of
from functions.chat.providers import Message, Prompt, ToolCall, ToolResult, Usage, prices
from functions.chat.spending import Spending

MODELS = [
    ("anthropic", "claude-haiku-5-5"),
    ("anthropic", "claude-opus-5-5"),
    ("openai", "gpt-6-sol"),
    ("openai", "gpt-6-astra"),
    ("openai", "a-model-that-no-list-has"),
]
SYSTEM = "Answer questions about Parliament. " * 100


def budget(limit: str, turns: int = 0, question: str = "Who sponsors C-5?", page: str = "") -> Budget:
    history = [[Message("user", f"{n} " + "ᐃ" * 300), Message("assistant", "Because. " * 100)] for n in range(turns)]
    prompt = Prompt("", SYSTEM, f"Today.{page}", [Message("user", question)], [], True, limits.OUTPUT_TOKENS)
    return Budget(Decimal(limit), Spending(), prompt, history, "Today.")


def worst_usd(provider: str, model: str, prompt: Prompt) -> Decimal:
    """The price of a prompt of which every byte is a token that is written to the cache, and of its output."""
    tokens = prefix_tokens(SYSTEM, [], provider) + len(prompt.situation.encode()) + sum(map(tokens_of, prompt.messages))
    rates = prices.rates(provider, model, tokens)
    written = tokens if provider == "openai" else prefix_tokens(SYSTEM, [], provider)
    read = written * rates.cache_write + (tokens - written) * rates.input
    return read + prompt.max_output_tokens * rates.output


@pytest.mark.parametrize(("provider", "model"), MODELS)
@pytest.mark.parametrize("limit", ["0.005", "0.02", "0.07", "0.5"])
def test_the_worst_price_of_a_step_is_within_the_limit(provider: str, model: str, limit: str) -> None:
    for turns in (0, 3, 40):
        for page in ("", "ᐃ" * 4_000):
            prompt = budget(limit, turns, page=page).next_prompt(provider, model, [], may_call=True)
            if prompt is not None:
                assert limits.SHORTEST_OUTPUT_TOKENS <= prompt.max_output_tokens <= limits.OUTPUT_TOKENS
                assert worst_usd(provider, model, prompt) <= Decimal(limit)


def test_the_oldest_turns_are_left_out_first() -> None:
    prompt = budget("0.03", 20).next_prompt("openai", "gpt-6-sol", [], may_call=True)
    assert prompt is not None
    kept = [message.text.partition(" ")[0] for message in prompt.messages if message.role == "user"][:-1]
    assert 0 < len(kept) < 20
    assert kept == [str(number) for number in range(20)][-len(kept) :]
    assert prompt.max_output_tokens >= limits.ANSWER_TOKENS


def test_the_page_is_left_out_after_the_history() -> None:
    prompt = budget("0.02", 20, page="x" * 8_000).next_prompt("openai", "gpt-6-sol", [], may_call=True)
    assert prompt is not None
    assert (prompt.situation, len(prompt.messages)) == ("Today.", 1)


def test_a_step_that_does_not_fit_has_no_prompt() -> None:
    assert budget("0.02", question="ᐃ" * 5_000).next_prompt("openai", "gpt-6-sol", [], may_call=True) is None


def counted(provider: str) -> Budget:
    """A budget of which the provider has counted a first step: a tenth of the estimate."""
    one = budget("0.05", 4, page="x" * 2_000)
    prompt = one.next_prompt("openai", "gpt-6-sol", [], may_call=True)
    assert prompt is not None
    one.count(provider, prompt, Usage(tokens_input=800, tokens_output=20))
    one.spending.add("openai", "gpt-6-sol", Usage(tokens_input=800, tokens_output=20))
    return one


async def test_a_providers_count_replaces_its_estimate_only() -> None:
    answer = [
        Message("assistant", calls=[ToolCall("1", "get_bill", "{}")]),
        Message("tool", results=[ToolResult("1", "x" * 3_000, False)]),
    ]
    outputs = []
    for provider in ("openai", "anthropic"):
        one = counted(provider)
        await one.spending.price()
        prompt = one.next_prompt("openai", "gpt-6-sol", answer, may_call=True)
        assert prompt is not None
        outputs.append(prompt.max_output_tokens)
    assert outputs[0] > 2 * outputs[1] > 0


def test_the_prices_of_long_requests_count() -> None:
    """claude-haiku-5-5 is five times as dear from 100,000 tokens on."""
    short, long = (prices.rates("anthropic", "claude-haiku-5-5", tokens) for tokens in (99_999, 100_001))
    assert long.input == 5 * short.input
    one = replace_history(budget("0.04"), "ᐃ" * 40_000)
    prompt = one.next_prompt("anthropic", "claude-haiku-5-5", [], may_call=True)
    assert prompt is not None
    assert len(prompt.messages) == 1


def replace_history(one: Budget, text: str) -> Budget:
    one.history = [[Message("user", text)]]
    return one


@pytest.mark.parametrize(
    ("message", "tokens"),
    [
        (Message("user", "ᐃᓄᒃ"), 8 + 9),
        (Message("user", "zqxj"), 8 + 4),
        (Message("assistant", "", [ToolCall("1", "get_bill", "{}")]), 8 + 8 + 10),
        (Message("tool", results=[ToolResult("1", "x" * 100 + "é", False)]), 8 + 8 + 50 + 2),
    ],
)
def test_a_message_has_at_most_a_token_a_byte(message: Message, tokens: int) -> None:
    assert tokens_of(message) == tokens
