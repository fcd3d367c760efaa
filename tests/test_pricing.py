"""docs/pricing.md is what the plans and prices yield, and no plan loses more than it may."""

from decimal import Decimal
from typing import Any

from functions.chat import limits
from functions.chat.budget import prefix_tokens
from functions.chat.system_prompt import system_prompt
from functions.chat.tools import Tools
from functions.maintenance.support import model_prices
from infra import pricing
from tests.sql.metering import Db


def test_the_page_is_what_plans_and_prices_yield(db: Db) -> None:
    assert pricing.PAGE.read_text() == pricing.render(*pricing.read(db))


def test_no_default_loses_more_than_it_may(db: Db) -> None:
    plans, packs, _ = pricing.read(db)
    assert pricing.losses(plans, packs) == []
    assert {offer.plan["tier"] for offer in pricing.offers(plans)} == {"free", "basic", "pro", "usage_only"}


def test_every_model_of_a_plan_has_a_price(db: Db) -> None:
    plans, _, _ = pricing.read(db)
    assert [offer.model for offer in pricing.offers(plans) if not offer.query.least] == []


def test_support_knows_how_much_every_question_sends() -> None:
    """It compares the price of a new model of a plan with the plan's cost limit."""
    definitions = Tools(pricing.NOWHERE, print).definitions
    for provider, tokens in model_prices.PREFIX_TOKENS.items():
        sent = prefix_tokens(system_prompt(), definitions, provider)
        assert sent <= tokens <= 1.1 * sent
    assert model_prices.OUTPUT_TOKENS == limits.SHORTEST_OUTPUT_TOKENS


def change(plan: dict[str, Any], **columns: Any) -> dict[str, Any]:
    return {**plan, **columns}


def test_losses_name_what_is_too_dear(db: Db) -> None:
    """The limits and models that the plans had before, a lower price, and a higher limit for failures."""
    plans, packs, _ = pricing.read(db)
    by_tier = {plan["tier"]: plan for plan in plans}
    pro, basic = by_tier["pro"], by_tier["basic"]
    opus = {"anthropic": ["claude-opus-5-5"], "openai": []}
    for changed, named in (
        (change(pro, models=opus), "pro on claude-opus-5-5"),
        (change(basic, query_cost_limit_usd=Decimal("0.15")), "basic on claude-haiku-5-5"),
        (change(basic, price_usd=Decimal(5)), "basic on gpt-6-sol"),
        (change(basic, failed_cost_limit_usd=Decimal("0.3")), "basic on gpt-6-luna"),
        (change(basic, query_cost_limit_usd=Decimal("0.05")), "pack_500"),
    ):
        assert any(line.startswith(f"{named}: ") for line in pricing.losses([changed], packs)), named
