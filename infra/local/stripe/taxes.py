"""Automatic tax: Canadian sales taxes by the customer's province, added to prices (exclusive).

An address outside Canada is not taxed: the account collects no tax there.
"""

from collections import defaultdict
from decimal import Decimal

from stripe.params import tax as param_types

from infra.local.stripe.catalog import cents
from infra.local.stripe.endpoints import LIST_PARAMS, endpoint
from infra.local.stripe.errors import ApiError, Json, unsupported
from infra.local.stripe.state import State

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


HEAD_OFFICE = {"city": "Ottawa", "country": "CA", "line1": None, "line2": None, "postal_code": None, "state": "ON"}


@endpoint("GET", "/v1/tax/settings", param_types.SettingsRetrieveParams)
def retrieve_settings(state: State, params: Json) -> Json:
    """The account's settings: complete, unless the control API takes the head office and the registration away."""
    is_set_up = state.is_tax_set_up
    return {
        "object": "tax.settings",
        "defaults": {"provider": "stripe", "tax_behavior": "exclusive", "tax_code": None},
        "head_office": {"address": HEAD_OFFICE} if is_set_up else None,
        "livemode": False,
        "status": "active" if is_set_up else "pending",
        "status_details": {"active": {}} if is_set_up else {"pending": {"missing_fields": ["head_office"]}},
    }


@endpoint(
    "GET",
    "/v1/tax/registrations",
    param_types.RegistrationListParams,
    f"{LIST_PARAMS.removesuffix(' created')} status",
)
def list_registrations(state: State, params: Json) -> Json:
    registration = {
        "id": "taxreg_standin",
        "object": "tax.registration",
        "active_from": state.now,
        "country": "CA",
        "country_options": {"ca": {"type": "standard"}},
        "created": state.now,
        "expires_at": None,
        "livemode": False,
        "status": "active",
    }
    is_listed = state.is_tax_set_up and params.get("status", "active") in ("active", "all")
    return state.list_page([registration] if is_listed else [], params, "/v1/tax/registrations")


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
