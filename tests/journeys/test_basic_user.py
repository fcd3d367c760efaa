"""A basic user's first visit with the real client libraries: sign in, chat, read the conversation and the usage."""

import json
import subprocess
from collections.abc import Callable
from typing import Any

import pytest

from infra.local.postgres import ROOT
from infra.local.stack import PASSWORD, Stack
from tests.conftest import Person

# The exact fields of each part. The clients accept other fields, so the test compares them.
PARTS: dict[str, set[str]] = {
    "start": {"type", "messageId"},
    "start-step": {"type"},
    "text-start": {"type", "id"},
    "text-delta": {"type", "id", "delta"},
    "text-end": {"type", "id"},
    "finish-step": {"type"},
    "finish": {"type", "finishReason", "messageMetadata"},
}


def run_client(script: str, parameters: dict[str, Any]) -> dict[str, Any]:
    """Run one of tests/clients/*.mjs with JSON in and JSON out."""
    done = subprocess.run(
        ["node", script],
        cwd=ROOT / "tests/clients",
        input=json.dumps(parameters),
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    result: dict[str, Any] = json.loads(done.stdout)
    return result


@pytest.mark.parametrize("provider", ["anthropic", "openai"])
def test_a_basic_user_signs_in_chats_and_reads_the_conversation(
    stack: Stack, sign_up: Callable[[str], Person], provider: str
) -> None:
    basic = sign_up("basic")
    seen = run_client(
        "basic_user.mjs",
        {
            **stack.info,
            "email": basic.email,
            "password": PASSWORD,
            "chat_id": f"first-{provider}",
            "question": "What is second reading?",
            "provider": provider,
        },
    )
    assert seen["user_id"] == basic.id

    kinds = [chunk["type"] for chunk in seen["chunks"]]
    deltas = kinds.count("text-delta")
    assert deltas > 3
    assert kinds == [
        *("start", "start-step", "text-start"),
        *["text-delta"] * deltas,
        *("text-end", "finish-step", "finish"),
    ]
    for chunk in seen["chunks"]:
        assert set(chunk) == PARTS[chunk["type"]]
    assert len({chunk["id"] for chunk in seen["chunks"] if "id" in chunk}) == 1

    answer = "".join(chunk["delta"] for chunk in seen["chunks"] if chunk["type"] == "text-delta")
    assert "What is second reading?" in answer  # the stand-in quotes the question
    metadata = seen["chunks"][-1]["messageMetadata"]
    assert seen["message"]["id"] == seen["chunks"][0]["messageId"]
    assert seen["message"]["metadata"] == metadata
    assert [part["text"] for part in seen["message"]["parts"] if part["type"] == "text"] == [answer]
    assert set(metadata) == {
        *("request_id", "provider", "model", "funding", "usage", "cost_usd", "charged_usd", "remaining", "resets_at"),
        *("persisted", "finish_reason"),
    }
    assert set(metadata["usage"]) == {"input_tokens", "output_tokens", "cache_read_tokens", "cache_write_tokens"}
    assert (metadata["provider"], metadata["funding"], metadata["persisted"]) == (provider, "included", True)
    assert (metadata["charged_usd"], metadata["remaining"]) == (0, 14)
    assert metadata["usage"]["output_tokens"] > 0
    assert 0 < metadata["cost_usd"] < 0.01

    included = seen["usage"]["included"]
    assert (included["limit"], included["used"], included["remaining"]) == (15, 1, 14)
    assert seen["usage"]["overage"]["price_usd"] == 0.025
    assert seen["conversation"]["title"] == "What is second reading?"
    assert seen["conversation"]["messages"] == [
        {"role": "user", "content": "What is second reading?"},
        {"role": "assistant", "content": answer},
    ]
    assert seen["logged"] == [
        {
            "outcome": "answered",
            "funding": "included",
            "provider": provider,
            "model": metadata["model"],
            "conversation_id": seen["conversation"]["id"],
            "message_id": seen["message"]["id"],
        }
    ]
    assert seen["subscriptions"] == [{"user_id": basic.id}]
    assert seen["renamed"] == [{"title": "Renamed"}]
    assert seen["cheat"] == "42501"  # insufficient_privilege: only functions write
