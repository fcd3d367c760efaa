"""Two messages of one chat at the same time, and two regenerations of one answer, in one process or in two."""

import uuid
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import httpx
import pytest

from infra.local.stack import Stack
from tests.api import Api, StateOf, question
from tests.clients.browser import Browser
from tests.conftest import Person
from tests.journeys.ai_sdk_kit import text_of, valid
from tests.journeys.chat_process import chat_process

NewPerson = Callable[..., Person]
Json = dict[str, Any]
LONG = "[fault:slow 0.2] [fault:long 60]"  # twelve seconds


@pytest.fixture(scope="module")
def processes(stack: Stack, tmp_path_factory: pytest.TempPathFactory) -> Iterator[dict[str, str]]:
    """The addresses of the stack's process and of a second one."""
    with chat_process(stack, tmp_path_factory.mktemp("other")) as process:
        yield {"this process": stack.info["functions_url"], "another process": process.url}


def post(url: str, person: Person, body: Json) -> httpx.Response:
    """The answer as one JSON document."""
    headers = {**person.headers, "accept": "application/json"}
    return httpx.post(f"{url}/chat", json=body, headers=headers, timeout=30)


@pytest.mark.parametrize("where", ["this process", "another process"])
@pytest.mark.parametrize("tier", ["pro", "free"])
def test_a_new_message_stops_the_running_answer_and_reads_it(
    api: Api,
    browser: Browser,
    person: NewPerson,
    state_of: StateOf,
    processes: dict[str, str],
    where: str,
    tier: str,
) -> None:
    user, name = person(tier), f"stopped-{where}-{tier}"
    first = question(f"First {LONG}")
    browser.ask(name, user, first)
    browser.until(name, parts=3)
    second = question("Second", *([] if tier == "pro" else [("user", "First")]), chat_id=first["id"])
    response = post(processes[where], user, second)
    assert response.status_code == 200
    stopped = valid(browser.end(name))
    assert stopped.parts[-1]["type"] == "abort"
    assert stopped.metadata["persisted"] is (tier == "pro")
    after = state_of(user)
    assert (after.outcomes, after.holds) == (["stopped", "answered"], 0)
    if tier == "pro":
        assert [content for _, content in after.messages] == [
            first["messages"][-1]["parts"][0]["text"],
            stopped.text,
            "Second",
            text_of(response.json()["message"]),
        ]
        (asked,) = [entry for entry in api.provider_requests("Second") if "First" in entry["messages"][0]["text"]][-1:]
        assert [message["text"] for message in asked["messages"]][:2] == [content for _, content in after.messages[:2]]


@pytest.mark.parametrize("tier", ["pro", "usage_only"])
def test_two_regenerations_at_once_are_one_query(
    person: NewPerson, state_of: StateOf, processes: dict[str, str], tier: str
) -> None:
    user = person(tier, stripe_subscription_id=f"sub_{uuid.uuid4()}")
    this, other = processes.values()
    asked = question("What is a quorum? [fault:slow 0.05]")
    answer = post(this, user, asked).json()["message"]["id"]
    again = {**asked, "trigger": "regenerate-message"}
    named = {**again, "messageId": answer}
    with ThreadPoolExecutor(3) as pool:
        attempts = [pool.submit(post, url, user, body) for url, body in ((this, again), (other, again), (this, named))]
        statuses = sorted(attempt.result().status_code for attempt in attempts)
    assert statuses == [200, 409, 409]
    retried = post(other, user, named)
    assert retried.status_code == (200 if tier == "pro" else 409)  # 409: it is answered and not stored
    assert state_of(user).outcomes == ["answered", "answered"]
    assert post(other, user, again).status_code == 200
    assert state_of(user).outcomes == ["answered"] * 3
