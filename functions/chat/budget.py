"""What the next step may read and write, so that no query costs more than its limit.

Before each step the worst price of the step is compared with what is left of the limit: all that the model may read,
at the price of writing it to the cache where the provider does that, and all that it may write. If it does not fit,
the history is trimmed, oldest first, then the page's own data; the output is limited to what is left.

The providers' tokenizers work on bytes, so a text never has more tokens than bytes of UTF-8. That bound is reached by
Inuktitut syllabics and by rare signs; noise has 0.8 tokens a byte, English 0.3. Texts of users count with the bound, so
none can cost more than estimated. A provider's own count of a step replaces the estimate for what that step read.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field, replace
from decimal import Decimal

import orjson

from functions.chat import limits
from functions.chat.history import Turns, fitting, split_turns
from functions.chat.providers import Message, Prompt, Usage, prices
from functions.chat.providers.prices import Rates
from functions.chat.spending import Spending
from functions.chat.tools import Definition

# Tokens for each byte of ASCII in texts that users do not write. Measured with the published tokenizers of both
# providers: 0.25 for the system prompt and the tools, 0.41 for the densest result. Anthropic's newest tokenizer has
# 1.3 to 1.5 times as many, 1.1 times in structured data. Other bytes count as one token each.
PREFIX_RATIOS = {"anthropic": 0.4, "openai": 0.3}
RESULT_RATIO = 0.5
ASCII = bytes(range(128))
# What the providers add: around each message, call and result, and to explain tools to the model.
BLOCK_TOKENS = 8
TOOL_USE_TOKENS = 600
TOOL_BYTES = 80  # the keys around the definition of a tool
# OpenAI may write everything that it reads to its cache; Anthropic only what is marked: the tools and system prompt.
CACHES_EVERYTHING = frozenset({"openai"})


@dataclass(frozen=True, slots=True)
class Counted:
    """A step that the provider has counted, and what was estimated for it."""

    provider: str
    prompt: Prompt
    estimate: int
    usage: Usage


@dataclass(slots=True)
class Budget:
    """The budget of one query. `prompt` has the question as its only message; `history` comes before it.

    `plain_situation` is the prompt's situation without what the page sent about itself.
    """

    limit_usd: Decimal
    spending: Spending
    prompt: Prompt
    history: Turns
    plain_situation: str
    _prefixes: dict[str, int] = field(default_factory=dict)  # by provider
    _counted: Counted | None = None

    def next_prompt(self, provider: str, model: str, answer: Iterable[Message], *, may_call: bool) -> Prompt | None:
        """The prompt of the next step, which continues `answer`; None where not even a short step fits."""
        own = [*self.prompt.messages, *answer]
        room = self.limit_usd - self.spending.at_most_usd
        best: Prompt | None = None
        for situation, history in self._variants(own, provider, model, room):
            prompt = replace(
                self.prompt,
                model=model,
                situation=situation,
                messages=[*(message for turn in history for message in turn), *own],
            )
            tokens = self._estimate(prompt, provider)
            output = self._output_tokens(provider, model, tokens, room)
            if best is None or output > best.max_output_tokens:
                calls = may_call and self._leaves_room(provider, model, tokens, room)
                best = replace(prompt, max_output_tokens=output, may_call=calls)
            if output >= limits.ANSWER_TOKENS:
                break
        return best if best and best.max_output_tokens >= limits.SHORTEST_OUTPUT_TOKENS else None

    def count(self, provider: str, sent: Prompt, usage: Usage) -> None:
        """Note what the provider has counted for a step. History that the step left out does not come back."""
        self._counted = Counted(provider, sent, self._plain_estimate(sent, provider), usage)
        question = next(at for at, message in enumerate(sent.messages) if message is self.prompt.messages[0])
        self.history = split_turns(sent.messages[:question])

    def _variants(
        self, own: Sequence[Message], provider: str, model: str, room: Decimal
    ) -> Iterable[tuple[str, Turns]]:
        """Situations and histories to try, the longest first."""
        situation = self.prompt.situation
        if self._counted is not None:
            situation = self._counted.prompt.situation
        yield situation, self.history
        prefix = self._prefix(provider)
        fixed = prefix + len(situation.encode()) + sum(map(tokens_of, own))
        rates = prices.rates(provider, model, fixed)
        written = rates.cache_write if provider in CACHES_EVERYTHING else rates.input
        left = room - rates.output * limits.ANSWER_TOKENS - prefix * (rates.cache_write - written)
        yield situation, fitting(self.history, int(left / written) - fixed, tokens_of)
        yield self.plain_situation, []

    def _estimate(self, prompt: Prompt, provider: str) -> int:
        """The most tokens that the model reads of a prompt."""
        estimate = self._plain_estimate(prompt, provider)
        counted = self._counted
        if counted is None or counted.provider != provider or not _extends(prompt, counted.prompt):
            return estimate
        return min(estimate, counted.usage.tokens_input + estimate - counted.estimate)

    def _prefix(self, provider: str) -> int:
        if provider not in self._prefixes:
            self._prefixes[provider] = prefix_tokens(self.prompt.system, self.prompt.tools, provider)
        return self._prefixes[provider]

    def _plain_estimate(self, prompt: Prompt, provider: str) -> int:
        return self._prefix(provider) + len(prompt.situation.encode()) + sum(map(tokens_of, prompt.messages))

    def _output_tokens(self, provider: str, model: str, tokens: int, room: Decimal) -> int:
        """How many tokens a step that reads `tokens` may write."""
        rates = prices.rates(provider, model, tokens + tokens // 10)  # long requests are dearer: with the error
        left = room - self._input_usd(rates, provider, tokens)
        return max(0, min(limits.OUTPUT_TOKENS, int(left / rates.output)))

    def _leaves_room(self, provider: str, model: str, tokens: int, room: Decimal) -> bool:
        """Whether a step may call tools: another step, with their results, would have to fit after it.

        The first step may. Its estimate is mostly far above its real cost, which is known afterwards.
        """
        if self._counted is None:
            return True
        rates = prices.rates(provider, model, tokens)
        usage = self._counted.usage
        cached = min(tokens, usage.cache_read_tokens + usage.cache_write_tokens)
        likely = cached * rates.cache_read + (tokens - cached) * rates.input + limits.CALL_TOKENS * rates.output
        after = tokens + limits.CALL_TOKENS + limits.RESULT_TOKENS
        return self._output_tokens(provider, model, after, room - likely) >= limits.ANSWER_TOKENS

    def _input_usd(self, rates: Rates, provider: str, tokens: int) -> Decimal:
        written = tokens if provider in CACHES_EVERYTHING else min(tokens, self._prefix(provider))
        return written * rates.cache_write + (tokens - written) * rates.input


def prefix_tokens(system: str, tools: Sequence[Definition], provider: str) -> int:
    """The most tokens of what is the same for everyone."""
    size = len(system.encode()) + sum(
        len(tool.name) + len(tool.description.encode()) + len(orjson.dumps(tool.parameters)) + TOOL_BYTES
        for tool in tools
    )
    return int(size * PREFIX_RATIOS[provider]) + TOOL_USE_TOKENS


def tokens_of(message: Message) -> int:
    """The most tokens of a message."""
    tokens = BLOCK_TOKENS + len(message.text.encode())
    for call in message.calls:
        tokens += BLOCK_TOKENS + len(call.name.encode()) + len(call.arguments.encode())
    for result in message.results:
        text = result.text.encode()
        other = len(text.translate(None, delete=ASCII))
        tokens += BLOCK_TOKENS + int((len(text) - other) * RESULT_RATIO) + other
    return tokens


def _extends(prompt: Prompt, start: Prompt) -> bool:
    return prompt.situation == start.situation and prompt.messages[: len(start.messages)] == start.messages
