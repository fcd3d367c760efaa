"""What a provider charges for a query, by the price list of genai-prices, offline."""

from decimal import Decimal

from functions.chat.providers import Usage


def cost_usd(provider: str, model: str, usage: Usage) -> Decimal | None:
    """US dollars to six decimals; None where the price list does not know the model."""
    # Imported on demand: 150 ms, and nobody waits for the price before the answer has begun.
    import genai_prices

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
    return price.total_price.quantize(Decimal("0.000001"))
