"""The pages of Stripe Checkout that a customer has open."""

from contextlib import suppress

from stripe import InvalidRequestError, StripeClient


async def close_pages(stripe: StripeClient, customer_id: str) -> int:
    """Close the open checkout pages, which could still be paid. Returns how many. Raises StripeError."""
    closed = 0
    listed = await stripe.v1.checkout.sessions.list_async({"customer": customer_id, "status": "open", "limit": 100})
    async for session in listed.auto_paging_iter():
        with suppress(InvalidRequestError):  # it was just paid
            await stripe.v1.checkout.sessions.expire_async(session.id)
            closed += 1
    return closed
