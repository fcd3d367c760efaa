"""What people buy: plans, Stripe Checkout, the billing portal, the overage limit."""
