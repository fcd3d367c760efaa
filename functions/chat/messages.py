"""The messages of a chat as the AI SDK's client built them from the streams: for `useChat` after a reload."""

from decimal import Decimal
from typing import Any
from uuid import UUID

from typing_extensions import TypedDict

from functions.chat import limits, wire
from functions.chat.answer import Answer, MessageRow
from functions.chat.providers import Spent
from functions.chat.request import ContextType
from functions.common import results
from functions.common.database import Database


class StoredRow(MessageRow):
    """A message that chat_messages returns. An answer has its row of usage_logs, otherwise these are None."""

    provider: str | None
    model: str | None
    funding: str | None
    tokens_input: int | None
    tokens_output: int | None
    cache_read_tokens: int | None
    cache_write_tokens: int | None
    cost_usd: Decimal | None
    charged_usd: Decimal | None


class Conversation(TypedDict):
    """A chat. While nothing is stored, `id` and what the first answer decides are null.

    `id` is the argument of update_conversation and delete_conversation. `is_running`: the last message is a question
    that is being answered.
    """

    id: str | None
    chat_id: str
    title: str | None
    context_type: ContextType | None
    context_id: str | None
    is_pinned: bool
    is_archived: bool
    created_at: str | None
    last_message_at: str | None
    expires_at: str | None
    is_running: bool


class ChatMessages(TypedDict):
    """A page of a chat, oldest message first. `before` is the parameter of the page before; null: there is none."""

    conversation: Conversation
    messages: list[wire.UIMessage]
    before: int | None


async def read(database: Database, user_id: str, chat_id: str, before: int | None) -> ChatMessages:
    """The newest messages of a chat, or those before the position `before`.

    Raises NotFound where nothing is stored and nothing runs, and for another user's conversation.
    """
    params = {"p_user_id": user_id, "p_chat_id": chat_id, "p_before": before, "p_limit": limits.MESSAGES}
    params["p_bytes"] = limits.PAGE_BYTES
    messages: ChatMessages = await database.call("chat_messages", params, parse=_page)
    return messages


def _page(value: Any) -> ChatMessages:
    page = results.record("conversation", "messages", "before")(value)
    messages = [_message(row) for row in page["messages"]]
    return {"conversation": page["conversation"], "messages": messages, "before": page["before"]}


def _message(row: StoredRow) -> wire.UIMessage:
    if row["role"] != "assistant":
        return {"id": row["id"], "role": row["role"], "parts": [{"type": "text", "text": row["content"]}]}
    answer = Answer.from_row(row)
    message: wire.UIMessage = {"id": answer.id, "role": "assistant", "parts": answer.parts()}
    if row["funding"] is not None:
        message["metadata"] = wire.metadata(
            request_id=UUID(answer.id).hex,
            spent=Spent.from_row(row),
            funding=row["funding"],
            charged_usd=row["charged_usd"],
            persisted=True,
            finish_reason=row["finish_reason"],
        )
    return message
