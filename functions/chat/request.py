"""The body of POST /chat: the AI SDK's request with our own optional fields, validated and limited in size."""

import hashlib
import re
from typing import Annotated, Any, Literal
from uuid import UUID

import orjson
from pydantic import BaseModel, ConfigDict, Field, StringConstraints, field_validator, model_validator

from functions.chat import limits
from functions.common.ids import ID_CHARACTERS
from functions.common.validation import problem

UUID_TEXT = re.compile(r"[0-9a-f]{8}-([0-9a-f]{4}-){3}[0-9a-f]{12}", re.IGNORECASE)
MARKDOWN_LINK = re.compile(r"!?\[([^\[\]]*)\]\([^()\s]*\)")
MARKDOWN_MARKS = re.compile(r"[*`#>]+")
Id = Annotated[str, StringConstraints(min_length=1, max_length=ID_CHARACTERS)]
ContextType = Literal["general", "mp", "bill", "dashboard", "lobbying", "spending"]


class Part(BaseModel):
    """A part of a UIMessage. Only the text of text parts is read."""

    type: Annotated[str, StringConstraints(max_length=limits.PART_TYPE_CHARACTERS)]
    text: str | None = None


class UIMessage(BaseModel):
    """A message as the AI SDK's client sends it. System messages are rejected."""

    id: Id
    role: Literal["user", "assistant"]
    parts: Annotated[list[Part], Field(max_length=limits.PARTS)]
    metadata: Any = None

    @property
    def finish_reason(self) -> Any:
        """Why an answer ended, by the metadata that the chat sent with it."""
        return self.metadata.get("finish_reason") if isinstance(self.metadata, dict) else None

    @property
    def text(self) -> str:
        """The text of all text parts."""
        return "".join(part.text or "" for part in self.parts if part.type == "text")


class Context(BaseModel):
    """The page that the user is on."""

    type: ContextType = "general"
    id: Annotated[str, StringConstraints(max_length=limits.CONTEXT_ID_CHARACTERS)] | None = None
    data: dict[str, Any] | None = None

    @field_validator("data")
    @classmethod
    def _is_small(cls, data: dict[str, Any] | None) -> dict[str, Any] | None:
        try:
            small = len(orjson.dumps(data)) <= limits.CONTEXT_BYTES
        except orjson.JSONEncodeError:
            small = False  # nested deeper than 254 levels
        if not small:
            raise problem("context_size", limit=limits.CONTEXT_BYTES)
        return data


class ChatRequest(BaseModel):
    """The body of POST /chat."""

    model_config = ConfigDict(populate_by_name=True)

    id: Id
    messages: Annotated[list[UIMessage], Field(min_length=1, max_length=limits.MESSAGES)]
    trigger: Literal["submit-message", "regenerate-message"] = "submit-message"
    message_id: Id | None = Field(default=None, alias="messageId")
    context: Context = Context()
    provider: Literal["anthropic", "openai"] | None = None
    model: Annotated[str, StringConstraints(min_length=1, max_length=limits.MODEL_CHARACTERS)] | None = None
    language: Literal["en", "fr"] = "en"

    @model_validator(mode="after")
    def _ends_with_a_question(self) -> "ChatRequest":
        if self.question.role != "user" or not self.question.text.strip():
            raise problem("question")
        if any(part.type == "file" for part in self.question.parts):
            raise problem("question_file")
        if len(self.question.text.encode()) > limits.QUESTION_BYTES:
            raise problem("question_size", limit=limits.QUESTION_BYTES)
        return self

    @property
    def question(self) -> UIMessage:
        """The last message, which is the user's."""
        return self.messages[-1]

    @property
    def request_id(self) -> str | None:
        """The idempotency key of the query within its chat.

        A message sent again has the same key. An edited message (the client names the message that it replaces) has a
        key of its own for each text. A regeneration has a key of its own for each answer that it replaces: None where
        the client does not name the answer. The database then takes the newest one.
        """
        question = self.question
        if self.trigger == "regenerate-message":
            return None if self.message_id in (None, question.id) else f"regenerate:{self.message_id}:{question.id}"
        if self.is_edit:
            return f"edit:{question.id}:{hashlib.sha256(question.text.encode()).hexdigest()}"
        return question.id

    @property
    def question_digest(self) -> str | None:
        """A digest of the question's text, as a UUID. None where `request_id` identifies the text.

        The same message id with another text is an error of the client.
        """
        if self.asks_again:
            return None
        return str(UUID(bytes=hashlib.sha256(self.question.text.encode()).digest()[:16]))

    @property
    def is_edit(self) -> bool:
        """Whether the question is an edited version of an earlier one."""
        return self.trigger == "submit-message" and self.message_id is not None

    @property
    def asks_again(self) -> bool:
        """Whether the question may have been asked before in this chat."""
        return self.trigger == "regenerate-message" or self.is_edit

    def belongs_to(self, chat_id: str) -> bool:
        """Whether this is the chat's id. The case of a UUID does not matter."""
        return self.id == chat_id or (UUID_TEXT.fullmatch(chat_id) is not None and self.id.lower() == chat_id.lower())

    def title(self, answer: str) -> str:
        """The title of a new conversation: the start of the question, or of question and answer if it is very short."""
        line = re.sub(r"\s+", " ", self.question.text).strip()
        if len(line.split()) < limits.TITLE_WORDS:
            text = MARKDOWN_LINK.sub(r"\1", answer[: limits.TITLE_SOURCE_CHARACTERS])
            line = re.sub(r"\s+", " ", f"{line} – {MARKDOWN_MARKS.sub('', text)}").strip(" –")
        if len(line) <= limits.TITLE_CHARACTERS:
            return line
        return line[: limits.TITLE_CHARACTERS].rsplit(" ", 1)[0] + "…"
