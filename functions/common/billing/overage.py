"""Puts overage from the ledger on Stripe's invoices, each query once.

1. claim_overage groups the queries into one item for each period and price, and fixes the invoice that should take it.
2. Each item becomes one invoice item at Stripe, under one idempotency key: concurrent requests create one item.
3. Stripe stores idempotency keys for a day. From the second attempt on, an existing item is searched by our id first.
4. A draft that was finalized meanwhile refuses the item permanently. The item waits for the customer's next invoice.
"""

import dataclasses
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass
from datetime import UTC, datetime
from decimal import Decimal
from typing import TYPE_CHECKING, Any

from stripe import CardError, InvalidRequestError, Invoice, InvoiceItem, StripeClient, Subscription

from functions.common import results
from functions.common.billing.invoice_outcome import invoice_outcome
from functions.common.billing.stripe_client import ITEM_ID_KEY, is_missing, iso_time
from functions.common.billing.stripe_state import live_subscription, period_of
from functions.common.database import Database
from functions.common.money import in_currency

if TYPE_CHECKING:
    from stripe.params import InvoiceCreateParams, InvoiceItemCreateParams

CLOCK_SKEW_S = 3600  # between our clock and the clock of Stripe


@dataclass(frozen=True, slots=True)
class OverageItem:
    """An item of claim_overage. `attempts` counts the claims, this one included; `refusals` the targets that Stripe
    refused; `target_invoice` is the draft that should take it, None for the customer's next invoice. `invoice_id` is
    the invoice that took it."""

    id: str
    created_at: datetime
    period_start: datetime
    queries: int
    currency: str
    unit_price_usd: Decimal
    amount_usd: Decimal
    amount_cents: int
    attempts: int
    refusals: int
    target_invoice: str | None
    stripe_invoice_item_id: str | None
    invoice_id: str | None = None


@dataclass(frozen=True, slots=True)
class BillingResult:
    """`placed`: items put at Stripe in this run. `invoiced`: open items that are now on an invoice."""

    placed: int = 0
    invoiced: int = 0


async def bill_overage(
    database: Database, stripe: StripeClient, user_id: str, customer_id: str, *, at_once: bool = False
) -> BillingResult:
    """Bill the overage of a user's ended periods: on the draft of their renewal, otherwise on their next invoice, and
    without a subscription, or while it is paused, on an invoice of its own. `at_once`: all overage until now, on an
    invoice of its own.

    Safe to repeat: another run continues where this one ended. Raises StripeError, Unavailable.
    """
    customer, live = await live_subscription(stripe, customer_id)
    if getattr(customer, "deleted", False):
        return BillingResult()
    # Without a renewal: a paused subscription has none either.
    has_own_invoice = live is None or live.status == "paused" or at_once
    draft = await _renewal_draft(stripe, live) if live and not has_own_invoice else None
    # The target is never a subscription: it may end while the item waits, and no later invoice would take the item.
    until = iso_time(period_of(live)[0]) if live and not has_own_invoice else "infinity"
    items = await _claim(database, user_id, until, draft)
    to_place = [item.stripe_invoice_item_id is None for item in items]
    placed = [
        await _place(database, stripe, customer_id, item) if is_new else item
        for item, is_new in zip(items, to_place, strict=True)
    ]
    waiting = await _without_invoice(database, stripe, placed)
    if waiting and has_own_invoice:
        await charge(stripe, await _create_invoice(stripe, customer_id, live, waiting[0]))
        waiting = await _without_invoice(database, stripe, waiting)
    return BillingResult(sum(to_place), len(items) - len(waiting))


async def _claim(database: Database, user_id: str, until: str, draft: str | None) -> list[OverageItem]:
    target = {"invoice": draft} if draft else {}
    params = {"p_user_id": user_id, "p_until": until, "p_target": target}
    rows = await database.call("claim_overage", params, parse=results.records("id"))
    return [
        OverageItem(
            id=row["id"],
            created_at=datetime.fromisoformat(row["created_at"]),
            period_start=datetime.fromisoformat(row["period_start"]),
            queries=row["queries"],
            currency=row["currency"],
            unit_price_usd=row["unit_price_usd"],
            amount_usd=row["amount_usd"],
            amount_cents=row["amount_cents"],
            attempts=row["attempts"],
            refusals=row["refusals"],
            target_invoice=row["target"].get("invoice"),
            stripe_invoice_item_id=row["stripe_invoice_item_id"],
        )
        for row in rows
    ]


async def _renewal_draft(stripe: StripeClient, live: Subscription) -> str | None:
    drafts = await stripe.v1.invoices.list_async({"subscription": live.id, "status": "draft", "limit": 10})
    return next((one.id for one in drafts.data if one.billing_reason == "subscription_cycle"), None)


async def _place(database: Database, stripe: StripeClient, customer_id: str, item: OverageItem) -> OverageItem:
    """Create the invoice item or find the existing one, and store its id. Returns the item with it."""
    found = await _find(stripe, customer_id, item) if item.attempts > 1 else None
    while found is None:
        try:
            found = await _create(stripe, customer_id, item)
        except InvalidRequestError:
            if item.target_invoice is None:
                raise
            params = {"p_id": item.id, "p_refusals": item.refusals, "p_target": {}}
            await database.call("retarget_overage", params, parse=results.nothing)
            item = dataclasses.replace(item, target_invoice=None, refusals=item.refusals + 1)
    item = dataclasses.replace(item, stripe_invoice_item_id=found.id, invoice_id=id_of(found.invoice))
    await _store(database, item)
    return item


async def _create(stripe: StripeClient, customer_id: str, item: OverageItem) -> InvoiceItem:
    params: InvoiceItemCreateParams = {
        "customer": customer_id,
        "currency": item.currency,
        "amount": item.amount_cents,
        "description": describe(item),
        # A coupon is for plans and packs: overage is exact.
        "discountable": False,
        # Whatever the account's default is: tax is added to it, as to plans and packs.
        "tax_behavior": "exclusive",
        "metadata": {ITEM_ID_KEY: item.id},
    }
    if item.target_invoice is not None:
        params["invoice"] = item.target_invoice
    key = f"overage:{item.id}:{item.refusals}"
    return await stripe.v1.invoice_items.create_async(params, {"idempotency_key": key})


async def _find(stripe: StripeClient, customer_id: str, item: OverageItem) -> InvoiceItem | None:
    since = int(item.created_at.timestamp()) - CLOCK_SKEW_S
    found = await stripe.v1.invoice_items.list_async({"customer": customer_id, "created": {"gte": since}, "limit": 100})
    async for one in found.auto_paging_iter():
        if one.metadata is not None and one.metadata.to_dict().get(ITEM_ID_KEY) == item.id:
            return one
    return None


async def _without_invoice(database: Database, stripe: StripeClient, items: Sequence[OverageItem]) -> list[OverageItem]:
    """The items that are on no invoice yet. Stores the invoices of the others."""
    waiting = []
    for item in items:
        if item.invoice_id is not None:
            continue
        assert item.stripe_invoice_item_id is not None
        try:
            found = await stripe.v1.invoice_items.retrieve_async(item.stripe_invoice_item_id)
        except InvalidRequestError as error:
            if not is_missing(error):
                raise
            continue  # it was deleted together with its customer
        if found.invoice is None:
            waiting.append(item)
        else:
            await _store(database, dataclasses.replace(item, invoice_id=id_of(found.invoice)))
    return waiting


async def _store(database: Database, item: OverageItem) -> None:
    params = {
        "p_id": item.id,
        "p_invoice_item_id": item.stripe_invoice_item_id,
        "p_invoice_id": item.invoice_id,
    }
    await database.call("place_overage", params, parse=results.nothing)


async def _create_invoice(
    stripe: StripeClient, customer_id: str, live: Subscription | None, first: OverageItem
) -> Invoice:
    """Create an invoice of all waiting items, of which `first` is one.

    If nothing else does it, Stripe finalizes and collects it in an hour.
    """
    subscription = live
    if subscription is None:
        ended = await stripe.v1.subscriptions.list_async({"customer": customer_id, "status": "ended", "limit": 1})
        subscription = ended.data[0] if ended.data else None
    # A card from Checkout belongs to the subscription, not to the customer.
    card = id_of(subscription.default_payment_method) if subscription else None
    params: InvoiceCreateParams = {
        "customer": customer_id,
        "currency": first.currency,
        "auto_advance": True,
        "collection_method": "charge_automatically",
        "pending_invoice_items_behavior": "include",
        "metadata": {ITEM_ID_KEY: first.id},
    }
    if subscription and subscription.automatic_tax.enabled:
        params["automatic_tax"] = {"enabled": True}
    key = f"overage-invoice:{first.id}"
    if card is not None:
        try:
            return await stripe.v1.invoices.create_async(
                {**params, "default_payment_method": card}, {"idempotency_key": key}
            )
        except InvalidRequestError:
            key += ":without-card"  # the card was removed
    return await stripe.v1.invoices.create_async(params, {"idempotency_key": key})


async def charge(stripe: StripeClient, invoice: Invoice) -> None:
    """Finalize the invoice and collect it now. Where that fails, it stays open, and Stripe tries again."""
    assert invoice.id is not None
    with suppress(InvalidRequestError, CardError):  # finalized or paid meanwhile, or there is no card that works
        if invoice.status == "draft":
            invoice = await stripe.v1.invoices.finalize_invoice_async(invoice.id)
        if invoice.status == "open":
            await stripe.v1.invoices.pay_async(invoice.id)


async def settle_overage(
    database: Database, stripe: StripeClient, user_id: str, sequence: int, invoice_id: str | None = None
) -> None:
    """Record which of a user's billed overage was paid, voided, or paid and returned: what is not settled, and with an
    invoice whose payment has changed, what that may have changed. `sequence` must be drawn before the call. Raises
    StripeError, Unavailable.
    """
    params = {"p_user_id": user_id, "p_invoice_id": invoice_id}
    rows = await database.call("unsettled_overage", params, parse=results.records("id"))
    outcomes: dict[str, str | None] = {}
    settled = {}
    for row in rows:
        found = row["stripe_invoice_id"]
        try:
            if found is None:
                placed = await stripe.v1.invoice_items.retrieve_async(row["stripe_invoice_item_id"])
                found = id_of(placed.invoice)
            if found is not None and found not in outcomes:
                outcomes[found] = await invoice_outcome(stripe, found)
        except InvalidRequestError as error:
            if not is_missing(error):
                raise
            continue  # it was deleted together with its customer, and stays owed
        if outcome := outcomes.get(found):
            settled[row["id"]] = outcome
    if settled:
        outcome_of = {"p_user_id": user_id, "p_sequence": sequence, "p_items": settled}
        await database.call("settle_overage", outcome_of, parse=results.number)


def describe(item: OverageItem) -> str:
    """The invoice line: number of queries, unit price, exact amount and the period's first day (UTC)."""
    period = item.period_start.astimezone(UTC)
    queries = f"{item.queries:,} {'query' if item.queries == 1 else 'queries'}"
    cents = Decimal(item.amount_cents) / 100
    price, amount, charged = (in_currency(one, item.currency) for one in (item.unit_price_usd, item.amount_usd, cents))
    if item.queries < 0:
        return f"{-item.queries} query beyond the plan given back = {charged}, period from {period:%Y-%m-%d}"
    rounded = f" (rounded down to {charged})" if cents != item.amount_usd else ""
    return f"{queries} beyond the plan × {price} = {amount}{rounded}, period from {period:%Y-%m-%d}"


def id_of(reference: Any) -> str | None:
    """The id of a Stripe reference, which may be an id or an expanded object."""
    return reference if reference is None or isinstance(reference, str) else str(reference.id)
