"""Payment intents, charges, refunds and disputes.

Only Checkout and invoices take payments, so the API reads intents and charges but does not create them. A refund
succeeds at once. `POST /_disputes` opens and closes disputes, which at Stripe only banks can do.
"""

from stripe import params as param_types

from infra.local.stripe.clock import DAY
from infra.local.stripe.endpoints import LIST_PARAMS, endpoint
from infra.local.stripe.errors import DECLINED, ApiError, Json, missing_param
from infra.local.stripe.payment_methods import billing_details
from infra.local.stripe.state import State, expandable

DISPUTE_CLOSED = ("won", "lost", "warning_closed")
DISPUTE_STATUSES = ("needs_response", "under_review", "warning_needs_response", *DISPUTE_CLOSED)


def make_intent(state: State, amount: int, currency: str, customer: Json | None, **more: object) -> Json:
    """A payment that has not been attempted yet."""
    intent_id = state.new_id("pi")
    return state.add(
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
            "created": state.now,
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


def charge_card(state: State, intent: Json, card: Json | None, works: bool, details: Json | None = None) -> bool:
    """Charge the card. `details` describe a payer who is not a customer. Returns whether the charge succeeded."""
    customer = state.objects.get(intent["customer"] or "")
    charge = state.add(
        {
            "id": state.new_id("ch"),
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
            "created": state.now,
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
            "receipt_url": f"{state.settings.public_url}/" if works else None,
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
    intent |= {"latest_charge": charge["id"], "next_action": None, "processing": None}
    if works:
        intent |= {"status": "succeeded", "amount_received": intent["amount"], "last_payment_error": None}
        intent["payment_method"] = card and card["id"]
    else:
        intent |= {"status": "requires_payment_method", "last_payment_error": declined(charge), "payment_method": None}
    state.emit("charge.succeeded" if works else "charge.failed", charge)
    state.emit("payment_intent.succeeded" if works else "payment_intent.payment_failed", intent)
    return works


def ask_customer(state: State, intent: Json, card: Json) -> None:
    """The bank wants the customer to confirm the payment (3-D Secure). Nothing is charged yet."""
    intent |= {
        "status": "requires_action",
        "next_action": {"type": "use_stripe_sdk", "use_stripe_sdk": {}},
        "payment_method": card["id"],
    }
    state.emit("payment_intent.requires_action", intent)


def declined(charge: Json) -> Json:
    """The error of a declined charge, in its payment intent and in a 402 answer."""
    return {
        "advice_code": "try_again_later",
        "charge": charge["id"],
        "code": "card_declined",
        "decline_code": "generic_decline",
        "message": DECLINED,
        "type": "card_error",
    }


def cancel_intent(state: State, intent: Json, reason: str) -> None:
    with state.updating(intent, "payment_intent.canceled"):
        intent |= {
            "status": "canceled",
            "canceled_at": state.now,
            "cancellation_reason": reason,
            "next_action": None,
        }


def _card_details(card: Json) -> Json:
    copied = ("brand", "checks", "country", "exp_month", "exp_year", "fingerprint", "funding", "last4", "wallet")
    return {
        **{name: card["card"][name] for name in copied},
        "installments": None,
        "mandate": None,
        "network": "visa",
        "three_d_secure": None,
    }


@endpoint("GET", "/v1/payment_intents/{id}", param_types.PaymentIntentRetrieveParams)
def retrieve_intent(state: State, params: Json, id: str) -> Json:  # noqa: A002 -- named in the path
    return state.get("payment_intent", id)


@endpoint("GET", "/v1/payment_intents", param_types.PaymentIntentListParams, f"{LIST_PARAMS} customer")
def list_intents(state: State, params: Json) -> Json:
    found = [
        intent for intent in state.objects_of("payment_intent") if params.get("customer") in (None, intent["customer"])
    ]
    return state.list_page(found, params, "/v1/payment_intents")


@endpoint("GET", "/v1/charges/{id}", param_types.ChargeRetrieveParams)
def retrieve_charge(state: State, params: Json, id: str) -> Json:  # noqa: A002
    return state.get("charge", id)


@endpoint("GET", "/v1/charges", param_types.ChargeListParams, f"{LIST_PARAMS} customer payment_intent")
def list_charges(state: State, params: Json) -> Json:
    found = [
        charge
        for charge in state.objects_of("charge")
        if all(params.get(name) in (None, charge[name]) for name in ("customer", "payment_intent"))
    ]
    return state.list_page(found, params, "/v1/charges")


@expandable("charge", "refunds")
def refunds_of(state: State, charge: Json) -> Json:
    found = [refund for refund in state.objects_of("refund") if refund["charge"] == charge["id"]]
    return state.list_page(found, {}, f"/v1/charges/{charge['id']}/refunds")


# --- refunds ---------------------------------------------------------------------------------------------------------


@endpoint("POST", "/v1/refunds", param_types.RefundCreateParams, "amount charge metadata payment_intent reason")
def create_refund(state: State, params: Json) -> Json:
    if "charge" not in params and "payment_intent" not in params:
        raise missing_param(
            "payment_intent", "One of the following params should be provided: payment_intent or charge."
        )
    if "charge" in params:
        charge = state.get("charge", params["charge"], "charge")
    else:
        intent = state.get("payment_intent", params["payment_intent"], "payment_intent")
        if intent["status"] != "succeeded":
            raise ApiError(
                f"This PaymentIntent ({intent['id']}) does not have a successful charge to refund.",
                code="payment_intent_unexpected_state",
            )
        charge = state.get("charge", intent["latest_charge"])
    if charge["status"] != "succeeded":
        raise ApiError(f"Charge {charge['id']} has not succeeded.", code="charge_not_refundable")
    if charge["disputed"] and any(
        dispute["charge"] == charge["id"] and dispute["status"] != "won" for dispute in state.objects_of("dispute")
    ):
        raise ApiError(f"Charge {charge['id']} has been charged back; cannot issue a refund.", code="charge_disputed")
    refundable = charge["amount"] - charge["amount_refunded"]
    if refundable == 0:
        raise ApiError(f"Charge {charge['id']} has already been refunded.", code="charge_already_refunded")
    amount = params.get("amount", refundable)
    if amount < 1:
        raise ApiError("Invalid positive integer", code="parameter_invalid_integer", param="amount")
    if amount > refundable:
        raise ApiError(
            f"Refund amount (${amount / 100:.2f}) is greater than unrefunded amount on charge "
            f"(${refundable / 100:.2f})",
            param="amount",
        )
    refund = state.add(
        {
            "id": state.new_id("re"),
            "object": "refund",
            "amount": amount,
            "balance_transaction": None,
            "charge": charge["id"],
            "created": state.now,
            "currency": charge["currency"],
            "destination_details": {
                "card": {
                    "reference_status": "pending",
                    "reference_type": "acquirer_reference_number",
                    "type": "refund",
                },
                "type": "card",
            },
            "metadata": state.merge_metadata({}, params.get("metadata", {})),
            "payment_intent": charge["payment_intent"],
            "reason": params.get("reason"),
            "receipt_number": None,
            "source_transfer_reversal": None,
            "status": "succeeded",
            "transfer_reversal": None,
        }
    )
    state.emit("refund.created", refund)
    with state.updating(charge, "charge.refunded"):
        charge["amount_refunded"] += amount
        charge["refunded"] = charge["amount_refunded"] == charge["amount"]
    return refund


def fail_refund(state: State, refund_id: str, is_counted: bool) -> Json:
    """The bank refuses a refund days later: the money returns to us. `is_counted`: the charge still counts it, which
    Stripe's documentation leaves open."""
    refund = state.get("refund", refund_id)
    if refund["status"] != "succeeded":
        raise ApiError(f"The refund {refund_id} has failed already.")
    previous = {"status": refund["status"]}
    refund["status"], refund["failure_reason"] = "failed", "lost_or_stolen_card"
    if not is_counted:
        charge = state.get("charge", refund["charge"])
        charge |= {"amount_refunded": charge["amount_refunded"] - refund["amount"], "refunded": False}
    for kind in ("refund.updated", "charge.refund.updated", "refund.failed"):
        state.emit(kind, refund, previous if kind != "refund.failed" else None)
    return refund


@endpoint("GET", "/v1/refunds/{id}", param_types.RefundRetrieveParams)
def retrieve_refund(state: State, params: Json, id: str) -> Json:  # noqa: A002
    return state.get("refund", id)


@endpoint("GET", "/v1/refunds", param_types.RefundListParams, f"{LIST_PARAMS} charge payment_intent")
def list_refunds(state: State, params: Json) -> Json:
    found = [
        refund
        for refund in state.objects_of("refund")
        if all(params.get(name) in (None, refund[name]) for name in ("charge", "payment_intent"))
    ]
    return state.list_page(found, params, "/v1/refunds")


# --- disputes --------------------------------------------------------------------------------------------------------


def set_dispute(state: State, charge_id: str, status: str) -> Json:
    """Open a dispute of the charge, or update the one it has. `charge_id` may be the id of a payment intent."""
    obj = state.objects.get(charge_id, {})
    charge = state.get("charge", obj["latest_charge"] if obj.get("object") == "payment_intent" else charge_id)
    if charge["status"] != "succeeded":
        raise ApiError("Only a charge that succeeded can be disputed.")
    dispute = next((dispute for dispute in state.objects_of("dispute") if dispute["charge"] == charge["id"]), None)
    if dispute and dispute["status"] in DISPUTE_CLOSED:
        raise ApiError(f"The dispute {dispute['id']} is closed already: {dispute['status']}.")
    if dispute is None:
        dispute = _open_dispute(state, charge, "needs_response" if status in DISPUTE_CLOSED else status)
    if dispute["status"] != status:
        previous = {"status": dispute["status"]}
        dispute["status"] = status
        kind = "closed" if status in DISPUTE_CLOSED else "updated"
        state.emit(f"charge.dispute.{kind}", dispute, previous)
        if status == "won":
            state.emit("charge.dispute.funds_reinstated", dispute)
    return dispute


def _open_dispute(state: State, charge: Json, status: str) -> Json:
    evidence = (
        "access_activity_log billing_address cancellation_policy cancellation_policy_disclosure cancellation_rebuttal "
        "customer_communication customer_email_address customer_name customer_purchase_ip customer_signature "
        "duplicate_charge_documentation duplicate_charge_explanation duplicate_charge_id product_description receipt "
        "refund_policy refund_policy_disclosure refund_refusal_explanation service_date service_documentation "
        "shipping_address shipping_carrier shipping_date shipping_documentation shipping_tracking_number "
        "uncategorized_file uncategorized_text"
    )
    dispute = state.add(
        {
            "id": state.new_id("dp"),
            "object": "dispute",
            "amount": charge["amount"] - charge["amount_refunded"],
            "balance_transactions": [],
            "charge": charge["id"],
            "created": state.now,
            "currency": charge["currency"],
            "enhanced_eligibility_types": [],
            "evidence": {**dict.fromkeys(evidence.split()), "enhanced_evidence": {}},
            "evidence_details": {
                "due_by": state.now + 9 * DAY,
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
    with state.updating(charge, "charge.updated"):
        charge["disputed"] = True
    state.emit("charge.dispute.created", dispute)
    if not status.startswith("warning"):
        state.emit("charge.dispute.funds_withdrawn", dispute)
    return dispute


@endpoint("GET", "/v1/disputes/{id}", param_types.DisputeRetrieveParams)
def retrieve_dispute(state: State, params: Json, id: str) -> Json:  # noqa: A002
    return state.get("dispute", id)


@endpoint("GET", "/v1/disputes", param_types.DisputeListParams, f"{LIST_PARAMS} charge payment_intent")
def list_disputes(state: State, params: Json) -> Json:
    found = [
        dispute
        for dispute in state.objects_of("dispute")
        if all(params.get(name) in (None, dispute[name]) for name in ("charge", "payment_intent"))
    ]
    return state.list_page(found, params, "/v1/disputes")
