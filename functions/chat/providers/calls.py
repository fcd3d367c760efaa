"""Tool calls while a response arrives.

Each call gets an id of ours. Providers' ids may be missing, the same in every step, or of a form that another provider
refuses.
"""

import json
import re
import secrets
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from functions.chat.providers import ToolCall, ToolCallStarted
from functions.common.surrogates import joined

# Both providers refuse a history with other names.
NAME_CHARACTERS = 64
NOT_IN_A_NAME = re.compile("[^a-zA-Z0-9_-]")


def text_of(value: Any) -> str:
    """The value if it is a text, otherwise an empty text."""
    return value if isinstance(value, str) else ""


def dict_of(value: Any) -> Mapping[str, Any]:
    """The value if it is an object, otherwise an empty one."""
    return value if isinstance(value, dict) else {}


def arguments_of(value: Any) -> str:
    """Arguments that did not come in pieces, as text. Gateways also send them as an object.

    An object that is nested too deeply for JSON becomes a text that is no JSON: the call fails, and not the answer.
    """
    try:
        return value if isinstance(value, str) else json.dumps(value) if value else ""
    except RecursionError:
        return "["


def new_id() -> str:
    """An id that both providers accept."""
    return f"call_{secrets.token_hex(8)}"


@dataclass(slots=True)
class PartialCall:
    """A tool call of which not everything has arrived. `whole` are arguments that did not come in pieces."""

    name: str
    given_id: str
    pieces: str = ""
    whole: str = ""
    id: str = field(default_factory=new_id)

    @classmethod
    def of(cls, name: Any, given_id: Any, ids: "re.Pattern[str]") -> "PartialCall":
        """A call with the provider's name and id. `ids` matches what the provider accepts as an id."""
        given = text_of(given_id)
        name = NOT_IN_A_NAME.sub("_", text_of(name))[:NAME_CHARACTERS] or "unknown"
        return cls(name, given if ids.fullmatch(given) else "")

    def started(self) -> ToolCallStarted:
        """The event of its start."""
        return ToolCallStarted(self.id, self.name)

    def ended(self) -> ToolCall:
        """The event of its end."""
        return ToolCall(self.id, self.name, joined(self.whole or self.pieces), self.given_id)
