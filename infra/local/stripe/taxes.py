"""Automatic tax: Canadian sales taxes by the customer's province, added to prices (exclusive).

An address outside Canada is not taxed: the account collects no tax there.
"""

from collections import defaultdict
from decimal import Decimal

from infra.local.stripe.catalog import cents
from infra.local.stripe.errors import ApiError, Json, unsupported

GST = ("gst", "5")
HST_13, HST_14, HST_15 = ("hst_13", "13"), ("hst_14", "14"), ("hst_15", "15")
PROVINCES = {
    **dict.fromkeys(("AB", "NT", "NU", "YT"), (GST,)),
    "BC": (GST, ("pst_bc", "7")),
    "MB": (GST, ("rst_mb", "7")),
    **dict.fromkeys(("NB", "NL", "PE"), (HST_15,)),
    "NS": (HST_14,),
    "ON": (HST_13,),
    "QC": (GST, ("qst", "9.975")),
    "SK": (GST, ("pst_sk", "6")),
}
"""The taxes of each province, each with its percentage."""


def is_located(address: Json | None) -> bool:
    """Whether an address is enough to know the tax."""
    if not address or not address.get("country"):
        return False
    return address["country"] != "CA" or address.get("state") in PROVINCES


def taxes_on(address: Json | None, amount: int) -> list[Json]:
    """The taxes on an amount in cents, each rounded to whole cents."""
    if not is_located(address) or (address or {})["country"] != "CA":
        return []
    return [
        {
            "amount": cents(Decimal(rate) * amount / 100),
            "tax_behavior": "exclusive",
            "tax_rate_details": {"tax_rate": f"txr_{name}"},
            "taxability_reason": "standard_rated",
            "taxable_amount": amount,
            "type": "tax_rate_details",
        }
        for name, rate in PROVINCES[(address or {})["state"]]
    ]


def total_taxes(lines: list[list[Json]]) -> list[Json]:
    """The sum of each tax over the lines."""
    by_rate: dict[str, list[Json]] = defaultdict(list)
    for tax in (tax for taxes in lines for tax in taxes):
        by_rate[tax["tax_rate_details"]["tax_rate"]].append(tax)
    return [
        {**taxes[0], **{name: sum(tax[name] for tax in taxes) for name in ("amount", "taxable_amount")}}
        for taxes in by_rate.values()
    ]


def automatic_tax(params: Json) -> Json:
    """The fields of `automatic_tax` that subscriptions have too, from the parameter."""
    enabled = bool(params.get("automatic_tax", {}).get("enabled"))
    return {"disabled_reason": None, "enabled": enabled, "liability": {"type": "self"} if enabled else None}


def tax_status(enabled: bool, address: Json | None) -> Json:
    """The other fields of `automatic_tax`, those of a computation."""
    status = "complete" if is_located(address) else "requires_location_inputs"
    return {"provider": "stripe" if enabled else None, "status": status if enabled else None}


def check_behavior(price: Json) -> None:
    """Raises ApiError for a price that includes its tax."""
    if price["tax_behavior"] == "inclusive":
        raise unsupported("automatic tax on prices that include it", "automatic_tax[enabled]")


def location_missing(message: str) -> ApiError:
    """The error for a customer whose address does not tell the tax."""
    return ApiError(message, code="customer_tax_location_invalid")
