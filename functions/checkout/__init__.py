"""The price list, Stripe Checkout, the billing portal and the overage settings."""
