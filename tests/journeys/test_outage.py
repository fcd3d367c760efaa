"""An outage of the database: no query runs unmetered, and nothing has to be restarted afterwards."""

import json
import uuid
from collections.abc import Callable, Iterator
from typing import Any

import pytest

from functions.chat import limits
from infra.local.stack import Stack
from tests.api import Api, StateOf, question
from tests.conftest import Person

# A refusal takes limits.ADMIT_S. The rest is for a busy machine; a client waits for 30 s otherwise.
REFUSED_WITHIN_S = 4 * limits.ADMIT_S


@pytest.fixture
def outage(stack: Stack) -> Iterator[Callable[[], None]]:
    """Stops the database, or starts it again. It runs again after the test."""
    down = False

    def toggle() -> None:
        nonlocal down
        (stack.start_database if down else stack.stop_database)()
        down = not down

    yield toggle
    if down:
        toggle()


def test_a_chat_is_refused_while_the_database_is_down(
    api: Api, person: Callable[..., Person], state_of: StateOf, outage: Callable[[], None],
    eventually: Callable[..., None],
) -> None:  # fmt: skip
    user = person("basic")
    text = f"During the outage {uuid.uuid4()}"
    assert api.chat(user, question("Before")).status_code == 200
    outage()
    refused = api.http.post("/chat", json=question(text), headers=user.headers, timeout=REFUSED_WITHIN_S)
    error = refused.json()["error"]
    assert (refused.status_code, error["code"]) == (503, "unavailable")
    assert api.http.get("/usage", headers=user.headers, timeout=REFUSED_WITHIN_S).status_code == 503
    assert api.provider_requests(text) == []
    outage()
    eventually(lambda: api.chat(user, question("After")).status_code == 200)
    after = state_of(user)
    assert (after.holds, after.outcomes, after.quota_used) == (0, ["answered", "answered"], 2)


def test_a_short_outage_at_the_end_does_not_prevent_settlement(
    api: Api, person: Callable[..., Person], state_of: StateOf, outage: Callable[[], None],
    eventually: Callable[..., None],
) -> None:  # fmt: skip
    """Settlement is tried several times: the answer is stored and charged once."""
    user = person("basic")
    with api.http.stream("POST", "/chat", json=question("Long [fault:stall 3]"), headers=user.headers) as response:
        lines = response.iter_lines()
        next(line for line in lines if "text-delta" in line)
        outage()
        outage()
        rest = [json.loads(line[6:]) for line in lines if line.startswith("data: {")]
    metadata: dict[str, Any] = rest[-1]["messageMetadata"]
    assert metadata["persisted"] is True
    after = state_of(user)
    assert (after.holds, after.outcomes, after.quota_used, len(after.messages)) == (0, ["answered"], 1, 2)
