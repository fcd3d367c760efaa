"""Overage from the ledger onto Stripe's invoices, each query once.

The ledger takes queries together first (claim_overage), one item a period and price, and settles where it is to go.
Then Stripe is asked for an invoice item of exactly that, under one idempotency key; whoever asks at the same time asks
the same. Stripe forgets keys after a day, so from the second attempt on what is there already is looked for by our id.
A draft that has been finalized meanwhile refuses it for good: then it waits for the customer's next invoice.
"""

from dataclasses import dataclass
from datetime import UTC, datetime
from decimal import Decimal
from typing import Any, cast

from stripe import InvalidRequestError, StripeClient, Subscription
from stripe.params import InvoiceCreateParams, InvoiceItemCreateParams

from functions.common.billing.look import live_subscription, moment, period_of
from functions.common.database import Database
from functions.common.money import dumps

OUR_ID = "overage_invoice_item"
SLACK_S = 3600  # between our clock and Stripe's


@dataclass(frozen=True, slots=True)
class Billed:
    """What became of a user's overage: items put at Stripe, and of all open ones those that now stand on an invoice."""

    placed: int = 0
    invoiced: int = 0


async def bill_overage(database: Database, stripe: StripeClient, user_id: str, customer_id: str) -> Billed:
    """Put the overage of a user's ended periods on their renewal's draft, else on the next invoice; where no
    subscription is left, on one of its own. Raises StripeError, Unavailable: the same again goes on where it ended."""
    customer, live = await live_subscription(stripe, customer_id)
    if getattr(customer, "deleted", False):
        return Billed()
    draft = await _renewal_draft(stripe, live) if live else None
    # Never a subscription: it may end while the item waits, and another's invoices would leave the item out.
    target = {"invoice": draft} if draft else {}
    until = moment(period_of(live)[0]) if live else "infinity"
    params = {"p_user_id": user_id, "p_until": until, "p_target": target}
    items: list[dict[str, Any]] = await database.call("claim_overage", params, idempotent=True)
    placed = 0
    for item in items:
        if item["stripe_invoice_item_id"] is None:
            await _place(database, stripe, customer_id, item)
            placed += 1
    waiting = await _waiting(database, stripe, items)
    if waiting and live is None:
        await _last_invoice(stripe, customer_id, waiting[0]["id"])
        waiting = await _waiting(database, stripe, waiting)
    return Billed(placed, len(items) - len(waiting))


async def _renewal_draft(stripe: StripeClient, live: Subscription) -> str | None:
    drafts = await stripe.v1.invoices.list_async({"subscription": live.id, "status": "draft", "limit": 10})
    return next((one.id for one in drafts.data if one.billing_reason == "subscription_cycle"), None)


async def _place(database: Database, stripe: StripeClient, customer_id: str, item: dict[str, Any]) -> None:
    """Make the invoice item, or find it. Notes it in `item` and in the database."""
    found = await _find(stripe, customer_id, item) if item["attempts"] > 1 else None
    while found is None:
        try:
            wanted: InvoiceItemCreateParams = {
                "customer": customer_id,
                "currency": "usd",
                "amount": item["amount_cents"],
                "description": describe(item),
                "metadata": {OUR_ID: item["id"]},
                **cast("InvoiceItemCreateParams", item["target"]),
            }
            key = f"overage:{item['id']}:{item['refusals']}"
            found = await stripe.v1.invoice_items.create_async(wanted, {"idempotency_key": key})
        except InvalidRequestError:
            if not item["target"]:
                raise
            params = {"p_id": item["id"], "p_refusals": item["refusals"], "p_target": {}}
            await database.call("retarget_overage", params, idempotent=True)
            item["target"], item["refusals"] = {}, item["refusals"] + 1
    item["stripe_invoice_item_id"] = found.id
    await _note(database, item, _id(found.invoice))


async def _find(stripe: StripeClient, customer_id: str, item: dict[str, Any]) -> Any:
    since = int(datetime.fromisoformat(item["created_at"]).timestamp()) - SLACK_S
    found = await stripe.v1.invoice_items.list_async({"customer": customer_id, "created": {"gte": since}, "limit": 100})
    async for one in found.auto_paging_iter():
        if one.metadata is not None and one.metadata.to_dict().get(OUR_ID) == item["id"]:
            return one
    return None


async def _waiting(database: Database, stripe: StripeClient, items: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Those of the items that no invoice has taken; notes the invoices of the others."""
    waiting = []
    for item in items:
        if "invoice_id" in item:
            continue
        try:
            there = await stripe.v1.invoice_items.retrieve_async(item["stripe_invoice_item_id"])
        except InvalidRequestError as error:
            if error.code != "resource_missing":
                raise
            continue  # it went with its customer, whom somebody deleted at Stripe
        if there.invoice is None:
            waiting.append(item)
        else:
            await _note(database, item, _id(there.invoice))
    return waiting


async def _note(database: Database, item: dict[str, Any], invoice_id: str | None) -> None:
    if invoice_id is not None:
        item["invoice_id"] = invoice_id
    params = {"p_id": item["id"], "p_invoice_item_id": item["stripe_invoice_item_id"], "p_invoice_id": invoice_id}
    await database.call("place_overage", params, idempotent=True)


async def _last_invoice(stripe: StripeClient, customer_id: str, first_id: str) -> None:
    """An invoice of all that waits for one, which Stripe finalizes and collects by itself."""
    ended = await stripe.v1.subscriptions.list_async({"customer": customer_id, "status": "ended", "limit": 1})
    # A card from Checkout is the subscription's, not the customer's.
    card = _id(ended.data[0].default_payment_method) if ended.data else None
    wanted: InvoiceCreateParams = {
        "customer": customer_id,
        "currency": "usd",
        "auto_advance": True,
        "collection_method": "charge_automatically",
        "pending_invoice_items_behavior": "include",
        "metadata": {OUR_ID: first_id},
    }
    if ended.data and ended.data[0].automatic_tax.enabled:
        wanted["automatic_tax"] = {"enabled": True}
    key = f"overage-invoice:{first_id}"
    if card is not None:
        try:
            await stripe.v1.invoices.create_async({**wanted, "default_payment_method": card}, {"idempotency_key": key})
            return
        except InvalidRequestError:
            key += ":without-card"  # the card is gone
    await stripe.v1.invoices.create_async(wanted, {"idempotency_key": key})


def describe(item: dict[str, Any]) -> str:
    """What the invoice says: how many queries of which period at what price, exactly."""
    period = datetime.fromisoformat(item["period_start"]).astimezone(UTC)
    price, amount = (dumps(item[name]).decode() for name in ("unit_price_usd", "amount_usd"))
    queries = f"{item['queries']:,} {'query' if item['queries'] == 1 else 'queries'}"
    charged = Decimal(item["amount_cents"]) / 100
    rounded = f" (rounded down to ${charged:.2f})" if charged != item["amount_usd"] else ""
    return f"{queries} beyond the plan × ${price} = ${amount}{rounded}, period from {period:%Y-%m-%d}"


def _id(reference: Any) -> str | None:
    """The id of something that may be expanded."""
    return reference if reference is None or isinstance(reference, str) else str(reference.id)
