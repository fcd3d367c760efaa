"""The ends of a turn: in the stream, the ledger and the counters. A failure is never charged, and no hold is left."""

import asyncio
import json
import uuid
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from typing import Any

import httpx
import psycopg
import pytest

from functions.chat import handler, limits
from functions.chat.progress import TurnProgress
from functions.chat.request import ChatRequest
from functions.common.errors import Unavailable
from infra.local.stack import Stack
from tests.api import Api, StateOf, UserState, lambda_deadline, question
from tests.chat_kit import chat_environment, running_chat
from tests.conftest import Person
from tests.functions.server_kit import running_server

NewPerson = Callable[..., Person]
PROVIDERS = ["anthropic", "openai"]

# Failures of the provider before the first byte, and the client's response: HTTP status, code, Retry-After.
BEFORE = [
    ("status 401", 502, "provider_error", None),
    ("status 400", 502, "provider_error", None),
    ("status 500", 502, "provider_error", None),
    ("status 429 7", 503, "provider_overloaded", "7"),
    ("status 429 9000", 503, "provider_overloaded", None),
    ("overloaded", 503, "provider_overloaded", None),
]
# Failures of the provider within its answer: the stream ends with an error part.
WITHIN = ["drop", "early-end", "bad-json", "error-event", "failed"]
# How the provider ends an answer, and the AI SDK's finishReason.
FINISHES = [("max-tokens", "length"), ("refusal", "content-filter")]


@pytest.fixture(scope="module", params=["local stack", "python -m functions"])
def api(request: pytest.FixtureRequest, stack: Stack, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Api]:
    """The functions of the local stack, and those of the server for other hosts."""
    with ExitStack() as opened:
        url = stack.info["functions_url"]
        if request.param != "local stack":
            url = opened.enter_context(running_server(stack, tmp_path_factory.mktemp("server"))).url
        yield Api(opened.enter_context(httpx.Client(base_url=url, timeout=30)), stack.info["model_url"])


@pytest.mark.parametrize("provider", PROVIDERS)
@pytest.mark.parametrize(("fault", "status", "code", "retry_after"), BEFORE)
def test_a_providers_refusal_is_an_http_error_without_charge(
    api: Api,
    person: NewPerson,
    state_of: StateOf,
    provider: str,
    fault: str,
    status: int,
    code: str,
    retry_after: str | None,
) -> None:
    user = person("basic")
    response = api.http.post("/chat", json=question(f"Hi [fault:{fault}]", provider=provider), headers=user.headers)
    assert (response.status_code, response.json()["error"]["code"]) == (status, code)
    assert response.headers.get("retry-after") == retry_after
    assert state_of(user) == UserState(["failed"], 0, [], 0, 0, "0.000000")


@pytest.mark.parametrize("provider", PROVIDERS)
@pytest.mark.parametrize("fault", WITHIN)
def test_an_interrupted_answer_ends_in_an_error_without_charge(
    api: Api, person: NewPerson, state_of: StateOf, provider: str, fault: str
) -> None:
    user = person("basic")
    streamed = api.stream(user, question(f"Tell me [fault:{fault}]", provider=provider))
    assert streamed.status == 200
    assert streamed.kinds[:3] == ["start", "start-step", "text-start"]
    assert streamed.kinds[-4:] == ["text-end", "finish-step", "error", "finish"]
    assert "Nothing was charged" in streamed.parts[-2]["errorText"]
    assert streamed.parts[-1]["finishReason"] == "error"
    assert (streamed.metadata["charged_usd"], streamed.metadata["persisted"]) == (0, False)
    assert streamed.done
    assert state_of(user) == UserState(["failed"], 0, [], 0, 0, "0.000000")


@pytest.mark.parametrize("provider", PROVIDERS)
def test_an_interrupted_answer_is_an_http_error_in_json_mode(
    api: Api, person: NewPerson, state_of: StateOf, provider: str
) -> None:
    user = person("basic")
    response = api.chat(user, question("Tell me [fault:drop]", provider=provider))
    assert (response.status_code, response.json()["error"]["code"]) == (502, "provider_error")
    assert state_of(user).outcomes == ["failed"]


@pytest.mark.parametrize("provider", PROVIDERS)
@pytest.mark.parametrize(("fault", "reason"), FINISHES)
def test_an_answer_cut_by_the_provider_is_charged(
    api: Api, person: NewPerson, state_of: StateOf, provider: str, fault: str, reason: str
) -> None:
    user = person("basic")
    streamed = api.stream(user, question(f"Tell me [fault:{fault}]", provider=provider))
    assert streamed.parts[-1]["finishReason"] == reason
    assert streamed.text
    assert state_of(user).outcomes == ["answered"]
    assert state_of(user).messages[-1] == ("assistant", streamed.text)


@pytest.mark.parametrize("provider", PROVIDERS)
def test_an_answer_without_text_is_not_charged(api: Api, person: NewPerson, state_of: StateOf, provider: str) -> None:
    user = person("basic")
    streamed = api.stream(user, question("Tell me [fault:empty]", provider=provider))
    assert streamed.kinds == ["start", "start-step", "finish-step", "error", "finish"]
    assert state_of(user) == UserState(["failed"], 0, [], 0, 0, "0.000000")


def test_the_tokens_of_a_failed_answer_are_logged(
    api: Api, person: NewPerson, stack_db: "psycopg.Connection[dict[str, Any]]"
) -> None:
    user = person("usage_only", stripe_subscription_id=f"sub_{uuid.uuid4()}")
    api.stream(user, question("Tell me [fault:drop]", provider="anthropic"))
    (row,) = stack_db.execute("select * from public.usage_logs where user_id = %s", (user.id,)).fetchall()
    assert row["tokens_input"] > 0
    assert row["cost_usd"] > 0
    assert (row["funding"], row["was_overage"], row["overage_charge"]) == ("overage", False, 0)


def test_a_failed_overage_query_is_given_back(api: Api, person: NewPerson, state_of: StateOf) -> None:
    user = person("usage_only", stripe_subscription_id=f"sub_{uuid.uuid4()}", overage_limit="0.025")
    api.chat(user, question("Tell me [fault:drop]"))
    assert state_of(user).overage == "0.000000"
    assert api.chat(user, question("Tell me")).status_code == 200
    assert state_of(user).overage == "0.025000"


def test_a_failed_message_may_be_sent_again(api: Api, person: NewPerson, state_of: StateOf) -> None:
    user = person("basic")
    body = question(f"Tell me {uuid.uuid4()} [fault:first-only status 400]")
    assert api.chat(user, body).status_code == 502
    assert api.chat(user, body).status_code == 200
    after = state_of(user)
    assert (after.outcomes, after.quota_used, len(after.messages)) == (["failed", "answered"], 1, 2)


@pytest.mark.parametrize("provider", PROVIDERS)
def test_a_client_that_disconnects_gets_the_whole_answer_later(
    api: Api, person: NewPerson, state_of: StateOf, eventually: Callable[..., None], provider: str
) -> None:
    """As on Lambda, where a disconnect is not noticed: the answer is finished, stored and charged."""
    user = person("basic")
    body = question("At length [fault:slow 0.05]", provider=provider)
    with api.http.stream("POST", "/chat", json=body, headers=user.headers) as response:
        first = next(line for line in response.iter_lines() if "text-delta" in line)
    eventually(lambda: state_of(user).outcomes == ["answered"])
    after = state_of(user)
    assert (after.holds, after.quota_used) == (0, 1)
    answer = after.messages[-1][1]
    assert answer.startswith(json.loads(first.removeprefix("data: "))["delta"])
    assert api.chat(user, body).json()["message"]["parts"][1]["text"] == answer


def test_a_turn_that_cannot_be_stored_is_charged(
    api: Api, person: NewPerson, state_of: StateOf, stack_db: "psycopg.Connection[dict[str, Any]]"
) -> None:
    """A text that the database rejects must not be a way to free answers, whatever the error's code."""
    user = person("basic")
    stack_db.execute(
        "create function private.refuse_messages() returns trigger language plpgsql as"
        " $$ begin raise exception 'no such text here'; end $$;"
        "create trigger refuse before insert on public.messages for each row"
        " when (new.content like '%unstorable%') execute function private.refuse_messages()"
    )
    try:
        metadata = api.chat(user, question("An unstorable question"), **lambda_deadline(9)).json()["metadata"]
    finally:
        stack_db.execute("drop function private.refuse_messages cascade")
    assert (metadata["persisted"], metadata["funding"]) == (False, "included")
    after = state_of(user)
    assert (after.outcomes, after.holds, after.quota_used, after.messages) == (["answered"], 0, 1, [])


async def test_a_silent_stream_gets_keep_alive_comments(
    stack: Stack, person: NewPerson, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A comment line after a time without a part, here 0.3 s. Clients ignore it."""
    monkeypatch.setattr(limits, "KEEP_ALIVE_S", 0.3)
    monkeypatch.setattr(handler, "read_environment", lambda: chat_environment(stack))
    app, body = handler.create(), question("Hm [fault:stall 0.7]")
    async with (
        app.router.lifespan_context(app),
        httpx.AsyncClient(transport=httpx.ASGITransport(app), base_url="http://chat") as http,
    ):
        response = await http.post("/chat", json=body, headers=person("basic").headers, timeout=30)
    lines = response.text.splitlines()
    assert ": keep-alive" in lines
    assert lines[-2:] == ["data: [DONE]", ""]


async def test_a_shutdown_during_settlement_still_settles(
    stack: Stack, person: NewPerson, state_of: StateOf, monkeypatch: pytest.MonkeyPatch
) -> None:
    """After the model has finished, a cancellation of the turn does not cancel its settlement."""
    monkeypatch.setattr(limits, "SHUTDOWN_S", 0)
    closing, really_close = asyncio.Event(), TurnProgress.close

    async def close(progress: TurnProgress, patience_s: float) -> None:
        closing.set()
        await asyncio.sleep(0.05)  # the server shuts down during this time
        await really_close(progress, patience_s)

    monkeypatch.setattr(TurnProgress, "close", close)
    user = person("basic")
    async with running_chat(chat_environment(stack)) as chat:
        chat.start(user.id, ChatRequest.model_validate(question("Well?")))
        await closing.wait()
    assert state_of(user).outcomes == ["answered"]
    assert state_of(user).holds == 0


async def test_an_admission_that_commits_after_its_timeout_is_released(
    stack: Stack, person: NewPerson, state_of: StateOf, monkeypatch: pytest.MonkeyPatch, eventually: Callable[..., None]
) -> None:
    """It waits for the user's lock, the client gets 503, and then it commits."""
    monkeypatch.setattr(limits, "ADMIT_S", 0.2)
    user = person("basic")
    async with running_chat(chat_environment(stack)) as chat:
        with psycopg.connect(stack.postgres.url()) as locked:
            locked.execute("select pg_advisory_xact_lock(uuid_hash_extended(%s, 0))", (user.id,))
            with pytest.raises(Unavailable):
                await chat.start(user.id, ChatRequest.model_validate(question("Well?"))).answer()
    eventually(lambda: state_of(user).outcomes == ["failed"])
    assert state_of(user) == UserState(["failed"], 0, [], 0, 0, "0.000000")
