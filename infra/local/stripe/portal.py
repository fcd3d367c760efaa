"""Billing portal sessions: the page where customers manage their subscriptions. `pages.py` draws it.

It behaves as Stripe's own portal: a cancellation sets `cancel_at` and not `cancel_at_period_end`, a change of plan
leaves prorations for the next invoice, a new card becomes the default of the customer and of the subscription.
"""

from stripe.params import billing_portal as param_types

from infra.local.stripe.endpoints import endpoint
from infra.local.stripe.errors import ApiError, Json, missing_param
from infra.local.stripe.invoice_lifecycle import collect
from infra.local.stripe.payment_methods import make_card, set_card
from infra.local.stripe.state import State
from infra.local.stripe.subscription_changes import change_items
from infra.local.stripe.subscription_items import ENDED, items_of, period_of
from infra.local.stripe.subscription_lifecycle import request_end, schedule_end

CONFIGURATION = "bpc_standin"


@endpoint("POST", "/v1/billing_portal/sessions", param_types.SessionCreateParams, "customer locale return_url")
def create_portal_session(state: State, params: Json) -> Json:
    if "customer" not in params:
        raise missing_param("customer")
    customer = state.get("customer", params["customer"], "customer")
    session_id = state.new_id("bps")
    return state.add(
        {
            "id": session_id,
            "object": "billing_portal.session",
            "configuration": CONFIGURATION,
            "created": state.now,
            "customer": customer["id"],
            "customer_account": None,
            "flow": None,
            "livemode": False,
            "locale": params.get("locale"),
            "on_behalf_of": None,
            "return_url": params.get("return_url"),
            "url": f"{state.settings.public_url}/p/session/{session_id}",
        }
    )


def subscriptions_of(state: State, session: Json) -> list[Json]:
    """The live subscriptions of the customer."""
    return [
        subscription
        for subscription in state.objects_of("subscription")
        if subscription["customer"] == session["customer"] and subscription["status"] not in ENDED
    ]


def plans(state: State, subscription: Json) -> list[Json]:
    """The prices that the subscription can change to: active, recurring, in its currency."""
    return [
        price
        for price in state.objects_of("price")
        if price["active"] and price["type"] == "recurring" and price["currency"] == subscription["currency"]
    ]


def press(state: State, session: Json, action: str, subscription_id: str, price: str) -> str:
    """Do what a button of the page does. Returns a sentence for the customer. Raises ApiError."""
    customer = state.get("customer", session["customer"])
    if action in ("good_card", "bad_card"):
        card = make_card(state, customer, action == "good_card")
        state.emit("payment_method.attached", card)
        set_card(state, customer, action == "good_card")
        with state.updating(customer, "customer.updated"):
            customer["invoice_settings"]["default_payment_method"] = card["id"]
        for subscription in subscriptions_of(state, session):
            with state.updating(subscription, "customer.subscription.updated"):
                subscription["default_payment_method"] = card["id"]
        return "The card on file has been replaced."
    owned = {subscription["id"]: subscription for subscription in subscriptions_of(state, session)}
    if subscription_id not in owned:
        raise ApiError("This subscription has ended.")
    subscription = owned[subscription_id]
    with state.updating(subscription, "customer.subscription.updated"):
        if action == "cancel":
            request_end(state, subscription, period_of(subscription)[1], at_period_end=False)
            return "The subscription will end with its period."
        if action == "resume":
            schedule_end(state, subscription, {"cancel_at_period_end": False})
            return "The subscription goes on."
        if action == "plan":
            item = items_of(subscription)[0]
            change_items(state, subscription, [{"id": item["id"], "price": price}], {})
            return "The plan has been changed."
    raise ApiError(f"There is no such action: {action}")


def pay_open(state: State, invoice: Json, card_works: bool) -> None:
    """Pay an open invoice on its page with a new card, which stays on file only if it works."""
    customer = state.get("customer", invoice["customer"])
    card = make_card(state, customer, card_works)
    if not collect(state, invoice, card):
        card["customer"] = None
