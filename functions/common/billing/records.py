"""What the SQL functions of billing return, as types. No import of Stripe here."""

from dataclasses import dataclass
from decimal import Decimal
from typing import TypedDict

from functions.common import results
from functions.common.database import Database


class Plan(TypedDict):
    """A plan of list_plans: the fields that the code reads."""

    tier: str
    name: str
    price_usd: Decimal
    overage_price_usd: Decimal | None


class Pack(TypedDict):
    """A credit pack of list_plans: the fields that the code reads."""

    id: str
    name: str
    credits: int
    price_usd: Decimal


class PriceList(TypedDict):
    """list_plans: the answer of GET /plans."""

    plans: list[Plan]
    packs: list[Pack]


class OverageSettings(TypedDict):
    """set_overage: the answer of PATCH /overage, the same as `overage` in GET /usage."""

    allowed: bool
    price_usd: Decimal | None
    limit_usd: Decimal | None
    used_usd: Decimal


@dataclass(frozen=True, slots=True)
class BillingProfile:
    """A user as Stripe's customer. `stripe_sequence` changes when the customer was deleted at Stripe."""

    email: str | None
    stripe_customer_id: str | None
    stripe_sequence: int


async def billing_profile(database: Database, user_id: str) -> BillingProfile | None:
    """The user's profile; None without a subscription row. Raises Unavailable."""
    row = await database.call("billing_profile", {"p_user_id": user_id}, parse=results.record_or_none("email"))
    return None if row is None else BillingProfile(row["email"], row["stripe_customer_id"], row["stripe_sequence"])
