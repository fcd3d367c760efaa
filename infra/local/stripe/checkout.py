"""Checkout sessions: the offer to a customer, and the effect of each button of the page.

A session is open for 24 hours. Paying makes the subscription (mode `subscription`) or the payment intent (mode
`payment`) and completes the session; as at Stripe, a declined card leaves it open. A delayed payment completes it as
`unpaid`; the payment succeeds or fails a day later.
"""

from decimal import Decimal
from urllib.parse import urlsplit

from stripe.params import checkout as param_types

from infra.local.stripe import subscription_lifecycle
from infra.local.stripe.catalog import cents, make_price
from infra.local.stripe.clock import DAY
from infra.local.stripe.customers import make_customer
from infra.local.stripe.discounts import coupon_of, entry_of_code, redeem, reductions
from infra.local.stripe.endpoints import LIST_PARAMS, endpoint
from infra.local.stripe.errors import ApiError, Json, missing_param, unsupported
from infra.local.stripe.invoice_lifecycle import MINIMUM, collect, default_card
from infra.local.stripe.payment_methods import make_card
from infra.local.stripe.payments import charge_card, make_intent
from infra.local.stripe.state import State, expandable, scheduled_action
from infra.local.stripe.taxes import (
    automatic_tax,
    check_behavior,
    is_located,
    location_missing,
    tax_status,
    taxes_on,
)

OPEN_FOR = DAY
SETTLES_AFTER = DAY
BUYER = "buyer@example.test"
CHOICES = ("good_card", "confirmed_card", "bad_card", "later_succeeds", "later_fails")
OTHER_MODE_PARAMS = {
    "payment": ("subscription_data", "payment_method_collection"),
    "subscription": ("payment_intent_data", "invoice_creation", "customer_creation", "submit_type"),
}
"""The parameters that a mode does not allow."""


@endpoint(
    "POST",
    "/v1/checkout/sessions",
    param_types.SessionCreateParams,
    "adaptive_pricing adaptive_pricing.enabled allow_promotion_codes automatic_tax automatic_tax.enabled "
    "billing_address_collection cancel_url client_reference_id currency customer customer_creation customer_email "
    "customer_update discounts discounts.coupon discounts.promotion_code expires_at "
    "invoice_creation invoice_creation.enabled integration_identifier line_items line_items.price "
    "line_items.price_data line_items.quantity line_items.metadata locale metadata mode origin_context "
    "payment_intent_data payment_intent_data.description payment_intent_data.metadata "
    "payment_intent_data.receipt_email payment_intent_data.setup_future_usage payment_method_collection "
    "saved_payment_method_options submit_type subscription_data subscription_data.description "
    "subscription_data.metadata success_url ui_mode",
)
def create_session(state: State, params: Json) -> Json:
    _check_session_params(params)
    mode = params["mode"]
    customer = state.get("customer", params["customer"], "customer") if "customer" in params else None
    expires_at = params.get("expires_at", state.now + OPEN_FOR)
    if not state.now + 1800 <= expires_at <= state.now + OPEN_FOR:
        raise ApiError(
            "The `expires_at` timestamp must be between 30 minutes and 24 hours from now.", param="expires_at"
        )
    lines = [_make_line(state, mode, entry, index) for index, entry in enumerate(_line_items(params))]
    _check_lines(mode, lines)
    if customer and mode == "subscription":
        subscription_lifecycle.check_currency(state, customer, lines[0]["currency"])
    total = sum(line["amount_total"] for line in lines)
    session_id = state.new_id("cs_test")
    collects = params.get("payment_method_collection", "always") == "always"
    session = state.add(
        {
            "id": session_id,
            "object": "checkout.session",
            # The default is the account's setting. Here it is on, as it may be at Stripe.
            "adaptive_pricing": {"enabled": params.get("adaptive_pricing", {}).get("enabled", True)},
            "after_expiration": None,
            "allow_promotion_codes": params.get("allow_promotion_codes"),
            "amount_subtotal": total,
            "amount_total": total,
            "automatic_tax": _automatic_tax(params, customer, lines),
            "billing_address_collection": params.get("billing_address_collection"),
            "cancel_url": params.get("cancel_url"),
            "client_reference_id": params.get("client_reference_id"),
            "client_secret": None,
            "collected_information": {"business_name": None, "individual_name": None, "shipping_details": None},
            "consent": None,
            "consent_collection": None,
            "created": state.now,
            "currency": lines[0]["currency"],
            "currency_conversion": None,
            "custom_fields": [],
            "custom_text": dict.fromkeys(("after_submit", "shipping_address", "submit", "terms_of_service_acceptance")),
            "customer": customer and customer["id"],
            "customer_creation": None
            if customer
            else params.get("customer_creation", "always" if mode == "subscription" else "if_required"),
            "customer_details": _details(customer, params.get("customer_email")),
            "customer_email": params.get("customer_email"),
            "discounts": [],
            "expires_at": expires_at,
            "integration_identifier": params.get("integration_identifier"),
            "invoice": None,
            "invoice_creation": None,
            "livemode": False,
            "locale": params.get("locale"),
            "metadata": state.merge_metadata({}, params.get("metadata", {})),
            "mode": mode,
            "origin_context": params.get("origin_context"),
            "payment_intent": None,
            "payment_link": None,
            "payment_method_collection": ("always" if collects else "if_required")
            if mode == "subscription"
            else "if_required",
            "payment_method_configuration_details": None,
            "payment_method_options": {},
            "payment_method_types": ["card"],
            "payment_status": "unpaid" if total or mode == "payment" else "no_payment_required",
            "permissions": None,
            "phone_number_collection": {"enabled": False},
            "recovered_from": None,
            "saved_payment_method_options": None,
            "setup_intent": None,
            "shipping_address_collection": None,
            "shipping_cost": None,
            "shipping_options": [],
            "status": "open",
            "submit_type": params.get("submit_type"),
            "subscription": None,
            "success_url": params["success_url"],
            "total_details": {"amount_discount": 0, "amount_shipping": 0, "amount_tax": 0},
            "ui_mode": "hosted_page",
            "url": f"{state.settings.public_url}/c/pay/{session_id}",
            "wallet_options": None,
            "_collects": collects or total > 0,
            "_discount": None,
            "_intent_data": params.get("payment_intent_data", {}),
            "_lines": lines,
            "_saves_address": params.get("customer_update", {}).get("address") == "auto",
            "_subscription_data": params.get("subscription_data", {}),
        }
    )
    if customer and is_located(customer["address"]):
        _set_taxes(session, customer["address"])
    if mode == "payment":
        data: Json = {
            "account_tax_ids": None,
            "custom_fields": None,
            "description": None,
            "footer": None,
            "issuer": None,
            "metadata": {},
            "rendering_options": None,
        }
        session["invoice_creation"] = {"enabled": False, "invoice_data": data}
    if params.get("discounts"):
        set_discount(state, session, params["discounts"][0])
    state.clock.schedule(expires_at, "expire_session", session_id)
    return session


def set_discount(state: State, session: Json, entry: Json) -> None:
    """Lower the open session by a coupon or a promotion code. Raises ApiError if it cannot be redeemed."""
    coupon = coupon_of(state, entry, session["customer"])
    lines = session["_lines"]
    limited = coupon["_products"]
    eligible = [
        line["amount_subtotal"] if limited is None or line["price"]["product"] in limited else 0 for line in lines
    ]
    total = session["amount_subtotal"] - sum(reductions(coupon, eligible))
    if session["mode"] == "payment" and 0 < total < MINIMUM:
        raise ApiError("The total after the discount must be nothing or at least $0.50.", code="amount_too_small")
    for line, amount in zip(lines, reductions(coupon, eligible), strict=True):
        line |= {"amount_discount": amount, "amount_total": line["amount_subtotal"] - amount}
    session["amount_total"] = total
    session["discounts"] = [{"coupon": entry.get("coupon"), "promotion_code": entry.get("promotion_code")}]
    session["total_details"]["amount_discount"] = session["amount_subtotal"] - total
    session["_discount"] = entry
    session["payment_status"] = "unpaid" if total else "no_payment_required"
    if session["mode"] == "payment":
        session["_collects"] = total > 0


def _check_session_params(params: Json) -> None:
    """Raises ApiError for parameters that Stripe would refuse in this mode, or that the stand-in does not support."""
    mode = params.get("mode")
    if mode is None:
        raise missing_param("mode")
    if mode == "setup" or params.get("ui_mode", "hosted_page") != "hosted_page":
        raise unsupported("only hosted pages in the modes payment and subscription", "mode")
    if "success_url" not in params:
        raise missing_param("success_url")
    for name in ("success_url", "cancel_url"):
        if name in params and urlsplit(params[name]).scheme not in ("http", "https"):
            raise ApiError("Not a valid URL", code="url_invalid", param=name)
    if params.get("invoice_creation", {}).get("enabled"):
        raise unsupported("invoice_creation", "invoice_creation[enabled]")
    for name in OTHER_MODE_PARAMS[mode]:
        if name in params:
            raise ApiError(f"You can not pass `{name}` in `{mode}` mode.", param=name)
    if "customer_update" in params and "customer" not in params:
        raise ApiError("`customer_update` can only be used with `customer`.", param="customer_update")
    if params.get("allow_promotion_codes") and params.get("discounts"):
        raise ApiError("You may only specify one of these parameters: allow_promotion_codes, discounts.")
    if "customer" in params and "customer_email" in params:
        raise ApiError("You may only specify one of these parameters: customer, customer_email.", param="customer")


def _automatic_tax(params: Json, customer: Json | None, lines: list[Json]) -> Json:
    """Raises ApiError for a customer whose address does not tell the tax, unless the page saves one."""
    fields = automatic_tax(params)
    if fields["enabled"]:
        for line in lines:
            check_behavior(line["price"])
        saves = params.get("customer_update", {}).get("address") == "auto"
        if customer and not saves and not is_located(customer["address"]):
            raise location_missing(
                "Automatic tax calculation in Checkout requires a valid address on the Customer. Add a valid address "
                "to the Customer or set either `customer_update[address]` to 'auto' or `customer_update[shipping]` to "
                "'auto' to save the address entered in Checkout to the Customer."
            )
    del fields["disabled_reason"]
    return {**fields, **tax_status(fields["enabled"], customer and customer["address"])}


def _set_taxes(session: Json, address: Json) -> None:
    """The taxes of the lines and the totals with them, if the session computes tax."""
    if not session["automatic_tax"]["enabled"]:
        return
    for line in session["_lines"]:
        net = line["amount_subtotal"] - line["amount_discount"]
        line["amount_tax"] = sum(tax["amount"] for tax in taxes_on(address, net))
        line["amount_total"] = net + line["amount_tax"]
    session["automatic_tax"] |= tax_status(True, address)
    session["total_details"]["amount_tax"] = sum(line["amount_tax"] for line in session["_lines"])
    session["amount_total"] = sum(line["amount_total"] for line in session["_lines"])


def _line_items(params: Json) -> list[Json]:
    if not params.get("line_items"):
        raise missing_param("line_items")
    entries: list[Json] = params["line_items"]
    return entries


def _make_line(state: State, mode: str, entry: Json, index: int) -> Json:
    """A line item with its amounts. Raises ApiError for a price or a quantity that Stripe would refuse."""
    if "price_data" in entry:
        price = make_price(state, entry["price_data"], inline=True)
    else:
        price = state.get("price", entry.get("price"), f"line_items[{index}][price]")
        if not price["active"]:
            raise ApiError(f"The price specified is inactive: {price['id']}.", param=f"line_items[{index}][price]")
    if mode == "payment" and price["type"] == "recurring":
        raise ApiError(
            "You specified `payment` mode but passed a recurring price. Either switch to `subscription` mode or "
            "use only one-time prices.",
            param="mode",
        )
    if "quantity" not in entry:
        raise missing_param(f"line_items[{index}][quantity]")
    if entry["quantity"] < 1:
        raise ApiError(
            "Invalid positive integer", code="parameter_invalid_integer", param=f"line_items[{index}][quantity]"
        )
    amount = cents(Decimal(price["unit_amount_decimal"]) * entry["quantity"])
    return {
        "id": state.new_id("li"),
        "object": "item",
        "adjustable_quantity": None,
        "amount_discount": 0,
        "amount_subtotal": amount,
        "amount_tax": 0,
        "amount_total": amount,
        "currency": price["currency"],
        "description": state.objects[price["product"]]["name"],
        "metadata": entry.get("metadata", {}),
        "price": price,
        "quantity": entry["quantity"],
    }


def _check_lines(mode: str, lines: list[Json]) -> None:
    """Raises ApiError for lines that cannot be bought together in this mode."""
    recurring = [line for line in lines if line["price"]["recurring"]]
    if mode == "subscription" and not recurring:
        raise ApiError(
            "You must provide at least one recurring price in `subscription` mode when using prices.", param="mode"
        )
    if mode == "subscription" and len(recurring) != len(lines):
        raise unsupported("one-time prices beside a subscription", "line_items")
    if len({line["currency"] for line in lines}) != 1:
        raise ApiError("All prices of a Checkout Session must have one currency.", param="line_items")
    total = sum(line["amount_total"] for line in lines)
    if mode == "payment" and total < MINIMUM:
        raise ApiError(
            f"The Checkout Session's total amount due must add up to at least $0.50 {lines[0]['currency']}",
            code="amount_too_small",
        )


def _details(customer: Json | None, email: str | None) -> Json | None:
    """The `customer_details` of a session."""
    if customer is None and email is None:
        return None
    source = customer or {"address": None, "email": email, "name": None, "phone": None}
    copied = {name: source[name] for name in ("address", "email", "name", "phone")}
    return {**copied, "business_name": None, "individual_name": None, "tax_exempt": "none", "tax_ids": None}


def pay(state: State, session: Json, choice: str, province: str | None = None, code: str = "") -> bool:
    """Submit the page with one of CHOICES and a promotion code. `province` is that of the address on the page; by
    default the customer's, otherwise Ontario. Returns whether the session is complete; a declined card leaves it open.
    Raises ApiError for a code that is not valid."""
    assert session["status"] == "open"
    if code and not session["allow_promotion_codes"]:
        raise ApiError("This page takes no promotion codes.")
    if code:
        set_discount(state, session, entry_of_code(state, code))
    if session["automatic_tax"]["enabled"]:
        _enter_address(state, session, province)
    works, delayed = choice in ("good_card", "confirmed_card", "later_succeeds"), choice.startswith("later")
    session["_asks"] = choice == "confirmed_card"  # its bank asks on the page, and again at each renewal
    details = session["customer_details"] or _details(None, BUYER)
    session["customer_details"] = {**(details or {}), "name": (details or {})["name"] or "Local Buyer"}
    paid = (_subscribe if session["mode"] == "subscription" else _buy)(state, session, works, delayed)
    if not paid:
        return False
    session |= {"status": "complete", "url": None}
    if session["amount_total"]:
        session["payment_status"] = "unpaid" if delayed else "paid"
    state.emit("checkout.session.completed", session)
    if delayed and session["amount_total"]:
        state.clock.schedule(state.now + SETTLES_AFTER, "settle_later" if works else "fail_later", session["id"])
    return True


def _enter_address(state: State, session: Json, province: str | None) -> None:
    """The address on the page, which tells the tax. It is saved to the customer where the session asks for it."""
    customer = state.objects.get(session["customer"] or "")
    address = customer and customer["address"]
    if province is not None or not is_located(address):
        address = {"city": None, "country": "CA", "line1": None, "line2": None, "postal_code": None}
        address["state"] = province or "ON"
    assert address is not None
    session["customer_details"] = {**(session["customer_details"] or _details(None, BUYER) or {}), "address": address}
    _set_taxes(session, address)
    if customer and session["_saves_address"] and customer["address"] != address:
        with state.updating(customer, "customer.updated"):
            customer["address"] = address


def _customer(state: State, session: Json) -> Json:
    """The customer of the session; a new one if it has none."""
    if session["customer"]:
        return state.get("customer", session["customer"], "customer")
    details = session["customer_details"]
    customer = make_customer(state, {name: details[name] for name in ("address", "email", "name")})
    state.emit("customer.created", customer)
    session["customer"] = customer["id"]
    return customer


def _subscribe(state: State, session: Json, works: bool, delayed: bool) -> bool:
    """Start the subscription. Returns False for a declined card, which leaves only a failed payment."""
    total = session["amount_total"]
    if not works and not delayed and session["_collects"]:
        if total:
            intent = make_intent(state, total, session["currency"], state.objects.get(session["customer"] or ""))
            charge_card(state, intent, None, works=False, details=session["customer_details"])
        return False
    customer = _customer(state, session)
    card = None
    if session["_collects"]:
        card = make_card(state, customer, works, session["_asks"])
        state.emit("payment_method.attached", card)
    subscription = subscription_lifecycle.start(
        state,
        customer,
        {
            **session["_subscription_data"],
            "automatic_tax": {"enabled": session["automatic_tax"]["enabled"]},
            "default_payment_method": card and card["id"],
            "discounts": [session["_discount"]] if session["_discount"] else [],
            "items": [{"price": line["price"]["id"], "quantity": line["quantity"]} for line in session["_lines"]],
        },
        card,
        processing=delayed,
        is_confirmed=True,
    )
    session |= {"subscription": subscription["id"], "invoice": subscription["latest_invoice"]}
    return True


def _buy(state: State, session: Json, works: bool, delayed: bool) -> bool:
    """Make and attempt the payment. Returns False for a declined card."""
    data = session["_intent_data"]
    needs_customer = bool(data.get("setup_future_usage")) or session["customer_creation"] == "always"
    customer = _customer(state, session) if needs_customer or session["customer"] else None
    if works and session["_discount"]:
        redeem(state, [session["_discount"]], customer, checkout_session=session["id"])
    if not session["amount_total"]:  # as at Stripe, an order of nothing has no payment
        session["payment_intent"] = None
        return True
    if session["payment_intent"] is None:
        more = {name: data[name] for name in ("description", "receipt_email", "setup_future_usage") if name in data}
        metadata = state.merge_metadata({}, data.get("metadata", {}))
        intent = make_intent(state, session["amount_total"], session["currency"], customer, metadata=metadata, **more)
        state.emit("payment_intent.created", intent)
        session["payment_intent"] = intent["id"]
    intent = state.objects[session["payment_intent"]]
    intent["amount"] = session["amount_total"]  # a code may have been entered after a declined card
    card = None
    if customer and data.get("setup_future_usage") and works:
        card = make_card(state, customer, works, session["_asks"])
        state.emit("payment_method.attached", card)
    if delayed:
        intent["status"] = "processing"
        state.emit("payment_intent.processing", intent)
        return True
    return charge_card(state, intent, card, works, session["customer_details"])


@scheduled_action("settle_later")
def settle_later(state: State, session_id: str) -> None:
    _settle(state, state.objects[session_id], True)


@scheduled_action("fail_later")
def fail_later(state: State, session_id: str) -> None:
    _settle(state, state.objects[session_id], False)


def _settle(state: State, session: Json, works: bool) -> None:
    """The delayed payment succeeds or fails."""
    if session["mode"] == "payment":
        intent = state.objects[session["payment_intent"]]
        charge_card(state, intent, None, works, session["customer_details"])
    else:
        invoice = state.objects[session["invoice"]]
        if invoice["status"] != "open":
            return
        collect(state, invoice, default_card(state, invoice), automatic=True)
    if works:
        session["payment_status"] = "paid"
    state.emit(f"checkout.session.async_payment_{'succeeded' if works else 'failed'}", session)


@scheduled_action("expire_session")
def expire_session(state: State, session_id: str) -> None:
    session = state.objects[session_id]
    if session["status"] == "open":
        session |= {"status": "expired", "url": None}
        state.emit("checkout.session.expired", session)


@endpoint("POST", "/v1/checkout/sessions/{id}/expire", param_types.SessionExpireParams)
def expire(state: State, params: Json, id: str) -> Json:  # noqa: A002 -- named in the path
    session = state.get("checkout.session", id)
    if session["status"] != "open":
        raise ApiError(
            'Only Checkout Sessions with a status in ["open"] can be expired. This Checkout Session has a status of '
            f"{session['status']}."
        )
    expire_session(state, id)
    return session


@endpoint("GET", "/v1/checkout/sessions/{id}", param_types.SessionRetrieveParams)
def retrieve_session(state: State, params: Json, id: str) -> Json:  # noqa: A002
    return state.get("checkout.session", id)


@endpoint(
    "GET",
    "/v1/checkout/sessions",
    param_types.SessionListParams,
    f"{LIST_PARAMS} customer payment_intent status subscription",
)
def list_sessions(state: State, params: Json) -> Json:
    names = ("customer", "payment_intent", "status", "subscription")
    found = [
        session
        for session in state.objects_of("checkout.session")
        if all(params.get(name) in (None, session[name]) for name in names)
    ]
    return state.list_page(found, params, "/v1/checkout/sessions")


@expandable("checkout.session", "line_items")
def line_items_of(state: State, session: Json) -> Json:
    return list_line_items(state, {}, session["id"])


@endpoint(
    "GET",
    "/v1/checkout/sessions/{id}/line_items",
    param_types.SessionLineItemListParams,
    "limit starting_after ending_before",
)
def list_line_items(state: State, params: Json, id: str) -> Json:  # noqa: A002
    lines = state.get("checkout.session", id)["_lines"]
    return state.list_page(lines[::-1], params, f"/v1/checkout/sessions/{id}/line_items")
