"""The plans and packs of the tables as products and prices at Stripe, and the portal that switches between them."""

from dataclasses import dataclass
from decimal import Decimal
from typing import TYPE_CHECKING

from stripe import StripeClient

from functions.common.billing.records import Pack, Plan, PriceList
from functions.common.billing.stripe_client import PLAN_PREFIX, PRODUCT_PREFIX, plan_key
from functions.common.errors import Internal

if TYPE_CHECKING:  # as in stripe_state.py
    from stripe import Price
    from stripe.billing_portal import Configuration

# The metadata of our portal configuration. An account may have others.
PORTAL_KEY = "canadagpt_portal"


@dataclass(frozen=True, slots=True)
class Product:
    """A plan or a pack as a product with one price. `cents` of the currency are a month's price where it is
    `monthly`."""

    id: str
    name: str
    lookup_key: str
    currency: str
    cents: int
    monthly: bool


def products(prices: PriceList) -> list[Product]:
    """Everything that needs a price at Stripe. The free plan needs none. A plan of $0 with overage does: only a
    subscription has invoices. Raises Internal for a price that is not in whole cents."""
    return [
        *(
            Product(
                f"{PLAN_PREFIX}{plan['tier']}",
                f"CanadaGPT {plan['name']}",
                plan_key(plan["tier"]),
                plan["currency"],
                _cents(plan),
                True,
            )
            for plan in prices["plans"]
            if plan["overage_price_usd"] is not None
        ),
        *(
            Product(
                f"{PRODUCT_PREFIX}{pack['id']}",
                f"CanadaGPT {pack['name']}",
                pack["id"],
                pack["currency"],
                _cents(pack),
                False,
            )
            for pack in prices["packs"]
        ),
    ]


def _cents(priced: Plan | Pack) -> int:
    cents = Decimal(priced["price_usd"]) * 100
    if cents != int(cents):
        raise Internal(f"A price at Stripe is in whole cents, not {priced['price_usd']}.")
    return int(cents)


def matches(price: "Price", product: Product) -> bool:
    """Whether a price at Stripe is the product's: what the table says is what Stripe charges."""
    recurring = price.recurring
    interval = (recurring.interval, recurring.interval_count) if recurring else None
    return (
        price.lookup_key == product.lookup_key
        and price.unit_amount == product.cents
        and price.currency == product.currency
        and price.tax_behavior == "exclusive"  # otherwise tax may be taken off the price
        and interval == (("month", 1) if product.monthly else None)
    )


async def portal_configuration(stripe: StripeClient) -> "Configuration | None":
    """Our active portal configuration, which publish-catalog creates. Raises StripeError."""
    listed = await stripe.v1.billing_portal.configurations.list_async(
        {"active": True, "limit": 100, "expand": ["data.features.subscription_update.products"]}
    )
    async for one in listed.auto_paging_iter():
        if one.metadata is not None and PORTAL_KEY in one.metadata.to_dict():
            return one
    return None
