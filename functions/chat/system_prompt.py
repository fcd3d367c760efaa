"""The prompts before the conversation, from the text files prompts/*.md.

`system_prompt` is the same for everyone, so that providers can cache it. `situation` has the date and the user's page:
its public record, fetched by its id, and the data that the page itself sent, marked as unverified.
"""

import asyncio
import re
from datetime import datetime
from functools import cache
from pathlib import Path
from string import Template
from typing import Any, NamedTuple
from zoneinfo import ZoneInfo

from functions.chat import limits
from functions.chat.request import Context
from functions.chat.sources import Parliament
from functions.chat.sources.base import Language, SourceError
from functions.chat.tools import Source
from functions.chat.tools.imported_records import page_record
from functions.chat.tools.records import describe_mp, summarize_bill
from functions.chat.wire import Ending
from functions.common import money

FOLDER = Path(__file__).parent / "prompts"
LANGUAGES = {"en": "English", "fr": "French"}
# The ids of pages that have a public record: an MP's slug; a bill's number with or without its session.
SLUG = re.compile(r"[a-z0-9-]{1,100}")
BILL = re.compile(r"(?:(\d{2}-\d)/)?([CS]-\d{1,4}[A-Z]?)", re.IGNORECASE)


@cache
def _text(name: str) -> str:
    return (FOLDER / f"{name}.md").read_text(encoding="utf-8").strip()


def _filled(name: str, **fields: str) -> str:
    return Template(_text(name)).substitute(fields)


def system_prompt() -> str:
    """The model's role and rules."""
    return _text("system")


def assistant_instructions() -> str:
    """Instructions on the tools for users' own assistants."""
    return _text("mcp")


class Situation(NamedTuple):
    """The date in Toronto, the user's language and page; what the page sent about itself, which can be left out; and
    the page's public record.
    """

    plain: str
    hint: str
    source: Source | None


async def situation(context: Context, language: Language, now: datetime, parliament: Parliament) -> Situation:
    """The part of the prompt that is not the same for everyone. `now` has a time zone."""
    today = now.astimezone(ZoneInfo("America/Toronto")).date().isoformat()
    texts = [_filled("situation", today=today, language=LANGUAGES[language]), _text(f"context/{context.type}")]
    if record := await _record(context, language, parliament):
        texts.append(_filled("record", record=_json(record[0]), url=record[1].url))
    hint = {name: value for name, value in (("id", context.id), ("data", context.data)) if value}
    return Situation(
        "\n\n".join(texts),
        "\n\n" + _filled("hint", hint=_json(hint)) if hint else "",
        record[1] if record else None,
    )


def cut_short(language: Language) -> str:
    """The last sentence of an answer that reached the cost limit."""
    return _text(f"cut_short.{language}")


def last_sentence(ending: Ending, language: Language) -> str:
    """The last sentence of an answer that ended for this reason, before or without its last text."""
    if ending == "content-filter":
        return _text(f"refused.{language}")
    return cut_short(language) if ending in ("limit", "length") else _text(f"no_text.{language}")


async def _record(context: Context, language: Language, parliament: Parliament) -> tuple[Any, Source] | None:
    """The public record of the page and its source; None where there is none, or it takes over limits.CONTEXT_S."""
    try:
        async with asyncio.timeout(limits.CONTEXT_S):
            if context.type == "mp" and SLUG.fullmatch(context.id or ""):
                return await describe_mp(parliament, context.id or "", language)
            if context.type == "bill" and (bill := BILL.fullmatch(context.id or "")):
                # A page may name a bill of an earlier session without its session.
                session, number = bill[1], bill[2].upper()
                record = parliament.openparliament
                found = await (record.get_bill(session, number) if session else record.newest_bill(number))
                return summarize_bill(parliament, found, language)
            if context.type in ("lobbying", "spending", "dashboard"):
                return await page_record(context.type, context.id, parliament, language)
    except (SourceError, TimeoutError):
        pass  # The model can still find it with its tools.
    return None


def _json(value: Any) -> str:
    return money.dumps(value).decode()
