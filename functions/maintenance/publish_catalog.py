"""publish-catalog: creates and updates the products and prices at Stripe from the tables plans and packs.

Run it once for each Stripe account, and again after a plan or a pack changed. A second run changes nothing. The amount
of a Stripe price cannot change: a new price takes over the lookup key, and present subscribers keep the old one.
"""

from decimal import Decimal
from typing import TypedDict

from stripe import InvalidRequestError, StripeClient
from stripe.params import PriceCreateParams

from functions.common.billing.catalog import CURRENCY, Product, matches, products
from functions.common.billing.records import PriceList


class PublishResult(TypedDict):
    """`products`: plans and packs with a price; `changed`: those that differed; `report`: a line for each."""

    products: int
    changed: int
    report: list[str]


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
    current = next((price for price in listed.data if matches(price, product)), None)
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
