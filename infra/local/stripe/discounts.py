"""Coupons, promotion codes, and the discounts that they become on customers, subscriptions, invoices and checkouts.

A discount lowers the lines that are `discountable`, and with `applies_to` only those of its products. As at Stripe, an
invoice of a subscription takes the discounts of the subscription, otherwise that of the customer, and a coupon with
the duration `once` is used up by the first invoice that it lowers.
"""

from decimal import Decimal

from stripe import params as param_types

from infra.local.stripe.catalog import cents
from infra.local.stripe.clock import add_interval
from infra.local.stripe.endpoints import LIST_PARAMS, endpoint
from infra.local.stripe.errors import ApiError, Json, missing_param, unsupported
from infra.local.stripe.state import State

DISCOUNT_PARAMS = "discounts discounts.coupon discounts.discount discounts.promotion_code"


# --- coupons and promotion codes -------------------------------------------------------------------------------------


@endpoint(
    "POST",
    "/v1/coupons",
    param_types.CouponCreateParams,
    "amount_off applies_to applies_to.products currency duration duration_in_months id max_redemptions metadata name "
    "percent_off redeem_by",
)
def create_coupon(state: State, params: Json) -> Json:
    if ("amount_off" in params) == ("percent_off" in params):
        raise ApiError("Exactly one of amount_off and percent_off is needed.", param="percent_off")
    if "amount_off" in params and "currency" not in params:
        raise missing_param("currency")
    if not 0 < params.get("percent_off", 1) <= 100:
        raise ApiError("percent_off must be above 0 and at most 100.", param="percent_off")
    if (params.get("duration") == "repeating") != ("duration_in_months" in params):
        raise missing_param("duration_in_months")
    if params.get("id") in state.objects:
        raise ApiError("Coupon already exists.", code="resource_already_exists", param="id")
    percent = params.get("percent_off")
    products = params.get("applies_to", {}).get("products")
    coupon = state.add(
        {
            "id": params.get("id") or state.new_id("coupon"),
            "object": "coupon",
            "amount_off": params.get("amount_off"),
            "created": state.now,
            "currency": params["currency"].lower() if "amount_off" in params else None,
            "duration": params.get("duration", "once"),
            "duration_in_months": params.get("duration_in_months"),
            "livemode": False,
            "max_redemptions": params.get("max_redemptions"),
            "metadata": state.merge_metadata({}, params.get("metadata", {})),
            "name": params.get("name"),
            "percent_off": None if percent is None else float(percent),
            "redeem_by": params.get("redeem_by"),
            "times_redeemed": 0,
            "valid": True,
            "_products": products,
        }
    )
    state.emit("coupon.created", coupon)
    return coupon


@endpoint("GET", "/v1/coupons/{id}", param_types.CouponRetrieveParams)
def retrieve_coupon(state: State, params: Json, id: str) -> Json:  # noqa: A002 -- named in the path
    return state.get("coupon", id)


@endpoint(
    "POST",
    "/v1/promotion_codes",
    param_types.PromotionCodeCreateParams,
    "active code customer expires_at max_redemptions metadata promotion promotion.coupon promotion.type",
)
def create_promotion_code(state: State, params: Json) -> Json:
    coupon = state.get("coupon", params["promotion"].get("coupon"), "promotion[coupon]")
    code = params.get("code") or f"CODE{state.new_id('code')[-4:]}"
    if _promotion_code(state, code) is not None:
        raise ApiError("An active promotion code with this code already exists.", param="code")
    made = state.add(
        {
            "id": state.new_id("promo"),
            "object": "promotion_code",
            "active": params.get("active", True),
            "code": code,
            "created": state.now,
            "customer": params.get("customer"),
            "customer_account": None,
            "expires_at": params.get("expires_at"),
            "livemode": False,
            "max_redemptions": params.get("max_redemptions"),
            "metadata": state.merge_metadata({}, params.get("metadata", {})),
            "promotion": {"coupon": coupon["id"], "type": "coupon"},
            "restrictions": {
                "first_time_transaction": False,
                "minimum_amount": None,
                "minimum_amount_currency": None,
            },
            "times_redeemed": 0,
        }
    )
    state.emit("promotion_code.created", made)
    return made


@endpoint("GET", "/v1/promotion_codes", param_types.PromotionCodeListParams, f"{LIST_PARAMS} active code coupon")
def list_promotion_codes(state: State, params: Json) -> Json:
    found = [
        one
        for one in state.objects_of("promotion_code")
        if params.get("active") in (None, one["active"])
        and str(params.get("code", one["code"])).lower() == one["code"].lower()
        and params.get("coupon") in (None, one["promotion"]["coupon"])
    ]
    return state.list_page(found, params, "/v1/promotion_codes")


def _promotion_code(state: State, code: str) -> Json | None:
    """The active promotion code with that text, in any case."""
    found = (one for one in state.objects_of("promotion_code") if one["code"].lower() == code.lower())
    return next((one for one in found if one["active"]), None)


# --- discounts -------------------------------------------------------------------------------------------------------


def entry_of_code(state: State, code: str) -> Json:
    """What a customer typed, as an entry of `discounts`. Raises ApiError for a code that is not valid."""
    found = _promotion_code(state, code)
    if found is None:
        raise ApiError("This code is invalid.", param="promotion_code")
    return {"promotion_code": found["id"]}


def coupon_of(state: State, entry: Json, customer: str | None) -> Json:
    """The coupon of an entry of `discounts`. Raises ApiError if it cannot be redeemed by the customer."""
    coupon_id, code = entry.get("coupon"), None
    if "promotion_code" in entry:
        code = state.get("promotion_code", entry["promotion_code"], "promotion_code")
        coupon_id = code["promotion"]["coupon"]
    coupon = state.get("coupon", coupon_id, "coupon")
    limits = [(coupon, coupon["redeem_by"]), *([(code, code["expires_at"])] if code else [])]
    for one, until in limits:
        used_up = one["max_redemptions"] is not None and one["times_redeemed"] >= one["max_redemptions"]
        if used_up or (until is not None and until <= state.now):
            raise ApiError("This coupon has expired.", code="coupon_expired", param="coupon")
    if code and (not code["active"] or code["customer"] not in (None, customer)):
        raise ApiError("This promotion code cannot be redeemed.", param="promotion_code")
    return coupon


def redeem(state: State, entries: list[Json], customer: Json | None, **where: str) -> list[str]:
    """The ids of new discounts, one for each entry. `where` names what they are on: subscription, invoice, …"""
    customer_id = customer["id"] if customer else None
    coupons = [coupon_of(state, entry, customer_id) for entry in entries]
    ids = []
    for entry, coupon in zip(entries, coupons, strict=True):
        months = coupon["duration_in_months"]
        used = [coupon, *([state.objects[entry["promotion_code"]]] if "promotion_code" in entry else [])]
        for one in used:
            one["times_redeemed"] += 1
        coupon["valid"] = coupon["max_redemptions"] is None or coupon["times_redeemed"] < coupon["max_redemptions"]
        discount = state.add(
            {
                "id": state.new_id("di"),
                "object": "discount",
                "checkout_session": None,
                "customer": customer_id,
                "customer_account": None,
                "end": add_interval(state.now, "month", months) if months else None,
                "invoice": None,
                "invoice_item": None,
                "promotion_code": entry.get("promotion_code"),
                "source": {"coupon": coupon["id"], "type": "coupon"},
                "start": state.now,
                "subscription": None,
                "subscription_item": None,
                **where,
            }
        )
        state.emit("customer.discount.created", discount)
        ids.append(discount["id"])
    return ids


def replaced(state: State, old: list[str], params: Json, customer: Json, **where: str) -> list[str]:
    """The discounts after an update: an empty string removes all, an entry `discount` keeps an existing one."""
    entries: list[Json] = params["discounts"] or []
    if any("discount" in entry and entry["discount"] not in old for entry in entries):
        raise unsupported("discounts of other objects", "discounts")
    added = iter(redeem(state, [one for one in entries if "discount" not in one], customer, **where))
    return [entry.get("discount") or next(added) for entry in entries]


def active_discounts(state: State, subscription: Json | None, customer: Json) -> list[str]:
    """The discounts of a new invoice of a subscription: its own, otherwise the customer's."""
    own = subscription["discounts"] if subscription else []
    inherited = [customer["discount"]["id"]] if customer.get("discount") else []
    found = (state.objects[one] for one in own or inherited)
    return [one["id"] for one in found if one["end"] is None or one["end"] > state.now]


def use_up(state: State, subscription: Json, invoice: Json) -> None:
    """Remove the discounts with the duration `once` that lowered the invoice."""
    used = {one["discount"] for one in invoice["total_discount_amounts"] if one["amount"]}
    customer = state.objects[invoice["customer"]]
    for discount in [state.objects[name] for name in used]:
        if _coupon(state, discount)["duration"] == "once":
            subscription["discounts"] = [one for one in subscription["discounts"] if one != discount["id"]]
            if customer.get("discount") and customer["discount"]["id"] == discount["id"]:
                customer["discount"] = None
            state.emit("customer.discount.deleted", discount)


def _coupon(state: State, discount: Json) -> Json:
    return state.objects[discount["source"]["coupon"]]


def lower_lines(state: State, lines: list[Json], discounts: list[str]) -> list[Json]:
    """Set the `discount_amounts` of the lines of a draft. Returns the sum of each discount."""
    for line in lines:
        line["discount_amounts"] = []
    sums = []
    for name in discounts:
        coupon = _coupon(state, state.objects[name])
        amounts = reductions(coupon, [_left(coupon, line) for line in lines])
        for line, amount in zip(lines, amounts, strict=True):
            if amount:
                line["discount_amounts"].append({"amount": amount, "discount": name})
        sums.append({"amount": sum(amounts), "discount": name})
    return sums


def _left(coupon: Json, line: Json) -> int:
    """What of a line the coupon can still lower, in cents."""
    product = line["pricing"]["price_details"]["product"]
    if not line["discountable"] or (coupon["_products"] is not None and product not in coupon["_products"]):
        return 0
    return max(0, int(line["amount"]) - sum(int(one["amount"]) for one in line["discount_amounts"]))


def reductions(coupon: Json, amounts: list[int]) -> list[int]:
    """How much the coupon takes off each amount, in cents. A fixed amount is divided in proportion to them."""
    if coupon["percent_off"] is not None:
        return [cents(Decimal(amount) * Decimal(str(coupon["percent_off"])) / 100) for amount in amounts]
    total = sum(amounts)
    left = min(coupon["amount_off"], total)
    taken = []
    for amount in amounts:
        part = cents(Decimal(left) * amount / total) if amount else 0
        taken.append(part)
        left, total = left - part, total - amount
    return taken


def net_part(state: State, subscription: Json, amount: int, product: str) -> Decimal:
    """The part of an amount that the discounts of the subscription leave: prorations are net of discounts."""
    left = amount
    for name in active_discounts(state, subscription, state.objects[subscription["customer"]]):
        coupon = _coupon(state, state.objects[name])
        if coupon["_products"] is None or product in coupon["_products"]:
            left -= reductions(coupon, [left])[0]
    return Decimal(left) / amount if amount else Decimal(1)
