"""The system prompt, from text files that anyone may edit: prompts/*.md."""

from datetime import datetime
from functools import cache
from pathlib import Path
from zoneinfo import ZoneInfo

FOLDER = Path(__file__).parent / "prompts"
LANGUAGES = {"en": "English", "fr": "French"}


@cache
def _text(name: str) -> str:
    return (FOLDER / f"{name}.md").read_text(encoding="utf-8").strip()


def system_prompt(language: str, now: datetime) -> str:
    """What the model is told before the conversation. The stable part comes first, so that providers can cache it.

    `now` has a time zone; the model is told Toronto's date.
    """
    today = now.astimezone(ZoneInfo("America/Toronto")).date().isoformat()
    return f"{_text('system')}\n\nToday is {today} in Toronto. The user reads {LANGUAGES[language]}."
