"""A second attempt at a request that failed before the provider started its answer: at the same provider or the other.

docs/decisions/0012-one-retry-and-failover.md
"""

import asyncio
from collections.abc import AsyncGenerator, Callable, Mapping, Sequence
from contextlib import aclosing
from dataclasses import replace

from functions.chat import limits
from functions.chat.providers import Event, Prompt, Providers
from functions.common.errors import ModelGone, ProviderDown, ProviderOverloaded
from functions.common.turnstile import Turnstile
from functions.common.vault import PlainKey


class Failover:
    """Sends the requests of one turn. `provider` and `model` are those of the last request.

    `models` are the models that the plan allows, by provider, the default first. `gone` are those that the
    account did not have, with their provider.
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
        self.gone: list[tuple[str, str]] = []

    async def stream(
        self, prompt: Prompt, own_key: PlainKey | None, prompt_for: Callable[[str, str], Prompt | None]
    ) -> AsyncGenerator[Event, None]:
        """Ask the model, and once more where the provider is down or overloaded. Raises as Provider.stream does.

        A model that the provider does not have is replaced by the next one of the plan. `prompt_for` gives the prompt
        for another provider or model; None: the step would be too dear there.
        """
        may_repeat = True
        gone: ModelGone | None = None
        while True:
            asked, started = (self.provider, self.model), False
            try:
                async with aclosing(await self._ask(prompt, own_key)) as events:
                    async for event in events:
                        started = True
                        yield event
                return
            except (ModelGone, ProviderDown, ProviderOverloaded) as error:
                if started:
                    raise
                if isinstance(error, ModelGone):
                    gone = gone or error
                    self._replace_model(gone, own_key)
                    pause_s = 0.0
                elif may_repeat:
                    may_repeat = False
                    pause_s = self._prepare_second_attempt(error, own_key)
                else:
                    raise
                if asked != (self.provider, self.model):
                    other = prompt_for(self.provider, self.model)
                    if other is None:
                        self.provider, self.model = asked
                        raise
                    prompt = other
            await asyncio.sleep(pause_s)

    def _replace_model(self, error: ModelGone, own_key: PlainKey | None) -> None:
        """Take the next model of the plan that was not tried, at the other provider if this one has no more.

        Raises `error` where there is none.
        """
        self.gone.append((self.provider, self.model))
        others = [other for other in self._providers.platform if other != self.provider] if own_key is None else []
        for provider in (self.provider, *others):
            for model in self.models.get(provider, ()):
                if (provider, model) not in self.gone:
                    self.provider, self.model = provider, model
                    return
        raise error

    def _prepare_second_attempt(self, error: ProviderDown | ProviderOverloaded, own_key: PlainKey | None) -> float:
        """Switch to the other provider where this one is overloaded. Returns the seconds to wait before the attempt.

        An own key never switches: it belongs to one provider. Raises `error` where the wait would be long.
        """
        if isinstance(error, ProviderOverloaded) and own_key is None:
            for other in self._providers.platform:
                models = [model for model in self.models.get(other, ()) if (other, model) not in self.gone]
                if other != self.provider and models:
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
