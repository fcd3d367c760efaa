"""Payment methods. Every one is a card. Private fields record whether charging it succeeds, and whether its bank asks
the customer first (3-D Secure).

A card is made by Checkout, by the portal, by Stripe's test tokens (`pm_card_visa`, `pm_card_chargeCustomerFail`) or by
`POST /_customers/{id}/card`. As at Stripe, a card that Checkout collected for a subscription becomes the default of the
subscription, not of the customer.
"""

from typing import Any

from stripe import params as param_types

from infra.local.stripe.endpoints import LIST_PARAMS, endpoint
from infra.local.stripe.errors import ApiError, Json
from infra.local.stripe.state import State, list_object

ASKING_CARD = "pm_card_authenticationRequired"
TOKENS = {"pm_card_visa": True, "pm_card_mastercard": True, "pm_card_chargeCustomerFail": False, ASKING_CARD: True}
"""Stripe's test tokens, and whether such a card works."""


def make_card(state: State, customer: Json, works: bool, asks: bool = False) -> Json:
    """A new card of the customer. `asks`: its bank wants each payment confirmed by the customer (3-D Secure)."""
    return state.add(
        {
            "id": state.new_id("pm"),
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
            "created": state.now,
            "customer": customer["id"],
            "livemode": False,
            "metadata": {},
            "type": "card",
            "_works": works,
            "_asks": asks,
        }
    )


def billing_details(customer: Json) -> Json:
    contact = {name: customer[name] for name in ("email", "name", "phone")}
    address = dict.fromkeys(("city", "country", "line1", "line2", "postal_code", "state"))
    return {"address": address, **contact, "tax_id": None}


def attach_card(state: State, token: str, customer: Json) -> Json:
    """A test token becomes a new card of the customer; the id of a card they have returns that card."""
    if token not in TOKENS:
        return get_card(state, customer, token)
    card = make_card(state, customer, TOKENS[token], asks=token == ASKING_CARD)
    state.emit("payment_method.attached", card)
    return card


def get_card(state: State, customer: Json, card_id: str) -> Json:
    """The card. Raises ApiError if it belongs to another customer."""
    card = state.get("payment_method", card_id, "payment_method")
    if card["customer"] != customer["id"]:
        raise ApiError(
            f"The payment method {card_id} does not belong to the customer {customer['id']}.", param="payment_method"
        )
    return card


def set_card(state: State, customer: Json, works: bool | None, asks: bool = False) -> None:
    """Make every card of the customer work, ask for 3-D Secure, or fail; None detaches them. A customer without a card
    gets one."""
    cards = [card for card in state.objects_of("payment_method") if card["customer"] == customer["id"]]
    if works is None:
        for card in cards:
            card["customer"] = None
        customer["invoice_settings"]["default_payment_method"] = None
        ids = [card["id"] for card in cards]
        for subscription in state.objects_of("subscription"):
            if subscription["default_payment_method"] in ids:
                subscription["default_payment_method"] = None
        return
    with state.updating(customer, "customer.updated"):
        card = cards[-1] if cards else make_card(state, customer, works, asks)
        customer["invoice_settings"]["default_payment_method"] = card["id"]
    for card in cards:
        card |= {"_works": works, "_asks": asks}


@endpoint("POST", "/v1/payment_methods/{id}/attach", param_types.PaymentMethodAttachParams, "customer")
def attach_payment_method(state: State, params: Json, id: str) -> Json:  # noqa: A002 -- named in the path
    return attach_card(state, id, state.get("customer", params.get("customer"), "customer"))


@endpoint("GET", "/v1/payment_methods/{id}", param_types.PaymentMethodRetrieveParams)
def retrieve_payment_method(state: State, params: Json, id: str) -> Json:  # noqa: A002
    return state.get("payment_method", id)


@endpoint("GET", "/v1/payment_methods", param_types.PaymentMethodListParams, f"{LIST_PARAMS} customer type")
def list_payment_methods(state: State, params: Json) -> Json:
    return _list_cards(state, params, params.get("customer"), "/v1/payment_methods")


@endpoint(
    "GET", "/v1/customers/{id}/payment_methods", param_types.CustomerPaymentMethodListParams, f"{LIST_PARAMS} type"
)
def list_customer_payment_methods(state: State, params: Json, id: str) -> Json:  # noqa: A002
    state.get("customer", id)
    return _list_cards(state, params, id, f"/v1/customers/{id}/payment_methods")


def _list_cards(state: State, params: Json, customer: Any, url: str) -> Json:
    if params.get("type", "card") != "card":
        return list_object([], url)
    found = [card for card in state.objects_of("payment_method") if card["customer"] and card["customer"] == customer]
    return state.list_page(found, params, url)
