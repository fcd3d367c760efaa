"""Billing portal sessions and their configurations: the page where customers manage their subscriptions. `pages.py`
draws it.

It behaves as Stripe's own portal: a cancellation sets `cancel_at` and not `cancel_at_period_end`, a new card becomes
the default of the customer and of the subscription. A session without a configuration allows everything, and a change
of plan leaves prorations for the next invoice. A configuration decides what is allowed, how a change is invoiced, and
whether a lower price waits for the end of the period.
"""

from typing import Any

from stripe.params import billing_portal as param_types

from infra.local.stripe.endpoints import LIST_PARAMS, endpoint
from infra.local.stripe.errors import ApiError, Json, missing_param, unsupported
from infra.local.stripe.invoice_lifecycle import collect, intent_of
from infra.local.stripe.payment_methods import make_card, set_card
from infra.local.stripe.schedules import make_schedule, release, set_phases
from infra.local.stripe.state import State
from infra.local.stripe.subscription_changes import change_items
from infra.local.stripe.subscription_items import ENDED, items_of, period_of
from infra.local.stripe.subscription_lifecycle import end_trial, request_end, schedule_end

CONFIGURATION = "bpc_standin"
CONFIGURATION_PARAMS = "business_profile default_return_url features metadata name"
MAX_PRODUCTS = 10
FEATURES: Json = {
    "customer_update": {"allowed_updates": [], "enabled": False},
    "invoice_history": {"enabled": False},
    "payment_method_update": {"enabled": False, "payment_method_configuration": None},
    "subscription_cancel": {
        "cancellation_reason": {"enabled": False, "options": []},
        "enabled": False,
        "mode": "at_period_end",
        "proration_behavior": "none",
    },
    "subscription_update": {
        "billing_cycle_anchor": None,
        "default_allowed_updates": [],
        "enabled": False,
        "products": None,
        "proration_behavior": "none",
        "schedule_at_period_end": {"conditions": []},
        "trial_update_behavior": "end_trial",
    },
}


@endpoint("POST", "/v1/billing_portal/configurations", param_types.ConfigurationCreateParams, CONFIGURATION_PARAMS)
def create_configuration(state: State, params: Json) -> Json:
    profile = params.get("business_profile", {})
    made: Json = {
        "id": state.new_id("bpc"),
        "object": "billing_portal.configuration",
        "active": True,
        "application": None,
        "business_profile": {
            name: profile.get(name) or None for name in ("headline", "privacy_policy_url", "terms_of_service_url")
        },
        "created": state.now,
        "default_return_url": params.get("default_return_url") or None,
        "features": _features(state, FEATURES, params["features"]),
        "is_default": False,
        "livemode": False,
        "login_page": {"enabled": False, "url": None},
        "metadata": state.merge_metadata({}, params.get("metadata", {})),
        "name": params.get("name") or None,
        "updated": state.now,
    }
    state.emit("billing_portal.configuration.created", state.add(made))
    return made


@endpoint(
    "POST",
    "/v1/billing_portal/configurations/{id}",
    param_types.ConfigurationUpdateParams,
    f"{CONFIGURATION_PARAMS} active",
)
def update_configuration(state: State, params: Json, id: str) -> Json:  # noqa: A002 -- named in the path
    configuration = state.get("billing_portal.configuration", id)
    features = _features(state, configuration["features"], params.get("features", {}))
    with state.updating(configuration, "billing_portal.configuration.updated"):
        configuration |= {"features": features, "updated": state.now}
        configuration["active"] = params.get("active", configuration["active"])
        configuration["business_profile"] |= params.get("business_profile", {})
        for name in {"default_return_url", "name"} & params.keys():
            configuration[name] = params[name] or None
        configuration["metadata"] = state.merge_metadata(configuration["metadata"], params.get("metadata", {}))
    return configuration


@endpoint("GET", "/v1/billing_portal/configurations/{id}", param_types.ConfigurationRetrieveParams)
def retrieve_configuration(state: State, params: Json, id: str) -> Json:  # noqa: A002
    return state.get("billing_portal.configuration", id)


@endpoint(
    "GET",
    "/v1/billing_portal/configurations",
    param_types.ConfigurationListParams,
    f"{LIST_PARAMS.removesuffix(' created')} active is_default",
)
def list_configurations(state: State, params: Json) -> Json:
    found = [
        one
        for one in state.objects_of("billing_portal.configuration")
        if all(params.get(name) in (None, one[name]) for name in ("active", "is_default"))
    ]
    return state.list_page(found, params, "/v1/billing_portal/configurations")


def _features(state: State, old: Json, given: Json) -> Json:
    """The features after an update. Raises ApiError for products or prices that Stripe would refuse."""
    if "subscription_pause" in given:
        raise unsupported("pausing subscriptions in the portal", "features[subscription_pause]")
    features: Json = {name: {**feature, **given.get(name, {})} for name, feature in old.items()}
    update = features["subscription_update"]
    for name in ("default_allowed_updates", "products"):
        update[name] = update[name] or []
    update["schedule_at_period_end"] = {"conditions": update["schedule_at_period_end"].get("conditions") or []}
    if update["enabled"] and not (update["products"] and update["default_allowed_updates"]):
        raise missing_param("features[subscription_update][products]")
    if len(update["products"]) > MAX_PRODUCTS:
        raise ApiError("A configuration has at most 10 products.", param="features[subscription_update][products]")
    for product in update["products"]:
        state.get("product", product["product"], "features[subscription_update][products]")
        for price in product["prices"]:
            if state.get("price", price, "price")["product"] != product["product"]:
                raise ApiError(f"The price {price} is not of the product {product['product']}.", param="price")
        quantity = product.get("adjustable_quantity", {})
        product["adjustable_quantity"] = {"enabled": False, "maximum": None, "minimum": 1, **quantity}
    return features


@endpoint(
    "POST", "/v1/billing_portal/sessions", param_types.SessionCreateParams, "configuration customer locale return_url"
)
def create_portal_session(state: State, params: Json) -> Json:
    if "customer" not in params:
        raise missing_param("customer")
    customer = state.get("customer", params["customer"], "customer")
    if (
        "configuration" in params
        and not state.get("billing_portal.configuration", params["configuration"], "configuration")["active"]
    ):
        raise ApiError("This configuration is not active.", param="configuration")
    session_id = state.new_id("bps")
    return state.add(
        {
            "id": session_id,
            "object": "billing_portal.session",
            "configuration": params.get("configuration", CONFIGURATION),
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
    features: Any = state.objects.get(session["configuration"], {}).get("features")
    with state.updating(subscription, "customer.subscription.updated"):
        if features and not features[{"plan": "subscription_update"}.get(action, "subscription_cancel")]["enabled"]:
            raise ApiError("The configuration of the portal does not allow this.")
        if action == "cancel":
            release(state, subscription)
            request_end(state, subscription, period_of(subscription)[1], at_period_end=False)
            return "The subscription will end with its period."
        if action == "resume":
            schedule_end(state, subscription, {"cancel_at_period_end": False})
            return "The subscription goes on."
        if action == "plan":
            return _change_plan(state, subscription, price, features and features["subscription_update"])
    raise ApiError(f"There is no such action: {action}")


def _change_plan(state: State, subscription: Json, price: str, update: Json | None) -> str:
    item = items_of(subscription)[0]
    change = {"id": item["id"], "price": price}
    if update is None:
        change_items(state, subscription, [change], {})
        return "The plan has been changed."
    if price not in [allowed for product in update["products"] for allowed in product["prices"]]:
        raise ApiError("The configuration of the portal does not allow this price.")
    waits = {"type": "decreasing_item_amount"} in update["schedule_at_period_end"]["conditions"]
    if waits and state.get("price", price)["unit_amount"] < item["price"]["unit_amount"]:
        release(state, subscription)
        schedule = make_schedule(state, subscription)
        kept = [(one["price"], one["quantity"]) for one in items_of(subscription)]
        lower = [(state.get("price", price), item["quantity"]), *kept[1:]]
        with state.updating(schedule, "subscription_schedule.updated"):
            set_phases(state, schedule, subscription, [kept, lower])
        return "The plan will change with the next period."
    release(state, subscription)
    change_items(state, subscription, [change], {"proration_behavior": update["proration_behavior"]})
    if subscription["status"] == "trialing" and update["trial_update_behavior"] == "end_trial":
        end_trial(state, subscription)
    return "The plan has been changed."


def pay_open(state: State, invoice: Json, card_works: bool) -> None:
    """Pay an open invoice on its page with a new card, which stays on file only if it works."""
    customer = state.get("customer", invoice["customer"])
    card = make_card(state, customer, card_works)
    if not collect(state, invoice, card):
        card["customer"] = None


def confirm_open(state: State, invoice: Json) -> None:
    """Confirm the payment of an open invoice that the bank asks about."""
    intent = intent_of(state, invoice)
    if intent is not None and intent["status"] == "requires_action":
        collect(state, invoice, state.objects[intent["payment_method"]], is_confirmed=True)
