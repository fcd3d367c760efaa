"""Metering in plain Python: the rules with no SQL, no locks, no concurrency, to compare with.

One user. Time is passed in. Where the SQL keeps counters, this keeps the queries themselves and counts them each time.
"""

from dataclasses import dataclass, field, replace
from datetime import UTC, date, datetime, timedelta
from decimal import Decimal

PRICE = Decimal("0.025")
DAILY = {"basic": 15, "pro": 40, "usage_only": 0}
LIFETIME = 10
GRACE = timedelta(days=7)
CHARGED = ("answered", "stopped")


@dataclass
class Pack:
    """Prepaid queries. `order` is when it was bought."""

    id: str
    bought: int
    expires_at: datetime | None
    order: datetime
    revoked: int = 0


@dataclass
class Query:
    """One admitted query. `outcome` is None while it runs."""

    id: str
    request: str
    funding: str
    tier: str
    day: date
    period: datetime
    pack: str | None
    expires_at: datetime
    outcome: str | None = None

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


def period_start(anchor: datetime | None, at: datetime) -> datetime:
    """The start of the monthly period that holds `at`."""
    if anchor is None:
        return at.replace(day=1, hour=0, minute=0, second=0, microsecond=0)
    months = 0
    while months_after(anchor, months + 1) <= at:
        months += 1
    while months_after(anchor, months) > at:
        months -= 1
    return months_after(anchor, months)


@dataclass
class User:
    """A user, what they have bought, and every query they ever asked."""

    tier: str = "free"
    status: str = "active"
    period_anchor: datetime | None = None
    period_end: datetime | None = None
    past_due_since: datetime | None = None
    subscribed: bool = False
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
        if user.status == "canceled" and user.period_end is not None and user.period_end <= at:
            user.tier, user.status, user.subscribed = "free", "active", False
            user.period_anchor = user.period_end = None
        user.day = max(user.day, at.date())
        user.period = max(user.period, period_start(user.period_anchor, at))
        return user

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
        return pack.bought - pack.revoked - sum(q.counts and q.pack == pack.id for q in self.queries.values())

    def next_pack(self, at: datetime) -> Pack | None:
        """The pack that pays next."""
        usable = [
            pack
            for pack in self.packs.values()
            if self.remaining(pack) > 0 and (pack.expires_at is None or pack.expires_at > at)
        ]
        last = datetime.max.replace(tzinfo=UTC)
        return min(usable, key=lambda pack: (pack.expires_at or last, pack.order, pack.id), default=None)

    def decide(self, at: datetime, provider: str | None = None, *, own_key: bool = True) -> tuple[str | None, str]:
        """What would pay for a query now, and the reason. Asked of a user as_of that time."""
        runs_on = (
            self.status == "active"
            or (self.status == "canceled" and self.period_end is not None and self.period_end > at)
            or (self.status == "past_due" and self.past_due_since is not None and self.past_due_since + GRACE > at)
        )
        if not runs_on:
            return None, f"Subscription not active: {self.status}"
        if own_key and self.tier != "free" and (self.keys if provider is None else provider in self.keys):
            return "byok", "Unlimited (BYOK)"
        if self.tier == "free":
            if self.used_ever() < (LIFETIME if self.lifetime_quota is None else self.lifetime_quota):
                return "included", "Within free tier quota"
            return None, "Free tier quota exhausted"
        if self.used_today() < (DAILY[self.tier] if self.daily_quota is None else self.daily_quota):
            return "included", "Within daily quota"
        if self.next_pack(at) is not None:
            return "credit", "Credits available"
        if self.allow_overages and self.subscribed and self.status == "active":
            if self.overage() + PRICE <= self.limit:
                return "overage", "Overage allowed"
            return None, "Overage limit reached"
        return None, "Daily quota exceeded"

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
            query_id, request, funding, self.tier, self.day, self.period, pack.id if pack else None,
            at + timedelta(seconds=seconds),
        )  # fmt: skip
        return "admitted", funding

    def reset(self, at: datetime) -> None:
        """Start the overage of a period that has ended anew, as the monthly sweep does for who owes something."""
        start = period_start(self.period_anchor, at)
        if start > self.period and self.overage() > 0:
            self.period = start

    def end(self, query_id: str, outcome: str) -> str:
        """End a query, unless it has ended. Returns how it did end."""
        query = self.queries[query_id]
        query.outcome = query.outcome or outcome
        return query.outcome

    def lose(self, at: datetime) -> int:
        """Give up the queries whose time is over. Returns how many."""
        stale = [q for q in self.queries.values() if q.outcome is None and q.expires_at <= at]
        for query in stale:
            query.outcome = "lost"
        return len(stale)
