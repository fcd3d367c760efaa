"""The connection to Stripe: one client, and the ids and lookup keys that we use there.

Products have ids of our own, so that a price or an invoice line names its plan without another request.
"""

from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from datetime import UTC, datetime

import aiohttp
from stripe import AIOHTTPClient, InvalidRequestError, StripeClient

from functions.common.settings import StripeSettings, load

# A call with its retries must fit into a function's time limit.
TIMEOUT_S = 6.0
RETRIES = 2

PRODUCT_PREFIX = "canadagpt_"
PLAN_PREFIX = f"{PRODUCT_PREFIX}plan_"
# The metadata key of an invoice item, and of an invoice for overage alone: the id of our item.
ITEM_ID_KEY = "overage_invoice_item"


class Account(StripeClient):
    """A client of the account. Share one: it holds the connection pool. `is_live`: whether its key moves real money.
    `collects_tax`: whether Stripe computes the tax of what we sell."""

    def __init__(self, settings: StripeSettings) -> None:
        self.is_live = "_live_" in settings.secret_key.get_secret_value()
        self.collects_tax = settings.automatic_tax
        self._http = AIOHTTPClient(timeout=aiohttp.ClientTimeout(total=TIMEOUT_S))
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
    """A client that is closed at the end. Raises SettingsError."""
    stripe = Account(load(StripeSettings, known))
    try:
        yield stripe
    finally:
        await stripe.close()


def plan_key(tier: str) -> str:
    """The lookup key of a plan's price."""
    return f"plan_{tier}"


def tier_of(product: object) -> str | None:
    """The tier of a product id; None for a product that is not one of our plans."""
    name = str(product)
    return name.removeprefix(PLAN_PREFIX) if name.startswith(PLAN_PREFIX) else None


def iso_time(seconds: int) -> str:
    """A Unix time as ISO 8601, which SQL reads."""
    return datetime.fromtimestamp(seconds, UTC).isoformat()


def is_missing(error: InvalidRequestError) -> bool:
    """Whether Stripe has no such object in this account and mode."""
    return error.code == "resource_missing"
