"""Metering in plain Python: the rules with no SQL, no locks, no concurrency, to compare with.

One user. Time is passed in. Where the SQL keeps counters, this keeps the queries themselves and counts them each time;
where it keeps what is left of a pack, this works it out from what was bought, used and refunded.
"""

from dataclasses import dataclass, field, replace
from datetime import UTC, date, datetime, timedelta
from decimal import Decimal

PRICE = Decimal("0.025")
DAILY = {"basic": 15, "pro": 40, "usage_only": 0}
LIFETIME = 10
CHEAPEST_FIRST = ("usage_only", "basic", "pro")
GRACE = timedelta(days=7)
CHARGED = ("answered", "stopped")

Period = tuple[datetime, datetime]  # its start and its end


@dataclass(frozen=True)
class Subscription:
    """A live subscription as a look at Stripe finds it. Without a period: calendar months."""

    tier: str
    paid_tiers: tuple[str, ...] = ()
    status: str = "active"
    period: Period | None = None
    past_due_since: datetime | None = None


@dataclass(frozen=True)
class Payment:
    """What was paid for a pack, as a look at Stripe finds it. `paid_at` is None until it is."""

    session: str
    credits: int
    expires_at: datetime | None
    paid_at: datetime | None
    cents: int
    refunded_cents: int = 0
    disputed: bool = False
    lost: bool = False

    @property
    def due(self) -> int:
        """Credits that what went back is worth."""
        return self.credits if self.lost else self.credits * self.refunded_cents // self.cents


@dataclass
class Pack:
    """Prepaid queries: the newest look at their payment, and its number."""

    payment: Payment
    look: int
    lapsed: bool = False  # written down as expired


@dataclass
class Query:
    """One admitted query. `outcome` is None while it runs."""

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

    @property
    def counts(self) -> bool:
        """Whether it takes its funding: it runs, or it was charged."""
        return self.outcome is None or self.outcome in CHARGED


def months_after(anchor: datetime, months: int) -> datetime:
    """The same day and time so many months later, or the month's last day where there is no such day."""
    year, month = divmod(anchor.year * 12 + anchor.month - 1 + months, 12)
    for day in range(anchor.day, 27, -1):
        try:
            return anchor.replace(year=year, month=month + 1, day=day)
        except ValueError:
            continue
    return anchor.replace(year=year, month=month + 1)


def period_at(known: Period | None, at: datetime) -> Period:
    """The period that holds `at`: the known one while it lasts, else months from whichever of its ends is later in
    its month; none: calendar months."""
    if known is not None and known[0] <= at < known[1]:
        return known
    anchor = at.replace(day=1, hour=0, minute=0, second=0, microsecond=0)
    if known is not None:
        anchor = known[1] if known[1].day > known[0].day else known[0]
    months = 0
    while months_after(anchor, months + 1) <= at:
        months += 1
    while months_after(anchor, months) > at:
        months -= 1
    return months_after(anchor, months), months_after(anchor, months + 1)


def midnight_after(at: datetime) -> datetime:
    """When the next UTC day begins."""
    return datetime.combine(at.date() + timedelta(days=1), datetime.min.time(), UTC)


@dataclass
class User:
    """A user, what they have bought, and every query they ever asked."""

    tier: str = "free"
    next_tier: str | None = None
    status: str = "active"
    known: Period | None = None  # as Stripe says it
    past_due_since: datetime | None = None
    subscribed: bool = False
    look: int = 0
    allow_overages: bool = True
    limit: Decimal = Decimal(10)
    daily_quota: int | None = None  # of the user's own
    lifetime_quota: int | None = None
    keys: set[str] = field(default_factory=set)
    packs: dict[str, Pack] = field(default_factory=dict)
    queries: dict[str, Query] = field(default_factory=dict)
    # What is counted. Only an admission or the monthly sweep moves them, and only forward.
    day: date = date(2020, 1, 1)
    period: datetime = datetime(2020, 1, 1, tzinfo=UTC)

    def as_of(self, at: datetime) -> "User":
        """The user at that time; shares packs and queries."""
        user = replace(self)
        is_over = user.known is not None and user.known[1] <= at
        if user.status == "canceled" and is_over:
            user.tier, user.status, user.subscribed = user.unsubscribed_tier(at), "active", False
            user.known = user.next_tier = None
        elif user.next_tier is not None and is_over:
            user.tier, user.next_tier = user.next_tier, None
        user.day = max(user.day, at.date())
        user.period = max(user.period, period_at(user.known, at)[0])
        return user

    def unsubscribed_tier(self, at: datetime) -> str:
        """The plan without a subscription: free cannot spend credits."""
        kept = (pack for pack in self.unexpired(at) if pack.payment.due < pack.payment.credits)
        return "usage_only" if any(kept) else "free"

    def used_today(self) -> int:
        """Included queries of the day."""
        return sum(
            q.counts and q.funding == "included" and q.tier != "free" and q.day == self.day
            for q in self.queries.values()
        )

    def used_ever(self) -> int:
        """Free queries ever."""
        return sum(q.counts and q.funding == "included" and q.tier == "free" for q in self.queries.values())

    def overage(self) -> Decimal:
        """US dollars of overage in the period."""
        return sum(
            (PRICE for q in self.queries.values() if q.counts and q.funding == "overage" and q.period == self.period),
            Decimal(0),
        )

    def remaining(self, pack: Pack) -> int:
        """Queries that a pack can still pay."""
        return 0 if pack.lapsed else self.unspent(pack)

    def expired(self, pack: Pack) -> int:
        """Queries that were left of a pack when it lapsed."""
        return self.unspent(pack) if pack.lapsed else 0

    def unspent(self, pack: Pack) -> int:
        """Queries of a pack that were neither used nor taken back."""
        return max(0, pack.payment.credits - pack.payment.due - self.used(pack))

    def revoked(self, pack: Pack) -> int:
        """Queries of a pack that went back with the money: what was used, or is being used, stays used."""
        return min(pack.payment.due, pack.payment.credits - self.used(pack))

    def used(self, pack: Pack) -> int:
        """Queries that a pack has paid."""
        return sum(q.counts and q.pack == pack.payment.session for q in self.queries.values())

    def unexpired(self, at: datetime) -> list[Pack]:
        """Packs that have not lapsed."""
        return [p for p in self.packs.values() if p.payment.expires_at is None or p.payment.expires_at > at]

    def next_pack(self, at: datetime) -> Pack | None:
        """The pack that pays next."""
        usable = [p for p in self.unexpired(at) if self.remaining(p) > 0 and not p.payment.disputed]
        last = datetime.max.replace(tzinfo=UTC)
        return min(usable, key=lambda p: (p.payment.expires_at or last, p.payment.paid_at), default=None)

    def runs(self, at: datetime) -> bool:
        """Whether the plan is in force."""
        return (
            self.status == "active"
            or (self.status == "canceled" and self.known is not None and self.known[1] > at)
            or (self.status == "past_due" and self.past_due_since is not None and self.past_due_since + GRACE > at)
        )

    @property
    def quota(self) -> int:
        """Included queries, a day or ever."""
        own, plans = (self.lifetime_quota, LIFETIME) if self.tier == "free" else (self.daily_quota, DAILY[self.tier])
        return plans if own is None else own

    @property
    def sells_overage(self) -> bool:
        """Whether there is a subscription to invoice overage on, and it may be."""
        return self.tier != "free" and self.allow_overages and self.subscribed and self.status == "active"

    @property
    def is_prepaid(self) -> bool:
        """Whether nothing but credits can pay, which do not come back by themselves."""
        return self.tier == "usage_only" and self.quota == 0 and not self.subscribed

    def decide(self, at: datetime, provider: str | None = None, *, own_key: bool = True) -> tuple[str | None, str]:
        """What would pay for a query now, and the reason. Asked of a user as_of that time."""
        if not self.runs(at):
            return None, f"Subscription not active: {self.status}"
        if own_key and self.tier != "free" and (self.keys if provider is None else provider in self.keys):
            return "byok", "Unlimited (BYOK)"
        if self.tier == "free":
            if self.used_ever() < self.quota:
                return "included", "Within free tier quota"
            return None, "Free tier quota exhausted"
        if self.used_today() < self.quota:
            return "included", "Within daily quota"
        if self.next_pack(at) is not None:
            return "credit", "Credits available"
        if self.sells_overage:
            if self.overage() + PRICE <= self.limit:
                return "overage", "Overage allowed"
            return None, "Overage limit reached"
        return None, "Daily quota exceeded"

    def asks_for_payment(self, at: datetime) -> bool:
        """Whether the next query costs money, or paying would help; an own key aside."""
        funding, _ = self.decide(at, own_key=False)
        if funding is not None:
            return funding == "overage"
        return not self.runs(at) or self.tier == "free" or self.is_prepaid

    def resets_at(self, at: datetime) -> datetime | None:
        """When what pays, or what is used up, starts anew by itself; an own key aside."""
        funding, _ = self.decide(at, own_key=False)
        if not self.runs(at) or self.tier == "free" or self.is_prepaid or funding == "credit":
            return None
        if funding == "included" or not self.sells_overage:
            return midnight_after(at)
        end = period_at(self.known, at)[1]
        return min(end, midnight_after(at)) if funding is None and self.quota > 0 else end

    def admit(
        self, at: datetime, query_id: str, request: str, provider: str | None, seconds: int
    ) -> tuple[str, str | None]:
        """The decision, and the funding where it is `admitted`."""
        same = [q for q in self.queries.values() if q.request == request]
        if any(q.outcome in CHARGED for q in same):
            return "ended", None
        # Lost queries give back before anything is taken that is not included, and before the same is asked again.
        if self.as_of(at).decide(at, own_key=False)[0] != "included" or any(q.outcome is None for q in same):
            self.lose(at)
        if any(q.outcome is None for q in same):
            return "in_progress", None
        now = self.as_of(at)
        funding, _ = now.decide(at, provider)
        if funding is None:
            return "refused", None
        self.__dict__.update(now.__dict__)
        pack = self.next_pack(at) if funding == "credit" else None
        self.queries[query_id] = Query(
            query_id, request, at, funding, self.tier, self.day, self.period, pack.payment.session if pack else None,
            at + timedelta(seconds=seconds),
        )  # fmt: skip
        return "admitted", funding

    def reset(self, at: datetime) -> None:
        """Start the overage of a period that has ended anew, as the monthly sweep does for who owes something."""
        start = period_at(self.known, at)[0]
        if start > self.period and self.overage() > 0:
            self.period = start

    def apply_customer(self, at: datetime, look: int, subscription: Subscription | None) -> None:
        """What a look at the customer found, unless a later one is known."""
        if look <= self.look:
            return
        self.look, self.subscribed, self.next_tier = look, subscription is not None, None
        if subscription is None:
            self.tier, self.status = self.unsubscribed_tier(at), "active"
            self.known = self.past_due_since = None
            return
        self.tier = max((subscription.tier, *subscription.paid_tiers), key=CHEAPEST_FIRST.index)
        if self.tier != subscription.tier and subscription.status != "canceled":
            self.next_tier = subscription.tier
        self.status, self.past_due_since = subscription.status, subscription.past_due_since
        self.known = subscription.period

    def apply_pack(self, at: datetime, look: int, payment: Payment) -> None:
        """What a look at a payment found, unless a later one is known."""
        pack = self.packs.get(payment.session)
        if payment.paid_at is None if pack is None else look <= pack.look:
            return
        self.packs[payment.session] = Pack(payment, look, pack is not None and pack.lapsed)
        self.go_by_packs(at)

    def expire(self, at: datetime) -> int:
        """Write down what has lapsed. Returns how many packs."""
        kept = self.unexpired(at)
        lapsed = [pack for pack in self.packs.values() if pack not in kept and not pack.lapsed]
        for pack in lapsed:
            pack.lapsed = True
        if lapsed:
            self.go_by_packs(at)
        return len(lapsed)

    def go_by_packs(self, at: datetime) -> None:
        """The plan of a user without a subscription."""
        if not self.subscribed and self.status == "active" and self.tier in ("free", "usage_only"):
            self.tier = self.unsubscribed_tier(at)

    def bill(self, until: datetime) -> list[tuple[datetime, int]]:
        """Take the overage of before `until` that no bill has together: periods and how many queries."""
        due: dict[datetime, int] = {}
        for query in self.queries.values():
            if query.funding == "overage" and query.outcome in CHARGED and query.at < until and not query.billed:
                query.billed = True
                due[query.period] = due.get(query.period, 0) + 1
        return sorted(due.items())

    def end(self, query_id: str, outcome: str) -> str:
        """End a query, unless it has ended. Returns how it did end."""
        query = self.queries[query_id]
        if query.outcome is None:
            query.outcome = outcome
        return query.outcome

    def lose(self, at: datetime) -> int:
        """Give up the queries whose time is over. Returns how many."""
        stale = [q for q in self.queries.values() if q.outcome is None and q.expires_at <= at]
        for query in stale:
            self.end(query.id, "lost")
        return len(stale)
