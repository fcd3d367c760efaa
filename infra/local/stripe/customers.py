"""Customers: create, update, search, and delete together with their subscriptions."""

from stripe import params as param_types

from infra.local.stripe import subscription_lifecycle
from infra.local.stripe.endpoints import LIST_PARAMS, endpoint
from infra.local.stripe.errors import Json
from infra.local.stripe.payment_methods import attach_card, get_card
from infra.local.stripe.state import State, expandable
from infra.local.stripe.subscription_items import ENDED

FIELDS = "address description email metadata name phone preferred_locales shipping"


def make_customer(state: State, params: Json) -> Json:
    """A new customer; the caller emits the event."""
    customer_id = state.new_id("cus")
    return state.add(
        {
            "id": customer_id,
            "object": "customer",
            "address": params.get("address") or None,
            "balance": params.get("balance", 0),
            "created": state.now,
            "currency": None,
            "default_source": None,
            "delinquent": False,
            "description": params.get("description"),
            "discount": None,
            "email": params.get("email"),
            "invoice_prefix": f"F{customer_id[-7:]}".upper(),
            "invoice_settings": {
                "custom_fields": None,
                "default_payment_method": None,
                "footer": None,
                "rendering_options": None,
            },
            "livemode": False,
            "metadata": state.merge_metadata({}, params.get("metadata", {})),
            "name": params.get("name"),
            "next_invoice_sequence": 1,
            "phone": params.get("phone"),
            "preferred_locales": params.get("preferred_locales", []),
            "shipping": params.get("shipping") or None,
            "tax_exempt": "none",
            "test_clock": None,
        }
    )


@endpoint(
    "POST",
    "/v1/customers",
    param_types.CustomerCreateParams,
    f"{FIELDS} balance payment_method invoice_settings invoice_settings.default_payment_method",
)
def create_customer(state: State, params: Json) -> Json:
    customer = make_customer(state, params)
    if token := params.get("payment_method"):
        attach_card(state, token, customer)
    if settings := params.get("invoice_settings"):
        default = settings.get("default_payment_method")
        customer["invoice_settings"]["default_payment_method"] = get_card(state, customer, default)["id"]
    state.emit("customer.created", customer)
    return customer


@endpoint("GET", "/v1/customers/{id}", param_types.CustomerRetrieveParams)
def retrieve_customer(state: State, params: Json, id: str) -> Json:  # noqa: A002 -- named in the path
    if "_deleted" in (customer := state.objects.get(id, {})) and customer["object"] == "customer":
        return state.render_reference(id)
    return state.get("customer", id)


@endpoint(
    "POST",
    "/v1/customers/{id}",
    param_types.CustomerUpdateParams,
    f"{FIELDS} balance invoice_settings invoice_settings.default_payment_method",
)
def update_customer(state: State, params: Json, id: str) -> Json:  # noqa: A002
    customer = state.get("customer", id)
    settings = params.get("invoice_settings", {})
    default = settings.get("default_payment_method")
    card = get_card(state, customer, default)["id"] if default else None
    with state.updating(customer, "customer.updated"):
        for name in {*FIELDS.split(), "balance"} & params.keys() - {"metadata"}:
            customer[name] = None if params[name] == "" else params[name]
        if "metadata" in params:
            customer["metadata"] = state.merge_metadata(customer["metadata"], params["metadata"])
        if "default_payment_method" in settings:
            customer["invoice_settings"]["default_payment_method"] = card
    return customer


@endpoint("DELETE", "/v1/customers/{id}", param_types.CustomerDeleteParams)
def delete_customer(state: State, params: Json, id: str) -> Json:  # noqa: A002
    customer = state.get("customer", id)
    for subscription in list(state.objects_of("subscription")):
        if subscription["customer"] == id and subscription["status"] not in ENDED:
            subscription_lifecycle.end(state, subscription, "cancellation_requested")
    state.emit("customer.deleted", customer)
    customer["_deleted"] = True
    return state.render_reference(id)


@endpoint("GET", "/v1/customers", param_types.CustomerListParams, f"{LIST_PARAMS} email")
def list_customers(state: State, params: Json) -> Json:
    found = [customer for customer in state.objects_of("customer") if params.get("email") in (None, customer["email"])]
    return state.list_page(found, params, "/v1/customers")


@endpoint("GET", "/v1/customers/search", param_types.CustomerSearchParams, "query limit")
def search_customers(state: State, params: Json) -> Json:
    found = state.search(list(state.objects_of("customer")), params["query"])
    page = state.list_page(found, {**params, "created": {}}, "/v1/customers/search")
    return {**page, "object": "search_result", "next_page": None, "has_more": False}


@expandable("customer", "subscriptions")
def subscriptions_of(state: State, customer: Json) -> Json:
    found = [
        subscription for subscription in state.objects_of("subscription") if subscription["customer"] == customer["id"]
    ]
    live = [subscription for subscription in found if subscription["status"] != "canceled"]
    return state.list_page(live, {}, f"/v1/customers/{customer['id']}/subscriptions")
