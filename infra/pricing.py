"""What the plans cost us at the model providers, beside their prices: `make pricing` writes docs/pricing.md.

The plans and packs are those of the migrations, the prices of models those of the package genai-prices.
"""

import sys
import textwrap
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from decimal import Decimal
from typing import Any

import psycopg
from psycopg.rows import dict_row

from functions.chat.budget import prefix_tokens
from functions.chat.providers import Usage, prices
from functions.chat.sources import Addresses, Parliament
from functions.chat.system_prompt import system_prompt
from functions.chat.tools import Tools
from infra.local.migrations import build_from, throwaway_postgres
from infra.local.postgres import MIGRATIONS, ROOT

PAGE = ROOT / "docs" / "pricing.md"
Db = psycopg.Connection[dict[str, Any]]

PROVIDERS = ("anthropic", "openai")
DAYS = 31
ERROR = Decimal("1.1")  # by which the estimate before a step may be too low: decision 21
WORST_RATIO = 2  # of a price: the most that may be lost

# The system prompt and the tools, which are read from the cache. The other tokens are those of docs/transcript.md, five
# questions in a row (`tests/journeys/test_conversation.py` compares), with answers of the length that we ask for.
X = "https://x.invalid"
NOWHERE = Parliament.at(Addresses(openparliament=X, represent=X, legisinfo=X, ourcommons=X, lobbying=X), "")
PREFIX = prefix_tokens(system_prompt(), Tools(NOWHERE, print).definitions, "anthropic")  # which has more
LEAST = (Usage(PREFIX + 200, 60, PREFIX),)
TYPICAL = (Usage(PREFIX + 2_200, 60, PREFIX), Usage(PREFIX + 3_400, 400, PREFIX))


@dataclass(frozen=True, slots=True)
class Costs:
    """The cost of something in US dollars."""

    least: Decimal
    typical: Decimal
    worst: Decimal


@dataclass(frozen=True, slots=True)
class Offer:
    """A plan on one model."""

    plan: dict[str, Any]
    provider: str
    model: str

    @property
    def query(self) -> Costs:
        """The cost of one query."""
        worst: Decimal = self.plan["query_cost_limit_usd"] * ERROR
        return Costs(min(self._price(LEAST), worst), min(self._price(TYPICAL), worst), worst)

    @property
    def queries(self) -> int:
        """How many queries the price of a month includes, or free for life."""
        for_life, a_day = self.plan["lifetime_quota"], self.plan["daily_quota"]
        return int(DAYS * a_day if for_life is None else for_life)

    @property
    def failed_a_day(self) -> Decimal:
        """The most that a user's failed queries cost in a day: the limit, passed by all that may run at once."""
        limit: Decimal = self.plan["failed_cost_limit_usd"]
        running: int = self.plan["concurrent_queries"]
        return limit + running * self.query.worst

    @property
    def month(self) -> Costs:
        """The cost of a month in which the whole quota is used. The worst month also has failed queries every day."""
        query, queries = self.query, self.queries
        return Costs(queries * query.least, queries * query.typical, queries * query.worst + DAYS * self.failed_a_day)

    def _price(self, steps: Sequence[Usage]) -> Decimal:
        found = [prices.cost_usd(self.provider, self.model, usage) for usage in steps]
        return sum((cost for cost in found if cost is not None), start=Decimal(0))


def offers(plans: Sequence[dict[str, Any]]) -> list[Offer]:
    """Every model of every plan that our account pays for."""
    return [
        Offer(plan, provider, model) for plan in plans for provider in PROVIDERS for model in plan["models"][provider]
    ]


def sold_queries(
    plans: Sequence[dict[str, Any]], packs: Sequence[dict[str, Any]]
) -> Iterator[tuple[str, Decimal, Offer]]:
    """Queries that are sold one by one: their name, their price and the dearest offer that they can be used for."""

    def dearest(column: str) -> Offer:
        return max(
            offers([plan for plan in plans if plan[column]]), key=lambda offer: (offer.query.worst, offer.query.typical)
        )

    for price in sorted({plan["overage_price_usd"] for plan in plans if plan["overage_price_usd"]}):
        yield "overage", price, dearest("overage_price_usd")
    for pack in packs:
        yield pack["slug"], pack["price_usd"] / pack["credits"], dearest("allows_credits")


def losses(plans: Sequence[dict[str, Any]], packs: Sequence[dict[str, Any]]) -> list[str]:
    """What costs more than its price in the typical case, or more than twice its price in the worst."""
    compared = [
        (f"{offer.plan['tier']} on {offer.model}", offer.plan["price_usd"], offer.month)
        for offer in offers(plans)
        if offer.plan["price_usd"]
    ]
    compared += [(name, price, offer.query) for name, price, offer in sold_queries(plans, packs)]
    return [
        f"{name}: typical ${costs.typical:.4f}, worst ${costs.worst:.4f}, price ${price:.4f}"
        for name, price, costs in compared
        if costs.typical > price or costs.worst > WORST_RATIO * price
    ]


def render(plans: Sequence[dict[str, Any]], packs: Sequence[dict[str, Any]], budgets: dict[str, Any]) -> str:
    """The page."""
    every = offers(plans)
    paid = [offer for offer in every if offer.plan["price_usd"]]
    free = [offer for offer in every if offer.plan["lifetime_quota"] is not None]
    others = [offer for offer in every if offer not in paid and offer not in free]
    parts = [
        "# Prices and costs",
        _text(
            "What a query and a month cost us at the model providers, in US dollars, beside what the user pays. "
            "`make pricing` computes this page from `sql/schemas/10_plans.sql` and the prices of the models; a test "
            "compares it. No plan loses money in the typical case, and none costs more than twice its price in the "
            "worst. Stripe's fees and the servers come on top."
        ),
        _cases(),
        "## A query",
        _table(
            "plan | model | limit | least | typical | worst",
            (
                f"{offer.plan['tier']} | {offer.model} | {offer.plan['query_cost_limit_usd']:.3f} | "
                f"{offer.query.least:.4f} | {offer.query.typical:.4f} | {offer.query.worst:.4f}"
                for offer in every
            ),
        ),
        "## A month",
        _text(
            f"The whole quota on all {DAYS} days; real months cost less. The worst month also has failed queries every "
            "day, up to the plan's `failed_cost_limit_usd` and the queries that run when it is reached."
        ),
        _table(
            "plan | model | queries | least | typical | worst | price | typical / price | worst / price",
            (
                f"{offer.plan['tier']} | {offer.model} | {offer.queries:,} | {offer.month.least:.2f} | "
                f"{offer.month.typical:.2f} | {offer.month.worst:.2f} | {offer.plan['price_usd']:.2f} | "
                f"{offer.month.typical / offer.plan['price_usd']:.2f} | "
                f"{offer.month.worst / offer.plan['price_usd']:.2f}"
                for offer in paid
            ),
        ),
        "## Queries beyond the quota",
        _text(
            "On the dearest model that they can be used for. Plans without a monthly price sell only these; their "
            f"failed queries cost at most ${max(offer.failed_a_day for offer in others):.3f} a user and day."
        ),
        _table(
            "sold as | price | typical | worst | worst / price",
            (
                f"{name} | {price:.4f} | {offer.query.typical:.4f} | {offer.query.worst:.4f} | "
                f"{offer.query.worst / price:.2f}"
                for name, price, offer in sold_queries(plans, packs)
            ),
        ),
        "## Free",
        _text(
            "Free users pay nothing. What one costs for life, and with failed queries in a day. All together have a "
            f"budget of ${budgets['free_daily_budget_usd']:.0f} a day (`settings.free_daily_budget_usd`), and the "
            f"platform has one of ${budgets['platform_daily_budget_usd']:.0f} (`settings.platform_daily_budget_usd`)."
        ),
        _table(
            "model | queries | least | typical | worst | failed, a day",
            (
                f"{offer.model} | {offer.queries} | {offer.queries * offer.query.least:.4f} | "
                f"{offer.queries * offer.query.typical:.4f} | {offer.queries * offer.query.worst:.4f} | "
                f"{offer.failed_a_day:.3f}"
                for offer in free
            ),
        ),
        "## Own keys",
        _text(
            "A query on an own key costs us nothing. It may also use models that no price of a plan covers: "
            + "; ".join(
                f"{', '.join(names)} on {plan['tier']}"
                for plan in plans
                if (names := [name for provider in PROVIDERS for name in plan["own_key_models"][provider]])
            )
            + "."
        ),
    ]
    return "\n\n".join(parts) + "\n"


def _cases() -> str:
    least, first, second = LEAST[0], *TYPICAL
    return "\n".join(
        map(
            _text,
            (
                f"- **Least**: one step reads {PREFIX:,} tokens from the cache (system prompt and tools) and "
                f"{least.tokens_input - PREFIX} others, and writes {least.tokens_output}.",
                "- **Typical**: two steps, because most questions need one round of tools. Besides the cached tokens "
                f"they read {first.tokens_input - PREFIX:,} and {second.tokens_input - PREFIX:,}: the page, the "
                f"history, the question and the results. They write {first.tokens_output} and {second.tokens_output}. "
                "The questions of [the transcript](transcript.md) read no more on average. The cache is warm, because "
                "every question of any user renews it for five minutes.",
                f"- **Worst**: the limit of a query, {ERROR} times for the error of its estimate "
                "([decision 21](decisions/0021-a-step-is-priced-before-it-is-sent.md)).",
            ),
        )
    )


def _text(text: str) -> str:
    indent = "  " if text.startswith("- ") else ""
    return textwrap.fill(text, 120, subsequent_indent=indent, break_on_hyphens=False, break_long_words=False)


def _table(heading: str, rows: Iterable[str]) -> str:
    line = "|" + " --- |" * (heading.count("|") + 1)
    return "\n".join([f"| {heading} |", line, *(f"| {row} |" for row in rows)])


def read(db: Db) -> tuple[list[dict[str, Any]], list[dict[str, Any]], dict[str, Any]]:
    """The plans, the packs and the settings of a database. Prices are converted to US dollars."""
    plans = db.execute("select * from public.plans order by price_usd, lifetime_quota nulls last").fetchall()
    packs = db.execute("select * from public.packs where is_sold order by credits").fetchall()
    (budgets,) = db.execute("select * from public.settings").fetchall()
    rate: Decimal = budgets["usd_per_unit"]
    for row, name in ((row, name) for row in (*plans, *packs) for name in ("price_usd", "overage_price_usd")):
        if row.get(name) is not None:
            row[name] *= rate
    return plans, packs, budgets


def main() -> int:
    """Write the page. 1 if a plan loses too much."""
    with throwaway_postgres() as postgres:
        build_from(postgres, "plans", sorted(MIGRATIONS.glob("*.sql")))
        with psycopg.connect(postgres.url(database="plans"), row_factory=dict_row) as db:
            plans, packs, budgets = read(db)
    PAGE.write_text(render(plans, packs, budgets))
    print(f"wrote {PAGE.relative_to(ROOT)}")
    found = losses(plans, packs)
    print("\n".join(found), file=sys.stderr)
    return 1 if found else 0


if __name__ == "__main__":
    sys.exit(main())
