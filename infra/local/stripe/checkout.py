"""Checkout sessions: what a customer is asked to buy, and what each way of leaving the page does.

Open for 24 hours. Paying makes the subscription (mode `subscription`) or the payment intent (mode `payment`) and
completes the session; a declined card leaves it open, as at Stripe. A delayed payment completes it `unpaid`, and the
money comes or fails to come a day later.
"""

from decimal import Decimal
from urllib.parse import urlsplit

from stripe.params import checkout as session_kinds

from infra.local.stripe import invoices, subscriptions
from infra.local.stripe.catalog import cents, make_price
from infra.local.stripe.clock import DAY
from infra.local.stripe.customers import make_card, make_customer
from infra.local.stripe.endpoints import LISTING, endpoint
from infra.local.stripe.errors import Json, Refused, missing_param, unsupported
from infra.local.stripe.payments import attempt, make_intent
from infra.local.stripe.world import World, includable, later

OPEN_FOR = DAY
SETTLES_AFTER = DAY
WAYS = ("good_card", "bad_card", "later_succeeds", "later_fails")


@endpoint(
    "POST",
    "/v1/checkout/sessions",
    session_kinds.SessionCreateParams,
    "allow_promotion_codes automatic_tax automatic_tax.enabled billing_address_collection cancel_url "
    "client_reference_id currency customer customer_creation customer_email customer_update expires_at "
    "invoice_creation invoice_creation.enabled integration_identifier line_items line_items.price "
    "line_items.price_data line_items.quantity line_items.metadata locale metadata mode origin_context "
    "payment_intent_data payment_intent_data.description payment_intent_data.metadata "
    "payment_intent_data.receipt_email payment_intent_data.setup_future_usage payment_method_collection "
    "saved_payment_method_options submit_type subscription_data subscription_data.description "
    "subscription_data.metadata success_url ui_mode",
)
def create_session(world: World, params: Json) -> Json:
    mode = params.get("mode")
    if mode is None:
        raise missing_param("mode")
    if mode == "setup" or params.get("ui_mode", "hosted_page") != "hosted_page":
        raise unsupported("only hosted pages in the modes payment and subscription", "mode")
    if "success_url" not in params:
        raise missing_param("success_url")
    for name in ("success_url", "cancel_url"):
        if name in params and urlsplit(params[name]).scheme not in ("http", "https"):
            raise Refused("Not a valid URL", code="url_invalid", param=name)
    for name in ("automatic_tax", "invoice_creation"):
        if params.get(name, {}).get("enabled"):
            raise unsupported(name, f"{name}[enabled]")
    only = {
        "payment": ("subscription_data", "payment_method_collection"),
        "subscription": ("payment_intent_data", "invoice_creation", "customer_creation", "submit_type"),
    }
    for name in only[mode]:
        if name in params:
            raise Refused(f"You can not pass `{name}` in `{mode}` mode.", param=name)
    if "customer" in params and "customer_email" in params:
        raise Refused("You may only specify one of these parameters: customer, customer_email.", param="customer")
    customer = world.get("customer", params["customer"], "customer") if "customer" in params else None
    expires_at = params.get("expires_at", world.now + OPEN_FOR)
    if not world.now + 1800 <= expires_at <= world.now + OPEN_FOR:
        raise Refused(
            "The `expires_at` timestamp must be between 30 minutes and 24 hours from now.", param="expires_at"
        )
    lines = _lines(world, params, mode)
    total = sum(line["amount_total"] for line in lines)
    session_id = world.new_id("cs_test")
    collects = params.get("payment_method_collection", "always") == "always"
    session = world.add(
        {
            "id": session_id,
            "object": "checkout.session",
            "adaptive_pricing": {"enabled": False},
            "after_expiration": None,
            "allow_promotion_codes": params.get("allow_promotion_codes"),
            "amount_subtotal": total,
            "amount_total": total,
            "automatic_tax": {"enabled": False, "liability": None, "provider": None, "status": None},
            "billing_address_collection": params.get("billing_address_collection"),
            "cancel_url": params.get("cancel_url"),
            "client_reference_id": params.get("client_reference_id"),
            "client_secret": None,
            "collected_information": {"business_name": None, "individual_name": None, "shipping_details": None},
            "consent": None,
            "consent_collection": None,
            "created": world.now,
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
            "metadata": world.metadata({}, params.get("metadata", {})),
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
            "url": f"{world.settings.public_url}/c/pay/{session_id}",
            "wallet_options": None,
            "_collects": collects or total > 0,
            "_intent_data": params.get("payment_intent_data", {}),
            "_lines": lines,
            "_subscription_data": params.get("subscription_data", {}),
        }
    )
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
    world.clock.due(expires_at, "expire_session", session_id)
    return session


def _lines(world: World, params: Json, mode: str) -> list[Json]:
    """The line items, each with what it costs."""
    if not params.get("line_items"):
        raise missing_param("line_items")
    lines = []
    for at, given in enumerate(params["line_items"]):
        if "price_data" in given:
            price = make_price(world, given["price_data"], inline=True)
        else:
            price = world.get("price", given.get("price"), f"line_items[{at}][price]")
            if not price["active"]:
                raise Refused(f"The price specified is inactive: {price['id']}.", param=f"line_items[{at}][price]")
        if mode == "payment" and price["type"] == "recurring":
            raise Refused(
                "You specified `payment` mode but passed a recurring price. Either switch to `subscription` mode or "
                "use only one-time prices.",
                param="mode",
            )
        if "quantity" not in given:
            raise missing_param(f"line_items[{at}][quantity]")
        if given["quantity"] < 1:
            raise Refused(
                "Invalid positive integer", code="parameter_invalid_integer", param=f"line_items[{at}][quantity]"
            )
        amount = cents(Decimal(price["unit_amount_decimal"]) * given["quantity"])
        lines.append(
            {
                "id": world.new_id("li"),
                "object": "item",
                "adjustable_quantity": None,
                "amount_discount": 0,
                "amount_subtotal": amount,
                "amount_tax": 0,
                "amount_total": amount,
                "currency": price["currency"],
                "description": world.objects[price["product"]]["name"],
                "metadata": given.get("metadata", {}),
                "price": price,
                "quantity": given["quantity"],
            }
        )
    recurring = [line for line in lines if line["price"]["recurring"]]
    if mode == "subscription" and not recurring:
        raise Refused(
            "You must provide at least one recurring price in `subscription` mode when using prices.", param="mode"
        )
    if mode == "subscription" and len(recurring) != len(lines):
        raise unsupported("one-time prices beside a subscription", "line_items")
    if len({line["currency"] for line in lines}) != 1:
        raise Refused("All prices of a Checkout Session must have one currency.", param="line_items")
    total = sum(line["amount_total"] for line in lines)
    if mode == "payment" and total < invoices.MINIMUM:
        raise Refused(
            f"The Checkout Session's total amount due must add up to at least $0.50 {lines[0]['currency']}",
            code="amount_too_small",
        )
    return lines


def _details(customer: Json | None, email: str | None) -> Json | None:
    """Whom the page knows so far."""
    if customer is None and email is None:
        return None
    known = customer or {"address": None, "email": email, "name": None, "phone": None}
    copied = {name: known[name] for name in ("address", "email", "name", "phone")}
    return {**copied, "business_name": None, "individual_name": None, "tax_exempt": "none", "tax_ids": None}


def pay(world: World, session: Json, way: str) -> bool:
    """Submit the page in one of WAYS. Returns whether the session is complete; a declined card leaves it open."""
    assert session["status"] == "open"
    works, delayed = way in ("good_card", "later_succeeds"), way.startswith("later")
    details = session["customer_details"] or _details(None, "buyer@example.test")
    session["customer_details"] = {**(details or {}), "name": (details or {})["name"] or "Local Buyer"}
    paid = (_subscribe if session["mode"] == "subscription" else _buy)(world, session, works, delayed)
    if not paid:
        return False
    session |= {"status": "complete", "url": None}
    if session["amount_total"]:
        session["payment_status"] = "unpaid" if delayed else "paid"
    world.emit("checkout.session.completed", session)
    if delayed and session["amount_total"]:
        world.clock.due(world.now + SETTLES_AFTER, "settle_later" if works else "fail_later", session["id"])
    return True


def _customer(world: World, session: Json) -> Json:
    """The session's customer, made now where it came without one."""
    if session["customer"]:
        return world.get("customer", session["customer"], "customer")
    details = session["customer_details"]
    customer = world.add(make_customer(world, {"email": details["email"], "name": details["name"]}))
    world.emit("customer.created", customer)
    session["customer"] = customer["id"]
    return customer


def _subscribe(world: World, session: Json, works: bool, delayed: bool) -> bool:
    """Nothing but a failed payment exists before the card is good."""
    total = session["amount_total"]
    if not works and not delayed and session["_collects"]:
        if total:
            intent = make_intent(world, total, session["currency"], world.objects.get(session["customer"] or ""))
            attempt(world, intent, None, works=False, details=session["customer_details"])
        return False
    customer = _customer(world, session)
    card = None
    if session["_collects"]:
        card = make_card(world, customer, works)
        world.emit("payment_method.attached", card)
    subscription = subscriptions.start(
        world,
        customer,
        {
            **session["_subscription_data"],
            "default_payment_method": card and card["id"],
            "items": [{"price": line["price"]["id"], "quantity": line["quantity"]} for line in session["_lines"]],
        },
        card,
        processing=delayed,
    )
    session |= {"subscription": subscription["id"], "invoice": subscription["latest_invoice"]}
    return True


def _buy(world: World, session: Json, works: bool, delayed: bool) -> bool:
    data = session["_intent_data"]
    keeps = bool(data.get("setup_future_usage")) or session["customer_creation"] == "always"
    customer = _customer(world, session) if keeps or session["customer"] else None
    if session["payment_intent"] is None:
        more = {name: data[name] for name in ("description", "receipt_email", "setup_future_usage") if name in data}
        metadata = world.metadata({}, data.get("metadata", {}))
        intent = make_intent(world, session["amount_total"], session["currency"], customer, metadata=metadata, **more)
        world.emit("payment_intent.created", intent)
        session["payment_intent"] = intent["id"]
    intent = world.objects[session["payment_intent"]]
    card = None
    if customer and data.get("setup_future_usage") and works:
        card = make_card(world, customer, works)
        world.emit("payment_method.attached", card)
    if delayed:
        intent["status"] = "processing"
        world.emit("payment_intent.processing", intent)
        return True
    return attempt(world, intent, card, works, session["customer_details"])


@later("settle_later")
def settle_later(world: World, session_id: str) -> None:
    _settle(world, world.objects[session_id], True)


@later("fail_later")
def fail_later(world: World, session_id: str) -> None:
    _settle(world, world.objects[session_id], False)


def _settle(world: World, session: Json, works: bool) -> None:
    """The delayed payment comes, or does not."""
    if session["mode"] == "payment":
        intent = world.objects[session["payment_intent"]]
        attempt(world, intent, None, works, session["customer_details"])
    else:
        invoice = world.objects[session["invoice"]]
        if invoice["status"] != "open":
            return
        invoices.collect(world, invoice, invoices.default_card(world, invoice), automatic=True)
    if works:
        session["payment_status"] = "paid"
    world.emit(f"checkout.session.async_payment_{'succeeded' if works else 'failed'}", session)


@later("expire_session")
def expire_session(world: World, session_id: str) -> None:
    session = world.objects[session_id]
    if session["status"] == "open":
        session |= {"status": "expired", "url": None}
        world.emit("checkout.session.expired", session)


@endpoint("POST", "/v1/checkout/sessions/{id}/expire", session_kinds.SessionExpireParams)
def expire(world: World, params: Json, id: str) -> Json:  # noqa: A002 -- the path says so
    session = world.get("checkout.session", id)
    if session["status"] != "open":
        raise Refused(
            'Only Checkout Sessions with a status in ["open"] can be expired. This Checkout Session has a status of '
            f"{session['status']}."
        )
    expire_session(world, id)
    return session


@endpoint("GET", "/v1/checkout/sessions/{id}", session_kinds.SessionRetrieveParams)
def retrieve_session(world: World, params: Json, id: str) -> Json:  # noqa: A002
    return world.get("checkout.session", id)


@endpoint(
    "GET",
    "/v1/checkout/sessions",
    session_kinds.SessionListParams,
    f"{LISTING} customer payment_intent status subscription",
)
def list_sessions(world: World, params: Json) -> Json:
    names = ("customer", "payment_intent", "status", "subscription")
    found = [
        one for one in world.of("checkout.session") if all(params.get(name) in (None, one[name]) for name in names)
    ]
    return world.page(found, params, "/v1/checkout/sessions")


@includable("checkout.session", "line_items")
def line_items_of(world: World, session: Json) -> Json:
    return list_line_items(world, {}, session["id"])


@endpoint(
    "GET",
    "/v1/checkout/sessions/{id}/line_items",
    session_kinds.SessionLineItemListParams,
    "limit starting_after ending_before",
)
def list_line_items(world: World, params: Json, id: str) -> Json:  # noqa: A002
    lines = world.get("checkout.session", id)["_lines"]
    return world.page(lines[::-1], params, f"/v1/checkout/sessions/{id}/line_items")
