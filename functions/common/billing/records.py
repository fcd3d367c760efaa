"""What the SQL functions of billing return, as types. No import of Stripe here."""

from collections.abc import Mapping
from dataclasses import dataclass
from decimal import Decimal
from typing import Any

from typing_extensions import TypedDict

from functions.common.database import Database


class Plan(TypedDict):
    """A plan. Either `daily_quota` or `lifetime_quota` is null. Models by provider, the default first. Amounts are in
    `currency`, that of all plans and packs: cad or usd."""

    tier: str
    name: str
    currency: str
    price_usd: Decimal
    daily_quota: int | None
    lifetime_quota: int | None
    overage_price_usd: Decimal | None
    overage_limit_usd: Decimal | None
    allows_credits: bool
    allows_byok: bool
    history_days: int
    models: dict[str, list[str]]
    own_key_models: dict[str, list[str]]


class Pack(TypedDict):
    """A credit pack on sale. `expires_after_days` null: its credits never expire. Amounts are in `currency`."""

    id: str
    name: str
    credits: int
    currency: str
    price_usd: Decimal
    price_per_credit_usd: Decimal
    expires_after_days: int | None


class PriceList(TypedDict):
    """list_plans: the answer of GET /plans."""

    plans: list[Plan]
    packs: list[Pack]


class OverageSettings(TypedDict):
    """set_overage: the answer of PATCH /overage, the same as `overage` in GET /usage. Amounts are in `currency`."""

    allowed: bool
    currency: str
    price_usd: Decimal | None
    limit_usd: Decimal | None
    used_usd: Decimal


class Refusal(TypedDict):
    """Why a subscription serves no query: a reason_code, its text, and the page of the unpaid invoice, if any."""

    reason_code: str
    reason: str
    url: str | None


@dataclass(frozen=True, slots=True)
class BillingProfile:
    """A user as Stripe's customer. `stripe_sequence` changes when the customer was deleted at Stripe.

    `is_blocked`: by an operator, here or in Supabase Auth. `refusal`: why the subscription serves no query, None
    where it does.
    """

    email: str | None
    stripe_customer_id: str | None
    stripe_sequence: int
    is_blocked: bool
    refusal: Refusal | None


async def billing_profile(database: Database, user_id: str) -> BillingProfile | None:
    """The user's profile; None where there is no such user. Raises Unavailable."""
    profile: BillingProfile | None = await database.call("billing_profile", {"p_user_id": user_id}, parse=_profile)
    return profile


def _profile(row: Mapping[str, Any] | None) -> BillingProfile | None:
    if row is None:
        return None
    return BillingProfile(
        row["email"], row["stripe_customer_id"], row["stripe_sequence"], row["is_blocked"], row["refusal"]
    )
