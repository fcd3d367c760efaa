"""publish-catalog: creates and updates the products and prices at Stripe from the tables plans and packs.

Run it once for each Stripe account, and again after a plan or a pack changed. A second run changes nothing. The amount
of a Stripe price cannot change: a new price takes over the lookup key, and present subscribers keep the old one.
"""

from dataclasses import dataclass
from decimal import Decimal
from typing import TypedDict

from stripe import InvalidRequestError, Price, StripeClient
from stripe.params import PriceCreateParams

from functions.common.billing.records import Pack, Plan, PriceList
from functions.common.billing.stripe_client import PLAN_PREFIX, PRODUCT_PREFIX, plan_key
from functions.common.errors import Internal

CURRENCY = "usd"


class PublishResult(TypedDict):
    """`products`: plans and packs with a price; `changed`: those that differed; `report`: a line for each."""

    products: int
    changed: int
    report: list[str]


@dataclass(frozen=True, slots=True)
class Product:
    """A plan or a pack as a product with one price. `cents` is a month's price where it is `monthly`."""

    id: str
    name: str
    lookup_key: str
    cents: int
    monthly: bool


def products(prices: PriceList) -> list[Product]:
    """Everything that needs a price at Stripe. The free plan needs none. A plan of $0 with overage does: only a
    subscription has invoices. Raises Internal for a price that is not in whole cents."""
    return [
        *(
            Product(
                f"{PLAN_PREFIX}{plan['tier']}", f"CanadaGPT {plan['name']}", plan_key(plan["tier"]), _cents(plan), True
            )
            for plan in prices["plans"]
            if plan["overage_price_usd"] is not None
        ),
        *(
            Product(f"{PRODUCT_PREFIX}{pack['id']}", f"CanadaGPT {pack['name']}", pack["id"], _cents(pack), False)
            for pack in prices["packs"]
        ),
    ]


def _cents(priced: Plan | Pack) -> int:
    cents = Decimal(priced["price_usd"]) * 100
    if cents != int(cents):
        raise Internal(f"A price at Stripe is in whole cents, not ${priced['price_usd']}.")
    return int(cents)


async def publish_catalog(stripe: StripeClient, prices: PriceList) -> PublishResult:
    """Create or update every product and price. After a failure, run it again. Raises Internal, StripeError."""
    results = [(product, await _publish(stripe, product)) for product in products(prices)]
    return {
        "products": len(results),
        "changed": sum(bool(changes) for _, changes in results),
        "report": [_line(product, changes) for product, changes in results],
    }


async def _publish(stripe: StripeClient, product: Product) -> list[str]:
    """Create or update a product and its price. Returns what changed."""
    changes = []
    try:
        found = await stripe.v1.products.retrieve_async(product.id)
        if found.name != product.name or not found.active:
            await stripe.v1.products.update_async(product.id, {"name": product.name, "active": True})
            changes.append("product updated")
    except InvalidRequestError as error:
        if error.code != "resource_missing":
            raise
        await stripe.v1.products.create_async({"id": product.id, "name": product.name})
        changes.append("product created")
    listed = await stripe.v1.prices.list_async({"product": product.id, "active": True, "limit": 100})
    current = next((price for price in listed.data if _matches(price, product)), None)
    if current is None:
        params: PriceCreateParams = {
            "product": product.id,
            "currency": CURRENCY,
            "unit_amount": product.cents,
            "lookup_key": product.lookup_key,
            "transfer_lookup_key": True,
            "tax_behavior": "exclusive",
        }
        if product.monthly:
            params["recurring"] = {"interval": "month"}
        current = await stripe.v1.prices.create_async(params)
        changes.append(f"price {current.id} created")
    for price in listed.data:
        if price.id != current.id:
            await stripe.v1.prices.update_async(price.id, {"active": False})
            changes.append(f"price {price.id} retired")
    return changes


def _line(product: Product, changes: list[str]) -> str:
    amount = f"${Decimal(product.cents) / 100:.2f}{' a month' if product.monthly else ''}"
    return f"{product.lookup_key:<16} {amount:<16} {', '.join(changes) or 'unchanged'}"


def _matches(price: Price, product: Product) -> bool:
    recurring = price.recurring
    interval = (recurring.interval, recurring.interval_count) if recurring else None
    return (
        price.lookup_key == product.lookup_key
        and price.unit_amount == product.cents
        and price.currency == CURRENCY
        and interval == (("month", 1) if product.monthly else None)
    )
