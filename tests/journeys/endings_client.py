"""A user of the matrix of endings, and the responses that the user receives."""

import json
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from decimal import Decimal
from typing import Any

import httpx
import psycopg
import pytest

from infra.local.stack import Stack
from tests.api import Api
from tests.conftest import Person
from tests.journeys.endings_table import NOT_RUN

Db = psycopg.Connection[dict[str, Any]]
Wait = Callable[[Callable[[], bool]], None]
Part = dict[str, Any]

# Responses ---------------------------------------------------------------------------------------------------------


@dataclass(slots=True)
class Received:
    """A response, as far as it was read."""

    status: int = 0
    request_id: str = ""
    parts: list[Part] = field(default_factory=list)
    done: bool = False
    error: dict[str, Any] = field(default_factory=dict)
    disconnected: bool = True
    _unread: Iterator[Part] = field(init=False)

    def start_reading(self, response: httpx.Response) -> "Received":
        self.status, self.request_id = response.status_code, response.headers["x-request-id"]
        self._unread = self._read(response)
        return self

    def _read(self, response: httpx.Response) -> Iterator[Part]:
        if self.status != 200:
            self.error = json.loads(response.read())["error"]
            return
        rest = b""
        for chunk in response.iter_raw():
            *events, rest = (rest + chunk).split(b"\n\n")
            for event in events:
                assert not self.done, "nothing follows [DONE]"
                if event == b"data: [DONE]":
                    self.done = True
                elif event != b": keep-alive":
                    part = json.loads(event.removeprefix(b"data: "), parse_float=Decimal)
                    self.parts.append(part)
                    yield part
        assert rest == b""

    def until(self, kind: str, times: int = 1) -> None:
        """Read until a part of this type has arrived so many times."""
        for part in self._unread:
            times -= part["type"] == kind
            if times == 0:
                return
        pytest.fail(f"there was no {kind} among {self.kinds}")

    def read_all(self) -> "Received":
        """Read the rest."""
        for _ in self._unread:
            pass
        self.disconnected = False
        return self

    @property
    def kinds(self) -> list[str]:
        return [part["type"] for part in self.parts]

    def all_of(self, *kinds: str) -> list[Part]:
        return [part for part in self.parts if part["type"] in kinds]

    @property
    def text(self) -> str:
        return "".join(part["delta"] for part in self.all_of("text-delta"))

    @property
    def metadata(self) -> dict[str, Any] | None:
        return self.all_of("finish", "message-metadata")[-1]["messageMetadata"] if self.done else None

    @property
    def wire(self) -> str:
        """How it ended, as in the table."""
        if self.disconnected:
            return "gone"
        if self.status != 200:
            return f"{self.status} {self.error['code']}"
        if self.kinds[-1] == "abort":
            return "metadata, abort"
        failed = "error, " if self.kinds[-2] == "error" else ""
        return f"{failed}{self.kinds[-1]} {self.parts[-1].get('finishReason')}"

    @property
    def tools(self) -> str:
        """The outcomes of the tool calls, as signs of the table."""
        ends = self.all_of("tool-output-available", "tool-output-error", "tool-input-error")
        return "".join("+" if "output" in end else "?" if end["errorText"] == NOT_RUN else "!" for end in ends) or "-"


def check_protocol(received: Received) -> None:
    """Check that it is one message, that steps do not nest and that everything is closed in order."""
    assert received.done, received.kinds
    assert received.kinds[0] == "start"
    ending = 1 if received.wire.startswith("finish") else 2
    middle, ended = received.parts[1:-ending], received.kinds[-ending:]
    assert ended in (["finish"], ["error", "finish"], ["message-metadata", "abort"])
    in_step, text, texts = False, None, set[str]()
    calls: dict[str, str] = {}
    for part in middle:
        kind, call = part["type"], part.get("toolCallId", "")
        assert in_step != (kind == "start-step"), received.kinds
        if kind in ("start-step", "finish-step"):
            in_step = kind == "start-step"
            assert text is None
            assert set(calls.values()) <= {"ended"}, "the step ends after its tools"
        elif kind == "text-start":
            assert text is None
            text = part["id"]
            assert text not in texts
            texts.add(text)
        elif kind in ("text-delta", "text-end"):
            assert part["id"] == text
            text = text if kind == "text-delta" else None
        elif kind == "tool-input-start":
            assert call not in calls
            calls[call] = "started"
        elif kind in ("tool-input-available", "tool-input-error"):
            assert calls[call] == "started"
            calls[call] = "called" if kind == "tool-input-available" else "ended"
        elif kind in ("tool-output-available", "tool-output-error"):
            assert calls[call] == "called"
            calls[call] = "ended"
        else:
            assert kind == "source-url"
    assert not in_step


# Users --------------------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Cell:
    """A user with one funding and a question for one provider."""

    payer: dict[str, str]
    provider: str
    person: Person
    account: str
    body: dict[str, Any]
    api: Api
    stack: Stack
    db: Db
    eventually: Wait

    def __str__(self) -> str:
        return f"{self.payer['funding']} ({self.payer['payer']}), {self.provider}"

    @property
    def chat_id(self) -> str:
        return str(self.body["id"])

    @property
    def question(self) -> str:
        return str(self.body["messages"][0]["parts"][0]["text"])

    @property
    def keeps(self) -> bool:
        return self.payer["history"] == "yes"

    def all_of(self, query: str) -> list[dict[str, Any]]:
        """The rows of a query whose only parameter is the user's id."""
        return self.db.execute(query, (self.person.id,)).fetchall()

    @contextmanager
    def asking(self) -> Iterator[Received]:
        """Ask. Leaving the context disconnects, if the response was not read to its end."""
        with self.api.http.stream("POST", "/chat", json=self.body, headers=self.person.headers) as response:
            yield Received().start_reading(response)

    def ask(self, **headers: str) -> Received:
        """Ask and read the whole response."""
        sent = {**self.person.headers, **headers}
        with self.api.http.stream("POST", "/chat", json=self.body, headers=sent) as response:
            return Received().start_reading(response).read_all()

    def stop(self) -> None:
        """POST /chat/{id}/stop while the answer runs."""
        stopped = self.api.http.post(f"/chat/{self.chat_id}/stop", headers=self.person.headers)
        assert (stopped.status_code, stopped.json()) == (202, {"stopping": True})

    def asked(self) -> list[dict[str, Any]]:
        """The provider's requests with this question."""
        return self.api.provider_requests(self.question)

    def wait_until_asked(self) -> None:
        """Wait until the provider has the question."""
        self.eventually(lambda: self.asked() != [])

    def wait_until_aborted(self) -> None:
        """Wait until the chat disconnected from the provider."""
        self.eventually(lambda: bool(self.asked()[-1]["aborted"]))

    def wait_until_ended(self) -> None:
        """Wait until the query's row is in the ledger."""
        self.eventually(lambda: self.all_of("select id from public.usage_logs where user_id = %s") != [])
