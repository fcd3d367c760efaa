"""Subscription items: their prices, amounts, periods and invoice lines.

Items hold the current period of the subscription; all items have the same one, counted from the anchor.
"""

from decimal import Decimal
from typing import Any

from stripe import params as param_types

from infra.local.stripe.catalog import cents
from infra.local.stripe.discounts import net_part
from infra.local.stripe.endpoints import endpoint
from infra.local.stripe.errors import ApiError, Json, missing_param
from infra.local.stripe.invoice_lines import item_pricing, make_invoice_item, make_line
from infra.local.stripe.state import State

ENDED = ("canceled", "incomplete_expired")
"""The statuses of a subscription that has ended."""


def item_amount(item: Json) -> int:
    return cents(Decimal(item["price"]["unit_amount_decimal"]) * item["quantity"])


def items_of(subscription: Json) -> list[Json]:
    found: list[Json] = subscription["items"]["data"]
    return found


def period_of(subscription: Json) -> tuple[int, int]:
    """Start and end of the current period."""
    item = items_of(subscription)[0]
    return item["current_period_start"], item["current_period_end"]


def billing_interval(price: Json) -> tuple[str, int]:
    """The unit (day, week, month, year) and the number of units."""
    return price["recurring"]["interval"], price["recurring"]["interval_count"]


def recurring_price(state: State, entry: Json, param: str) -> Json:
    """The price in the parameters of an item. Raises ApiError if it is inactive or not recurring."""
    if "price" not in entry:
        raise missing_param(f"{param}[price]")
    price = state.get("price", entry["price"], f"{param}[price]")
    if not price["active"]:
        raise ApiError(f"The price specified is inactive: {price['id']}.", param=f"{param}[price]")
    if price["type"] != "recurring":
        raise ApiError(
            "The price specified is set to `type=one_time` but this field only accepts prices with `type=recurring`.",
            param=f"{param}[price]",
        )
    return price


def make_subscription_item(state: State, subscription: Json, price: Json, entry: Json, period: tuple[int, int]) -> Json:
    return state.add(
        {
            "id": state.new_id("si"),
            "object": "subscription_item",
            "billing_thresholds": None,
            "created": state.now,
            "current_period_end": period[1],
            "current_period_start": period[0],
            "discounts": [],
            "metadata": state.merge_metadata({}, entry.get("metadata", {})),
            "price": price,
            "quantity": entry.get("quantity", 1),
            "subscription": subscription["id"],
            "tax_rates": [],
            "_net_part": "1",
        }
    )


def make_period_line(state: State, subscription: Json, item: Json) -> Json:
    """The invoice line for the current period of an item."""
    price, product = item["price"], state.objects[item["price"]["product"]]
    interval, _ = billing_interval(price)
    is_trial = subscription["status"] == "trialing"
    details = {
        "invoice_item": None,
        "proration": False,
        "proration_details": {"credited_items": None},
        "subscription": subscription["id"],
        "subscription_item": item["id"],
    }
    parent = {"invoice_item_details": None, "subscription_item_details": details, "type": "subscription_item_details"}
    fields = {
        "amount": 0 if is_trial else item_amount(item),
        "currency": price["currency"],
        "description": f"Trial period for {product['name']}"
        if is_trial
        else f"{item['quantity']} × {product['name']} ({price['unit_amount_decimal']}¢ / {interval})",
        "metadata": dict(subscription["metadata"]),
        "period": {"start": item["current_period_start"], "end": item["current_period_end"]},
        "pricing": item_pricing(price),
        "quantity": item["quantity"],
    }
    return make_line(state, parent, fields, subscription["id"])


def prorate(state: State, subscription: Json, item: Json, credit: bool) -> None:
    """A pending invoice item for the rest of the period, by the second: a credit for the item, or a charge.

    Net of discounts: a credit returns the part that was charged for the item.
    """
    if subscription["status"] == "trialing":
        return
    start, end = period_of(subscription)
    if not credit:
        item["_net_part"] = str(net_part(state, subscription, item_amount(item), item["price"]["product"]))
    amount = Decimal(-item_amount(item) if credit else item_amount(item)) * Decimal(item["_net_part"])
    part = cents(amount * (end - state.now) / (end - start))
    if item_amount(item) == 0:
        return
    price, product = item["price"], state.objects[item["price"]["product"]]
    proration = make_invoice_item(
        state,
        state.objects[subscription["customer"]],
        subscription["currency"],
        str(part),
        1,
        description=f"{'Unused' if credit else 'Remaining'} time on {product['name']}",
        discountable=False,
        period={"start": state.now, "end": end},
        pricing={**item_pricing(price), "unit_amount_decimal": str(part)},
        proration=True,
        _subscription=subscription["id"],
    )
    proration["parent"]["subscription_details"]["subscription_item"] = item["id"]
    proration |= {"quantity": item["quantity"], "quantity_decimal": str(item["quantity"])}
    state.emit("invoiceitem.created", proration)


@endpoint(
    "GET",
    "/v1/subscription_items",
    param_types.SubscriptionItemListParams,
    "limit starting_after ending_before subscription",
)
def list_subscription_items(state: State, params: Json) -> Json:
    found: list[Any] = items_of(state.get("subscription", params["subscription"], "subscription"))
    return state.list_page(found, params, "/v1/subscription_items")
