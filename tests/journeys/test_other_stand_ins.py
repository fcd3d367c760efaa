"""The chat with stand-ins of the providers that others wrote: llmock (Python) and aimock (Node).

Ours was written with this chat and shares its assumptions. These do not.
"""

import json
import os
import signal
import subprocess
import time
import uuid
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import httpx
import psycopg
import pytest
from llmock.scenarios import Fail, Reply, StreamFault, ToolCall, ToolFault
from llmock.simulation import MockResponseSettings
from llmock.state import LLMockState
from llmock.testing import LLMockServer

from functions.chat.chat import Chat
from functions.chat.request import ChatRequest
from infra.local.postgres import ROOT
from infra.local.stack import Stack
from tests.api import question
from tests.chat_kit import chat_environment, running_chat
from tests.conftest import Person
from tests.functions.tools.kit import CALLS
from tests.journeys.endings_client import Received, check_protocol
from tests.servers import free_port, serve

NewPerson = Callable[..., Person]
Db = psycopg.Connection[dict[str, Any]]
PROVIDERS = ["anthropic", "openai"]
AIMOCK = ROOT / "tests/clients/node_modules/@copilotkit/aimock/dist/cli.js"
BILL, MEMBERS = ("get_bill", {"number": "C-5"}), ("find_mps", {"name": "no such member"})
SPOKEN = "« Voilà » 🍁 after the tools."


@asynccontextmanager
async def chat_with(stack: Stack, anthropic: str, openai: str) -> AsyncIterator[Chat]:
    """A chat in this process with other providers."""
    urls = {"ANTHROPIC_BASE_URL": anthropic, "OPENAI_BASE_URL": openai}
    async with running_chat({**chat_environment(stack), **urls}) as chat:
        yield chat


async def ask(chat: Chat, person: Person, body: dict[str, Any]) -> Received:
    """The stream of an answer."""
    feed = chat.start(person.id, ChatRequest.model_validate(body))
    stream = b"".join([chunk async for chunk in feed.read(60)])
    *events, last, rest = stream.decode().split("\n\n")
    assert (last, rest) == ("data: [DONE]", "")
    parts = [json.loads(event.removeprefix("data: ")) for event in events]
    received = Received(status=200, parts=parts, done=True, disconnected=False)
    check_protocol(received)
    return received


def ledger(db: Db, person: Person) -> list[dict[str, Any]]:
    return db.execute(
        "select outcome, finish_reason, provider, tokens_input, tokens_output from public.usage_logs"
        " where user_id = %s order by created_at",
        (person.id,),
    ).fetchall()


async def check_a_chat_with_tools(chat: Chat, db: Db, person: Person, provider: str, texts: list[str]) -> None:
    """Check a question that calls two tools and one after it, which reads them."""
    chat_id = str(uuid.uuid4())
    first = await ask(chat, person, question(texts[0], chat_id=chat_id, provider=provider))
    calls = [(part["toolName"], part["input"]) for part in first.all_of("tool-input-available")]
    assert calls == [BILL, MEMBERS]
    outputs = first.all_of("tool-output-available", "tool-output-error")
    assert outputs[0]["output"]["bill"] == "C-5"
    assert len(outputs) == 2
    assert first.text.endswith(SPOKEN)
    assert (first.wire, first.kinds.count("start-step")) == ("finish stop", 2)
    second = await ask(chat, person, question(texts[1], chat_id=chat_id, provider=provider))
    assert (second.text, second.wire) == (SPOKEN, "finish stop")
    rows = ledger(db, person)
    assert [(row["outcome"], row["finish_reason"], row["provider"]) for row in rows] == [
        ("answered", "stop", provider)
    ] * 2
    assert all(row["tokens_input"] > 0 and row["tokens_output"] > 0 for row in rows)


# llmock ----------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def llmock_server() -> Iterator[tuple[str, LLMockState]]:
    """The URL of a running llmock, and its state."""
    app = LLMockServer(responses=MockResponseSettings(response_style="static")).app
    with serve(app) as url:
        yield url, app.state.llmock


@pytest.fixture(scope="module")
async def llmock_chat(stack: Stack, llmock_server: tuple[str, LLMockState]) -> AsyncIterator[Chat]:
    url, _ = llmock_server
    async with chat_with(stack, f"{url}/anthropic", f"{url}/v1") as chat:
        yield chat


@pytest.fixture
def scripted(llmock_server: tuple[str, LLMockState]) -> LLMockState:
    """The state of llmock, without requests and scripts of other tests."""
    _, state = llmock_server
    state.reset()
    return state


@pytest.mark.parametrize("provider", PROVIDERS)
async def test_llmock_chats_with_tools(
    llmock_chat: Chat, scripted: LLMockState, stack_db: Db, person: NewPerson, provider: str
) -> None:
    both = tuple(ToolCall(name, arguments) for name, arguments in (BILL, MEMBERS))
    for reply in (Reply(tool_calls=both), Reply(text=SPOKEN), Reply(text=SPOKEN)):
        scripted.scenarios.add(reply)
    texts = ["What is C-5?", "And then?"]
    await check_a_chat_with_tools(llmock_chat, stack_db, person("pro"), provider, texts)


@pytest.mark.parametrize("provider", PROVIDERS)
async def test_llmock_chooses_a_tool_by_itself(
    llmock_chat: Chat, scripted: LLMockState, person: NewPerson, provider: str
) -> None:
    """It invents arguments from the tool's schema."""
    received = await ask(llmock_chat, person("pro"), question("Find the committees", provider=provider))
    (call,) = received.all_of("tool-input-available")
    assert call["toolName"] in CALLS
    assert received.text.startswith("Mock response from")
    assert received.wire == "finish stop"


# A fault of llmock, and how the stream and the ledger end.
LLMOCK_FAULTS = {
    "overloaded once": (Fail(529), "finish stop", "answered"),
    "down once": (Fail(500), "finish stop", "answered"),
    "a lost connection": (StreamFault("disconnect", after_chunks=4), "error, finish error", "failed"),
    "an early end": (StreamFault("truncate", after_chunks=4), "error, finish error", "failed"),
    "bad JSON": (StreamFault("malformed", after_chunks=4), "error, finish error", "failed"),
    "bad arguments": (ToolFault("malformed_arguments"), "finish stop", "answered"),
    "an unknown tool": (ToolFault("unknown_tool"), "finish stop", "answered"),
}


@pytest.mark.parametrize("provider", PROVIDERS)
@pytest.mark.parametrize("fault", LLMOCK_FAULTS)
async def test_a_fault_of_llmock_has_an_honest_ending(
    llmock_chat: Chat, scripted: LLMockState, stack_db: Db, person: NewPerson, provider: str, fault: str
) -> None:
    user, (behavior, wire, outcome) = person("pro"), LLMOCK_FAULTS[fault]
    scripted.scenarios.add(behavior)
    received = await ask(llmock_chat, user, question("What is Bill C-5 about?", provider=provider))
    assert received.wire == wire
    assert [row["outcome"] for row in ledger(stack_db, user)] == [outcome]


async def test_a_refusal_of_llmock_is_an_answer(
    llmock_chat: Chat, scripted: LLMockState, stack_db: Db, person: NewPerson
) -> None:
    """Only its Anthropic format has refusals."""
    user = person("pro")
    scripted.scenarios.add(Reply(text="No.", finish_reason="content_filter"))
    received = await ask(llmock_chat, user, question("What is Bill C-5 about?", provider="anthropic"))
    assert received.wire == "finish content-filter"
    assert received.text.startswith("No.")
    assert [row["outcome"] for row in ledger(stack_db, user)] == ["answered"]


# aimock ----------------------------------------------------------------------------------------------------------


def fixtures(texts: list[str]) -> list[dict[str, Any]]:
    """What aimock answers: two calls to the first text, a text to their results and to the second text."""
    calls = [{"name": name, "arguments": arguments} for name, arguments in (BILL, MEMBERS)]
    return [
        {"match": {"userMessage": texts[1]}, "response": {"content": SPOKEN}},
        {"match": {"userMessage": texts[0], "hasToolResult": True}, "response": {"content": SPOKEN}},
        {"match": {"userMessage": texts[0]}, "response": {"content": "Let me look. ", "toolCalls": calls}},
    ]


AIMOCK_TEXTS = ["What is Bill C-5 about?", "And then?"]


@pytest.fixture(scope="module")
def aimock_url(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """The URL of a running aimock."""
    folder: Path = tmp_path_factory.mktemp("aimock")
    (folder / "fixtures.json").write_text(json.dumps({"fixtures": fixtures(AIMOCK_TEXTS)}), encoding="utf-8")
    port = free_port()
    command = ["node", str(AIMOCK), "-p", str(port), "-f", str(folder / "fixtures.json"), "-c", "3"]
    with (
        (folder / "log").open("w") as log,
        subprocess.Popen(command, stdout=log, stderr=log, start_new_session=True) as server,
    ):
        url, deadline = f"http://127.0.0.1:{port}", time.monotonic() + 20
        while True:
            try:
                httpx.get(f"{url}/health")
                break
            except httpx.TransportError:
                assert server.poll() is None, (folder / "log").read_text()
                assert time.monotonic() < deadline, "aimock does not answer"
                time.sleep(0.05)  # between attempts to connect
        yield url
        os.killpg(server.pid, signal.SIGTERM)  # the group, because `node` is a script that starts the program


@pytest.mark.parametrize("provider", PROVIDERS)
async def test_aimock_chats_with_tools(
    stack: Stack, aimock_url: str, stack_db: Db, person: NewPerson, provider: str
) -> None:
    async with chat_with(stack, aimock_url, f"{aimock_url}/v1") as chat:
        await check_a_chat_with_tools(chat, stack_db, person("pro"), provider, AIMOCK_TEXTS)
