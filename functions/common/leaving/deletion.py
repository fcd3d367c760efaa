"""Deletes a user: ends their subscription, bills what they owe and deletes their data.

A deletion that was killed can be started again: each step finds out what is left to do. Data is deleted only after the
subscription has ended at Stripe and the overage is paid, or written off explicitly. Otherwise a user could delete the
account and sign up again instead of paying.
"""

from collections.abc import AsyncIterator, Callable
from typing import TypedDict

from stripe import InvalidRequestError, StripeClient

from functions.common import results
from functions.common.billing.checkout_pages import close_pages
from functions.common.billing.events import DELETED, apply_customer
from functions.common.billing.invoices import has_overage
from functions.common.billing.overage import bill_overage, charge
from functions.common.billing.records import billing_profile
from functions.common.billing.stripe_client import is_missing
from functions.common.billing.stripe_state import live_subscription, open_invoices
from functions.common.database import Database
from functions.common.errors import PaymentRequired
from functions.common.leaving.auth_admin import AuthAdmin

PAGE_TIMEOUT_S = 30.0


class DeletionCounts(TypedDict):
    """`subscriptions` ended at Stripe, `items` put on the last invoice, `conversations` and `users` deleted."""

    subscriptions: int
    items: int
    conversations: int
    users: int


async def delete_user(
    database: Database,
    stripe: StripeClient,
    auth: AuthAdmin,
    user_id: str,
    progress: Callable[[str], None],
    *,
    write_off: bool = False,
) -> DeletionCounts:
    """End a user's subscription, bill their overage, and delete their data. The sums of the ledger are kept.

    `write_off`: their overage is not billed. For a user who does not exist all counts are 0. Safe to repeat: another
    run continues where this one ended. Raises Forbidden where overage is still owed, PaymentRequired while an invoice
    for overage is open, StripeError, Unavailable.
    """
    counts = DeletionCounts(subscriptions=0, items=0, conversations=0, users=0)
    profile = await billing_profile(database, user_id)
    if profile is not None:
        customer_id = profile.stripe_customer_id
        if customer_id is not None:
            await close_pages(stripe, customer_id)
            counts["subscriptions"] = await _cancel(stripe, customer_id)
            sequence = await database.call("next_stripe_sequence", parse=results.number)
            await apply_customer(database, stripe, customer_id, sequence)
            progress(f"{counts['subscriptions']} subscriptions ended")
            if not write_off:
                counts["items"] = (await bill_overage(database, stripe, user_id, customer_id)).placed
                progress(f"{counts['items']} items billed")
                await _require_paid(stripe, customer_id)
        await _check(database, user_id, write_off)
        async for deleted in _batches(database, "delete_history", user_id):
            counts["conversations"] += deleted
            progress(f"{counts['conversations']:,} conversations deleted")
    # A user who was deleted in Auth's dashboard can still have older entries.
    async for _ in _batches(database, "delete_auth_log", user_id):
        pass
    if profile is not None:
        await _check(database, user_id, write_off)  # the user may have subscribed again meanwhile
        profile = await billing_profile(database, user_id) or profile  # or become a customer
        customer_id = profile.stripe_customer_id
        if customer_id is not None:
            await stripe.v1.customers.update_async(customer_id, {"metadata": DELETED})
        counts["users"] = int(await auth.delete_user(user_id))
        if customer_id is not None:
            await close_pages(stripe, customer_id)  # checkout closes those that it opens from now on
    return counts


async def _require_paid(stripe: StripeClient, customer_id: str) -> None:
    """Raises PaymentRequired while an invoice for overage is open. Charges those first that a killed run left."""
    drafts = await stripe.v1.invoices.list_async({"customer": customer_id, "status": "draft", "limit": 100})
    for invoice in [*drafts.data, *await open_invoices(stripe, customer_id, None)]:
        if has_overage(invoice) and invoice.parent is None and not invoice.attempted:
            await charge(stripe, invoice)
    unpaid = [invoice for invoice in await open_invoices(stripe, customer_id, None) if has_overage(invoice)]
    if unpaid:
        url = unpaid[0].hosted_invoice_url
        raise PaymentRequired("deletion_unpaid", reason="Open invoice", requires_payment=True, url=url)


async def _check(database: Database, user_id: str, write_off: bool) -> None:
    """Raises Forbidden for a user who still owes, or has a subscription."""
    await database.call("check_deletion", {"p_user_id": user_id, "p_write_off": write_off}, parse=results.nothing)


async def _batches(database: Database, function: str, user_id: str) -> AsyncIterator[int]:
    """Call a SQL function until it has deleted everything. Yields what each call deleted."""
    params = {"p_user_id": user_id}
    while deleted := await database.call(function, params, timeout_s=PAGE_TIMEOUT_S, parse=results.number):
        yield deleted


async def _cancel(stripe: StripeClient, customer_id: str) -> int:
    """End the live subscriptions at Stripe immediately, without a credit. Returns their number."""
    ended = 0
    while True:
        _, live = await live_subscription(stripe, customer_id)
        if live is None:
            return ended
        try:
            await stripe.v1.subscriptions.cancel_async(live.id, {"invoice_now": False, "prorate": False})
        except InvalidRequestError as error:
            if not is_missing(error):
                raise
        ended += 1
