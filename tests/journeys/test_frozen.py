"""The chat as on Lambda: the process is frozen after the last byte, so everything has to be done before it.

test_endings.py runs every ending like this.
"""

import json
import os
import uuid
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from pathlib import Path
from typing import Any
from unittest import mock

import httpx
import pytest

from functions.account.handler import create as create_account
from functions.chat import limits
from infra.local import web_adapter
from infra.local.auth import access_token, load_or_create_key
from infra.local.stack import GATEWAY, MODEL, Stack
from infra.local.web_adapter import TIMEOUT_HEADER, WebAdapter, running
from tests.api import Api, StateOf, question
from tests.billing_kit import environment
from tests.chat_kit import chat_environment
from tests.conftest import Person
from tests.journeys.endings_client import Cell, Db, Received, Wait
from tests.local.stripe.kit import serve
from tests.relay import Relay, relay_to

IN_PROGRESS = "request_in_progress"
DELAYED = f"{limits.DEADLINE_MARGIN_S + 0.5}"  # a timeout of the function that leaves the turn half a second


def code(response: httpx.Response) -> str:
    """The code of an error."""
    return str(response.json()["error"]["code"])


def refuse_for_want_of_quota(cell: Cell) -> None:
    cell.all_of(
        "update public.user_subscriptions set daily_quota = 1, quota_used = 1,"
        " quota_date = (now() at time zone 'UTC')::date where user_id = %s returning id"
    )


def ask_in_anothers_chat(cell: Cell) -> None:
    other = cell.all_of(
        "insert into public.conversations (user_id, expires_at) select user_id, now() + interval '1 day'"
        " from public.user_subscriptions where user_id <> %s limit 1 returning id"
    )
    cell.body["id"] = str(other[0]["id"])


# The refusal, the directives of the question, a change before it, headers.
REFUSALS: dict[str, tuple[int, str, str, Callable[[Cell], None], dict[str, str]]] = {
    "no quota": (429, "quota_exhausted", "", refuse_for_want_of_quota, {}),
    "no valid token": (401, "unauthenticated", "", lambda _: None, {"authorization": "Bearer x"}),
    "the provider fails": (502, "provider_error", "[fault:status 500]", lambda _: None, {}),
    "the provider is overloaded": (503, "provider_overloaded", "[fault:status 529]", lambda _: None, {}),
    "the provider is silent": (
        504, "provider_timeout", "[fault:stall-before 30]", lambda _: None, {TIMEOUT_HEADER: DELAYED},
    ),
    "no such model": (422, "model_not_available", "", lambda cell: cell.body.update(model="no-model"), {}),
    "a chat of another user": (404, "not_found", "", ask_in_anothers_chat, {}),
    "the prompt is too long": (502, "provider_error", "[fault:too-long]", lambda _: None, {}),
}  # fmt: skip


@pytest.mark.parametrize("accept", ["text/event-stream", "application/json"])
@pytest.mark.parametrize("refusal", REFUSALS)
def test_a_refusal_leaves_no_hold(make_cell: Callable[..., Cell], refusal: str, accept: str) -> None:
    """Sent again, the message is refused for the same reason and not because it is being answered."""
    status, expected, directives, change, headers = REFUSALS[refusal]
    cell = make_cell("pro", "anthropic", directives)
    change(cell)
    for _ in range(2):
        sent = {**cell.person.headers, "accept": accept, **headers}
        response = cell.api.http.post("/chat", json=cell.body, headers=sent)
        assert (response.status_code, code(response)) == (status, expected)
        assert cell.all_of("select id from public.query_holds where user_id = %s") == []


def waiting_for_the_users_lock(db: Db) -> set[str]:
    """The functions whose calls wait for an advisory lock."""
    rows = db.execute(
        "select substring(query from '\"(admit_query|release_query)\"') as name from pg_stat_activity"
        " where wait_event_type = 'Lock' and wait_event = 'advisory'"
    )
    return {row["name"] for row in rows}


def test_an_admission_that_commits_late_is_released_before_its_refusal(
    make_cell: Callable[..., Cell], stack_db: Db, eventually: Wait
) -> None:
    cell = make_cell("pro", "anthropic")
    lock = "select {}(uuid_hash_extended(%s::uuid, 0))"
    stack_db.execute(lock.format("pg_advisory_lock").encode(), (cell.person.id,))
    with ThreadPoolExecutor(1) as pool:
        refused = pool.submit(cell.ask)
        try:
            eventually(lambda: waiting_for_the_users_lock(cell.db) == {"admit_query", "release_query"})
            assert not refused.done()
        finally:
            stack_db.execute(lock.format("pg_advisory_unlock").encode(), (cell.person.id,))
        assert refused.result().wire == "503 unavailable"
    assert cell.all_of("select id from public.query_holds where user_id = %s") == []
    assert cell.ask().wire == "finish stop"


@pytest.fixture
def gateway(stack: Stack) -> Iterator[Relay]:
    """A relay before Supabase's gateway."""
    with relay_to(GATEWAY + stack.config.offset) as relay:
        yield relay


@pytest.fixture
def model(stack: Stack) -> Iterator[Relay]:
    """A relay before the model provider."""
    with relay_to(MODEL + stack.config.offset) as relay:
        yield relay


@pytest.fixture
def relayed(stack: Stack, gateway: Relay, model: Relay, tmp_path: Path) -> Iterator[Api]:
    """The function as on Lambda, which reaches the database and the provider through relays."""
    environ = {
        **chat_environment(stack),
        "SUPABASE_URL": gateway.url,
        "ANTHROPIC_BASE_URL": model.url,
        "OPENAI_BASE_URL": f"{model.url}/v1",
    }
    with running(tmp_path / "lambda", environ) as function, httpx.Client(base_url=function.url, timeout=60) as http:
        yield Api(http, stack.info["model_url"])


@pytest.fixture
def user(stack: Stack, gateway: Relay, person: Callable[..., Person]) -> Person:
    """A user whose token was issued behind the relay."""
    user = person("pro")
    key = load_or_create_key(stack.config.folder / "signing-key.pem")
    token = access_token(key, issuer=f"{gateway.url}/auth/v1", user_id=user.id, email=user.email)
    return Person(user.id, user.email, token)


def test_an_admission_whose_response_is_lost_is_released(
    relayed: Api, user: Person, gateway: Relay, state_of: StateOf
) -> None:
    body = question("Who?")
    gateway.lose_responses_to = b"/rpc/admit_query"
    refused = relayed.http.post("/chat", json=body, headers=user.headers)
    gateway.lose_responses_to = b""
    assert (refused.status_code, code(refused)) == (503, "unavailable")
    assert state_of(user).holds == 0
    assert relayed.chat(user, body).status_code == 200
    assert state_of(user).outcomes[-1] == "answered"


def test_a_settlement_without_a_response_ends_before_the_functions_timeout(
    relayed: Api, user: Person, gateway: Relay, state_of: StateOf
) -> None:
    """The process is not killed, the stream has its end, and the answer is charged once."""
    gateway.lose_responses_to = b"/rpc/settle_query"
    headers = {**user.headers, TIMEOUT_HEADER: f"{limits.DEADLINE_MARGIN_S + 1}"}
    with relayed.http.stream("POST", "/chat", json=question("Who?"), headers=headers) as response:
        received = Received().start_reading(response).read_all()
    assert received.wire == "finish stop"
    assert received.metadata is not None
    assert received.metadata["persisted"] is False
    state = state_of(user)
    assert (state.outcomes, state.holds, state.quota_used) == (["answered"], 0, 1)


@pytest.mark.parametrize("when_used", [False, True])
@pytest.mark.parametrize("provider", ["anthropic", "openai"])
def test_connections_that_died_while_frozen_are_replaced(
    relayed: Api, user: Person, gateway: Relay, model: Relay, state_of: StateOf, provider: str, when_used: bool
) -> None:
    """The next question is answered and charged once, and the provider receives it once."""
    texts = [f"Who is {uuid.uuid4()}?" for _ in range(3)]
    for text in texts:
        assert relayed.chat(user, question(text, provider=provider)).status_code == 200
        assert gateway.break_connections(when_used=when_used) > 0
        assert model.break_connections(when_used=when_used) > 0
    state = state_of(user)
    assert (state.outcomes, state.holds, state.quota_used) == (["answered"] * 3, 0, 3)
    assert [len(relayed.provider_requests(text)) for text in texts] == [1, 1, 1]


def test_follow_and_stop_work_from_other_processes(
    make_cell: Callable[..., Cell], function: WebAdapter, eventually: Wait
) -> None:
    cell = make_cell("pro", "anthropic", "[fault:slow 0.05] [fault:long 400]")

    def follow() -> str:
        path = f"/chat/{cell.chat_id}/stream"
        return cell.api.http.get(path, headers=cell.person.headers).text

    with ThreadPoolExecutor(1) as pool, cell.asking() as received:
        received.until("text-delta")
        following = pool.submit(follow)
        eventually(
            lambda: cell.all_of("select followed_to from public.query_holds where user_id = %s")[0]["followed_to"] or 0
        )
        cell.stop()
        received.read_all()
        followed = following.result()
    assert received.wire == "metadata, abort"
    assert followed.endswith("data: [DONE]\n\n")
    assert '"type":"abort"' in followed.replace(" ", "")
    assert len({environment.child.process.pid for environment in function.environments}) >= 3
    assert cell.all_of("select id from public.query_holds where user_id = %s") == []
    (row,) = cell.all_of("select outcome from public.usage_logs where user_id = %s")
    assert row["outcome"] == "stopped"


@pytest.fixture
def account(stack: Stack) -> Iterator[httpx.Client]:
    """The account function, which has processes of its own."""
    with mock.patch.dict(os.environ, environment(stack, "http://127.0.0.1:9")):
        app = create_account()
    with serve(lambda url: app) as url, httpx.Client(base_url=url, timeout=30) as client:
        yield client


def test_the_account_answers_while_no_process_of_the_chat_is_free(
    make_cell: Callable[..., Cell], function: WebAdapter, account: httpx.Client, monkeypatch: pytest.MonkeyPatch
) -> None:
    busy = max(2, len(function.environments))
    cells = [make_cell("pro", "anthropic", "[fault:slow 0.05] [fault:long 400]") for _ in range(busy)]
    with ExitStack() as streams:
        answers = [streams.enter_context(cell.asking()) for cell in cells]
        for answer in answers:
            answer.until("text-delta")
        monkeypatch.setattr(web_adapter, "ENVIRONMENTS", 0)  # the reserved concurrency is used up
        stop, headers = f"/chat/{cells[0].chat_id}/stop", cells[0].person.headers
        assert cells[0].api.http.post(stop, headers=headers).status_code == 429
        assert account.get("/usage", headers=headers).json()["included"]["used"] == 1
        for cell in cells:
            stopped = account.post(f"/chat/{cell.chat_id}/stop", headers=cell.person.headers)
            assert (stopped.status_code, stopped.json()) == (202, {"stopping": True})
        assert {answer.read_all().wire for answer in answers} == {"metadata, abort"}


def test_an_ended_answer_is_neither_stopped_nor_resumed(make_cell: Callable[..., Cell]) -> None:
    """The process that answered, thawed by these requests, knows that its turn is over."""
    cell = make_cell("pro", "anthropic")
    assert cell.ask().wire == "finish stop"
    path = f"/chat/{cell.chat_id}"
    stopped = cell.api.http.post(f"{path}/stop", headers=cell.person.headers)
    assert (stopped.status_code, stopped.json()) == (202, {"stopping": False})
    assert cell.api.http.get(f"{path}/stream", headers=cell.person.headers).status_code == 204


def lines(function: WebAdapter) -> list[dict[str, Any]]:
    """The JSON lines that the function has logged."""
    logs = "\n".join(environment.child.log.read_text() for environment in function.environments)
    return [json.loads(line) for line in logs.splitlines() if line.startswith("{")]


@pytest.mark.parametrize("directives", ["", "[fault:drop]", "[fault:status 500]"])
def test_a_request_is_logged_before_the_freeze(
    make_cell: Callable[..., Cell], function: WebAdapter, directives: str
) -> None:
    received = make_cell("pro", "anthropic", directives).ask()
    found = [line["message"] for line in lines(function) if line.get("request_id") == received.request_id]
    assert sorted(found) == ["query", "request"]
