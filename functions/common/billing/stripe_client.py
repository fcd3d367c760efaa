"""The way to Stripe: settings, one client, and the names that things have there.

Products have ids of our own, so that a plan is told from what a price or an invoice line refers to, without a lookup.
"""

from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from typing import Annotated

from pydantic import AfterValidator, Field, SecretStr
from stripe import HTTPXClient, StripeClient

from functions.common.settings import BaseUrl, Settings, load

# A call with its repetitions has to fit into a function's time.
TIMEOUT_S = 6.0
RETRIES = 2

PRODUCT = "canadagpt_"
PLAN = f"{PRODUCT}plan_"


def _secret_key(value: SecretStr) -> SecretStr:
    if not value.get_secret_value().startswith(("sk_", "rk_")):
        raise ValueError("must be a secret or restricted key of Stripe's, which starts with sk_ or rk_")
    return value


class StripeSettings(Settings):
    """The account at Stripe. `api_base` is only for stand-ins."""

    secret_key: Annotated[SecretStr, AfterValidator(_secret_key)] = Field(validation_alias="STRIPE_SECRET_KEY")
    api_base: BaseUrl | None = Field(default=None, validation_alias="STRIPE_API_BASE")


class Account(StripeClient):
    """A client of the account. Share one: it holds the connection pool."""

    def __init__(self, settings: StripeSettings) -> None:
        self._http = HTTPXClient(timeout=TIMEOUT_S)
        super().__init__(
            settings.secret_key.get_secret_value(),
            http_client=self._http,
            max_network_retries=RETRIES,
            base_addresses={"api": settings.api_base} if settings.api_base else None,
        )

    async def close(self) -> None:
        """Close the connections."""
        await self._http.close_async()  # type: ignore[no-untyped-call]


@asynccontextmanager
async def account(known: Mapping[str, str]) -> AsyncIterator[Account]:
    """A client for as long as a job takes. Raises SettingsError."""
    stripe = Account(load(StripeSettings, known))
    try:
        yield stripe
    finally:
        await stripe.close()


def plan_key(tier: str) -> str:
    """The lookup key of a plan's price."""
    return f"plan_{tier}"


def tier_of(product: object) -> str | None:
    """The tier that a product's id stands for; None: no plan of ours."""
    name = str(product)
    return name.removeprefix(PLAN) if name.startswith(PLAN) else None
