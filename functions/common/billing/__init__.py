"""Billing between Stripe and the database: plans, credit packs and overage.

`stripe_client` connects to Stripe, `stripe_state` reads Stripe's current state, `overage` puts overage on invoices,
`events` processes Stripe's events, `records` types what the SQL functions return.
"""
