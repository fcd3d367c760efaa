"""The Stripe stand-in: a small stateful Stripe, API version 2026-10-28.endive, with its own clock, offline.

Connect with `stripe.StripeClient(key, base_addresses={"api": url})`. It has customers, products and prices, Checkout
with its page, the billing portal, subscriptions, invoices and their items, refunds, disputes, events and signed
webhooks. Other features of Stripe are refused, never ignored. `control.py` describes how tests steer it.

Modules import only from the layers below them; the import contract in pyproject.toml lists the layers.
"""

from infra.local.stripe.app import create_app
from infra.local.stripe.state import API_VERSION, Settings

__all__ = ["API_VERSION", "Settings", "create_app"]
