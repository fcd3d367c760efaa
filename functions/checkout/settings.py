"""The settings of checkout."""

from pydantic import Field

from functions.common.settings import Origins, StripeSettings, SupabaseSettings


class CheckoutSettings(SupabaseSettings, StripeSettings):
    """Return URLs must be on `allowed_origins`. Switch `automatic_tax` on at Stripe before it is set here.
    `promotion_codes`: the checkout pages accept Stripe's promotion codes."""

    allowed_origins: Origins = Field(validation_alias="ALLOWED_ORIGINS")
    automatic_tax: bool = Field(default=False, validation_alias="STRIPE_AUTOMATIC_TAX")
    promotion_codes: bool = Field(default=False, validation_alias="STRIPE_PROMOTION_CODES")
