"""Products and prices: per unit, once or recurring, in cents or fractions of a cent.

A lookup key names one price at a time; `transfer_lookup_key` moves it. A price's amount never changes, as at Stripe.
"""

from decimal import ROUND_HALF_UP, Decimal
from typing import Any

from stripe import params as kinds

from infra.local.stripe.endpoints import LISTING, endpoint
from infra.local.stripe.errors import Json, Refused, missing_param, unsupported
from infra.local.stripe.world import World

PRODUCT = "active description images metadata name statement_descriptor unit_label url"


def cents(amount: Decimal) -> int:
    """Whole cents; half a cent goes away from zero."""
    return int(amount.quantize(Decimal(1), ROUND_HALF_UP))


def decimal_text(amount: Decimal) -> str:
    """A decimal as Stripe writes it: no exponent, no trailing zeros."""
    text = f"{amount:f}"
    return text.rstrip("0").rstrip(".") if "." in text else text


def amounts(params: Json) -> tuple[int | None, str]:
    """`unit_amount`, None for fractions of a cent, and `unit_amount_decimal`, of parameters that have one of them."""
    if "unit_amount" in params and "unit_amount_decimal" in params:
        raise Refused(
            "You may only specify one of these parameters: unit_amount, unit_amount_decimal.", param="unit_amount"
        )
    given = params.get("unit_amount", params.get("unit_amount_decimal"))
    if given is None:
        raise missing_param("unit_amount")
    amount = Decimal(given)
    return (int(amount) if amount == int(amount) else None), decimal_text(amount)


@endpoint("POST", "/v1/products", kinds.ProductCreateParams, f"{PRODUCT} id type shippable")
def create_product(world: World, params: Json) -> Json:
    if params.get("id") in world.objects:
        raise Refused("Product already exists.", code="resource_already_exists", param="id")
    product = make_product(world, params)
    world.emit("product.created", product)
    return product


def make_product(world: World, params: Json) -> Json:
    return world.add(
        {
            "id": params.get("id") or world.new_id("prod"),
            "object": "product",
            "active": params.get("active", True),
            "created": world.now,
            "default_price": None,
            "description": params.get("description"),
            "images": params.get("images", []),
            "livemode": False,
            "marketing_features": [],
            "metadata": world.metadata({}, params.get("metadata", {})),
            "name": params["name"],
            "package_dimensions": None,
            "shippable": params.get("shippable"),
            "statement_descriptor": params.get("statement_descriptor"),
            "tax_code": None,
            "type": params.get("type", "service"),
            "unit_label": params.get("unit_label"),
            "updated": world.now,
            "url": params.get("url"),
        }
    )


@endpoint("POST", "/v1/products/{id}", kinds.ProductUpdateParams, f"{PRODUCT} default_price")
def update_product(world: World, params: Json, id: str) -> Json:  # noqa: A002 -- the path says so
    product = world.get("product", id)
    if "default_price" in params:
        world.get("price", params["default_price"], "default_price")
    with world.changing(product, "product.updated"):
        _update(world, product, params, {*PRODUCT.split(), "default_price"})
        product["updated"] = world.now
    return product


@endpoint("GET", "/v1/products/{id}", kinds.ProductRetrieveParams)
def retrieve_product(world: World, params: Json, id: str) -> Json:  # noqa: A002
    return world.get("product", id)


@endpoint("GET", "/v1/products", kinds.ProductListParams, f"{LISTING} active ids url")
def list_products(world: World, params: Json) -> Json:
    found = [
        one
        for one in world.of("product")
        if params.get("active") in (None, one["active"])
        and one["id"] in params.get("ids", [one["id"]])
        and params.get("url") in (None, one["url"])
    ]
    return world.page(found, params, "/v1/products")


def make_price(world: World, params: Json, inline: bool = False) -> Json:
    """A price of its own parameters or of `price_data`. An inline one is not active, and not announced."""
    if params.get("billing_scheme", "per_unit") != "per_unit":
        raise unsupported("prices in tiers", "billing_scheme")
    unit_amount, unit_amount_decimal = amounts(params)
    if unit_amount is not None and unit_amount < 0 and not inline:
        raise Refused("Invalid non-negative integer", code="parameter_invalid_integer", param="unit_amount")
    if "product_data" in params:
        data = {"metadata": {}, **params["product_data"]}
        product = make_product(world, {name: data[name] for name in data if name in PRODUCT.split() or name == "id"})
    elif "product" in params:
        product = world.get("product", params["product"], "product")
    else:
        raise missing_param("product")
    recurring = params.get("recurring")
    if recurring and (recurring.get("usage_type", "licensed") != "licensed" or "meter" in recurring):
        raise unsupported("metered prices", "recurring[usage_type]")
    key = params.get("lookup_key")
    holder = next((one for one in world.of("price") if key and one["lookup_key"] == key), None)
    if holder and not params.get("transfer_lookup_key"):
        raise Refused(f"A price (`{holder['id']}`) already uses that lookup key.", param="lookup_key")
    if holder:
        with world.changing(holder, "price.updated"):
            holder["lookup_key"] = None
    price = world.add(
        {
            "id": world.new_id("price"),
            "object": "price",
            "active": params.get("active", not inline),
            "billing_scheme": "per_unit",
            "created": world.now,
            "currency": params["currency"].lower(),
            "custom_unit_amount": None,
            "livemode": False,
            "lookup_key": key,
            "metadata": world.metadata({}, params.get("metadata", {})),
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
        world.emit("price.created", price)
    return price


@endpoint(
    "POST",
    "/v1/prices",
    kinds.PriceCreateParams,
    "active billing_scheme currency lookup_key metadata nickname product product_data recurring tax_behavior "
    "transfer_lookup_key unit_amount unit_amount_decimal",
)
def create_price(world: World, params: Json) -> Json:
    return make_price(world, params)


@endpoint("POST", "/v1/prices/{id}", kinds.PriceUpdateParams, "active lookup_key metadata nickname transfer_lookup_key")
def update_price(world: World, params: Json, id: str) -> Json:  # noqa: A002
    price = world.get("price", id)
    key = params.get("lookup_key")
    holder = next((one for one in world.of("price") if key and one["lookup_key"] == key and one is not price), None)
    if holder and not params.get("transfer_lookup_key"):
        raise Refused(f"A price (`{holder['id']}`) already uses that lookup key.", param="lookup_key")
    if holder:
        with world.changing(holder, "price.updated"):
            holder["lookup_key"] = None
    with world.changing(price, "price.updated"):
        _update(world, price, params, {"active", "lookup_key", "metadata", "nickname"})
    return price


@endpoint("GET", "/v1/prices/{id}", kinds.PriceRetrieveParams)
def retrieve_price(world: World, params: Json, id: str) -> Json:  # noqa: A002
    return world.get("price", id)


@endpoint("GET", "/v1/prices", kinds.PriceListParams, f"{LISTING} active currency lookup_keys product type recurring")
def list_prices(world: World, params: Json) -> Json:
    recurring = params.get("recurring", {})

    def fits(price: Json) -> bool:
        alike = all(params.get(name) in (None, price[name]) for name in ("active", "currency", "product", "type"))
        rhythm = price["recurring"] or {}
        return (
            alike
            and price["lookup_key"] in params.get("lookup_keys", [price["lookup_key"]])
            and all(rhythm.get(name) == value for name, value in recurring.items())
        )

    return world.page([one for one in world.of("price") if fits(one)], params, "/v1/prices")


def _update(world: World, thing: Json, params: Json, names: set[str]) -> None:
    for name in names & params.keys() - {"metadata"}:
        value: Any = params[name]
        thing[name] = None if value == "" else value
    if "metadata" in params:
        thing["metadata"] = world.metadata(thing["metadata"], params["metadata"])
