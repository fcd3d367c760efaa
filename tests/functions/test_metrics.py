"""The metrics of the chat and its log line "query". Each is written by the function itself, in this process."""

import asyncio
import json
import os
import uuid
from collections.abc import AsyncIterator, Callable
from decimal import Decimal
from typing import Any
from unittest import mock

import httpx
import pytest
from starlette.applications import Starlette

from functions.chat import handler
from functions.chat.event_stream import EventStream
from functions.chat.spending import Spending
from functions.chat.turn import Turn
from functions.common.errors import (
    AppError,
    ByokKeyRejected,
    Internal,
    ProviderTimeout,
    Unavailable,
    error_for,
    is_our_failure,
)
from functions.common.observe import Observer
from infra.local.stack import Stack
from tests.api import lambda_deadline, question
from tests.billing_kit import captured_log
from tests.chat_kit import chat_environment
from tests.conftest import Person
from tests.sql.metering import Db

NewPerson = Callable[..., Person]
Lines = list[dict[str, Any]]
Observer("chat")  # creates the logger that captured_log reads
AWS_ID = "5a0c7d5e-3b1e-4a6e-8f0e-1b2c3d4e5f60"


async def answered(stack: Stack, user: Person, body: dict[str, Any]) -> tuple[httpx.Response, Lines]:
    """The response to a question as under the Web Adapter, and the log."""
    context = json.loads(lambda_deadline(60)["x-amzn-lambda-context"]) | {"request_id": AWS_ID}
    headers = {**user.headers, "x-amzn-lambda-context": json.dumps(context)}
    with mock.patch.dict(os.environ, chat_environment(stack)), captured_log("chat") as log:
        app = handler.create()
        transport = httpx.ASGITransport(app, raise_app_exceptions=False)
        async with (
            app.router.lifespan_context(app),
            httpx.AsyncClient(transport=transport, base_url="http://chat", timeout=60) as http,
        ):
            response = await http.post("/chat", json=body, headers=headers)
        return response, log()


def metrics(capsys: pytest.CaptureFixture[str]) -> dict[str, float]:
    """The metrics that were written to stdout, with the sum of each."""
    sums: dict[str, float] = {}
    for line in (json.loads(text) for text in capsys.readouterr().out.splitlines() if "_aws" in text):
        (described,) = line["_aws"]["CloudWatchMetrics"]
        assert described["Dimensions"] == [["service"]]
        for metric in described["Metrics"]:
            sums[metric["Name"]] = sums.get(metric["Name"], 0) + sum(line[metric["Name"]])
    return sums


async def test_a_query_is_logged_with_its_times_and_aws_id(
    stack: Stack, person: NewPerson, stack_db: Db, capsys: pytest.CaptureFixture[str]
) -> None:
    user = person("basic")
    _, log = await answered(stack, user, question('What is [tool:get_bill {"number": "C-5"}]?'))
    (line,) = [line for line in log if line["message"] == "query"]
    (request,) = [line for line in log if line["message"] == "request"]
    assert line["aws_request_id"] == request["aws_request_id"] == AWS_ID
    assert 0 < line["first_token_ms"] <= line["duration_ms"]
    assert line["steps"] == 2  # it calls a tool, then answers
    (row,) = stack_db.execute("select * from public.usage_logs where user_id = %s", (user.id,)).fetchall()
    counted = metrics(capsys)
    assert counted.pop("CostUsd") == pytest.approx(float(row["cost_usd"]))
    assert row["cost_usd"] > Decimal(0)
    assert counted == {"Queries": 1, "ChargedUsd": 0, "FirstTokenMs": line["first_token_ms"]}


@pytest.mark.parametrize(
    ("text", "failures"),
    [("Hi [fault:status 500]", 1), ("Hi [fault:overloaded]", 1), ("Hi [fault:refusal]", None)],
)
async def test_failures_of_the_provider_are_counted(
    stack: Stack, person: NewPerson, capsys: pytest.CaptureFixture[str], text: str, failures: int | None
) -> None:
    """An answer that the provider refuses to give is none."""
    await answered(stack, person("basic"), question(f"{text} {uuid.uuid4()}"))
    counted = metrics(capsys)
    assert counted.get("ProviderFailures") == failures
    assert "AnswersFailed" not in counted


@pytest.mark.parametrize(
    ("place", "name", "outcomes"),
    [(Turn, "_converse", ["failed"]), (Turn, "_turn_row", ["failed"]), (Spending, "price", [])],
)
async def test_an_answer_that_our_code_breaks_is_counted(
    stack: Stack,
    person: NewPerson,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
    place: type,
    name: str,
    outcomes: list[str],
) -> None:
    """After the text, so with the status 200. `_turn_row` and `price` are at the end of the turn."""
    whole = getattr(place, name)

    async def fail_after(*args: Any) -> None:
        await whole(*args)
        raise ValueError

    def fail(*args: Any) -> None:
        raise ValueError

    monkeypatch.setattr(place, name, fail if name == "_turn_row" else fail_after)
    response, log = await answered(stack, person("basic"), question(f"Hi {uuid.uuid4()}"))
    assert response.status_code == 200
    assert '"type":"error"' in response.text
    assert response.text.endswith("data: [DONE]\n\n")
    assert metrics(capsys)["AnswersFailed"] == 1
    assert [line["outcome"] for line in log if line["message"] == "query"] == outcomes
    assert [line["error_type"] for line in log if line["message"] == "turn failed"] == ["ValueError"]


async def test_a_stream_that_breaks_off_is_counted(capsys: pytest.CaptureFixture[str]) -> None:
    """Such as a resumed one: the answer itself goes on."""

    async def events() -> AsyncIterator[bytes]:
        yield b": keep-alive\n\n"
        raise ValueError

    async def receive() -> dict[str, Any]:
        return await asyncio.get_running_loop().create_future()  # type: ignore[no-any-return]

    async def send(message: Any) -> None:
        pass

    app = Starlette()
    app.state.observer = Observer("chat")
    with pytest.raises(ValueError):  # noqa: PT011 -- the stream's own
        await EventStream(events())({"type": "http", "app": app}, receive, send)
    assert metrics(capsys) == {"AnswersFailed": 1}


@pytest.mark.parametrize(
    ("error", "is_ours"),
    [
        (Internal(), True),
        (Unavailable(), True),
        (error_for("chat_paused"), False),
        (ProviderTimeout(), False),
        (error_for("no_quota"), False),
        (ByokKeyRejected(provider="openai"), False),
    ],
    ids=str,
)
def test_only_failures_of_ours_count_as_such(error: AppError, is_ours: bool) -> None:
    assert is_our_failure(error) is is_ours


async def test_an_answer_without_text_has_no_first_token(
    stack: Stack, person: NewPerson, capsys: pytest.CaptureFixture[str]
) -> None:
    _, log = await answered(stack, person("basic"), question("Hi [fault:status 400]"))
    (line,) = [line for line in log if line["message"] == "query"]
    assert line["outcome"] == "failed"
    assert "first_token_ms" not in line
    assert "FirstTokenMs" not in metrics(capsys)


@pytest.mark.parametrize("context", ['{"request_id": "<script>"}', '{"request_id": 3}', "[]", "no JSON"])
async def test_a_header_that_is_no_aws_id_is_not_logged(stack: Stack, context: str) -> None:
    """A client can send it where no Web Adapter is in front."""
    with mock.patch.dict(os.environ, chat_environment(stack)), captured_log("chat") as log:
        transport = httpx.ASGITransport(handler.create())
        async with httpx.AsyncClient(transport=transport, base_url="http://chat") as http:
            await http.get("/health", headers={"x-amzn-lambda-context": context})
        (line,) = log()
    assert "aws_request_id" not in line
