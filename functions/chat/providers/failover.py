"""A second attempt at a request that failed before the provider started its answer: at the same provider or the other.

docs/decisions/0012-one-retry-and-failover.md
"""

import asyncio
from collections.abc import AsyncGenerator, Callable, Mapping, Sequence
from contextlib import aclosing
from dataclasses import replace

from functions.chat import limits
from functions.chat.providers import Event, Prompt, Providers
from functions.common.errors import ProviderDown, ProviderOverloaded
from functions.common.turnstile import Turnstile
from functions.common.vault import PlainKey


class Failover:
    """Sends the requests of one turn. `provider` and `model` are those of the last request.

    `models` are the models that the plan allows, by provider, the default first.
    """

    def __init__(
        self,
        providers: Providers,
        turnstile: Turnstile,
        provider: str,
        model: str,
        models: Mapping[str, Sequence[str]],
    ) -> None:
        self._providers = providers
        self._turnstile = turnstile
        self.models = models
        self.provider = provider
        self.model = model

    async def stream(
        self, prompt: Prompt, own_key: PlainKey | None, prompt_for: Callable[[str, str], Prompt | None]
    ) -> AsyncGenerator[Event, None]:
        """Ask the model, and once more where the provider is down or overloaded. Raises as Provider.stream does.

        `prompt_for` gives the prompt for another provider and its model; None: the step would be too dear there.
        """
        started, provider = False, self.provider
        try:
            async with aclosing(await self._ask(prompt, own_key)) as events:
                async for event in events:
                    started = True
                    yield event
            return
        except (ProviderDown, ProviderOverloaded) as error:
            if started:
                raise
            pause_s = self._prepare_second_attempt(error, own_key)
            if self.provider != provider:
                other = prompt_for(self.provider, self.model)
                if other is None:
                    raise
                prompt = other
        await asyncio.sleep(pause_s)
        async with aclosing(await self._ask(prompt, own_key)) as events:
            async for event in events:
                yield event

    def _prepare_second_attempt(self, error: ProviderDown | ProviderOverloaded, own_key: PlainKey | None) -> float:
        """Switch to the other provider where this one is overloaded. Returns the seconds to wait before the attempt.

        An own key never switches: it belongs to one provider. Raises `error` where the wait would be long.
        """
        if isinstance(error, ProviderOverloaded) and own_key is None:
            for other in self._providers.platform:
                if other != self.provider and (models := self.models.get(other)):
                    self.provider, self.model = other, models[0]
                    return 0
        pause_s = error.retry_after or limits.RETRY_PAUSE_S
        if pause_s > limits.RETRY_PAUSE_LIMIT_S:
            raise error
        return pause_s

    async def _ask(self, prompt: Prompt, own_key: PlainKey | None) -> AsyncGenerator[Event, None]:
        provider = self._providers.get(self.provider)
        await self._turnstile.enter()
        return provider.stream(replace(prompt, model=self.model), own_key)
