"""Endpoints of subscriptions: create, update, cancel and list."""

from decimal import Decimal

from stripe import params as param_types

from infra.local.stripe.discounts import DISCOUNT_PARAMS, replaced
from infra.local.stripe.endpoints import LIST_PARAMS, endpoint
from infra.local.stripe.errors import ApiError, Json, missing_param, unsupported
from infra.local.stripe.invoice_lines import pending_items
from infra.local.stripe.payment_methods import get_card
from infra.local.stripe.schedules import live_schedule
from infra.local.stripe.state import State
from infra.local.stripe.subscription_changes import change_items
from infra.local.stripe.subscription_items import ENDED, items_of, prorate, recurring_price
from infra.local.stripe.subscription_lifecycle import (
    TRIAL_PARAMS,
    end,
    end_trial,
    finalize_and_collect,
    make_subscription_invoice,
    schedule_end,
    start,
    start_period_now,
)

WRITE_PARAMS = (
    "automatic_tax automatic_tax.enabled cancel_at cancel_at_period_end collection_method default_payment_method "
    "description items items.price items.quantity items.metadata metadata off_session payment_behavior "
    f"proration_behavior payment_settings payment_settings.save_default_payment_method {DISCOUNT_PARAMS} {TRIAL_PARAMS}"
)


def _check_collection_method(params: Json) -> None:
    if params.get("collection_method", "charge_automatically") != "charge_automatically":
        raise unsupported("subscriptions with invoices that are sent", "collection_method")


@endpoint(
    "POST",
    "/v1/subscriptions",
    param_types.SubscriptionCreateParams,
    f"{WRITE_PARAMS} currency customer billing_mode billing_mode.type trial_period_days",
)
def create_subscription(state: State, params: Json) -> Json:
    _check_collection_method(params)
    if "customer" not in params:
        raise missing_param("customer")
    if params.get("billing_mode", {}).get("type", "flexible") != "flexible":
        raise unsupported("the classic billing mode", "billing_mode[type]")
    customer = state.get("customer", params["customer"], "customer")
    if own_card := params.get("default_payment_method"):
        get_card(state, customer, own_card)
    default = own_card or customer["invoice_settings"]["default_payment_method"]
    for index, entry in enumerate(params.get("items", [])):
        price = recurring_price(state, entry, f"items[{index}]")
        is_trial = params.keys() & {"trial_end", "trial_period_days"}
        is_paid = not is_trial and Decimal(price["unit_amount_decimal"]) * entry.get("quantity", 1) > 0
        if is_paid and not default and params.get("payment_behavior") != "default_incomplete":
            raise ApiError(
                "This customer has no attached payment source or default payment method. Please consider adding a "
                "default payment method.",
                code="resource_missing",
            )
    return start(state, customer, params, state.objects.get(default or ""))


@endpoint("GET", "/v1/subscriptions/{id}", param_types.SubscriptionRetrieveParams)
def retrieve_subscription(state: State, params: Json, id: str) -> Json:  # noqa: A002 -- named in the path
    return state.get("subscription", id)


@endpoint(
    "POST",
    "/v1/subscriptions/{id}",
    param_types.SubscriptionUpdateParams,
    f"{WRITE_PARAMS} items.id items.deleted billing_cycle_anchor cancellation_details cancellation_details.comment "
    "cancellation_details.feedback pause_collection pause_collection.behavior",
)
def update_subscription(state: State, params: Json, id: str) -> Json:  # noqa: A002
    subscription = state.get("subscription", id)
    _check_collection_method(params)
    if subscription["status"] in ENDED and params.keys() - {"metadata", "cancellation_details", "expand"}:
        raise ApiError("A canceled subscription can only update its cancellation_details and metadata.")
    if own_card := params.get("default_payment_method"):
        get_card(state, state.objects[subscription["customer"]], own_card)
    with state.updating(subscription, "customer.subscription.updated"):
        if "items" in params or "billing_cycle_anchor" in params:
            change_items(state, subscription, params.get("items", []), params)
        if "trial_end" in params:
            if params["trial_end"] != "now" or subscription["status"] != "trialing":
                raise unsupported("changes of a trial other than its end now", "trial_end")
            end_trial(state, subscription)
        if "metadata" in params:
            subscription["metadata"] = state.merge_metadata(subscription["metadata"], params["metadata"])
        if own_card:
            subscription["default_payment_method"] = own_card
        if "description" in params:
            subscription["description"] = params["description"] or None
        if "discounts" in params:
            customer = state.objects[subscription["customer"]]
            subscription["discounts"] = replaced(state, subscription["discounts"], params, customer, subscription=id)
        if "pause_collection" in params:
            subscription["pause_collection"] = _pause(params["pause_collection"])
        schedule_end(state, subscription, params)
        subscription["cancellation_details"] |= params.get("cancellation_details", {})
    return subscription


def _pause(given: Json | str) -> Json | None:
    """An empty string ends the pause. The invoices of a paused subscription stay drafts."""
    if not given:
        return None
    if not isinstance(given, dict) or given.get("behavior") != "keep_as_draft":
        raise unsupported("pauses other than keep_as_draft", "pause_collection[behavior]")
    return {"behavior": "keep_as_draft", "resumes_at": None}


@endpoint(
    "DELETE", "/v1/subscriptions/{id}", param_types.SubscriptionCancelParams, "cancellation_details invoice_now prorate"
)
def cancel_subscription(state: State, params: Json, id: str) -> Json:  # noqa: A002
    subscription = state.get("subscription", id)
    if subscription["status"] in ENDED:
        raise ApiError(f"No such subscription: '{id}'", code="resource_missing", param="id", status=404)
    if params.get("prorate"):
        for item in items_of(subscription):
            prorate(state, subscription, item, credit=True)
    subscription["cancellation_details"] |= params.get("cancellation_details", {})
    items = pending_items(state, subscription["customer"], subscription["currency"], id)
    if params.get("invoice_now") and items:
        invoice = make_subscription_invoice(state, subscription, "subscription_update", [], items)
        finalize_and_collect(state, invoice)
    elif not params.get("invoice_now") and not params.get("prorate"):
        for item in items:
            if item["proration"] and item["_subscription"] == id:
                item["_deleted"] = True
    if subscription["status"] not in ENDED:
        end(state, subscription, "cancellation_requested")
    return subscription


@endpoint("POST", "/v1/subscriptions/{id}/resume", param_types.SubscriptionResumeParams)
def resume_subscription(state: State, params: Json, id: str) -> Json:  # noqa: A002
    """As Stripe does by default: a new period starts, and the subscription resumes once its invoice is paid."""
    subscription = state.get("subscription", id)
    if subscription["status"] != "paused":
        raise ApiError("You can only resume a paused subscription.")
    start_period_now(state, subscription)
    return subscription


@endpoint("POST", "/v1/subscription_schedules/{id}/cancel", param_types.SubscriptionScheduleCancelParams)
def cancel_schedule(state: State, params: Json, id: str) -> Json:  # noqa: A002
    """Ends the subscription too, at once."""
    schedule = live_schedule(state, id)
    end(state, state.objects[schedule["subscription"]], "cancellation_requested")
    return schedule


@endpoint("GET", "/v1/subscriptions", param_types.SubscriptionListParams, f"{LIST_PARAMS} customer price status")
def list_subscriptions(state: State, params: Json) -> Json:
    status = params.get("status")

    def has_status(subscription: Json) -> bool:
        if status in (None, "ended"):
            return (subscription["status"] in ENDED) is (status == "ended")
        return status in ("all", subscription["status"])

    found = [
        subscription
        for subscription in state.objects_of("subscription")
        if has_status(subscription)
        and params.get("customer") in (None, subscription["customer"])
        and params.get("price") in (None, *(item["price"]["id"] for item in items_of(subscription)))
    ]
    return state.list_page(found, params, "/v1/subscriptions")
