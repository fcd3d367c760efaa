"""The responses of the account's routes."""

from decimal import Decimal
from typing import Any, Literal

from typing_extensions import TypedDict

from functions.common.billing.records import OverageSettings
from functions.common.reasons import Action

Tier = Literal["free", "basic", "pro", "usage_only"]


class Period(TypedDict):
    """The billing period, or the calendar month of a user without one."""

    start: str
    end: str


class Included(TypedDict):
    """The quota: of a day, or in total where `resets_at` is null."""

    limit: int
    used: int
    remaining: int
    resets_at: str | None


class CreditPack(TypedDict):
    """A credit pack that the user bought. A frozen one is disputed and does not pay."""

    id: str
    purchased: int
    remaining: int
    bought_at: str
    expires_at: str | None
    is_frozen: bool


class Credits(TypedDict):
    """Prepaid queries."""

    remaining: int
    packs: list[CreditPack]


class OwnKeys(TypedDict):
    """Whether the plan includes own keys, and the providers that the user has an active one for."""

    allowed: bool
    providers: list[str]


class Alert(TypedDict):
    """A limit of which 80 or 100 percent are used, with a sentence in the language of the request."""

    kind: Literal["included", "overage", "credits"]
    percent: Literal[80, 100]
    reason_code: str
    message: str
    action: Action


class Announcement(TypedDict):
    """What operators tell users, in the language of the request. `provider`: the one that is paused."""

    kind: str
    provider: str | None
    message: str
    starts_at: str
    ends_at: str | None


class Bill(TypedDict):
    """Overage of a period that was put on an invoice."""

    period_start: str
    queries: int
    unit_price_usd: Decimal
    amount_usd: Decimal
    billed_usd: Decimal


class Billing(TypedDict):
    """The user as Stripe's customer. `ends_at`: when a canceled plan ends; `next_tier`: the plan after this period.
    Amounts are in `currency`."""

    is_customer: bool
    is_subscribed: bool
    ends_at: str | None
    next_tier: Tier | None
    past_due_since: str | None
    currency: str
    to_be_billed_usd: Decimal
    billed: list[Bill]


class Counts(TypedDict):
    """What was used in a time."""

    queries: int
    tokens: int
    cost_usd: Decimal


class Usage(TypedDict):
    """The user's plan, and what is left of it. `message`: why the next query is admitted or refused."""

    tier: Tier
    status: str
    period: Period
    included: Included
    overage: OverageSettings
    credits: Credits
    byok: OwnKeys
    models: dict[str, list[str]]
    own_key_models: dict[str, list[str]]
    keeps_history: bool
    history_days: int
    concurrent_queries: int
    alerts: list[Alert]
    announcements: list[Announcement]
    billing: Billing
    can_query: bool
    reason: str
    reason_code: str
    message: str
    action: Action
    resets_at: str | None
    requires_payment: bool
    today: Counts
    month: Counts


class Feedback(TypedDict):
    """The rating of an answer."""

    rating: Literal["up", "down"] | None
    comment: str | None


class Share(TypedDict):
    """Where a shared conversation is read, and until when."""

    token: str
    url: str
    expires_at: str


class SharedMessage(TypedDict):
    """A UIMessage with its text and its sources."""

    id: str
    role: str
    parts: list[dict[str, Any]]
    metadata: dict[str, Any]


class SharedConversation(TypedDict):
    """A copy of a conversation."""

    title: str | None
    messages: list[SharedMessage]
    shared_at: str
    expires_at: str
