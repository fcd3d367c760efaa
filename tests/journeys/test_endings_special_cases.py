"""Remaining queries, lost admissions and repeated stops, which the matrix of test_endings.py does not show."""

import asyncio
import uuid
from collections.abc import AsyncGenerator, Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest

from functions.chat.providers import Event, Opened, Text
from functions.chat.request import ChatRequest
from infra.local.stack import Stack
from tests.api import Api
from tests.chat_kit import chat_environment, running_chat
from tests.journeys.ai_sdk_kit import text_part
from tests.journeys.endings_checks import counters, inconsistent_counters, ledger
from tests.journeys.endings_client import Cell, Db
from tests.journeys.endings_scenarios import lose_the_admission
from tests.journeys.endings_table import (
    FULL_ANSWER,
    PAYER,
)


@pytest.mark.parametrize(("directives", "column"), [("", "left"), ("[fault:drop]", "unpaid")])
def test_the_metadata_have_the_number_of_remaining_queries(
    make_cell: Callable[..., Cell], directives: str, column: str
) -> None:
    def ask(payer: str) -> str:
        metadata = make_cell(payer, "anthropic", f"[fault:long 3] {directives}").ask().metadata
        return str(metadata and metadata["remaining"])

    with ThreadPoolExecutor(len(PAYER)) as pool:
        remaining = dict(zip(PAYER, pool.map(ask, PAYER), strict=True))
    assert remaining == {payer: row[column] for payer, row in PAYER.items()}


@pytest.mark.parametrize(
    ("payer", "meanwhile"),
    [
        # The quota is used up.
        ("pro", "update public.user_subscriptions set daily_quota = 0 where user_id = %s returning id"),
        # The own key is deleted; the plan must not pay instead.
        ("own", "delete from public.user_api_keys where user_id = %s returning id"),
    ],
)
def test_a_lost_admission_is_not_charged_if_nothing_can_pay(
    make_cell: Callable[..., Cell], payer: str, meanwhile: str
) -> None:
    cell = make_cell(payer, "anthropic", "[fault:stall 2]")
    (received,) = lose_the_admission(cell, meanwhile)
    assert (received.wire, received.text) == ("finish stop", FULL_ANSWER.format(question=cell.question))
    metadata = received.metadata
    assert metadata is not None
    assert (metadata["charged_usd"], metadata["persisted"], metadata["outcome"]) == (None, False, "lost")
    assert cell.all_of("select * from public.usage_logs where user_id = %s") == []
    assert cell.all_of("select * from public.query_holds where user_id = %s") == []
    assert inconsistent_counters(cell.db, [cell]) == []


def test_a_lost_admission_is_not_charged_to_a_later_key(api: Api, make_cell: Callable[..., Cell]) -> None:
    cell = make_cell("pro", "anthropic", "[fault:stall 2]")
    with cell.asking() as received:
        received.until("text-delta")
        key = {"api_key": f"sk-own-{uuid.uuid4().hex}"}
        assert api.http.put("/keys/anthropic", json=key, headers=cell.person.headers).status_code == 200
        cell.all_of("delete from public.query_holds where user_id = %s returning id")
        cell.all_of("select public.repair_counters(%s)")
        received.read_all()
    assert ledger(cell)["funding"] == "included"


class SlowToClose:
    """A provider whose stream closes only when `may_close` is set."""

    platform = ("anthropic",)

    def __init__(self) -> None:
        self.is_closing, self.may_close = asyncio.Event(), asyncio.Event()

    def get(self, _: str) -> "SlowToClose":
        return self

    async def stream(self, *_: Any) -> AsyncGenerator[Event, None]:
        yield Opened()
        yield Text("Well, ")
        try:
            await asyncio.Event().wait()
        finally:
            self.is_closing.set()
            await self.may_close.wait()

    async def close(self) -> None:
        pass


async def test_stopping_a_stopping_answer_is_accepted(
    stack: Stack, stack_db: Db, make_cell: Callable[..., Cell]
) -> None:
    """The second stop has the same result as the first, and no error."""
    asked = make_cell("pro", "anthropic")
    provider = SlowToClose()
    async with running_chat(chat_environment(stack), provider) as chat:  # type: ignore[arg-type]
        feed = chat.start(asked.person.id, ChatRequest.model_validate(asked.body))
        await feed.opened()
        assert await chat.stop(asked.person.id, asked.chat_id)
        await provider.is_closing.wait()
        try:
            assert await chat.stop(asked.person.id, asked.chat_id)
        finally:
            provider.may_close.set()
            answer = await feed.answer()
    assert answer["message"]["parts"] == [{"type": "step-start"}, text_part("Well, ")]
    assert counters(asked, ledger(asked)) == "paid"
    assert inconsistent_counters(stack_db, [asked]) == []
