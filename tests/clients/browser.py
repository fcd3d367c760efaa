"""Runs chat.mjs for a test: one process for many concurrent jobs."""

import json
import subprocess
import uuid
from collections.abc import Sequence
from dataclasses import dataclass
from types import TracebackType
from typing import Any, Self

from infra.local.postgres import ROOT
from tests.conftest import Person

Json = dict[str, Any]


@dataclass(frozen=True, slots=True)
class Received:
    """A response as the AI SDK's client read it: the parts, and the message that it built from them.

    `violations` are those of stream_rules.mjs, `thrown` is the client's exception.
    """

    parts: list[Json]
    comments: list[str]
    violations: list[str]
    errors: list[str]
    message: Json | None
    thrown: Json | None
    was_empty: bool
    status: int | None
    headers: dict[str, str]

    @property
    def kinds(self) -> list[str]:
        """The parts' types. The deltas of a text count as one."""
        types = [part["type"] for part in self.parts]
        return [kind for at, kind in enumerate(types) if kind != "text-delta" or types[at - 1] != kind]

    @property
    def text(self) -> str:
        return "".join(part["delta"] for part in self.parts if part["type"] == "text-delta")

    @property
    def metadata(self) -> Json:
        (metadata,) = (part["messageMetadata"] for part in self.parts if "messageMetadata" in part)
        assert self.message is not None, self
        assert self.message["metadata"] == metadata, self.message
        return metadata  # type: ignore[no-any-return]

    def all_of(self, kind: str) -> list[Json]:
        """All parts of one type."""
        return [part for part in self.parts if part["type"] == kind]

    def refusal(self) -> tuple[int, str]:
        """The status and code of the HTTP error that the client raised."""
        assert self.thrown is not None, self
        assert self.thrown["name"] == "AI_APICallError", self.thrown
        return self.thrown["status"], json.loads(self.thrown["body"])["error"]["code"]


class Browser:
    """Sends jobs to chat.mjs, which describes them. The test chooses their names."""

    def __init__(self, functions_url: str) -> None:
        self._api = f"{functions_url}/chat"
        self._node = subprocess.Popen(
            ["node", "chat.mjs"], cwd=ROOT / "tests/clients", stdin=subprocess.PIPE, stdout=subprocess.PIPE
        )

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self._node.communicate()

    def ask(self, name: str, person: Person, body: Json, *, at: str | None = None) -> None:
        """Start to send a message, to the function at the address `at` if it is given."""
        self._do("ask", name=name, body=body, **self._where(person, at))

    def resume(self, name: str, person: Person, chat_id: str, *, at: str | None = None) -> None:
        """Start to resume a chat."""
        self._do("resume", name=name, chat=chat_id, **self._where(person, at))

    def stop(
        self, name: str, person: Person, chat_id: str, *, at: str | None = None, when: tuple[str, int] | None = None
    ) -> None:
        """Stop a chat's answer, `when` a stream of that name has so many deltas of text."""
        waits = {"when": {"name": when[0], "type": "text-delta", "parts": when[1]}} if when else {}
        self._do("stop", name=name, chat=chat_id, **self._where(person, at), **waits)

    def until(self, name: str, kind: str = "text-delta", parts: int = 1) -> list[Json]:
        """Wait until a stream has so many parts of a type. Returns all its parts so far. Fails if it ends before."""
        received: list[Json] = self._do("until", name=name, type=kind, parts=parts)["parts"]
        assert sum(part["type"] == kind for part in received) >= parts, f"it ended before: {self.end(name)}"
        return received

    def comments(self, name: str) -> int:
        """How many comments a stream has received so far."""
        return len(self._do("peek", name=name)["comments"])

    def disconnect(self, name: str) -> None:
        """Close the connection of a stream."""
        self._do("disconnect", name=name)

    def end(self, name: str) -> Received:
        """Wait for the end of a stream."""
        result = self._do("end", name=name)
        return Received(
            parts=result["parts"],
            comments=result["comments"],
            violations=result["violations"],
            errors=result["errors"],
            message=result.get("message"),
            thrown=result.get("thrown"),
            was_empty=result.get("was_empty", False),
            status=result.get("status"),
            headers=result.get("headers", {}),
        )

    def stopped(self, name: str) -> bool:
        """Wait for the response to a stop. Returns whether there was something to stop."""
        result = self._do("end", name=name)
        assert result["status"] == 202, result
        assert set(result["body"]) == {"stopping"}, result
        stopping: bool = result["body"]["stopping"]
        return stopping

    def answer(self, name: str, person: Person, body: Json) -> Received:
        """Send a message and wait for the end of its answer."""
        self.ask(name, person, body)
        return self.end(name)

    def use_page(self, person: Person, chat_id: str, *acts: Json, **body: Any) -> list[list[Json]]:
        """Perform actions on a page, one after the other. Returns the messages that it shows after each."""
        name = f"page-{uuid.uuid4()}"
        self._do("use", name=name, chat=chat_id, acts=acts, body=body, **self._where(person, None))
        seen = self._do("end", name=name)["seen"]
        failed = [(act, after) for act, after in zip(acts, seen, strict=True) if after["status"] != "ready"]
        assert not failed, failed
        return [after["messages"] for after in seen]

    def violations(self, parts: Sequence[Json], body: str | None = None) -> list[str]:
        """The violations that stream_rules.mjs finds in the parts of a message, or in the body that has them."""
        violations: list[str] = self._do("check", parts=parts, **({} if body is None else {"body": body}))["violations"]
        return violations

    def _where(self, person: Person, at: str | None) -> Json:
        return {"token": person.token, "api": self._api if at is None else f"{at}/chat"}

    def _do(self, command: str, **job: Any) -> Json:
        assert self._node.stdin is not None
        assert self._node.stdout is not None
        self._node.stdin.write(json.dumps({"command": command, **job}).encode() + b"\n")
        self._node.stdin.flush()
        line = self._node.stdout.readline()
        assert line, "node ended; its standard error says why"
        result: Json = json.loads(line)
        assert "failed" not in result, result["failed"]
        return result
