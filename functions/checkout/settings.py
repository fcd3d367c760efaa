"""The settings of checkout."""

from pydantic import Field

from functions.common.settings import Origins, StripeSettings, SupabaseSettings


class CheckoutSettings(SupabaseSettings, StripeSettings):
    """Return URLs must be on `allowed_origins`. With `promotion_codes` the checkout pages accept Stripe's codes."""

    allowed_origins: Origins = Field(validation_alias="ALLOWED_ORIGINS")
    promotion_codes: bool = Field(default=False, validation_alias="STRIPE_PROMOTION_CODES")
