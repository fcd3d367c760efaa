"""Customers and their payment methods: here a card is a row that says whether it works.

A card comes from Checkout, from the portal, from Stripe's test tokens (`pm_card_visa`, `pm_card_chargeCustomerFail`)
or from `POST /_customers/{id}/card`. As at Stripe, a card that Checkout collected for a subscription is the
subscription's default and not the customer's.
"""

from typing import Any

from stripe import params as kinds

from infra.local.stripe.endpoints import LISTING, endpoint
from infra.local.stripe.errors import Json, Refused
from infra.local.stripe.world import World, includable, listing

FIELDS = "address description email metadata name phone preferred_locales shipping"
TOKENS = {"pm_card_visa": True, "pm_card_mastercard": True, "pm_card_chargeCustomerFail": False}


def make_customer(world: World, params: Json) -> Json:
    customer_id = world.new_id("cus")
    return {
        "id": customer_id,
        "object": "customer",
        "address": params.get("address") or None,
        "balance": params.get("balance", 0),
        "created": world.now,
        "currency": None,
        "default_source": None,
        "delinquent": False,
        "description": params.get("description"),
        "email": params.get("email"),
        "invoice_prefix": f"F{customer_id[-7:]}".upper(),
        "invoice_settings": {
            "custom_fields": None,
            "default_payment_method": None,
            "footer": None,
            "rendering_options": None,
        },
        "livemode": False,
        "metadata": world.metadata({}, params.get("metadata", {})),
        "name": params.get("name"),
        "next_invoice_sequence": 1,
        "phone": params.get("phone"),
        "preferred_locales": params.get("preferred_locales", []),
        "shipping": params.get("shipping") or None,
        "tax_exempt": "none",
        "test_clock": None,
    }


@endpoint(
    "POST",
    "/v1/customers",
    kinds.CustomerCreateParams,
    f"{FIELDS} balance payment_method invoice_settings invoice_settings.default_payment_method",
)
def create_customer(world: World, params: Json) -> Json:
    customer = world.add(make_customer(world, params))
    if token := params.get("payment_method"):
        attach(world, token, customer)
    if settings := params.get("invoice_settings"):
        default = settings.get("default_payment_method")
        customer["invoice_settings"]["default_payment_method"] = method_of(world, customer, default)["id"]
    world.emit("customer.created", customer)
    return customer


@endpoint("GET", "/v1/customers/{id}", kinds.CustomerRetrieveParams)
def retrieve_customer(world: World, params: Json, id: str) -> Json:  # noqa: A002 -- the path says so
    if "_deleted" in (known := world.objects.get(id, {})) and known["object"] == "customer":
        return world.reference(id)
    return world.get("customer", id)


@endpoint(
    "POST",
    "/v1/customers/{id}",
    kinds.CustomerUpdateParams,
    f"{FIELDS} balance invoice_settings invoice_settings.default_payment_method",
)
def update_customer(world: World, params: Json, id: str) -> Json:  # noqa: A002
    customer = world.get("customer", id)
    settings = params.get("invoice_settings", {})
    method = settings.get("default_payment_method")
    card = method_of(world, customer, method)["id"] if method else None
    with world.changing(customer, "customer.updated"):
        for name in {*FIELDS.split(), "balance"} & params.keys() - {"metadata"}:
            customer[name] = None if params[name] == "" else params[name]
        if "metadata" in params:
            customer["metadata"] = world.metadata(customer["metadata"], params["metadata"])
        if "default_payment_method" in settings:
            customer["invoice_settings"]["default_payment_method"] = card
    return customer


@endpoint("DELETE", "/v1/customers/{id}", kinds.CustomerDeleteParams)
def delete_customer(world: World, params: Json, id: str) -> Json:  # noqa: A002
    from infra.local.stripe import subscriptions

    customer = world.get("customer", id)
    for subscription in list(world.of("subscription")):
        if subscription["customer"] == id and subscription["status"] not in subscriptions.ENDED:
            subscriptions.end(world, subscription, "cancellation_requested")
    world.emit("customer.deleted", customer)
    customer["_deleted"] = True
    return world.reference(id)


@endpoint("GET", "/v1/customers", kinds.CustomerListParams, f"{LISTING} email")
def list_customers(world: World, params: Json) -> Json:
    found = [one for one in world.of("customer") if params.get("email") in (None, one["email"])]
    return world.page(found, params, "/v1/customers")


@endpoint("GET", "/v1/customers/search", kinds.CustomerSearchParams, "query limit")
def search_customers(world: World, params: Json) -> Json:
    found = world.search(list(world.of("customer")), params["query"])
    page = world.page(found, {**params, "created": {}}, "/v1/customers/search")
    return {**page, "object": "search_result", "next_page": None, "has_more": False}


@includable("customer", "subscriptions")
def subscriptions_of(world: World, customer: Json) -> Json:
    found = [one for one in world.of("subscription") if one["customer"] == customer["id"]]
    live = [one for one in found if one["status"] != "canceled"]
    return world.page(live, {}, f"/v1/customers/{customer['id']}/subscriptions")


# --- payment methods -------------------------------------------------------------------------------------------------


def make_card(world: World, customer: Json, works: bool) -> Json:
    """A new card of the customer's."""
    return world.add(
        {
            "id": world.new_id("pm"),
            "object": "payment_method",
            "allow_redisplay": "limited",
            "billing_details": billing_details(customer),
            "card": {
                "brand": "visa",
                "checks": {"address_line1_check": None, "address_postal_code_check": None, "cvc_check": "pass"},
                "country": "US",
                "display_brand": "visa",
                "exp_month": 12,
                "exp_year": 2040,
                "fingerprint": "standin",
                "funding": "credit",
                "generated_from": None,
                "last4": "4242" if works else "0341",
                "networks": {"available": ["visa"], "preferred": None},
                "regulated_status": "unregulated",
                "three_d_secure_usage": {"supported": True},
                "wallet": None,
            },
            "created": world.now,
            "customer": customer["id"],
            "livemode": False,
            "metadata": {},
            "type": "card",
            "_works": works,
        }
    )


def billing_details(customer: Json) -> Json:
    named = {name: customer[name] for name in ("email", "name", "phone")}
    address = dict.fromkeys(("city", "country", "line1", "line2", "postal_code", "state"))
    return {"address": address, **named, "tax_id": None}


def attach(world: World, token: str, customer: Json) -> Json:
    """One of Stripe's test tokens, as a new card of the customer's."""
    if token not in TOKENS:
        return method_of(world, customer, token)
    card = make_card(world, customer, TOKENS[token])
    world.emit("payment_method.attached", card)
    return card


def method_of(world: World, customer: Json, method: str) -> Json:
    """The customer's payment method of that id."""
    card = world.get("payment_method", method, "payment_method")
    if card["customer"] != customer["id"]:
        raise Refused(
            f"The payment method {method} does not belong to the customer {customer['id']}.", param="payment_method"
        )
    return card


def set_card(world: World, customer: Json, works: bool | None) -> None:
    """Make every card of the customer's work, or fail, or be gone (None); a customer without one gets one."""
    cards = [one for one in world.of("payment_method") if one["customer"] == customer["id"]]
    if works is None:
        for card in cards:
            card["customer"] = None
        for holder in [customer["invoice_settings"], *subscriptions_with(world, cards)]:
            holder["default_payment_method"] = None
        return
    with world.changing(customer, "customer.updated"):
        card = cards[-1] if cards else make_card(world, customer, works)
        customer["invoice_settings"]["default_payment_method"] = card["id"]
    for card in cards:
        card["_works"] = works


def subscriptions_with(world: World, cards: list[Json]) -> list[Json]:
    ids = [card["id"] for card in cards]
    return [one for one in world.of("subscription") if one["default_payment_method"] in ids]


@endpoint("POST", "/v1/payment_methods/{id}/attach", kinds.PaymentMethodAttachParams, "customer")
def attach_method(world: World, params: Json, id: str) -> Json:  # noqa: A002
    return attach(world, id, world.get("customer", params.get("customer"), "customer"))


@endpoint("GET", "/v1/payment_methods/{id}", kinds.PaymentMethodRetrieveParams)
def retrieve_method(world: World, params: Json, id: str) -> Json:  # noqa: A002
    return world.get("payment_method", id)


@endpoint("GET", "/v1/payment_methods", kinds.PaymentMethodListParams, f"{LISTING} customer type")
def list_methods(world: World, params: Json) -> Json:
    return _cards(world, params, params.get("customer"), "/v1/payment_methods")


@endpoint("GET", "/v1/customers/{id}/payment_methods", kinds.CustomerPaymentMethodListParams, f"{LISTING} type")
def list_customers_methods(world: World, params: Json, id: str) -> Json:  # noqa: A002
    world.get("customer", id)
    return _cards(world, params, id, f"/v1/customers/{id}/payment_methods")


def _cards(world: World, params: Json, customer: Any, url: str) -> Json:
    if params.get("type", "card") != "card":
        return listing([], url)
    found = [one for one in world.of("payment_method") if one["customer"] and one["customer"] == customer]
    return world.page(found, params, url)
