"""The earlier turns of a conversation that the model is sent with a question. A turn is a question and its answer.

A turn that the provider refused because of its content is left out: sent again, it would be refused again.
"""

from collections.abc import Callable, Sequence

from functions.chat import limits
from functions.chat.answer import Answer, MessageRow
from functions.chat.providers import Message
from functions.chat.request import UIMessage
from functions.chat.wire import Ending

Turns = list[list[Message]]
REFUSED: Ending = "content-filter"


def from_storage(rows: Sequence[MessageRow]) -> Turns:
    """The newest stored turns that fit, oldest first."""
    turns: Turns = []
    for row in rows:
        if row["role"] == "user":
            turns.append([Message("user", row["content"])])
        elif turns and row.get("finish_reason") == REFUSED:
            turns.pop()
        elif turns:  # answers before the first question belong to a turn that was cut off
            turns[-1].extend(Answer.from_row(row).messages())
    return fitting(turns, limits.HISTORY_BYTES, bytes_of)


def from_client(messages: Sequence[UIMessage]) -> Turns:
    """The newest turns that fit of the messages that the client sent before its question, oldest first."""
    turns: Turns = []
    for message in messages[-limits.HISTORY_MESSAGES :]:
        if message.role == "user":
            turns.append([])
        if turns and message.finish_reason == REFUSED:
            turns.pop()
        elif turns and message.text.strip():
            turns[-1].append(Message(message.role, message.text))
    return fitting(turns, limits.HISTORY_BYTES, bytes_of)


def fitting(turns: Turns, limit: int, size_of: Callable[[Message], int]) -> Turns:
    """The newest turns whose sizes add up to at most `limit`, oldest first.

    The texts of all turns come first, and a turn is never cut. What is left has the tool calls and results of the
    newest turns.
    """
    chosen: Turns = []
    for turn in reversed(turns):
        texts = [Message(message.role, message.text) for message in turn if message.text]
        limit -= sum(map(size_of, texts))
        if limit < 0:
            break
        chosen.insert(0, texts)
    for at in range(1, len(chosen) + 1):
        limit -= sum(map(size_of, turns[-at])) - sum(map(size_of, chosen[-at]))
        if limit < 0:
            break
        chosen[-at] = turns[-at]
    return chosen


def split_turns(messages: Sequence[Message]) -> Turns:
    """The turns of messages that begin with a question."""
    turns: Turns = []
    for message in messages:
        if message.role == "user":
            turns.append([])
        turns[-1].append(message)
    return turns


def texts_of(message: Message) -> list[str]:
    """What the model reads of a message."""
    calls = [text for call in message.calls for text in (call.name, call.arguments)]
    return [message.text, *calls, *(result.text for result in message.results)]


def bytes_of(message: Message) -> int:
    """The size of what the model reads of a message, in UTF-8."""
    return sum(len(text.encode()) for text in texts_of(message))
