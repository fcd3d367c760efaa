"""Whether a plan can offer a model: the price list has it, and a question fits the cost limit of the plan."""

import importlib
from decimal import Decimal

from functions.common.provider_keys import PROVIDER_NAMES

# What the chat sends with every question, at most, and the shortest output that it asks for. A test compares.
PREFIX_TOKENS = {"anthropic": 6_200, "openai": 4_800}
OUTPUT_TOKENS = 150


def problem(provider: str, model: str, limit_usd: Decimal | None) -> str | None:
    """Why the plan cannot offer the model, as a sentence; None: it can. `limit_usd` None: own keys pay."""
    # Not in the package of the scheduled jobs, which never get here.
    genai_prices = importlib.import_module("genai_prices")
    tokens = PREFIX_TOKENS[provider]
    usage = genai_prices.Usage(input_tokens=tokens, cache_write_tokens=tokens, output_tokens=OUTPUT_TOKENS)
    try:
        price = genai_prices.calc_price(usage, model_ref=model, provider_id=provider).total_price
    except LookupError:
        return f"The price list has no model {model} of {PROVIDER_NAMES[provider]}."
    if limit_usd is not None and price > limit_usd:
        return f"A question on {model} costs up to ${price:.4f}, and the plan allows ${limit_usd:.4f}."
    return None
