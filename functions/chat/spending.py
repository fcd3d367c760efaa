"""What a turn has cost so far: tokens as the providers count them, and their price."""

import asyncio
from dataclasses import replace
from decimal import Decimal

import orjson

from functions.chat.answer import Step
from functions.chat.history import texts_of
from functions.chat.providers import Prompt, Usage, prices


class Spending:
    """Adds up the steps of one turn.

    `cost_usd` is None once the price list does not know a model; `at_most_usd` then has the prices of prices.UNKNOWN.
    """

    def __init__(self) -> None:
        self.usage = Usage()
        self.steps = 0  # responses of the model
        self.cost_usd: Decimal | None = Decimal(0)
        self.at_most_usd = Decimal(0)
        self._unpriced: list[tuple[str, str, Usage]] = []

    def add(self, provider: str, model: str, usage: Usage) -> None:
        """Note a step's tokens. They count from the next `price()` on."""
        self.steps += 1
        self._unpriced.append((provider, model, usage))

    async def price(self) -> None:
        """Add the tokens and the price of the noted steps."""
        while self._unpriced:
            provider, model, usage = self._unpriced[0]
            if prices.are_loaded():
                cost = prices.cost_usd(provider, model, usage)
            else:  # in a thread, because loading the price list takes 150 ms
                cost = await asyncio.to_thread(prices.cost_usd, provider, model, usage)
            del self._unpriced[0]
            self.usage += usage
            self.at_most_usd += prices.UNKNOWN.most_usd(usage) if cost is None else cost
            self.cost_usd = None if cost is None or self.cost_usd is None else self.cost_usd + cost


# Tokens a byte where a provider did not count them: English has 0.3, JSON 0.4. Other scripts than Latin are near 1.
ASCII_RATIO = 0.4
ASCII = bytes(range(128))


def estimated(prompt: Prompt, step: Step, usage: Usage) -> Usage:
    """The tokens of a step that the provider did not count: its count so far, and at least what was written.

    `usage` is the last count that the provider sent.
    """
    read = _likely_tokens(prompt.system) + _likely_tokens(prompt.situation)
    for tool in prompt.tools:
        read += _likely_tokens(tool.description) + _likely_tokens(orjson.dumps(tool.parameters).decode())
    for message in prompt.messages:
        read += sum(map(_likely_tokens, texts_of(message)))
    written = _likely_tokens(step.text)
    for call in step.calls:
        written += _likely_tokens(call.name) + _likely_tokens(orjson.dumps(call.input).decode())
    return replace(
        usage,
        tokens_input=usage.tokens_input or read,
        tokens_output=max(usage.tokens_output, written, 1),
    )


def _likely_tokens(text: str) -> int:
    others = len(text.encode().translate(None, delete=ASCII))
    return int((len(text.encode()) - others) * ASCII_RATIO) + others
