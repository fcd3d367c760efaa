"""What the model is told before the conversation, from text files that anyone may edit: prompts/*.md.

`system_prompt` is the same for everyone, so that providers can cache it; `situation` is today's, and the page's that
the user is on: what the public record says of it, looked up by its id, and what the page says of itself, as a hint.
"""

import asyncio
import re
from datetime import datetime
from functools import cache
from pathlib import Path
from string import Template
from typing import Any
from zoneinfo import ZoneInfo

from functions.chat import limits
from functions.chat.request import Context
from functions.chat.tools import Language, Source, ToolError
from functions.chat.tools.parliament import Parliament
from functions.common import money

FOLDER = Path(__file__).parent / "prompts"
LANGUAGES = {"en": "English", "fr": "French"}
# The ids of pages that the public record can be asked about: an MP's slug; a bill's number, with or without a session.
SLUG = re.compile(r"[a-z0-9-]{1,100}")
BILL = re.compile(r"(?:(\d{2}-\d)/)?([CS]-\d{1,4})", re.IGNORECASE)


@cache
def _text(name: str) -> str:
    return (FOLDER / f"{name}.md").read_text(encoding="utf-8").strip()


def _filled(name: str, **fields: str) -> str:
    return Template(_text(name)).substitute(fields)


def system_prompt() -> str:
    """Who the model is and what it may never do."""
    return _text("system")


async def situation(context: Context, language: Language, now: datetime, parliament: Parliament) -> str:
    """What is so now, for this user. `now` has a time zone; the model is told Toronto's date."""
    today = now.astimezone(ZoneInfo("America/Toronto")).date().isoformat()
    told = [_filled("situation", today=today, language=LANGUAGES[language]), _text(f"context/{context.type}")]
    if record := await _record(context, language, parliament):
        told.append(_filled("record", record=_json(record[0]), url=record[1].url))
    hint = {name: value for name, value in (("id", context.id), ("data", context.data)) if value}
    if hint:
        told.append(_filled("hint", hint=_json(hint)))
    return "\n\n".join(told)


def cut_short(language: Language) -> str:
    """The last words of an answer that has reached a limit."""
    return _text(f"cut_short.{language}")


async def _record(context: Context, language: Language, parliament: Parliament) -> tuple[Any, Source] | None:
    """What the public record says of the page; None where it says nothing, or not soon."""
    try:
        async with asyncio.timeout(limits.CONTEXT_S):
            if context.type == "mp" and SLUG.fullmatch(context.id or ""):
                return await parliament.describe_mp(context.id or "", language)
            if context.type == "bill" and (bill := BILL.fullmatch(context.id or "")):
                return await parliament.describe_bill(bill[1], bill[2].upper(), language)
    except (ToolError, TimeoutError):
        pass  # the model is told so by what is missing, and has tools to look for itself
    return None


def _json(value: Any) -> str:
    return money.dumps(value).decode()
