"""What the tests of the AI SDK's client share. Fixtures are in conftest.py."""

import json

from tests.clients.browser import Json, Received

# The types of the parts with which a stream starts, of a text, and with which a failed stream ends.
OPENING = ["start", "start-step"]
TEXT = ["text-start", "text-delta", "text-end"]
FAILED_END = ["finish-step", "error", "finish"]
NOT_RUN = "The answer ended before this tool was run."


def calls(*tools: tuple[str, Json]) -> str:
    """The directives with which the stand-in calls these tools in one step."""
    return " ".join(f"[tool:{name} {json.dumps(arguments)}]" for name, arguments in tools)


def regenerate(body: Json, answer: Json) -> Json:
    """The client's request to replace an answer: the messages before it, and its id."""
    return {**body, "trigger": "regenerate-message", "messageId": answer["id"]}


def of_type(parts: list[Json], kind: str) -> list[Json]:
    """The parts of one type."""
    return [part for part in parts if part["type"] == kind]


def valid(received: Received) -> Received:
    """The same. Fails where it violates the protocol."""
    assert received.thrown is None
    assert not received.was_empty
    assert received.violations == []
    assert received.headers["content-type"].startswith("text/event-stream")
    assert received.headers["x-vercel-ai-ui-message-stream"] == "v1"
    assert received.headers["cache-control"].startswith("no-cache")
    assert received.headers["x-accel-buffering"] == "no"
    assert received.message is not None
    assert received.message["role"] == "assistant"
    assert received.message["id"] == received.parts[0]["messageId"]
    return received


def text_part(text: str) -> Json:
    """A text part as the client builds it."""
    return {"type": "text", "text": text, "state": "done"}


def text_of(message: Json) -> str:
    """The text of a message as the client builds it."""
    return "".join(part["text"] for part in message["parts"] if part["type"] == "text")


def without_metadata(received: Received) -> Json:
    """The message that the client built, without its metadata."""
    assert received.message is not None
    return {name: value for name, value in received.message.items() if name != "metadata"}


def unordered(received: Received) -> list[str]:
    """The id and the parts of that message, sorted."""
    assert received.message is not None
    return [received.message["id"], *sorted(json.dumps(part, sort_keys=True) for part in received.message["parts"])]
