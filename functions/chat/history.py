"""The earlier messages of a conversation that the model is sent with a question."""

from collections.abc import Sequence

from functions.chat import limits
from functions.chat.answer import Answer, MessageRow
from functions.chat.providers import Message
from functions.chat.request import UIMessage


def from_storage(rows: Sequence[MessageRow]) -> list[Message]:
    """The newest stored turns that fit, oldest first."""
    turns: list[list[Message]] = []
    for row in rows:
        if row["role"] == "user":
            turns.append([Message("user", row["content"])])
        elif turns:  # answers before the first question belong to a turn that was cut off
            turns[-1].extend(Answer.from_row(row).messages())
    return fitting(turns, limits.HISTORY_BYTES)


def from_client(messages: Sequence[UIMessage]) -> list[Message]:
    """The newest turns that fit of the messages that the client sent before its question, oldest first."""
    turns: list[list[Message]] = []
    for message in messages[-limits.HISTORY_MESSAGES :]:
        if message.role == "user":
            turns.append([])
        if turns and message.text.strip():
            turns[-1].append(Message(message.role, message.text))
    return fitting(turns, limits.HISTORY_BYTES)


def fitting(turns: Sequence[Sequence[Message]], limit: int) -> list[Message]:
    """The newest turns that fit into `limit` bytes, oldest first.

    A turn is never cut. A turn that does not fit with its tool calls and results is sent without them.
    """
    chosen: list[Message] = []
    for turn in reversed(turns):
        for form in (turn, [Message(message.role, message.text) for message in turn if message.text]):
            if (size := sum(bytes_of(message) for message in form)) <= limit:
                break
        else:
            break
        limit -= size
        chosen[:0] = form
    return chosen


def bytes_of(message: Message) -> int:
    """How many bytes of a message the model reads, in UTF-8."""
    texts = [message.text, *(result.text for result in message.results)]
    for call in message.calls:
        texts += call.name, call.arguments
    return sum(len(text.encode()) for text in texts)
