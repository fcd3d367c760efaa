"""What a provider charges for tokens, by the price list of the package genai-prices. Makes no request."""

import gc
import importlib
from decimal import Decimal
from functools import cache
from types import ModuleType

from functions.chat.providers import Usage


@cache
def _prices() -> ModuleType:
    # Imported when first needed: it takes 150 ms, and the price is not needed before the answer starts.
    module = importlib.import_module("genai_prices")
    module.data_snapshot.get_snapshot()  # otherwise the first price would load it
    gc.freeze()  # The price list is never freed: exclude it from every collection.
    return module


def are_loaded() -> bool:
    """Whether the price list is loaded: a price then takes 0.1 ms."""
    return _prices.cache_info().currsize > 0


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
