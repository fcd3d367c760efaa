"""The Stripe stand-in: a small stateful Stripe, API version 2026-10-28.endive, with a clock of its own, offline.

Point the SDK at it: `stripe.StripeClient(key, base_addresses={"api": url})`. Customers, products and prices, Checkout
with its page, the billing portal, subscriptions, invoices and their items, refunds, disputes, events and signed
webhooks. What Stripe has and this has not is refused, never ignored. `control.py` says how tests steer it.
"""

from infra.local.stripe.app import create_app
from infra.local.stripe.world import API_VERSION, Settings

__all__ = ["API_VERSION", "Settings", "create_app"]
