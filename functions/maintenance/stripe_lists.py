"""reconcile: lists of Stripe that several comparisons read."""

from dataclasses import dataclass, replace
from datetime import datetime
from typing import TYPE_CHECKING, Any, cast

from stripe import Charge, Customer, Invoice, StripeClient

from functions.common.billing.events import DELETED
from functions.common.billing.invoices import net_cents
from functions.common.billing.overage import id_of

if TYPE_CHECKING:
    from stripe.params import InvoiceListParams

# The newest ones, a hundred a request.
MAX_CUSTOMERS = 100_000


@dataclass(frozen=True, slots=True)
class Customers:
    """The customers at Stripe. `owners`: the user id that each one's metadata has. `left`: those whose user deleted the
    account. `is_complete`: there are no more than MAX_CUSTOMERS."""

    owners: dict[str, str | None]
    left: set[str]
    is_complete: bool


@dataclass(frozen=True, slots=True)
class ChangedPayment:
    """A payment that was refunded or disputed. `is_returned`: all of it was refunded, or a dispute of it was lost."""

    id: str
    customer_id: str | None
    is_returned: bool
    is_lost: bool


async def list_customers(stripe: StripeClient) -> Customers:
    """The customers, newest first. Deleted ones are not in Stripe's list."""
    found = Customers({}, set(), is_complete=True)
    listed = await stripe.v1.customers.list_async({"limit": 100})
    async for customer in listed.auto_paging_iter():
        if len(found.owners) == MAX_CUSTOMERS:
            return replace(found, is_complete=False)
        found.owners[customer.id] = owner_of(customer)
        if DELETED.items() <= _metadata(customer).items():
            found.left.add(customer.id)
    return found


def owner_of(customer: Customer) -> str | None:
    """The user of a customer, as checkout wrote it."""
    return _metadata(customer).get("user_id")


def _metadata(customer: Customer) -> dict[str, str]:
    metadata = getattr(customer, "metadata", None)
    return metadata.to_dict() if metadata is not None else {}


async def changed_payments(stripe: StripeClient, since: datetime) -> dict[str, ChangedPayment]:
    """The payments that were refunded or disputed, for whatever they were, by the id of their intent."""
    params = {"created": {"gte": int(since.timestamp())}, "limit": 100, "expand": ["data.charge"]}
    refunds = await stripe.v1.refunds.list_async(cast("Any", params))
    disputes = await stripe.v1.disputes.list_async(cast("Any", params))
    changes = [(one.payment_intent, one.charge, False) async for one in refunds.auto_paging_iter()]
    changes += [(one.payment_intent, one.charge, one.status == "lost") async for one in disputes.auto_paging_iter()]
    changed: dict[str, ChangedPayment] = {}
    for intent, charge, is_lost in changes:
        payment_id = id_of(intent)
        if payment_id is not None and isinstance(charge, Charge):
            before = changed.get(payment_id)
            was_lost = before is not None and before.is_lost
            changed[payment_id] = ChangedPayment(
                payment_id, id_of(charge.customer), charge.refunded or is_lost or was_lost, is_lost or was_lost
            )
    return changed


async def list_invoices(stripe: StripeClient, since: datetime) -> tuple[dict[str, Invoice], set[str]]:
    """The invoices that are not paid, by id: the open ones of any age, others since a time. And the ids of those since
    then that the customer's payments may not have paid: a balance, or a credit on the invoice, paid some of it."""
    unpaid: dict[str, Invoice] = {}
    credited: set[str] = set()
    lists: list[InvoiceListParams] = [{"created": {"gte": int(since.timestamp())}}, {"status": "open"}]
    for params in lists:
        listed = await stripe.v1.invoices.list_async({**params, "limit": 100})
        async for invoice in listed.auto_paging_iter():
            if invoice.status != "paid":
                unpaid[str(invoice.id)] = invoice
            elif invoice.amount_paid < max(invoice.total, _charged_cents(invoice)):
                credited.add(str(invoice.id))
    return unpaid, credited


def _charged_cents(invoice: Invoice) -> int:
    """Of the lines that the list has, without credits."""
    return sum(max(0, net_cents(line)) for line in invoice.lines.data)
