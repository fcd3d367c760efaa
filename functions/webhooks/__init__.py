"""What Stripe tells us: `POST /webhooks/stripe`."""
