"""chat.mjs, driven from a test: one process for many jobs, of which any number run at once."""

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
class Heard:
    """What the AI SDK's client got: the parts as it read them, and the message that it built of them.

    `wrong` is what stream_rules.mjs finds, `thrown` what the client raised.
    """

    parts: list[Json]
    comments: list[str]
    wrong: list[str]
    errors: list[str]
    message: Json | None
    thrown: Json | None
    nothing: bool
    status: int | None
    headers: dict[str, str]

    @property
    def kinds(self) -> list[str]:
        """The parts' types, the deltas of a text as one."""
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
        """The parts of a type."""
        return [part for part in self.parts if part["type"] == kind]

    def refusal(self) -> tuple[int, str]:
        """The status and the code of the error that the client raised."""
        assert self.thrown is not None, self
        assert self.thrown["name"] == "AI_APICallError", self.thrown
        return self.thrown["status"], json.loads(self.thrown["body"])["error"]["code"]


class Browser:
    """The jobs are told in chat.mjs. Names are the test's own."""

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
        """Send a message, to the function at another address too."""
        self._do("ask", name=name, body=body, **self._where(person, at))

    def resume(self, name: str, person: Person, chat_id: str, *, at: str | None = None) -> None:
        """Come back to a chat."""
        self._do("resume", name=name, chat=chat_id, **self._where(person, at))

    def stop(
        self, name: str, person: Person, chat_id: str, *, at: str | None = None, when: tuple[str, int] | None = None
    ) -> None:
        """Stop a chat's answer; once that stream has so many deltas of text."""
        waits = {"when": {"name": when[0], "type": "text-delta", "parts": when[1]}} if when else {}
        self._do("stop", name=name, chat=chat_id, **self._where(person, at), **waits)

    def until(self, name: str, kind: str = "text-delta", parts: int = 1) -> list[Json]:
        """Wait until a stream has so many parts of a type, which it has to get. Returns all that it has by then."""
        has: list[Json] = self._do("until", name=name, type=kind, parts=parts)["parts"]
        assert sum(part["type"] == kind for part in has) >= parts, f"it ended before: {self.end(name)}"
        return has

    def comments(self, name: str) -> int:
        """How many comments a stream has brought so far."""
        return len(self._do("peek", name=name)["comments"])

    def leave(self, name: str) -> None:
        """Close the page."""
        self._do("leave", name=name)

    def end(self, name: str) -> Heard:
        """Wait for a stream's end."""
        told = self._do("end", name=name)
        return Heard(
            parts=told["parts"],
            comments=told["comments"],
            wrong=told["wrong"],
            errors=told["errors"],
            message=told.get("message"),
            thrown=told.get("thrown"),
            nothing=told.get("nothing", False),
            status=told.get("status"),
            headers=told.get("headers", {}),
        )

    def stopped(self, name: str) -> bool:
        """Wait for the response to a stop. Returns whether there was something to stop."""
        told = self._do("end", name=name)
        assert told["status"] == 202, told
        assert set(told["body"]) == {"stopping"}, told
        stopping: bool = told["body"]["stopping"]
        return stopping

    def hear(self, name: str, person: Person, body: Json) -> Heard:
        """Send a message and wait for the end of its answer."""
        self.ask(name, person, body)
        return self.end(name)

    def talk(self, person: Person, chat_id: str, *acts: Json, **body: Any) -> list[list[Json]]:
        """What a page does, one after the other; the messages that it shows after each."""
        name = f"talk-{uuid.uuid4()}"
        self._do("talk", name=name, chat=chat_id, acts=acts, body=body, **self._where(person, None))
        seen = self._do("end", name=name)["seen"]
        wrong = [(act, after) for act, after in zip(acts, seen, strict=True) if after["status"] != "ready"]
        assert not wrong, wrong
        return [after["messages"] for after in seen]

    def wrong(self, parts: Sequence[Json], body: str | None = None) -> list[str]:
        """What stream_rules.mjs finds in the parts of a message, or in a body that the parts were read from."""
        found: list[str] = self._do("check", parts=parts, **({} if body is None else {"body": body}))["wrong"]
        return found

    def _where(self, person: Person, at: str | None) -> Json:
        return {"token": person.token, "api": self._api if at is None else f"{at}/chat"}

    def _do(self, what: str, **job: Any) -> Json:
        assert self._node.stdin is not None
        assert self._node.stdout is not None
        self._node.stdin.write(json.dumps({"do": what, **job}).encode() + b"\n")
        self._node.stdin.flush()
        line = self._node.stdout.readline()
        assert line, "node ended; its standard error says why"
        told: Json = json.loads(line)
        assert "failed" not in told, told["failed"]
        return told
