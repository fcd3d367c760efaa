"""What a turn has cost so far: tokens as the providers count them, and their price."""

import asyncio
from dataclasses import replace
from decimal import Decimal

import orjson

from functions.chat.answer import Step
from functions.chat.history import bytes_of
from functions.chat.providers import Prompt, Usage, prices


class Spending:
    """Adds up the steps of one turn. `cost_usd` is None once the price list does not know a model."""

    def __init__(self) -> None:
        self.usage = Usage()
        self.cost_usd: Decimal | None = Decimal(0)
        self._unpriced: list[tuple[str, str, Usage]] = []

    def add(self, provider: str, model: str, usage: Usage) -> None:
        """Note a step's tokens. They count from the next `price()` on."""
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
            self.cost_usd = None if cost is None or self.cost_usd is None else self.cost_usd + cost


# Of steps whose usage the provider did not send. English has about four bytes a token, French and JSON fewer.
BYTES_A_TOKEN = 3


def estimated(prompt: Prompt, step: Step, usage: Usage) -> Usage:
    """The tokens of an interrupted step: the provider's count so far, and at least what was written.

    `usage` is the last count that the provider sent.
    """
    read = len(prompt.system.encode()) + len(prompt.situation.encode()) + sum(map(bytes_of, prompt.messages))
    read += sum(len(tool.description) + len(orjson.dumps(tool.parameters)) for tool in prompt.tools)
    return replace(
        usage,
        tokens_input=usage.tokens_input or read // BYTES_A_TOKEN,
        tokens_output=max(usage.tokens_output, len(step.text.encode()) // BYTES_A_TOKEN, 1),
    )
