"""margin-report: the income of a month against the providers' charges, by tier and model, in US dollars.

Overage and spent credits are read from the ledger, plan fees from the invoices of that month that were paid at Stripe.
Income in another currency is converted at the rate in settings.usd_per_unit.
"""

from collections import defaultdict
from dataclasses import dataclass
from datetime import UTC, date, datetime
from decimal import Decimal
from typing import TypedDict

from stripe import StripeClient

from functions.common import results
from functions.common.billing.invoices import net_cents, plan_lines
from functions.common.database import Database

REPORT_TIMEOUT_S = 150.0
AMOUNTS = ("fees", "overage", "credits", "cost", "margin")
PLAN_FEES = "plan fees"
ZERO = Decimal(0)


@dataclass(frozen=True, slots=True)
class Line:
    """A row of the report, or their sum. Amounts in US dollars. `model` is PLAN_FEES for the fees of a tier."""

    tier: str
    model: str
    queries: int
    fees: Decimal = ZERO
    overage: Decimal = ZERO
    credits: Decimal = ZERO
    cost: Decimal = ZERO

    @property
    def margin(self) -> Decimal:
        return self.fees + self.overage + self.credits - self.cost

    def amounts(self) -> tuple[Decimal, ...]:
        """In the order of AMOUNTS."""
        return self.fees, self.overage, self.credits, self.cost, self.margin

    def as_json(self) -> dict[str, str | int]:
        """Amounts as exact text."""
        amounts = zip(AMOUNTS, map(str, self.amounts()), strict=True)
        return {"tier": self.tier, "model": self.model, "queries": self.queries, **dict(amounts)}


class MarginReport(TypedDict):
    """Amounts in US dollars as exact text. `rows`: one for each tier and model; `report`: the lines to print.
    `usd_per_unit`: the rate at which income in `currency` was converted."""

    month: str
    currency: str
    usd_per_unit: str
    queries: int
    fees_usd: str
    overage_usd: str
    credits_usd: str
    cost_usd: str
    margin_usd: str
    written_off_usd: str
    rows: list[dict[str, str | int]]
    report: list[str]


def month_before(day: date) -> date:
    """The first day of the previous month."""
    return date(day.year - (day.month == 1), (day.month - 2) % 12 + 1, 1)


async def margin_report(database: Database, stripe: StripeClient, month: date) -> MarginReport:
    """The report of the month that starts at `month`.

    Raises Unavailable where the database, StripeError where Stripe is out of reach.
    """
    params = {"p_month": month.isoformat()}
    prices = await database.call("price_currency", parse=results.record("currency"))
    currency, rate = prices["currency"], Decimal(prices["usd_per_unit"]).normalize()
    spent = await database.call("margin_report", params, timeout_s=REPORT_TIMEOUT_S, parse=results.records("tier"))
    lines = [
        Line(
            row["tier"],
            row["model"],
            row["queries"],
            overage=row["overage_usd"] * rate,
            credits=row["credits_usd"] * rate,
            cost=row["cost_usd"],
        )
        for row in spent
    ]
    lines += [Line(tier, PLAN_FEES, 0, fees=fee * rate) for tier, fee in (await _plan_fees(stripe, month)).items()]
    lines.sort(key=lambda line: (line.tier, line.model == PLAN_FEES, line.model))
    total = Line(
        "total",
        "",
        sum(line.queries for line in lines),
        fees=sum((line.fees for line in lines), start=ZERO),
        overage=sum((line.overage for line in lines), start=ZERO),
        credits=sum((line.credits for line in lines), start=ZERO),
        cost=sum((line.cost for line in lines), start=ZERO),
    )
    written_off = sum((row["written_off_usd"] for row in spent), start=ZERO) * rate
    at_rate = "" if currency == "usd" else f" at {rate:f} for one {currency.upper()}"
    return {
        "month": f"{month:%Y-%m}",
        "currency": currency,
        "usd_per_unit": str(rate),
        "queries": total.queries,
        "fees_usd": str(total.fees),
        "overage_usd": str(total.overage),
        "credits_usd": str(total.credits),
        "cost_usd": str(total.cost),
        "margin_usd": str(total.margin),
        "written_off_usd": str(written_off),
        "rows": [line.as_json() for line in lines],
        "report": _table(f"{month:%B %Y}, UTC, US dollars{at_rate}", [*lines, total], written_off),
    }


async def _plan_fees(stripe: StripeClient, month: date) -> dict[str, Decimal]:
    """The plan fees paid on invoices of the month, by tier, less the credits for the unused part of another plan."""
    start = datetime(month.year, month.month, 1, tzinfo=UTC)
    end = datetime(month.year + month.month // 12, month.month % 12 + 1, 1, tzinfo=UTC)
    cents: dict[str, int] = defaultdict(int)
    since, until = int(start.timestamp()), int(end.timestamp())
    async for tier, line in plan_lines(stripe, {"created": {"gte": since, "lt": until}}):
        cents[tier] += net_cents(line)
    return {tier: Decimal(amount) / 100 for tier, amount in sorted(cents.items()) if amount}


def _table(title: str, lines: list[Line], written_off: Decimal) -> list[str]:
    def row(line: Line) -> str:
        amounts = "".join(f"{amount:>13.4f}" for amount in line.amounts())
        return f"{line.tier:<12}{line.model:<24}{line.queries:>9,}{amounts}"

    heading = f"{'tier':<12}{'model':<24}{'queries':>9}" + "".join(f"{name:>13}" for name in AMOUNTS)
    return [
        title,
        heading,
        *map(row, lines),
        *([f"of the overage, {written_off:.4f} was written off"] if written_off else []),
    ]
