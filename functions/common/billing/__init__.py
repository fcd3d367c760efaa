"""Billing between Stripe and the database: plans, credit packs and overage.

`stripe_client` connects to Stripe. `stripe_state` reads customers there, `invoices` the lines of invoices, `payments`
what was paid, and `invoice_outcome` how overage ended. `paid_plans` decides which plan that gives. `overage` puts
overage on invoices, `events` processes Stripe's events, `records` types what the SQL functions return.
"""
