"""Payment intents, charges, refunds and disputes.

Only Checkout and invoices take payments, so intents and charges are read, not created. A refund succeeds at once. A
dispute is opened and closed by `POST /_disputes`, as banks do without asking.
"""

from stripe import params as kinds

from infra.local.stripe.customers import billing_details
from infra.local.stripe.endpoints import LISTING, endpoint
from infra.local.stripe.errors import Json, Refused, missing_param
from infra.local.stripe.world import World, includable

DECLINED = "Your card was declined."
CLOSED = ("won", "lost", "warning_closed")
DAY = 86400


def make_intent(world: World, amount: int, currency: str, customer: Json | None, **more: object) -> Json:
    """A payment that has not been tried yet."""
    intent_id = world.new_id("pi")
    return world.add(
        {
            "id": intent_id,
            "object": "payment_intent",
            "amount": amount,
            "amount_capturable": 0,
            "amount_details": {"tip": {}},
            "amount_received": 0,
            "application": None,
            "application_fee_amount": None,
            "automatic_payment_methods": None,
            "canceled_at": None,
            "cancellation_reason": None,
            "capture_method": "automatic_async",
            "client_secret": f"{intent_id}_secret_standin",
            "confirmation_method": "automatic",
            "created": world.now,
            "currency": currency,
            "customer": customer and customer["id"],
            "description": None,
            "last_payment_error": None,
            "latest_charge": None,
            "livemode": False,
            "metadata": {},
            "next_action": None,
            "on_behalf_of": None,
            "payment_method": None,
            "payment_method_options": {},
            "payment_method_types": ["card"],
            "processing": None,
            "receipt_email": None,
            "review": None,
            "setup_future_usage": None,
            "shipping": None,
            "statement_descriptor": None,
            "statement_descriptor_suffix": None,
            "status": "requires_payment_method",
            "transfer_data": None,
            "transfer_group": None,
            **more,
        }
    )


def attempt(world: World, intent: Json, card: Json | None, works: bool, details: Json | None = None) -> bool:
    """Charge the card. `details` are the payer's where no customer is. Returns whether it was paid."""
    customer = world.objects.get(intent["customer"] or "")
    charge = world.add(
        {
            "id": world.new_id("ch"),
            "object": "charge",
            "amount": intent["amount"],
            "amount_captured": intent["amount"] if works else 0,
            "amount_refunded": 0,
            "application": None,
            "application_fee": None,
            "application_fee_amount": None,
            "balance_transaction": None,
            "billing_details": billing_details(customer or details or dict.fromkeys(("email", "name", "phone"))),
            "calculated_statement_descriptor": "STAND-IN",
            "captured": works,
            "created": world.now,
            "currency": intent["currency"],
            "customer": intent["customer"],
            "description": intent["description"],
            "disputed": False,
            "failure_balance_transaction": None,
            "failure_code": None if works else "card_declined",
            "failure_message": None if works else DECLINED,
            "fraud_details": {},
            "livemode": False,
            "metadata": dict(intent["metadata"]),
            "on_behalf_of": None,
            "outcome": {
                "advice_code": None if works else "try_again_later",
                "network_advice_code": None,
                "network_decline_code": None if works else "05",
                "network_status": "approved_by_network" if works else "declined_by_network",
                "reason": None if works else "generic_decline",
                "risk_level": "normal",
                "seller_message": "Payment complete." if works else "The bank did not return any further details.",
                "type": "authorized" if works else "issuer_declined",
            },
            "paid": works,
            "payment_intent": intent["id"],
            "payment_method": card and card["id"],
            "payment_method_details": {"card": _card_details(card), "type": "card"} if card else None,
            "receipt_email": intent["receipt_email"],
            "receipt_number": None,
            "receipt_url": f"{world.settings.public_url}/" if works else None,
            "refunded": False,
            "review": None,
            "shipping": None,
            "source_transfer": None,
            "statement_descriptor": None,
            "statement_descriptor_suffix": None,
            "status": "succeeded" if works else "failed",
            "transfer_data": None,
            "transfer_group": None,
        }
    )
    intent |= {"latest_charge": charge["id"], "processing": None}
    if works:
        intent |= {"status": "succeeded", "amount_received": intent["amount"], "last_payment_error": None}
        intent["payment_method"] = card and card["id"]
    else:
        intent |= {"status": "requires_payment_method", "last_payment_error": declined(charge), "payment_method": None}
    world.emit("charge.succeeded" if works else "charge.failed", charge)
    world.emit("payment_intent.succeeded" if works else "payment_intent.payment_failed", intent)
    return works


def declined(charge: Json) -> Json:
    """The error that a declined charge leaves, in a payment intent and in a 402."""
    return {
        "advice_code": "try_again_later",
        "charge": charge["id"],
        "code": "card_declined",
        "decline_code": "generic_decline",
        "message": DECLINED,
        "type": "card_error",
    }


def cancel_intent(world: World, intent: Json, reason: str) -> None:
    with world.changing(intent, "payment_intent.canceled"):
        intent |= {"status": "canceled", "canceled_at": world.now, "cancellation_reason": reason}


def _card_details(card: Json) -> Json:
    kept = ("brand", "checks", "country", "exp_month", "exp_year", "fingerprint", "funding", "last4", "wallet")
    return {
        **{name: card["card"][name] for name in kept},
        "installments": None,
        "mandate": None,
        "network": "visa",
        "three_d_secure": None,
    }


@endpoint("GET", "/v1/payment_intents/{id}", kinds.PaymentIntentRetrieveParams)
def retrieve_intent(world: World, params: Json, id: str) -> Json:  # noqa: A002 -- the path says so
    return world.get("payment_intent", id)


@endpoint("GET", "/v1/payment_intents", kinds.PaymentIntentListParams, f"{LISTING} customer")
def list_intents(world: World, params: Json) -> Json:
    found = [one for one in world.of("payment_intent") if params.get("customer") in (None, one["customer"])]
    return world.page(found, params, "/v1/payment_intents")


@endpoint("GET", "/v1/charges/{id}", kinds.ChargeRetrieveParams)
def retrieve_charge(world: World, params: Json, id: str) -> Json:  # noqa: A002
    return world.get("charge", id)


@endpoint("GET", "/v1/charges", kinds.ChargeListParams, f"{LISTING} customer payment_intent")
def list_charges(world: World, params: Json) -> Json:
    found = [
        one
        for one in world.of("charge")
        if all(params.get(name) in (None, one[name]) for name in ("customer", "payment_intent"))
    ]
    return world.page(found, params, "/v1/charges")


@includable("charge", "refunds")
def refunds_of(world: World, charge: Json) -> Json:
    found = [one for one in world.of("refund") if one["charge"] == charge["id"]]
    return world.page(found, {}, f"/v1/charges/{charge['id']}/refunds")


# --- refunds ---------------------------------------------------------------------------------------------------------


@endpoint("POST", "/v1/refunds", kinds.RefundCreateParams, "amount charge metadata payment_intent reason")
def create_refund(world: World, params: Json) -> Json:
    if "charge" not in params and "payment_intent" not in params:
        raise missing_param(
            "payment_intent", "One of the following params should be provided: payment_intent or charge."
        )
    if "charge" in params:
        charge = world.get("charge", params["charge"], "charge")
    else:
        intent = world.get("payment_intent", params["payment_intent"], "payment_intent")
        if intent["status"] != "succeeded":
            raise Refused(
                f"This PaymentIntent ({intent['id']}) does not have a successful charge to refund.",
                code="payment_intent_unexpected_state",
            )
        charge = world.get("charge", intent["latest_charge"])
    if charge["status"] != "succeeded":
        raise Refused(f"Charge {charge['id']} has not succeeded.", code="charge_not_refundable")
    if charge["disputed"] and any(
        one["charge"] == charge["id"] and one["status"] != "won" for one in world.of("dispute")
    ):
        raise Refused(f"Charge {charge['id']} has been charged back; cannot issue a refund.", code="charge_disputed")
    left = charge["amount"] - charge["amount_refunded"]
    if left == 0:
        raise Refused(f"Charge {charge['id']} has already been refunded.", code="charge_already_refunded")
    amount = params.get("amount", left)
    if amount < 1:
        raise Refused("Invalid positive integer", code="parameter_invalid_integer", param="amount")
    if amount > left:
        raise Refused(
            f"Refund amount (${amount / 100:.2f}) is greater than unrefunded amount on charge (${left / 100:.2f})",
            param="amount",
        )
    refund = world.add(
        {
            "id": world.new_id("re"),
            "object": "refund",
            "amount": amount,
            "balance_transaction": None,
            "charge": charge["id"],
            "created": world.now,
            "currency": charge["currency"],
            "destination_details": {
                "card": {
                    "reference_status": "pending",
                    "reference_type": "acquirer_reference_number",
                    "type": "refund",
                },
                "type": "card",
            },
            "metadata": world.metadata({}, params.get("metadata", {})),
            "payment_intent": charge["payment_intent"],
            "reason": params.get("reason"),
            "receipt_number": None,
            "source_transfer_reversal": None,
            "status": "succeeded",
            "transfer_reversal": None,
        }
    )
    world.emit("refund.created", refund)
    with world.changing(charge, "charge.refunded"):
        charge["amount_refunded"] += amount
        charge["refunded"] = charge["amount_refunded"] == charge["amount"]
    return refund


@endpoint("GET", "/v1/refunds/{id}", kinds.RefundRetrieveParams)
def retrieve_refund(world: World, params: Json, id: str) -> Json:  # noqa: A002
    return world.get("refund", id)


@endpoint("GET", "/v1/refunds", kinds.RefundListParams, f"{LISTING} charge payment_intent")
def list_refunds(world: World, params: Json) -> Json:
    found = [
        one
        for one in world.of("refund")
        if all(params.get(name) in (None, one[name]) for name in ("charge", "payment_intent"))
    ]
    return world.page(found, params, "/v1/refunds")


# --- disputes --------------------------------------------------------------------------------------------------------


def dispute(world: World, charge_id: str, status: str) -> Json:
    """Open a dispute of the charge, or end the one it has. `charge_id` may be a payment intent's."""
    known = world.objects.get(charge_id, {})
    charge = world.get("charge", known["latest_charge"] if known.get("object") == "payment_intent" else charge_id)
    if charge["status"] != "succeeded":
        raise Refused("Only a charge that succeeded can be disputed.")
    found = next((one for one in world.of("dispute") if one["charge"] == charge["id"]), None)
    if found and found["status"] in CLOSED:
        raise Refused(f"The dispute {found['id']} is closed already: {found['status']}.")
    opening = status if status not in CLOSED else "needs_response"
    if found is None:
        found = _open_dispute(world, charge, opening)
    if found["status"] != status:
        before = {"status": found["status"]}
        found["status"] = status
        if status in CLOSED:
            world.emit("charge.dispute.closed", found, before)
        else:
            world.emit("charge.dispute.updated", found, before)
        if status == "won":
            world.emit("charge.dispute.funds_reinstated", found)
    return found


def _open_dispute(world: World, charge: Json, status: str) -> Json:
    evidence = (
        "access_activity_log billing_address cancellation_policy cancellation_policy_disclosure cancellation_rebuttal "
        "customer_communication customer_email_address customer_name customer_purchase_ip customer_signature "
        "duplicate_charge_documentation duplicate_charge_explanation duplicate_charge_id product_description receipt "
        "refund_policy refund_policy_disclosure refund_refusal_explanation service_date service_documentation "
        "shipping_address shipping_carrier shipping_date shipping_documentation shipping_tracking_number "
        "uncategorized_file uncategorized_text"
    )
    found = world.add(
        {
            "id": world.new_id("dp"),
            "object": "dispute",
            "amount": charge["amount"] - charge["amount_refunded"],
            "balance_transactions": [],
            "charge": charge["id"],
            "created": world.now,
            "currency": charge["currency"],
            "enhanced_eligibility_types": [],
            "evidence": {**dict.fromkeys(evidence.split()), "enhanced_evidence": {}},
            "evidence_details": {
                "due_by": world.now + 9 * DAY,
                "enhanced_eligibility": {},
                "has_evidence": False,
                "past_due": False,
                "submission_count": 0,
            },
            "is_charge_refundable": status.startswith("warning"),
            "livemode": False,
            "metadata": {},
            "payment_intent": charge["payment_intent"],
            "payment_method_details": {
                "card": {"brand": "visa", "case_type": "chargeback", "network_reason_code": "10.4"},
                "type": "card",
            },
            "reason": "fraudulent",
            "status": status,
        }
    )
    with world.changing(charge, "charge.updated"):
        charge["disputed"] = True
    world.emit("charge.dispute.created", found)
    if not status.startswith("warning"):
        world.emit("charge.dispute.funds_withdrawn", found)
    return found


@endpoint("GET", "/v1/disputes/{id}", kinds.DisputeRetrieveParams)
def retrieve_dispute(world: World, params: Json, id: str) -> Json:  # noqa: A002
    return world.get("dispute", id)


@endpoint("GET", "/v1/disputes", kinds.DisputeListParams, f"{LISTING} charge payment_intent")
def list_disputes(world: World, params: Json) -> Json:
    found = [
        one
        for one in world.of("dispute")
        if all(params.get(name) in (None, one[name]) for name in ("charge", "payment_intent"))
    ]
    return world.page(found, params, "/v1/disputes")
