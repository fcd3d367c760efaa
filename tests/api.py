"""A client of the running functions, with readers for what they store and what they send to the provider."""

import json
import time
import uuid
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Any

import httpx
import pytest

from infra.local.stack import Stack
from tests.conftest import Person, lasting_connection


def question(text: str, *earlier: tuple[str, str], chat_id: str | None = None, **fields: Any) -> dict[str, Any]:
    """The body of POST /chat as the AI SDK sends it. `earlier` are (role, text)."""
    messages = [*earlier, ("user", text)]
    return {
        "id": chat_id or str(uuid.uuid4()),
        "trigger": "submit-message",
        "messages": [
            {"id": f"message-{uuid.uuid4()}", "role": role, "parts": [{"type": "text", "text": content}]}
            for role, content in messages
        ],
        **fields,
    }


def lambda_deadline(seconds: float) -> dict[str, str]:
    """The header with which the Web Adapter says that Lambda ends the request in `seconds`."""
    return {"x-amzn-lambda-context": json.dumps({"deadline": int((time.time() + seconds) * 1000)})}


@dataclass(slots=True)
class Streamed:
    """A streamed answer, read to the end."""

    status: int
    headers: httpx.Headers
    parts: list[dict[str, Any]] = field(default_factory=list)
    done: bool = False

    @property
    def kinds(self) -> list[str]:
        return [part["type"] for part in self.parts]

    @property
    def text(self) -> str:
        return "".join(part["delta"] for part in self.parts if part["type"] == "text-delta")

    @property
    def metadata(self) -> dict[str, Any]:
        metadata: dict[str, Any] = self.parts[-1]["messageMetadata"]
        return metadata


@dataclass(frozen=True, slots=True)
class Api:
    """A client of the running functions and of the journal of the provider's stand-in."""

    http: httpx.Client
    model_url: str

    def chat(self, person: Person, body: dict[str, Any], **headers: str) -> httpx.Response:
        """The answer as one JSON document."""
        return self.http.post("/chat", json=body, headers={**person.headers, "accept": "application/json", **headers})

    def stream(self, person: Person, body: dict[str, Any]) -> Streamed:
        """The answer as a stream."""
        with self.http.stream("POST", "/chat", json=body, headers=person.headers) as response:
            streamed = Streamed(response.status_code, response.headers)
            # Not iter_lines, which also splits at U+2028, a character that JSON may contain.
            for line in response.read().decode().split("\n"):
                if line == "data: [DONE]":
                    streamed.done = True
                elif line.startswith("data: "):
                    assert not streamed.done, "nothing follows [DONE]"
                    streamed.parts.append(json.loads(line.removeprefix("data: ")))
        return streamed

    def usage(self, person: Person) -> dict[str, Any]:
        """GET /usage."""
        response = self.http.get("/usage", headers=person.headers)
        assert response.status_code == 200
        usage: dict[str, Any] = response.json()
        return usage

    def provider_requests(self, text: str) -> list[dict[str, Any]]:
        """The requests to the provider that contain this text."""
        journal: list[dict[str, Any]] = httpx.get(f"{self.model_url}/_requests").json()
        return [entry for entry in journal if any(text in message["text"] for message in entry["messages"])]


@pytest.fixture
def api(stack: Stack) -> Iterator[Api]:
    """A client of the running functions."""
    with httpx.Client(base_url=stack.info["functions_url"], timeout=30) as http:
        yield Api(http, stack.info["model_url"])


@dataclass(frozen=True, slots=True)
class UserState:
    """What the database stores of a user's queries. `overage` is an amount in USD as text."""

    outcomes: list[str]
    holds: int
    messages: list[tuple[str, str]]
    quota_used: int
    lifetime_used: int
    overage: str


StateOf = Callable[[Person], UserState]


@pytest.fixture
def state_of(stack: Stack) -> StateOf:
    """Reads the state of a user from the database: `state_of(person)`."""

    def read(person: Person) -> UserState:
        db = lasting_connection(stack)

        def rows(query: str) -> list[dict[str, Any]]:
            return db.execute(query.encode(), (person.id,)).fetchall()

        (subscription,) = rows("select * from public.user_subscriptions where user_id = %s")
        logs = rows("select outcome from public.usage_logs where user_id = %s order by query_timestamp")
        messages = rows(
            "select m.role, m.content from public.messages m join public.conversations c"
            " on c.id = m.conversation_id where c.user_id = %s order by c.created_at, m.position"
        )
        return UserState(
            outcomes=[row["outcome"] for row in logs],
            holds=len(rows("select id from public.query_holds where user_id = %s")),
            messages=[(row["role"], row["content"]) for row in messages],
            quota_used=subscription["quota_used"],
            lifetime_used=subscription["lifetime_used"],
            overage=str(subscription["current_overage_amount"]),
        )

    return read
