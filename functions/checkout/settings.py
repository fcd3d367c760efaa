"""The settings of checkout."""

from typing import Annotated
from urllib.parse import urlsplit

from pydantic import BeforeValidator, Field

from functions.common.billing.stripe_client import StripeSettings
from functions.common.settings import SupabaseSettings


def _origins(value: str) -> list[str]:
    origins = [origin.strip().rstrip("/") for origin in value.split(",")]
    for origin in origins:
        parts = urlsplit(origin)
        if parts.scheme not in ("http", "https") or not parts.netloc or origin != f"{parts.scheme}://{parts.netloc}":
            raise ValueError("must be origins such as https://example.org, with commas between them")
    return origins


class CheckoutSettings(SupabaseSettings, StripeSettings):
    """Return URLs must be on `allowed_origins`. Switch `automatic_tax` on at Stripe before it is set here."""

    allowed_origins: Annotated[frozenset[str], BeforeValidator(_origins)] = Field(validation_alias="ALLOWED_ORIGINS")
    automatic_tax: bool = Field(default=False, validation_alias="STRIPE_AUTOMATIC_TAX")
