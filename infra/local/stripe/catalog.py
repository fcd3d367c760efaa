"""Products and prices: per unit, one-time or recurring, in cents or fractions of a cent.

A lookup key names one price at a time; `transfer_lookup_key` moves it to another price. As at Stripe, the amount of a
price never changes.
"""

from decimal import ROUND_HALF_UP, Decimal
from typing import Any

from stripe import params as param_types

from infra.local.stripe.endpoints import LIST_PARAMS, endpoint
from infra.local.stripe.errors import ApiError, Json, missing_param, unsupported
from infra.local.stripe.state import State

CURRENCIES = ("cad", "eur", "gbp", "usd")  # their amounts are in cents; others have no minor unit, or a smaller one
PRODUCT_PARAMS = "active description images metadata name statement_descriptor unit_label url"


def cents(amount: Decimal) -> int:
    """Rounds to whole cents; half a cent is rounded away from zero."""
    return int(amount.quantize(Decimal(1), ROUND_HALF_UP))


def decimal_text(amount: Decimal) -> str:
    """A decimal in Stripe's notation: no exponent, no trailing zeros."""
    text = f"{amount:f}"
    return text.rstrip("0").rstrip(".") if "." in text else text


def amounts(params: Json) -> tuple[int | None, str]:
    """`unit_amount` (None for fractions of a cent) and `unit_amount_decimal`, from parameters with either of them."""
    if "unit_amount" in params and "unit_amount_decimal" in params:
        raise ApiError(
            "You may only specify one of these parameters: unit_amount, unit_amount_decimal.", param="unit_amount"
        )
    value = params.get("unit_amount", params.get("unit_amount_decimal"))
    if value is None:
        raise missing_param("unit_amount")
    amount = Decimal(value)
    return (int(amount) if amount == int(amount) else None), decimal_text(amount)


@endpoint("POST", "/v1/products", param_types.ProductCreateParams, f"{PRODUCT_PARAMS} id type shippable")
def create_product(state: State, params: Json) -> Json:
    if params.get("id") in state.objects:
        raise ApiError("Product already exists.", code="resource_already_exists", param="id")
    product = make_product(state, params)
    state.emit("product.created", product)
    return product


def make_product(state: State, params: Json) -> Json:
    return state.add(
        {
            "id": params.get("id") or state.new_id("prod"),
            "object": "product",
            "active": params.get("active", True),
            "created": state.now,
            "default_price": None,
            "description": params.get("description"),
            "images": params.get("images", []),
            "livemode": False,
            "marketing_features": [],
            "metadata": state.merge_metadata({}, params.get("metadata", {})),
            "name": params["name"],
            "package_dimensions": None,
            "shippable": params.get("shippable"),
            "statement_descriptor": params.get("statement_descriptor"),
            "tax_code": None,
            "type": params.get("type", "service"),
            "unit_label": params.get("unit_label"),
            "updated": state.now,
            "url": params.get("url"),
        }
    )


@endpoint("POST", "/v1/products/{id}", param_types.ProductUpdateParams, f"{PRODUCT_PARAMS} default_price")
def update_product(state: State, params: Json, id: str) -> Json:  # noqa: A002 -- named in the path
    product = state.get("product", id)
    if "default_price" in params and state.get("price", params["default_price"], "default_price")["product"] != id:
        raise ApiError("The default price is a price of another product.", param="default_price")
    with state.updating(product, "product.updated"):
        _update(state, product, params, {*PRODUCT_PARAMS.split(), "default_price"})
        product["updated"] = state.now
    return product


@endpoint("GET", "/v1/products/{id}", param_types.ProductRetrieveParams)
def retrieve_product(state: State, params: Json, id: str) -> Json:  # noqa: A002
    return state.get("product", id)


@endpoint("GET", "/v1/products", param_types.ProductListParams, f"{LIST_PARAMS} active ids url")
def list_products(state: State, params: Json) -> Json:
    found = [
        product
        for product in state.objects_of("product")
        if params.get("active") in (None, product["active"])
        and product["id"] in params.get("ids", [product["id"]])
        and params.get("url") in (None, product["url"])
    ]
    return state.list_page(found, params, "/v1/products")


def make_price(state: State, params: Json, inline: bool = False) -> Json:
    """A new price. An inline one comes from `price_data`: it is inactive and emits no event."""
    if params.get("billing_scheme", "per_unit") != "per_unit":
        raise unsupported("prices in tiers", "billing_scheme")
    unit_amount, unit_amount_decimal = amounts(params)
    if unit_amount is not None and unit_amount < 0 and not inline:
        raise ApiError("Invalid non-negative integer", code="parameter_invalid_integer", param="unit_amount")
    if "product_data" in params:
        data = {"metadata": {}, **params["product_data"]}
        product = make_product(
            state, {name: data[name] for name in data if name in PRODUCT_PARAMS.split() or name == "id"}
        )
    elif "product" in params:
        product = state.get("product", params["product"], "product")
    else:
        raise missing_param("product")
    recurring = params.get("recurring")
    if recurring and (recurring.get("usage_type", "licensed") != "licensed" or "meter" in recurring):
        raise unsupported("metered prices", "recurring[usage_type]")
    if params["currency"].lower() not in CURRENCIES:
        raise ApiError(f"Invalid currency: {params['currency']}.", param="currency")
    _free_lookup_key(state, params)
    price = state.add(
        {
            "id": state.new_id("price"),
            "object": "price",
            "active": params.get("active", not inline),
            "billing_scheme": "per_unit",
            "created": state.now,
            "currency": params["currency"].lower(),
            "custom_unit_amount": None,
            "livemode": False,
            "lookup_key": params.get("lookup_key"),
            "metadata": state.merge_metadata({}, params.get("metadata", {})),
            "nickname": params.get("nickname"),
            "product": product["id"],
            "recurring": recurring
            and {
                "interval": recurring["interval"],
                "interval_count": recurring.get("interval_count", 1),
                "meter": None,
                "trial_period_days": None,
                "usage_type": "licensed",
            },
            "tax_behavior": params.get("tax_behavior", "unspecified"),
            "tiers_mode": None,
            "transform_quantity": None,
            "type": "recurring" if recurring else "one_time",
            "unit_amount": unit_amount,
            "unit_amount_decimal": unit_amount_decimal,
        }
    )
    if not inline:
        state.emit("price.created", price)
    return price


def _free_lookup_key(state: State, params: Json, price: Json | None = None) -> None:
    """Take the lookup key from the price that has it. Raises ApiError without `transfer_lookup_key`."""
    key = params.get("lookup_key")
    holder = next((other for other in state.objects_of("price") if key and other["lookup_key"] == key), None)
    if holder is None or holder is price:
        return
    if not params.get("transfer_lookup_key"):
        raise ApiError(f"A price (`{holder['id']}`) already uses that lookup key.", param="lookup_key")
    with state.updating(holder, "price.updated"):
        holder["lookup_key"] = None


@endpoint(
    "POST",
    "/v1/prices",
    param_types.PriceCreateParams,
    "active billing_scheme currency lookup_key metadata nickname product product_data recurring tax_behavior "
    "transfer_lookup_key unit_amount unit_amount_decimal",
)
def create_price(state: State, params: Json) -> Json:
    return make_price(state, params)


@endpoint(
    "POST", "/v1/prices/{id}", param_types.PriceUpdateParams, "active lookup_key metadata nickname transfer_lookup_key"
)
def update_price(state: State, params: Json, id: str) -> Json:  # noqa: A002
    price = state.get("price", id)
    if params.get("active") is False and state.objects[price["product"]]["default_price"] == id:
        raise ApiError("This price is the default price of its product and cannot be archived.")
    _free_lookup_key(state, params, price)
    with state.updating(price, "price.updated"):
        _update(state, price, params, {"active", "lookup_key", "metadata", "nickname"})
    return price


@endpoint("GET", "/v1/prices/{id}", param_types.PriceRetrieveParams)
def retrieve_price(state: State, params: Json, id: str) -> Json:  # noqa: A002
    return state.get("price", id)


@endpoint(
    "GET",
    "/v1/prices",
    param_types.PriceListParams,
    f"{LIST_PARAMS} active currency lookup_keys product type recurring",
)
def list_prices(state: State, params: Json) -> Json:
    recurring = params.get("recurring", {})

    def matches(price: Json) -> bool:
        return (
            all(params.get(name) in (None, price[name]) for name in ("active", "currency", "product", "type"))
            and price["lookup_key"] in params.get("lookup_keys", [price["lookup_key"]])
            and all((price["recurring"] or {}).get(name) == value for name, value in recurring.items())
        )

    return state.list_page([price for price in state.objects_of("price") if matches(price)], params, "/v1/prices")


def _update(state: State, obj: Json, params: Json, names: set[str]) -> None:
    for name in names & params.keys() - {"metadata"}:
        value: Any = params[name]
        obj[name] = None if value == "" else value
    if "metadata" in params:
        obj["metadata"] = state.merge_metadata(obj["metadata"], params["metadata"])
