"""publish-catalog: creates and updates the products and prices at Stripe from the tables plans and packs, then the
portal configuration and the webhook endpoint's events.

Run it once for each Stripe account, and again after a plan or a pack changed. A second run changes nothing. The amount
and the currency of a Stripe price cannot change: a new price takes over the lookup key, and present subscribers keep
the old one.
"""

from decimal import Decimal
from typing import TypedDict

from stripe import InvalidRequestError, StripeClient
from stripe.params import PriceCreateParams

from functions.common.billing.catalog import Product, matches, products
from functions.common.billing.records import PriceList
from functions.common.billing.stripe_client import is_missing
from functions.common.money import in_currency
from functions.maintenance.stripe_settings import check_tax, publish_endpoint, publish_portal


class PublishResult(TypedDict):
    """`products`: plans and packs with a price; `changed`: those and the settings that differed; `differences`: the
    same, if they were only checked; `report`: a line for each product and setting."""

    products: int
    changed: int
    differences: int
    report: list[str]


async def publish_catalog(
    stripe: StripeClient,
    prices: PriceList,
    *,
    check: bool = False,
    webhooks_url: str | None = None,
    collects_tax: bool = False,
) -> PublishResult:
    """Create or update every product and price, the portal configuration and the webhook endpoint's events; with
    `check`, only compare. `webhooks_url` names our endpoint, once. With `collects_tax`, check that Stripe can. After a
    failure, run it again. Raises Internal, StripeError."""
    lines, differing, plan_prices, old_prices = [], 0, {}, []
    wanted = products(prices)
    for product in wanted:
        changes, price_id, old = await _publish(stripe, product, check=check)
        differing += bool(changes)
        old_prices += old
        lines.append(_line(product, changes))
        if product.monthly and price_id is not None:
            plan_prices[product.id] = price_id
    portal = await publish_portal(stripe, plan_prices, check=check)
    if not check:
        for price_id in old_prices:  # the portal sells none of them now
            await stripe.v1.prices.update_async(price_id, {"active": False})
    webhooks = await publish_endpoint(stripe, check=check, url=webhooks_url)
    settings = {"portal": portal, "webhooks": webhooks}
    if collects_tax:
        settings["tax"] = await check_tax(stripe)
    for name, changes in settings.items():
        differing += bool(changes)
        lines.append(f"{name:<33} {', '.join(changes) or 'unchanged'}")
    return {
        "products": len(wanted),
        "changed": 0 if check else differing,
        "differences": differing if check else 0,
        "report": lines,
    }


async def _publish(stripe: StripeClient, product: Product, *, check: bool) -> tuple[list[str], str | None, list[str]]:
    """Create or update a product and its price. Returns what differed, the id of the price, and the ids of the prices
    to retire."""
    changes, default = [], None
    try:
        found = await stripe.v1.products.retrieve_async(product.id)
        default = found.default_price
        if found.name != product.name or not found.active:
            if not check:
                await stripe.v1.products.update_async(product.id, {"name": product.name, "active": True})
            changes.append("product updated")
    except InvalidRequestError as error:
        if not is_missing(error):
            raise
        if check:
            return ["product created"], None, []
        await stripe.v1.products.create_async({"id": product.id, "name": product.name})
        changes.append("product created")
    listed = await stripe.v1.prices.list_async({"product": product.id, "active": True, "limit": 100})
    current = next((price for price in listed.data if matches(price, product)), None)
    if current is None and check:
        return [*changes, "price created"], None, []
    if current is None:
        current = await stripe.v1.prices.create_async(_price_params(product))
        changes.append(f"price {current.id} created")
    if default not in (None, current.id):  # Stripe refuses to retire a default price
        if not check:
            await stripe.v1.products.update_async(product.id, {"default_price": current.id})
        changes.append("default price changed")
    old = [price.id for price in listed.data if price.id != current.id]
    return [*changes, *(f"price {price_id} retired" for price_id in old)], current.id, old


def _price_params(product: Product) -> PriceCreateParams:
    params: PriceCreateParams = {
        "product": product.id,
        "currency": product.currency,
        "unit_amount": product.cents,
        "lookup_key": product.lookup_key,
        "transfer_lookup_key": True,
        "tax_behavior": "exclusive",
    }
    if product.monthly:
        params["recurring"] = {"interval": "month"}
    return params


def _line(product: Product, changes: list[str]) -> str:
    amount = in_currency(Decimal(product.cents) / 100, product.currency) + (" a month" if product.monthly else "")
    return f"{product.lookup_key:<16} {amount:<16} {', '.join(changes) or 'unchanged'}"
