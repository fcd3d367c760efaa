"""Every ending of a query with both providers and every funding: response, stored turn, ledger and counters.

The function runs as on Lambda, frozen after the last byte: by then everything is stored, no hold is left, and the chat
can go on.
"""

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from decimal import Decimal
from itertools import repeat
from typing import Any, TypeVar

import httpx
import pytest

from functions.chat.providers import Usage, prices
from infra.local.stack import Stack
from tests.api import question
from tests.journeys.endings_checks import expected, found, inconsistent_counters
from tests.journeys.endings_client import Cell, Db
from tests.journeys.endings_scenarios import SCENARIOS
from tests.journeys.endings_table import FUNDINGS, PAGE, PAYER, PROVIDERS, TABLE

T = TypeVar("T")
KINDS = ("input", "output", "cache_read", "cache_write")
PROVISIONED = len(PAYER) * len(PROVIDERS)  # a process for each cell


def ask_next(cell: Cell) -> None:
    """Check that the next question in the chat is answered, and that both rows have the price of their tokens."""
    body = question("And then? [fault:long 1]", chat_id=cell.chat_id, provider=cell.provider)
    assert cell.api.chat(cell.person, body).status_code == 200
    rows = cell.all_of("select * from public.usage_logs where user_id = %s order by created_at")
    assert len(rows) == 2
    for row in rows:
        usage = Usage(*(row[f"{name}_tokens" if "cache" in name else f"tokens_{name}"] for name in KINDS))
        price = prices.cost_usd(row["provider"], row["model"], usage)
        assert price is not None
        assert abs(row["cost_usd"] - price) <= Decimal("0.00001")  # each step is rounded


@pytest.fixture(scope="module")
def step_tokens() -> dict[str, int]:
    """How many tokens the only step of a short question reads, by provider. The first test asks."""
    return {}


def tokens_of_a_step(cell: Cell) -> int:
    body = question("Hm [fault:long 1]", provider=cell.provider)
    tokens: int = cell.api.chat(cell.person, body).json()["metadata"]["usage"]["input_tokens"]
    return tokens


def with_cell_noted(function: Callable[..., T]) -> Callable[..., T]:
    """The function, with the cell added to its exceptions."""

    def called(cell: Cell, *others: Any) -> T:
        try:
            return function(cell, *others)
        except Exception as error:
            error.add_note(str(cell))
            raise

    return called


def test_the_table_has_every_ending_and_every_funding() -> None:
    assert list(TABLE) == list(SCENARIOS) == list(PAGE)
    assert {row["funding"] for row in PAYER.values()} == FUNDINGS
    assert {row["outcome"] for row in TABLE.values()} == {"answered", "stopped", "failed", "lost"}


@pytest.mark.parametrize("ending", TABLE)
def test_an_ending_matches_the_table_for_every_provider_and_funding(
    stack: Stack, stack_db: Db, make_cell: Callable[..., Cell], step_tokens: dict[str, int], ending: str
) -> None:
    row, scenario = TABLE[ending], SCENARIOS[ending]
    arguments = [
        (payer["payer"], provider, scenario.directives)
        for payer in PAYER.values()
        for provider in PROVIDERS
        if scenario.history in (None, payer["history"] == "yes")
        if scenario.own_key or payer["funding"] != "byok"
    ]
    httpx.delete(f"{stack.info['model_url']}/_requests")

    with ThreadPoolExecutor(len(arguments) // scenario.at_once) as pool:
        cells = list(pool.map(lambda values: make_cell(*values), arguments))
        if not step_tokens:
            read = pool.map(lambda provider: tokens_of_a_step(make_cell("free", provider)), PROVIDERS)
            step_tokens.update(zip(PROVIDERS, read, strict=True))
        with scenario.setup(stack, stack_db):
            responses = list(pool.map(with_cell_noted(scenario.act), cells))
        journal = httpx.get(f"{stack.info['model_url']}/_requests").json()
        steps = [step_tokens[cell.provider] for cell in cells]
        seen = list(map(with_cell_noted(found), cells, repeat(row), responses, repeat(journal), steps))
        assert seen == [expected(cell, row) for cell in cells]
        assert inconsistent_counters(stack_db, cells) == []
        list(pool.map(with_cell_noted(ask_next), cells))
    assert inconsistent_counters(stack_db, cells) == []
