"""The rules of metering in plain Python, without SQL, locks or concurrency, to compare the SQL with.

The model has one user, and takes the time as a parameter. The SQL stores counters; the model stores the queries and
counts them each time. The SQL stores the remaining credits of a pack; the model computes them from purchase, use and
refund.
"""

from collections.abc import Iterable
from dataclasses import dataclass, field, replace
from datetime import UTC, date, datetime, timedelta
from decimal import Decimal

from functions.common import reasons

PRICE = Decimal("0.025")
DAILY = {"basic": 15, "pro": 40, "usage_only": 0}
LIFETIME = 10
# The reasons for which only a payment helps.
PAYABLE = (
    *(
        "subscription_unpaid",
        "subscription_paused",
        "subscription_ended",
        "free_quota_used",
        "credits_used",
        "payment_failed",
    ),
    "overage_unpaid",
)
CHEAPEST_FIRST = ("usage_only", "basic", "pro")
GRACE = timedelta(days=7)
CONCURRENT = {"free": 1, "basic": 3, "pro": 3, "usage_only": 3}
FAILED_COST = {"free": Decimal("0.02"), "basic": Decimal("0.05"), "pro": Decimal("0.2"), "usage_only": Decimal("0.05")}
CHARGED = ("answered", "stopped")
KEEPS_HISTORY = ("basic", "pro")
APPLIED_AT_ONCE = 20

Period = tuple[datetime, datetime]  # start and end


@dataclass(frozen=True)
class Subscription:
    """The state of a live subscription at Stripe. period None: calendar months."""

    tier: str
    paid_tiers: tuple[str, ...] = ()
    status: str = "active"
    period: Period | None = None
    past_due_since: datetime | None = None
    paid_until: datetime | None = None

    @property
    def grace_starts_at(self) -> datetime | None:
        """When the payment failed, or later, when what was paid before ends."""
        times = [time for time in (self.past_due_since, self.paid_until) if time is not None]
        return max(times, default=None)


@dataclass(frozen=True)
class Payment:
    """The state of the payment of a pack at Stripe. paid_at is None until it is paid."""

    session: str
    credits: int
    expires_at: datetime | None
    paid_at: datetime | None
    cents: int
    refunded_cents: int = 0
    disputed: bool = False
    lost: bool = False

    @property
    def to_revoke(self) -> int:
        """Credits to revoke for the refund or the lost dispute."""
        return self.credits if self.lost else self.credits * self.refunded_cents // self.cents


@dataclass
class Pack:
    """A credit pack: the newest state of its payment and the sequence number of that state."""

    payment: Payment
    sequence: int
    expired: bool = False  # recorded as expired by expire_credits


@dataclass
class Conversation:
    """The chat of a user. Turns are the ids of queries, in the order of asking: `asked` has the place of each.

    `pending` has the time of each, and whether it is certain.
    """

    asked: dict[str, int] = field(default_factory=dict)
    turns: list[str] = field(default_factory=list)
    pending: list[tuple[datetime, str, bool]] = field(default_factory=list)
    lock: str | None = None  # the kind of lock of another transaction

    def apply_pending(self) -> None:
        """Stores pending turns in order, unless the conversation is locked."""
        if self.lock is None:
            self._store(turn for _, turn, _ in self.pending[:APPLIED_AT_ONCE])
            del self.pending[:APPLIED_AT_ONCE]

    def _store(self, turns: Iterable[str]) -> None:
        self.turns = sorted([*self.turns, *turns], key=self.asked.__getitem__)

    def add(self, at: datetime, turn: str) -> None:
        """Stores a turn after all that wait, or lets it wait."""
        self.apply_pending()
        if self.lock is None and not self.pending:
            self._store([turn])
        else:
            self.pending.append((at, turn, self.lock != "for update"))
            self.pending.sort()

    def history(self) -> list[str]:
        """The turns that the next admission reads."""
        self.apply_pending()
        return [*self.turns, *(turn for _, turn, _ in self.pending)][-20:]

    def has(self, turn: str) -> bool:
        """Whether a turn is stored or certain to be."""
        return turn in self.turns or any(pending == turn and certain for _, pending, certain in self.pending)


@dataclass
class Query:
    """An admitted query. outcome is None while it runs."""

    id: str
    request: str
    at: datetime
    funding: str
    tier: str
    day: date
    period: datetime
    pack: str | None
    expires_at: datetime
    outcome: str | None = None
    billed: bool = False
    settled_as: str | None = None  # of overage: paid, credited (from a balance), void or returned
    given_back: bool = False
    cost: Decimal = Decimal(0)
    knew_conversation: bool = False  # it existed at admission

    @property
    def takes_funding(self) -> bool:
        """Whether it runs, or was charged and not given back."""
        return not self.given_back and (self.outcome is None or self.outcome in CHARGED)


def months_after(anchor: datetime, months: int) -> datetime:
    """The same day and time a number of months later. In a shorter month: its last day."""
    year, month = divmod(anchor.year * 12 + anchor.month - 1 + months, 12)
    for day in range(anchor.day, 27, -1):
        try:
            return anchor.replace(year=year, month=month + 1, day=day)
        except ValueError:
            continue
    return anchor.replace(year=year, month=month + 1)


def period_at(stored: Period | None, at: datetime) -> Period:
    """The period that contains `at`: the stored one if it does, otherwise one a number of months before or after it,
    counted from its start or end, whichever is later in its month. None: calendar months."""
    if stored is not None and stored[0] <= at < stored[1]:
        return stored
    anchor = at.replace(day=1, hour=0, minute=0, second=0, microsecond=0)
    if stored is not None:
        anchor = stored[1] if stored[1].day > stored[0].day else stored[0]
    months = 0
    while months_after(anchor, months + 1) <= at:
        months += 1
    while months_after(anchor, months) > at:
        months -= 1
    return months_after(anchor, months), months_after(anchor, months + 1)


def midnight_after(at: datetime) -> datetime:
    """The start of the next UTC day."""
    return datetime.combine(at.date() + timedelta(days=1), datetime.min.time(), UTC)


@dataclass
class User:
    """A user with all their packs and queries."""

    tier: str = "free"
    next_tier: str | None = None
    status: str = "active"
    stored_period: Period | None = None  # the newest from Stripe
    grace_starts_at: datetime | None = None
    subscribed: bool = False
    sequence: int = 0
    allow_overages: bool = True
    overage_limit: Decimal = Decimal(10)
    has_open_invoice: bool = False
    daily_quota: int | None = None  # for this user only
    lifetime_quota: int | None = None
    keys: set[str] = field(default_factory=set)
    free_answers_are_off: bool = False  # a budget of all free users or of the platform is spent
    packs: dict[str, Pack] = field(default_factory=dict)
    queries: dict[str, Query] = field(default_factory=dict)
    conversation: Conversation | None = None
    # The day and the period that the counters count. Only an admission or the monthly job changes them, only forward.
    quota_date: date = date(2020, 1, 1)
    overage_period: datetime = datetime(2020, 1, 1, tzinfo=UTC)

    def as_of(self, at: datetime) -> "User":
        """A copy of the user as of that time, which shares packs and queries."""
        user = replace(self)
        is_over = user.stored_period is not None and user.stored_period[1] <= at
        if user.status == "canceled" and is_over:
            user.tier, user.status, user.subscribed = user.unsubscribed_tier(at), "active", False
            user.stored_period = user.next_tier = None
        elif user.next_tier is not None and is_over:
            user.tier, user.next_tier = user.next_tier, None
        user.quota_date = max(user.quota_date, at.date())
        user.overage_period = max(user.overage_period, period_at(user.stored_period, at)[0])
        return user

    def unsubscribed_tier(self, at: datetime) -> str:
        """The tier without a subscription. free cannot spend credits."""
        valid = (pack for pack in self.unexpired(at) if pack.payment.to_revoke < pack.payment.credits)
        return "usage_only" if any(valid) else "free"

    def quota_used(self) -> int:
        """Included queries of the day."""
        return sum(
            q.takes_funding and q.funding == "included" and q.tier != "free" and q.day == self.quota_date
            for q in self.queries.values()
        )

    def lifetime_used(self) -> int:
        """Included queries on a lifetime quota."""
        return sum(q.takes_funding and q.funding == "included" and q.tier == "free" for q in self.queries.values())

    def failed_cost(self) -> Decimal:
        """Our cost of the failed and lost queries of the day, US dollars, except on own keys."""
        return sum(
            (
                q.cost
                for q in self.queries.values()
                if q.outcome in ("failed", "lost") and q.funding != "byok" and q.day == self.quota_date
            ),
            Decimal(0),
        )

    def overage_used(self) -> Decimal:
        """Overage in the period, US dollars."""
        return sum(
            (
                PRICE
                for q in self.queries.values()
                if q.takes_funding and q.funding == "overage" and q.period == self.overage_period
            ),
            Decimal(0),
        )

    def overage_settled_as(self, *settled_as: str | None) -> Decimal:
        """Overage of all periods that was settled so, US dollars. None: not yet."""
        taken = [q for q in self.queries.values() if q.takes_funding and q.funding == "overage"]
        return PRICE * sum(q.settled_as in settled_as for q in taken)

    def overage_owed(self) -> Decimal:
        """Overage of all periods that is not paid, or whose payment was returned, US dollars. What was given back and
        then returned is owed as well."""
        given_back = sum(q.given_back and q.settled_as == "returned" for q in self.queries.values())
        return self.overage_settled_as(None, "returned") + PRICE * given_back

    def overage_fits(self) -> bool:
        """Whether the limit allows another query, in the period and of all that is unpaid."""
        return max(self.overage_used(), self.overage_owed()) + PRICE <= self.overage_limit

    def remaining(self, pack: Pack) -> int:
        """Credits of a pack that can still be spent."""
        return 0 if pack.expired else self.unspent(pack)

    def expired(self, pack: Pack) -> int:
        """Credits of a pack that were left when it expired."""
        return self.unspent(pack) if pack.expired else 0

    def unspent(self, pack: Pack) -> int:
        """Credits of a pack that are neither used nor revoked."""
        return max(0, pack.payment.credits - pack.payment.to_revoke - self.used(pack))

    def revoked(self, pack: Pack) -> int:
        """Credits of a pack that a refund revoked. Used and held credits stay used."""
        return min(pack.payment.to_revoke, pack.payment.credits - self.used(pack))

    def used(self, pack: Pack) -> int:
        """Credits of a pack that are spent or held."""
        return sum(q.takes_funding and q.pack == pack.payment.session for q in self.queries.values())

    def unexpired(self, at: datetime) -> list[Pack]:
        """Packs with no expiry or a later one."""
        return [p for p in self.packs.values() if p.payment.expires_at is None or p.payment.expires_at > at]

    def next_pack(self, at: datetime) -> Pack | None:
        """The pack that pays next."""
        usable = [p for p in self.unexpired(at) if self.remaining(p) > 0 and not p.payment.disputed]
        last = datetime.max.replace(tzinfo=UTC)
        return min(usable, key=lambda p: (p.payment.expires_at or last, p.payment.paid_at), default=None)

    def is_serving(self, at: datetime) -> bool:
        """Whether the status lets queries through."""
        return (
            self.status == "active"
            or (self.status == "canceled" and self.stored_period is not None and self.stored_period[1] > at)
            or (self.status == "past_due" and self.grace_starts_at is not None and self.grace_starts_at + GRACE > at)
        )

    @property
    def quota(self) -> int:
        """Included queries per day or in total."""
        own, of_plan = (self.lifetime_quota, LIFETIME) if self.tier == "free" else (self.daily_quota, DAILY[self.tier])
        return of_plan if own is None else own

    @property
    def can_use_overage(self) -> bool:
        """Whether plan and user allow overage, and a live subscription can invoice it."""
        return self.tier != "free" and self.allow_overages and self.subscribed and self.status == "active"

    def decide(self, at: datetime, provider: str | None = None, *, own_key: bool = True) -> tuple[str | None, str]:
        """What pays for a query now, and the reason. Call it on as_of(at)."""
        if not self.is_serving(at):
            return None, f"Subscription not active: {self.status}"
        if own_key and self.tier != "free" and (self.keys if provider is None else provider in self.keys):
            return "byok", "Unlimited (BYOK)"
        if self.tier == "free":
            if self.lifetime_used() < self.quota:
                return "included", "Within free tier quota"
            return None, "Free tier quota exhausted"
        if self.quota_used() < self.quota:
            return "included", "Within daily quota"
        if self.next_pack(at) is not None:
            return "credit", "Credits available"
        if self.can_use_overage:
            if self.overage_fits():
                return "overage", "Overage allowed"
            return None, "Overage limit reached"
        return None, "Daily quota exceeded"

    def requires_payment(self, at: datetime) -> bool:
        """Whether the next query costs money or a payment would help, without an own key."""
        funding, _ = self.decide(at, own_key=False)
        if funding is not None:
            return funding == "overage"
        return reasons.BY_CODE[self.refusal_code(at)].paying_helps

    def refusal_code(self, at: datetime) -> str:
        """The reason_code of a query for which nothing pays."""
        if not self.is_serving(at):
            if not self.subscribed or self.status == "canceled":
                return "subscription_ended"
            return "subscription_unpaid" if self.has_open_invoice else "subscription_paused"
        if self.tier == "free":
            return "free_quota_used"
        if self.can_use_overage:
            is_unpaid = self.overage_owed() + PRICE > self.overage_limit
            return "overage_unpaid" if is_unpaid and self.has_open_invoice else "overage_limit_reached"
        if self.quota == 0 and self.status == "past_due":
            return "payment_failed"
        fits = self.overage_used() + PRICE <= self.overage_limit
        if self.subscribed and self.status == "active" and not self.allow_overages and fits:
            return "daily_quota_used_overage_off" if self.quota else "overage_off"
        if self.quota:
            return "daily_quota_used"
        return "no_quota" if DAILY[self.tier] else "credits_used"

    def resets_at(self, at: datetime) -> datetime | None:
        """When the quota or limit that decides resets, without an own key."""
        funding, _ = self.decide(at, own_key=False)
        midnight, end = midnight_after(at), period_at(self.stored_period, at)[1]
        if funding is not None:
            return {"included": None if self.tier == "free" else midnight, "credit": None, "overage": end}[funding]
        times = []
        if self.refusal_code(at) not in PAYABLE:
            times += [midnight] if self.quota > 0 or (DAILY[self.tier] and not self.can_use_overage) else []
        is_used = self.overage_used() + PRICE > self.overage_limit
        if self.refusal_code(at) == "overage_limit_reached" and is_used:
            times += [end]
        return min(times, default=None)

    def admit(
        self, at: datetime, query_id: str, request: str, provider: str | None, seconds: int
    ) -> tuple[str, str | None]:
        """The decision, and the funding if it is `admitted`."""
        same = [q for q in self.queries.values() if q.request == request]
        if any(q.outcome in CHARGED for q in same):
            return "ended", None
        # Expired holds are released before anything but the quota pays, and before a request is repeated.
        if self.as_of(at).decide(at, own_key=False)[0] != "included" or any(q.outcome is None for q in same):
            self.release_stale(at)
        if any(q.outcome is None for q in same):
            return "in_progress", None
        now = self.as_of(at)
        funding, _ = now.decide(at, provider)
        running = sum(q.outcome is None and q.expires_at > at for q in self.queries.values())
        if (
            funding is None
            or (funding != "byok" and now.failed_cost() >= FAILED_COST[now.tier])
            or (now.tier == "free" and self.free_answers_are_off)
            or running >= CONCURRENT[now.tier]
        ):
            return "refused", None
        self.__dict__.update(now.__dict__)
        pack = self.next_pack(at) if funding == "credit" else None
        self.queries[query_id] = Query(
            query_id, request, at, funding, self.tier, self.quota_date, self.overage_period,
            pack.payment.session if pack else None, at + timedelta(seconds=seconds),
            knew_conversation=self.conversation is not None,
        )  # fmt: skip
        return "admitted", funding

    def keeps_history(self, at: datetime) -> bool:
        """Whether the plan in force stores conversations."""
        return self.as_of(at).tier in KEEPS_HISTORY

    def read_history(self, at: datetime) -> list[str]:
        """What an admission reads."""
        return self.conversation.history() if self.conversation and self.keeps_history(at) else []

    def store_turn(self, at: datetime, query_id: str) -> None:
        """What the settlement of a running query stores. A deleted conversation does not come back."""
        query = self.queries[query_id]
        if query.outcome is not None or not self.keeps_history(at):
            return
        if self.conversation is None and not query.knew_conversation:
            self.conversation = Conversation()
        if self.conversation is not None:
            self.conversation.asked[query_id] = list(self.queries).index(query_id)
            self.conversation.add(at, query_id)

    def reset_overage(self, at: datetime) -> None:
        """Resets the overage counter of an ended period, as the monthly job does if the counter is not zero."""
        start = period_at(self.stored_period, at)[0]
        if start > self.overage_period and self.overage_used() > 0:
            self.overage_period = start

    def apply_customer(
        self, at: datetime, sequence: int, subscription: Subscription | None, *, has_open_invoice: bool
    ) -> None:
        """Applies the state of the customer, unless a newer one was applied."""
        if sequence <= self.sequence:
            return
        self.has_open_invoice = has_open_invoice
        self.sequence, self.subscribed, self.next_tier = sequence, subscription is not None, None
        if subscription is None:
            self.tier, self.status = self.unsubscribed_tier(at), "active"
            self.stored_period = self.grace_starts_at = None
            return
        self.tier = max((subscription.tier, *subscription.paid_tiers), key=CHEAPEST_FIRST.index)
        if self.tier != subscription.tier and subscription.status != "canceled":
            self.next_tier = subscription.tier
        self.status, self.grace_starts_at = subscription.status, subscription.grace_starts_at
        self.stored_period = subscription.period

    def apply_pack(self, at: datetime, sequence: int, payment: Payment) -> None:
        """Applies the state of a payment, unless a newer one was applied."""
        pack = self.packs.get(payment.session)
        if payment.paid_at is None if pack is None else sequence <= pack.sequence:
            return
        self.packs[payment.session] = Pack(payment, sequence, pack is not None and pack.expired)
        self.set_tier_from_packs(at)

    def expire_credits(self, at: datetime) -> int:
        """Records expired packs. Returns how many."""
        unexpired = self.unexpired(at)
        expired = [pack for pack in self.packs.values() if pack not in unexpired and not pack.expired]
        for pack in expired:
            pack.expired = True
        if expired:
            self.set_tier_from_packs(at)
        return len(expired)

    def set_tier_from_packs(self, at: datetime) -> None:
        """Sets the tier of a user without a subscription to what their packs allow."""
        if not self.subscribed and self.status == "active" and self.tier in ("free", "usage_only"):
            self.tier = self.unsubscribed_tier(at)

    def claim_overage(self, until: datetime) -> list[tuple[datetime, int]]:
        """Collects the overage before `until` that is on no bill: periods and their number of queries."""
        claimed: dict[datetime, int] = {}
        for query in self.queries.values():
            is_owed = query.outcome in CHARGED and not (query.billed or query.given_back)
            if query.funding == "overage" and is_owed and query.at < until:
                query.billed = True
                claimed[query.period] = claimed.get(query.period, 0) + 1
        return sorted(claimed.items())

    def settle_overage(self, settled_as: str) -> None:
        """Records that every billed query was paid, paid from a balance, or voided."""
        for query in self.queries.values():
            if query.billed and query.settled_as is None:
                query.settled_as = settled_as

    def change_payments(self, before: str, after: str) -> None:
        """Records that every payment of overage was returned, or that the returned ones pay again."""
        for query in self.queries.values():
            if query.settled_as == before:
                query.settled_as = after

    def end(self, query_id: str, outcome: str, cost: Decimal = Decimal(0)) -> str:
        """Ends a query, unless it has ended. Returns its outcome."""
        query = self.queries[query_id]
        if query.outcome is None:
            query.outcome, query.cost = outcome, cost
        return query.outcome

    def credit_back(self, query_id: str) -> bool:
        """Gives the charge of a query back. Returns whether there was one."""
        query = self.queries[query_id]
        is_charged = query.outcome in CHARGED and query.funding != "byok" and not query.given_back
        # What is on a bill is given back once it is paid.
        is_charged = is_charged and (not query.billed or query.settled_as in ("paid", "credited"))
        query.given_back = query.given_back or is_charged
        return is_charged

    def release_stale(self, at: datetime) -> int:
        """Ends queries with an expired hold as lost. Returns how many."""
        stale = [q for q in self.queries.values() if q.outcome is None and q.expires_at <= at]
        for query in stale:
            self.end(query.id, "lost")
        return len(stale)
