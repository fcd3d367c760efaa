"""Changes of price and quantity in a running subscription.

A change of interval, a change from free to paid, or `billing_cycle_anchor={"type": "now"}` starts a new period and
invoices it at once. Every other change leaves prorations for the next invoice, or invoices them with `always_invoice`.
"""

from dataclasses import dataclass
from decimal import Decimal

from infra.local.stripe.catalog import cents
from infra.local.stripe.clock import next_period_end
from infra.local.stripe.errors import ApiError, Json, card_declined, unsupported
from infra.local.stripe.invoice_lines import pending_items
from infra.local.stripe.state import State
from infra.local.stripe.subscription_items import (
    billing_interval,
    item_amount,
    items_of,
    make_period_line,
    make_subscription_item,
    period_of,
    prorate,
    recurring_price,
)
from infra.local.stripe.subscription_lifecycle import finalize_and_collect, make_subscription_invoice


@dataclass(frozen=True, slots=True)
class NewItems:
    """The items after a change. `kept`: price and quantity by item id. `added`: price and parameters of new items."""

    kept: dict[str, tuple[Json, int]]
    added: list[tuple[Json, Json]]

    @property
    def prices(self) -> list[Json]:
        return [*(price for price, _ in self.kept.values()), *(price for price, _ in self.added)]

    @property
    def total(self) -> int:
        """The price of a period, in cents."""
        quantities = [
            *self.kept.values(),
            *((price, entry.get("quantity", 1)) for price, entry in self.added),
        ]
        return sum(cents(Decimal(price["unit_amount_decimal"]) * quantity) for price, quantity in quantities)


def change_items(state: State, subscription: Json, entries: list[Json], params: Json) -> None:
    """Change prices and quantities. As at Stripe, an entry without an `id` adds an item."""
    behavior = params.get("proration_behavior", "create_prorations")
    payment_behavior = params.get("payment_behavior", "allow_incomplete")
    if payment_behavior not in ("allow_incomplete", "error_if_incomplete"):
        raise unsupported(f"payment_behavior={payment_behavior} in an update", "payment_behavior")
    new = _read_entries(state, subscription, entries)
    new_period = _starts_new_period(subscription, new, params)
    if payment_behavior == "error_if_incomplete" and (new_period or behavior == "always_invoice"):
        _check_card(state, subscription, new)
    old_items = items_of(subscription)
    changed = [item["id"] for item in old_items if new.kept.get(item["id"]) != (item["price"], item["quantity"])]
    if behavior != "none":
        for item in old_items:
            if new_period or item["id"] in changed:
                prorate(state, subscription, item, credit=True)
    added = _replace_items(state, subscription, new, new_period)
    if behavior != "none" and not new_period:
        for item in items_of(subscription):
            if item["id"] in (*changed, *added):
                prorate(state, subscription, item, credit=False)
    if new_period or (behavior == "always_invoice" and (changed or added)):
        _invoice_change(state, subscription, new_period)


def _read_entries(state: State, subscription: Json, entries: list[Json]) -> NewItems:
    """Apply the entries to the present items. Raises ApiError for an entry or a result that Stripe would refuse."""
    new = NewItems({item["id"]: (item["price"], item["quantity"]) for item in items_of(subscription)}, [])
    for index, entry in enumerate(entries):
        if "id" not in entry:
            new.added.append((_added_price(state, new, entry, index), entry))
        elif entry["id"] not in new.kept:
            raise ApiError(
                f"No such subscription item: '{entry['id']}'",
                code="resource_missing",
                param=f"items[{index}][id]",
                status=404,
            )
        elif entry.get("deleted"):
            del new.kept[entry["id"]]
        else:
            price, quantity = new.kept[entry["id"]]
            price = recurring_price(state, entry, f"items[{index}]") if "price" in entry else price
            new.kept[entry["id"]] = (price, entry.get("quantity", quantity))
    prices = new.prices
    if not prices:
        raise ApiError("A subscription must have at least one active item.", param="items")
    currencies, intervals = {price["currency"] for price in prices}, {billing_interval(price) for price in prices}
    if currencies != {subscription["currency"]} or len(intervals) != 1:
        raise unsupported("prices of several intervals or currencies in one subscription", "items")
    return new


def _added_price(state: State, new: NewItems, entry: Json, index: int) -> Json:
    price = recurring_price(state, entry, f"items[{index}]")
    if any(price["id"] == kept["id"] for kept, _ in new.kept.values()):
        raise ApiError(
            f"Cannot add multiple subscription items with the same plan: {price['id']}",
            param=f"items[{index}][price]",
        )
    return price


def _starts_new_period(subscription: Json, new: NewItems, params: Json) -> bool:
    old_items = items_of(subscription)
    was_free = sum(item_amount(item) for item in old_items) == 0
    return (
        billing_interval(new.prices[0]) != billing_interval(old_items[0]["price"])
        or (was_free and new.total > 0)
        or params.get("billing_cycle_anchor", {}).get("type") == "now"
    )


def _check_card(state: State, subscription: Json, new: NewItems) -> None:
    """Raises ApiError, 402, if the change costs more and the card does not pay at once."""
    customer = state.objects[subscription["customer"]]
    card = state.objects.get(
        subscription["default_payment_method"] or customer["invoice_settings"]["default_payment_method"] or ""
    )
    costs_more = new.total > sum(item_amount(item) for item in items_of(subscription))
    if costs_more and not (card and card["_works"] and not card["_asks"]):
        raise card_declined()


def _replace_items(state: State, subscription: Json, new: NewItems, new_period: bool) -> list[str]:
    """Set the new items and, if one starts, the new period. Returns the ids of added items."""
    period = period_of(subscription)
    if new_period:
        period = (state.now, next_period_end(state.now, *billing_interval(new.prices[0]), state.now))
        subscription["billing_cycle_anchor"] = state.now
        state.clock.schedule(period[1], "renew", subscription["id"])
    kept = [item for item in items_of(subscription) if item["id"] in new.kept]
    for item in kept:
        item["price"], item["quantity"] = new.kept[item["id"]]
        item |= {"current_period_start": period[0], "current_period_end": period[1]}
    added = [make_subscription_item(state, subscription, price, entry, period) for price, entry in new.added]
    subscription["items"]["data"] = [*kept, *added]
    return [item["id"] for item in added]


def _invoice_change(state: State, subscription: Json, new_period: bool) -> None:
    """Invoice the new period, if one starts, with all pending items, and collect it."""
    lines = [make_period_line(state, subscription, item) for item in items_of(subscription)] if new_period else []
    items = pending_items(state, subscription["customer"], subscription["currency"], subscription["id"])
    if lines or items:
        invoice = make_subscription_invoice(state, subscription, "subscription_update", lines, items)
        finalize_and_collect(state, invoice)
