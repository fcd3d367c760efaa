"""The settings of the webhooks."""

from typing import Annotated

from pydantic import BeforeValidator, Field, SecretStr

from functions.common.settings import StripeSettings, SupabaseSettings


def _secrets(value: str) -> list[str]:
    secrets = [secret.strip() for secret in value.split(",")]
    if not all(secret.startswith("whsec_") and len(secret) > len("whsec_") for secret in secrets):
        raise ValueError("must be signing secrets of Stripe, which start with whsec_, with commas between them")
    return secrets


class WebhooksSettings(SupabaseSettings, StripeSettings):
    """Has several signing secrets while one replaces another."""

    webhook_secrets: Annotated[tuple[SecretStr, ...], BeforeValidator(_secrets)] = Field(
        validation_alias="STRIPE_WEBHOOK_SECRET"
    )
