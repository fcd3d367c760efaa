"""What the commands of `user` change. Each returns the lines to print."""

import json
from collections.abc import Mapping, Sequence
from decimal import Decimal
from pathlib import Path
from typing import Any

from stripe import StripeError

from functions.common import results
from functions.common.billing.checkout_pages import close_pages
from functions.common.billing.events import apply_customer, apply_payment
from functions.common.billing.overage import bill_overage, settle_overage
from functions.common.billing.records import BillingProfile, billing_profile
from functions.common.billing.stripe_client import Account, account
from functions.common.leaving.auth_admin import AuthAdmin
from functions.common.leaving.deletion import delete_user
from functions.common.settings import SupabaseSettings, load
from functions.common.thread_transport import ThreadTransport
from functions.maintenance.command_line import expected
from functions.maintenance.export_user import export_user
from functions.maintenance.support.lines import FUNDING, cents, changes, moment, price
from functions.maintenance.support.session import Session, SupportError
from functions.maintenance.support.why import charge, find_queries

AUTH_TIMEOUT_S = 20.0
PLACED_LATER = "the job bill-overages places it"


async def block(session: Session, user_id: str, reason: str) -> list[str]:
    """Block the user until `unblock`, whatever they pay, and close their open checkout pages."""
    lines = ["blocked", *changes(await session.change("block_user", reason, p_user_id=user_id), session.currency)]
    profile = await billing_profile(session.database, user_id)
    if profile is not None and profile.stripe_customer_id is not None:
        try:
            async with account(session.environment) as stripe:
                closed = await close_pages(stripe, profile.stripe_customer_id)
        except StripeError as error:
            raise SupportError(
                f"The user is blocked, but Stripe failed ({type(error).__name__}): a checkout page that is open can "
                "still be paid. Run the command again."
            ) from error
        lines.append(f"  {closed} open checkout pages closed")
    return lines


async def unblock(session: Session, user_id: str, reason: str) -> list[str]:
    """End the block."""
    return ["unblocked", *changes(await session.change("unblock_user", reason, p_user_id=user_id), session.currency)]


async def grant(
    session: Session,
    user_id: str,
    credits: int,  # noqa: A002
    expires: str | None,
    reason: str,
    *,
    is_confirmed: bool,
) -> list[str]:
    """Give the user credits. `expires`: an ISO 8601 time; None: never."""
    session.confirm(f"This grants {credits} credits, which no command takes back.", is_confirmed=is_confirmed)
    params = {"p_user_id": user_id, "p_credits": credits, "p_expires_at": expires}
    done = await session.change("grant_credits", reason, **params)
    return [f"granted {credits} credits", *changes(done, session.currency)]


async def limit(session: Session, user_id: str, limits: Mapping[str, Decimal | int | None], reason: str) -> list[str]:
    """Set limits of this user only; None restores what the plan says."""
    if not limits:
        raise SupportError("Name at least one limit: --daily, --lifetime, --overage or --ceiling.")
    sent = {name: str(value) if isinstance(value, Decimal) else value for name, value in limits.items()}
    return [
        "limits set",
        *changes(await session.change("set_limits", reason, p_user_id=user_id, p_limits=sent), session.currency),
    ]


async def credit_back(session: Session, query_id: str, user_id: str, reason: str, *, is_confirmed: bool) -> list[str]:
    """Give the charge of a query back. Overage that was billed becomes a negative item at Stripe."""
    query = _charged(query_id, await find_queries(session, user_id, query_id))
    if (given := query["reversal"]) is not None:
        waits = f" It is not at Stripe yet: {PLACED_LATER}." if given["cents"] and given["item"] is None else ""
        raise SupportError(
            "The charge of this query was given back before. "
            f"{given['operator']} did it at {moment(given['at'])}.{waits}"
        )
    session.confirm(
        f"Query {query['id']} of {moment(query['at'])} {charge(query, session.currency)}. This gives it back and "
        "cannot be undone.",
        is_confirmed=is_confirmed,
    )
    done = (await session.change("credit_back", reason, p_query_id=query["id"]))["after"]
    lines = [f"given back to {FUNDING[query['funding']]}: query {query['id']}"]
    if query["funding"] == "overage":
        lines[0] += f", {price(query['charged_usd'], session.currency)}"
    if not done["is_usable"]:
        lines.append("  its day or its pack is over, so the user cannot use it: `grant 1` gives a credit instead")
    if done["invoice_item_id"] is not None:
        lines.append(await _place(session, user_id, query["id"], cents(done["cents"], session.currency)))
    return lines


def _charged(an_id: str, found: Sequence[Mapping[str, Any]]) -> Mapping[str, Any]:
    """The charged query with this id. Raises SupportError if it was not charged, or several could be meant."""
    charged = [one for one in found if one.get("is_charged")]
    others = ", ".join(f"{one['id']} of {moment(one['at'])}" for one in charged)
    exact = next((one for one in found if one["is_exact"]), None)
    if exact is not None and not exact.get("is_charged"):
        hint = f" The same message was charged as query {others}." if charged else ""
        raise SupportError(f"Nothing was charged for {an_id}: see `why`.{hint}")
    if exact is None and len(charged) != 1:
        which = f": {others}" if charged else ""
        raise SupportError(f"{len(charged)} charged queries of this user have this id{which}. See `why`.")
    return exact or charged[0]


async def _place(session: Session, user_id: str, query_id: str, amount: str) -> str:
    """Put the item that gives back at Stripe. It is recorded: whatever fails here, bill-overages repeats."""
    try:
        profile = await billing_profile(session.database, user_id)
        if profile is not None and profile.stripe_customer_id is not None:
            async with account(session.environment) as stripe:
                await bill_overage(session.database, stripe, user_id, profile.stripe_customer_id)
        given = _charged(query_id, await find_queries(session, user_id, query_id))["reversal"]
    except Exception as error:
        if not expected(error):
            raise
        return f"  {amount} is recorded, but not at Stripe yet ({type(error).__name__}): {PLACED_LATER}"
    if given["item"] is None:
        return f"  {amount} was billed and has no customer at Stripe to go back to: refund it there"
    if given["invoice"] is None:
        return f"  {amount} goes on the next invoice as a negative item: do not refund it as well"
    return (
        f"  {amount} is a negative item on {given['invoice']}: do not refund it as well. A total below zero becomes "
        "the customer's balance at Stripe, which pays later invoices"
    )


async def resend(session: Session, user_id: str, what: str, reason: str) -> list[str]:
    """Send the confirmation e-mail again, or read the user's plan and payments at Stripe again."""
    profile = await billing_profile(session.database, user_id)
    assert profile is not None
    if what == "confirmation":
        return await _resend_confirmation(session, user_id, profile, reason)
    if profile.stripe_customer_id is None:
        raise SupportError("This user has never been to Stripe's checkout: there is nothing to read.")
    await session.change("note_action", reason, p_user_id=user_id, p_name="resend payments")
    async with account(session.environment) as stripe:
        payments = await _read_again(session, stripe, user_id, profile.stripe_customer_id)
    return [f"read the plan and {payments} payments at Stripe again: see `show`"]


async def _read_again(session: Session, stripe: Account, user_id: str, customer_id: str) -> int:
    database, payments = session.database, 0
    sequence = await database.call("next_stripe_sequence", parse=results.number)
    await apply_customer(database, stripe, customer_id, sequence)
    await settle_overage(database, stripe, user_id, sequence)
    listed = await stripe.v1.checkout.sessions.list_async({"customer": customer_id, "status": "complete", "limit": 100})
    async for one in listed.auto_paging_iter():
        if one.payment_intent is not None:
            sequence = await database.call("next_stripe_sequence", parse=results.number)
            await apply_payment(database, stripe, str(one.payment_intent), sequence)
            payments += 1
    return payments


async def _resend_confirmation(session: Session, user_id: str, profile: BillingProfile, reason: str) -> list[str]:
    """https://supabase.com/docs/reference/javascript/auth-resend"""
    user = await session.read("support_summary", "account", p_user_id=user_id)
    if user["account"]["confirmed_at"] is not None:
        raise SupportError("The e-mail address is confirmed already.")
    await session.change("note_action", reason, p_user_id=user_id, p_name="resend confirmation")
    settings = load(SupabaseSettings, session.environment)
    transport = ThreadTransport()
    try:
        status, content = await transport.post(
            f"{settings.url}/auth/v1/resend",
            {"apikey": settings.anon_key, "content-type": "application/json"},
            json.dumps({"type": "signup", "email": profile.email}).encode(),
            timeout_s=AUTH_TIMEOUT_S,
            background=False,
        )
    finally:
        await transport.close()
    if status != 200:
        raise SupportError(f"Supabase Auth refused to send it ({status}): {content.decode(errors='replace')[:200]}")
    return [f"sent the confirmation e-mail to {profile.email} again"]


async def export(session: Session, user_id: str, to: Path, reason: str) -> list[str]:
    """Write everything that is stored about the user to a file."""
    await session.change("note_action", reason, p_user_id=user_id, p_name="export")
    counts = await export_user(session.database, user_id, to, session.progress)
    return [f"wrote {to}: {sum(counts.values())} rows"]


async def delete(session: Session, user_id: str, reason: str, *, write_off: bool, is_confirmed: bool) -> list[str]:
    """Delete the user with all their data."""
    profile = await billing_profile(session.database, user_id)
    assert profile is not None
    session.confirm(
        "This ends the subscription, bills the open overage, deletes the user and cannot be undone.",
        profile.email or user_id,
        is_confirmed=is_confirmed,
    )
    await session.change("note_action", reason, p_user_id=user_id, p_name="delete")
    auth = AuthAdmin(load(SupabaseSettings, session.environment))
    async with account(session.environment) as stripe:
        counts: Mapping[str, Any] = await delete_user(
            session.database, stripe, auth, user_id, session.progress, write_off=write_off
        )
    return [f"deleted: {json.dumps(counts)}"]
