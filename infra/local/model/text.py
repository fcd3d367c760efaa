"""Small helpers for text, ids and JSON that every part of the model stand-in uses."""

import json
import re
import secrets
from typing import Any

Json = dict[str, Any]


def tokens(text: str) -> int:
    """A deterministic token count that needs no tokenizer: one per four characters, rounded up, at least one."""
    return max(1, -(-len(text) // 4))


def text_of(content: Any) -> str:
    """The text of a message, a system prompt or a tool result: a string, or blocks of which some have text."""
    return content if isinstance(content, str) else "".join(block.get("text", "") for block in content or [])


def split_words(text: str) -> list[str]:
    """The words with the spaces around them."""
    return re.findall(r"\s*\S+\s*", text)


def split_chunks(text: str) -> list[str]:
    """Pieces of eight characters."""
    return re.findall(r"(?s).{1,8}", text)


def new_id(prefix: str) -> str:
    """A random id of the form `prefix_hex`."""
    return f"{prefix}_{secrets.token_hex(12)}"


def to_json(value: Json) -> bytes:
    """Compact JSON; the providers do not escape non-ASCII characters."""
    return json.dumps(value, ensure_ascii=False, separators=(",", ":")).encode()
