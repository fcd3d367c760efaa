"""`python -m functions.checkout.catalog`: makes the products and prices at Stripe what the tables plans and packs say.

Run it once an account, and again whenever a plan or a pack changes; a second run changes nothing. A price at Stripe
never changes its amount: a new one takes over the lookup key, and the old one goes on for those who have it.
"""

import asyncio
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from decimal import Decimal
from typing import Any

from stripe import InvalidRequestError, Price, StripeClient, StripeError
from stripe.params import PriceCreateParams

from functions.common.billing.stripe_client import PLAN, PRODUCT, Account, StripeSettings, plan_key
from functions.common.database import Database
from functions.common.errors import AppError
from functions.common.settings import SettingsError, SupabaseSettings, load

CURRENCY = "usd"


@dataclass(frozen=True, slots=True)
class Sold:
    """One thing that is sold. `cents` a month where it is `monthly`."""

    product: str
    name: str
    lookup_key: str
    cents: int
    monthly: bool


def sold(plans: Mapping[str, Any]) -> list[Sold]:
    """What has a price at Stripe, of what list_plans returns. The free plan has none; one without a price of its own
    but with overage has one of $0, because only a subscription has invoices."""
    return [
        *(
            Sold(f"{PLAN}{plan['tier']}", f"CanadaGPT {plan['name']}", plan_key(plan["tier"]), _cents(plan), True)
            for plan in plans["plans"]
            if plan["overage_price_usd"] is not None
        ),
        *(
            Sold(f"{PRODUCT}{pack['id']}", f"CanadaGPT {pack['name']}", pack["id"], _cents(pack), False)
            for pack in plans["packs"]
        ),
    ]


def _cents(thing: Mapping[str, Any]) -> int:
    cents = Decimal(thing["price_usd"]) * 100
    if cents != int(cents):
        raise ValueError(f"A price at Stripe is in whole cents, not ${thing['price_usd']}.")
    return int(cents)


async def publish(stripe: StripeClient, plans: Mapping[str, Any]) -> list[str]:
    """Create or update everything; returns a line for each thing. Raises StripeError: run it again."""
    return [await _publish(stripe, thing) for thing in sold(plans)]


async def _publish(stripe: StripeClient, thing: Sold) -> str:
    done = []
    try:
        product = await stripe.v1.products.retrieve_async(thing.product)
        if product.name != thing.name or not product.active:
            await stripe.v1.products.update_async(thing.product, {"name": thing.name, "active": True})
            done.append("product updated")
    except InvalidRequestError as error:
        if error.code != "resource_missing":
            raise
        await stripe.v1.products.create_async({"id": thing.product, "name": thing.name})
        done.append("product created")
    listed = await stripe.v1.prices.list_async({"product": thing.product, "active": True, "limit": 100})
    current = next((price for price in listed.data if _is(price, thing)), None)
    if current is None:
        wanted: PriceCreateParams = {
            "product": thing.product,
            "currency": CURRENCY,
            "unit_amount": thing.cents,
            "lookup_key": thing.lookup_key,
            "transfer_lookup_key": True,
            "tax_behavior": "exclusive",
        }
        if thing.monthly:
            wanted["recurring"] = {"interval": "month"}
        current = await stripe.v1.prices.create_async(wanted)
        done.append(f"price {current.id} created")
    for price in listed.data:
        if price.id != current.id:
            await stripe.v1.prices.update_async(price.id, {"active": False})
            done.append(f"price {price.id} retired")
    amount = f"${Decimal(thing.cents) / 100:.2f}{' a month' if thing.monthly else ''}"
    return f"{thing.lookup_key:<16} {amount:<16} {', '.join(done) or 'unchanged'}"


def _is(price: Price, thing: Sold) -> bool:
    recurring = price.recurring
    rhythm = (recurring.interval, recurring.interval_count) if recurring else None
    return (
        price.lookup_key == thing.lookup_key
        and price.unit_amount == thing.cents
        and price.currency == CURRENCY
        and rhythm == (("month", 1) if thing.monthly else None)
    )


class CatalogSettings(SupabaseSettings, StripeSettings):
    """Where the plans are read, and where they go."""


async def _main() -> list[str]:
    settings = load(CatalogSettings)
    database, stripe = Database(settings), Account(settings)
    try:
        return await publish(stripe, await database.call("list_plans", idempotent=True))
    finally:
        await database.close()
        await stripe.close()


if __name__ == "__main__":
    try:
        print("\n".join(asyncio.run(_main())))
    except (SettingsError, AppError, StripeError, ValueError) as error:
        sys.exit(f"catalog: {error}")
