"""margin-report: what a month has earned against what the providers charged for it, by tier and model.

Overage and spent credits come from the ledger; plan fees from the invoices that were paid at Stripe in that month.
"""

from collections import defaultdict
from datetime import UTC, date, datetime
from decimal import Decimal
from typing import Any

from stripe import StripeClient

from functions.common.billing.look import plan_lines
from functions.common.database import Database

REPORT_S = 150.0
COLUMNS = ("queries", "fees", "overage", "credits", "cost", "margin")


def month_before(day: date) -> date:
    """The first day of the month before a day's."""
    return date(day.year - (day.month == 1), (day.month - 2) % 12 + 1, 1)


async def margin_report(database: Database, stripe: StripeClient, month: date) -> dict[str, Any]:
    """Returns `{"month", "queries", "fees_usd", "overage_usd", "credits_usd", "cost_usd", "margin_usd",
    "written_off_usd", "rows", "report"}`: US dollars as exact text; `rows`: a tier and model each; lines to read.

    Raises Unavailable where the database, StripeError where Stripe is out of reach.
    """
    spent = await database.call("margin_report", {"p_month": month.isoformat()}, timeout_s=REPORT_S, idempotent=True)
    fees = await _plan_fees(stripe, month)
    rows = [
        {
            "tier": row["tier"],
            "model": row["model"],
            "queries": row["queries"],
            "fees": Decimal(0),
            "overage": row["overage_usd"],
            "credits": row["credits_usd"],
            "cost": row["cost_usd"],
        }
        for row in spent
    ]
    rows += [
        {"tier": tier, "model": "plan fees", "queries": 0, "fees": fee, **dict.fromkeys(COLUMNS[2:5], Decimal(0))}
        for tier, fee in fees.items()
    ]
    rows.sort(key=lambda row: (row["tier"], row["model"] == "plan fees", row["model"]))
    for row in rows:
        row["margin"] = row["fees"] + row["overage"] + row["credits"] - row["cost"]
    total = {name: sum((row[name] for row in rows), start=Decimal(0)) for name in COLUMNS}
    written_off = sum((row["written_off_usd"] for row in spent), start=Decimal(0))
    return {
        "month": f"{month:%Y-%m}",
        "queries": int(total["queries"]),
        **{f"{name}_usd": str(total[name]) for name in COLUMNS[1:]},
        "written_off_usd": str(written_off),
        "rows": [
            {name: str(value) if isinstance(value, Decimal) else value for name, value in row.items()} for row in rows
        ],
        "report": _table(month, rows, total, written_off),
    }


async def _plan_fees(stripe: StripeClient, month: date) -> dict[str, Decimal]:
    """What was paid for plans on invoices of the month, by tier; credits for what was left of another plan count."""
    begin = datetime(month.year, month.month, 1, tzinfo=UTC)
    end = datetime(month.year + month.month // 12, month.month % 12 + 1, 1, tzinfo=UTC)
    cents: dict[str, int] = defaultdict(int)
    since, until = int(begin.timestamp()), int(end.timestamp())
    async for tier, line in plan_lines(stripe, {"created": {"gte": since, "lt": until}}):
        cents[tier] += line.amount
    return {tier: Decimal(amount) / 100 for tier, amount in sorted(cents.items()) if amount}


def _table(month: date, rows: list[dict[str, Any]], total: dict[str, Decimal], written_off: Decimal) -> list[str]:
    def line(tier: str, model: str, values: dict[str, Any]) -> str:
        money = "".join(f"{values[name]:>13.4f}" for name in COLUMNS[1:])
        return f"{tier:<12}{model:<24}{int(values['queries']):>9,}{money}"

    heading = f"{'tier':<12}{'model':<24}{'queries':>9}" + "".join(f"{name:>13}" for name in COLUMNS[1:])
    return [
        f"{month:%B %Y}, UTC, US dollars",
        heading,
        *(line(row["tier"], row["model"], row) for row in rows),
        line("total", "", total),
        *([f"of the overage, {written_off:.4f} was written off"] if written_off else []),
    ]
