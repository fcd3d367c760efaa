"""A conversation of five turns in English and in French, compared with docs/transcript.md.

The model is the stand-in, which chooses tools by simple rules and writes their results as sentences; everything else is
real. `WRITE=1` writes the transcript again. Read it before you commit it.
"""

import json
import os
import uuid
from collections.abc import Callable
from typing import Any

import pytest

from infra import pricing
from infra.local.postgres import ROOT
from infra.local.stack import Stack
from tests.api import Api, StateOf, Streamed, question
from tests.conftest import Person

TRANSCRIPT = ROOT / "docs" / "transcript.md"
QUESTIONS = [
    ("en", "What is bill C-5 about?"),
    ("en", "How did my MP vote on C-5? I live at K1A 0A6."),
    ("fr", "Où en est le projet de loi C-5 ?"),
    ("fr", "Qui est le ministre des Finances ?"),
    ("en", "What happened in Parliament today?"),
]
HEADER = """# A conversation

Five turns on the local stack: `make run`, then these questions in one chat. The data are invented, and the model is a
stand-in that chooses one tool by simple rules and writes the main facts of its result. The tools, their sources, the
metering and the stream are real. `tests/journeys/test_conversation.py` compares this page with the output.
"""


def shown(value: Any, width: int = 400) -> str:
    """JSON on one line, at most `width` characters of it."""
    text = json.dumps(value, ensure_ascii=False)
    return text if len(text) <= width else f"{text[:width]}…"


def turn(text: str, language: str, streamed: Streamed) -> str:
    """One turn as Markdown."""
    lines = [f"\n## {text}\n\n*{language}*\n"]
    for part in streamed.parts:
        match part["type"]:
            case "tool-input-available":
                lines.append(f"- calls `{part['toolName']}` with `{shown(part['input'])}`")
            case "tool-output-available":
                lines.append(f"- which gives `{shown(part['output'])}`")
            case "source-url":
                lines.append(f"- source: [{part['title']}]({part['url']})")
    metadata = streamed.metadata
    quoted = "\n".join(f"> {line}".rstrip() for line in streamed.text.strip().split("\n"))
    lines.append(f"\n{quoted}\n")
    lines.append(
        f"{metadata['provider']} {metadata['model']}, {metadata['funding']}, {metadata['remaining']} left today, "
        f"charged ${metadata['charged_usd']}"
    )
    return "\n".join(lines) + "\n"


@pytest.mark.parametrize("provider", ["anthropic", "openai"])
def test_five_turns_match_the_transcript(
    stack: Stack, api: Api, person: Callable[..., Person], state_of: StateOf, provider: str
) -> None:
    user, chat_id = person("pro"), str(uuid.uuid4())
    page, tools, reads, writes = HEADER, set[str](), 0, 0
    for number, (language, text) in enumerate(QUESTIONS, 1):
        streamed = api.stream(user, question(text, chat_id=chat_id, language=language, provider=provider))
        assert streamed.parts[-1]["finishReason"] == "stop"
        assert [part for part in streamed.parts if part["type"] == "source-url"]
        tools |= {part["toolName"] for part in streamed.parts if part["type"] == "tool-input-available"}
        asked = api.provider_requests(text)[-1]["messages"]
        assert [message["text"] for message in asked if message["role"] == "user"] == [
            earlier for _, earlier in QUESTIONS[:number]
        ]
        page += turn(text, language, streamed)
        usage = streamed.metadata["usage"]
        reads += usage["input_tokens"] - usage["cache_read_tokens"]
        writes += usage["output_tokens"]
    assert len(tools) >= 3
    assert state_of(user).quota_used == len(QUESTIONS)
    # docs/pricing.md takes this conversation as typical.
    assert reads <= len(QUESTIONS) * sum(usage.tokens_input - pricing.PREFIX for usage in pricing.TYPICAL)
    assert writes <= len(QUESTIONS) * sum(usage.tokens_output for usage in pricing.TYPICAL)
    page = page.replace(stack.info["parliament_url"], "http://127.0.0.1:8790")
    if provider == "anthropic":
        if os.environ.get("WRITE"):
            TRANSCRIPT.write_text(page, encoding="utf-8")
        assert page == TRANSCRIPT.read_text(encoding="utf-8"), "WRITE=1 writes it anew"
