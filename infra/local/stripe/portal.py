"""Billing portal sessions: a page on which customers manage what they have; `pages.py` draws it.

Its changes are those of Stripe's own portal: a cancellation sets `cancel_at` and not `cancel_at_period_end`, a change
of plan leaves prorations for the next invoice, a new card becomes the customer's and the subscription's default.
"""

from stripe.params import billing_portal as kinds

from infra.local.stripe import invoices, subscriptions
from infra.local.stripe.customers import make_card, set_card
from infra.local.stripe.endpoints import endpoint
from infra.local.stripe.errors import Json, Refused, missing_param
from infra.local.stripe.world import World

CONFIGURATION = "bpc_standin"


@endpoint("POST", "/v1/billing_portal/sessions", kinds.SessionCreateParams, "customer locale return_url")
def create_portal_session(world: World, params: Json) -> Json:
    if "customer" not in params:
        raise missing_param("customer")
    customer = world.get("customer", params["customer"], "customer")
    session_id = world.new_id("bps")
    return world.add(
        {
            "id": session_id,
            "object": "billing_portal.session",
            "configuration": CONFIGURATION,
            "created": world.now,
            "customer": customer["id"],
            "customer_account": None,
            "flow": None,
            "livemode": False,
            "locale": params.get("locale"),
            "on_behalf_of": None,
            "return_url": params.get("return_url"),
            "url": f"{world.settings.public_url}/p/session/{session_id}",
        }
    )


def subscriptions_of(world: World, session: Json) -> list[Json]:
    found = [one for one in world.of("subscription") if one["customer"] == session["customer"]]
    return [one for one in found if one["status"] not in subscriptions.ENDED]


def plans(world: World, subscription: Json) -> list[Json]:
    """The prices that it may change to: active, recurring, of its currency."""
    return [
        one
        for one in world.of("price")
        if one["active"] and one["type"] == "recurring" and one["currency"] == subscription["currency"]
    ]


def act(world: World, session: Json, action: str, subscription_id: str, price: str) -> str:
    """What a button of the page does. Returns a sentence about it. Raises Refused."""
    customer = world.get("customer", session["customer"])
    if action in ("good_card", "bad_card"):
        card = make_card(world, customer, action == "good_card")
        world.emit("payment_method.attached", card)
        set_card(world, customer, action == "good_card")
        with world.changing(customer, "customer.updated"):
            customer["invoice_settings"]["default_payment_method"] = card["id"]
        for one in subscriptions_of(world, session):
            with world.changing(one, "customer.subscription.updated"):
                one["default_payment_method"] = card["id"]
        return "The card on file has been replaced."
    subscription = next((one for one in subscriptions_of(world, session) if one["id"] == subscription_id), None)
    if subscription is None:
        raise Refused("This subscription has ended.")
    with world.changing(subscription, "customer.subscription.updated"):
        if action == "cancel":
            subscriptions.asked_for(world, subscription, subscriptions.period_of(subscription)[1], at_period_end=False)
            return "The subscription will end with its period."
        if action == "resume":
            subscriptions.schedule_end(world, subscription, {"cancel_at_period_end": False})
            return "The subscription goes on."
        if action == "plan":
            item = subscriptions.items_of(subscription)[0]
            subscriptions.change_items(world, subscription, [{"id": item["id"], "price": price}], {})
            return "The plan has been changed."
    raise Refused(f"There is no such action: {action}")


def pay_open(world: World, invoice: Json, card_works: bool) -> None:
    """Pay an open invoice on its own page, with a new card that stays on file only if it works."""
    customer = world.get("customer", invoice["customer"])
    card = make_card(world, customer, card_works)
    if not invoices.collect(world, invoice, card):
        card["customer"] = None
