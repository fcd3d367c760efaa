"""What a provider charges for tokens, by the price list of the package genai-prices. Makes no request."""

import gc
import importlib
from dataclasses import dataclass
from datetime import UTC, datetime
from decimal import Decimal
from functools import cache, lru_cache
from types import ModuleType
from typing import Any

from functions.chat.providers import Usage


@dataclass(frozen=True, slots=True)
class Rates:
    """The price of one token in US dollars: read, read from the cache, read and written to the cache, or written."""

    input: Decimal
    cache_read: Decimal
    cache_write: Decimal
    output: Decimal

    def most_usd(self, usage: Usage) -> Decimal:
        """The most that a step can have cost."""
        return usage.tokens_input * max(self.input, self.cache_write) + usage.tokens_output * self.output


# Of a model that the list does not have: those of the dearest model that a plan of ours ever had.
UNKNOWN = Rates(Decimal("10e-6"), Decimal("10e-6"), Decimal("12.5e-6"), Decimal("50e-6"))
TOKENS_A_PRICE = 1_000_000


@cache
def _prices() -> ModuleType:
    # Not imported at the start of the process: it takes 150 ms.
    module = importlib.import_module("genai_prices")
    module.data_snapshot.get_snapshot()  # otherwise the first price would load it
    gc.freeze()  # The price list is never freed: exclude it from every collection.
    return module


def are_loaded() -> bool:
    """Whether the price list is loaded: a price then takes 0.1 ms."""
    return _prices.cache_info().currsize > 0


def load() -> None:
    """Load the price list. It takes 150 ms: call it in a thread."""
    _prices()


def rates(provider: str, model: str, tokens_input: int) -> Rates:
    """The prices of a model for a request that reads up to `tokens_input`, or UNKNOWN. Takes microseconds."""
    listed = _listed(provider, model)
    if listed is None:
        return UNKNOWN
    now = listed.get_prices(datetime.now(UTC))

    def price(kind: str) -> Decimal | None:
        listed_price = getattr(now, kind)
        # Some models charge more for all tokens of a long request.
        reached = [tier.price for tier in getattr(listed_price, "tiers", ()) if tokens_input > tier.start]
        found: Decimal | None = reached[-1] if reached else getattr(listed_price, "base", listed_price)
        return found

    read = price("input_mtok") or Decimal(0)
    prices = (read, price("cache_read_mtok"), price("cache_write_mtok"), price("output_mtok") or Decimal(0))
    return Rates(*((read if one is None else one) / TOKENS_A_PRICE for one in prices))


@lru_cache(maxsize=100)
def _listed(provider: str, model: str) -> Any | None:
    try:
        return _prices().data_snapshot.get_snapshot().find_provider_model(model, None, provider, None)[1]
    except LookupError:
        return None


def cost_usd(provider: str, model: str, usage: Usage) -> Decimal | None:
    """The price in US dollars, to six decimals; None where the price list does not have the model."""
    genai_prices = _prices()
    try:
        price = genai_prices.calc_price(
            genai_prices.Usage(
                input_tokens=usage.tokens_input,
                output_tokens=usage.tokens_output,
                cache_read_tokens=usage.cache_read_tokens,
                cache_write_tokens=usage.cache_write_tokens,
            ),
            model_ref=model,
            provider_id=provider,
        )
    except LookupError:
        return None
    total: Decimal = price.total_price
    return total.quantize(Decimal("0.000001"))
