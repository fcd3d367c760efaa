"""What a provider charges for a query, by the price list of genai-prices, offline."""

import gc
import importlib
from decimal import Decimal
from functools import cache
from types import ModuleType

from functions.chat.providers import Usage


@cache
def _prices() -> ModuleType:
    # Imported on demand: 150 ms, and nobody waits for the price before the answer has begun.
    module = importlib.import_module("genai_prices")
    gc.freeze()  # it stays
    return module


def cost_usd(provider: str, model: str, usage: Usage) -> Decimal | None:
    """US dollars to six decimals; None where the price list does not know the model."""
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
