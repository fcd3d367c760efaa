"""Receives Stripe's events: `POST /webhooks/stripe`."""
