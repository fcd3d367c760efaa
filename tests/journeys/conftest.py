"""Fixtures of the journeys."""

import uuid
from collections.abc import Callable, Iterator
from typing import Any

import httpx
import pytest

from infra.local.stack import Stack
from infra.local.web_adapter import WebAdapter, running
from tests.api import Api, question
from tests.chat_kit import chat_environment
from tests.clients.browser import Browser
from tests.conftest import Person
from tests.journeys.endings_client import Cell, Db, Wait
from tests.journeys.endings_table import PAYER, PLATFORM, SUBSCRIPTIONS


@pytest.fixture(scope="module")
def browser(stack: Stack) -> Iterator[Browser]:
    """The AI SDK's client, with any number of streams at once."""
    with Browser(stack.info["functions_url"]) as browser:
        yield browser


@pytest.fixture
def break_record(stack: Stack) -> Iterator[Callable[..., None]]:
    """Makes responses of the public record fail: `break_record("/bills/45-1/C-5/", status=500)`."""
    url = f"{stack.info['parliament_url']}/_fail"

    def fail(path_prefix: str, **fault: Any) -> None:
        assert httpx.post(url, json={"path_prefix": path_prefix, **fault}).status_code == 204

    yield fail
    assert httpx.delete(url).status_code == 204


@pytest.fixture(scope="module")
def function(
    stack: Stack, tmp_path_factory: pytest.TempPathFactory, request: pytest.FixtureRequest
) -> Iterator[WebAdapter]:
    """The chat function as on Lambda: a process for each request at a time, frozen after the last byte.

    A module's PROVISIONED is the number of processes that run before its first test.
    """
    provisioned = getattr(request.module, "PROVISIONED", 0)
    folder = tmp_path_factory.mktemp("lambda")
    with running(folder, chat_environment(stack), provisioned=provisioned) as function:
        yield function


@pytest.fixture
def lambda_api(stack: Stack, function: WebAdapter) -> Iterator[Api]:
    """A client of the chat function as on Lambda."""
    with httpx.Client(base_url=function.url, timeout=60) as http:  # with the starts of the processes
        yield Api(http, stack.info["model_url"])


@pytest.fixture
def make_cell(
    api: Api, lambda_api: Api, stack: Stack, stack_db: Db, person: Callable[..., Person], eventually: Wait
) -> Callable[..., Cell]:
    """Makes a cell, which asks the function as on Lambda: `make_cell("pack", "openai", "[fault:drop]")`."""

    def make(payer: str, provider: str, directives: str = "") -> Cell:
        row = PAYER[payer]
        columns = {**SUBSCRIPTIONS[payer]}
        if columns.pop("stripe", False):
            columns["stripe_subscription_id"] = f"sub_{uuid.uuid4()}"
        user = person(row["tier"], **columns)
        account = PLATFORM
        if row["funding"] == "credit":
            stack_db.execute(
                "insert into public.credit_packs (user_id, credits_purchased, credits_remaining, price_paid)"
                " values (%s, 3, 3, 1)",
                (user.id,),
            )
        elif row["funding"] == "byok":
            key = f"sk-own-{uuid.uuid4().hex}"
            put = api.http.put(f"/keys/{provider}", json={"api_key": key}, headers=user.headers)
            assert put.json()["status"] == "valid"
            account = key[-4:]
        body = question(f"What is a quorum, {uuid.uuid4()}? {directives}".strip(), provider=provider)
        return Cell(row, provider, user, account, body, lambda_api, stack, stack_db, eventually)

    return make
