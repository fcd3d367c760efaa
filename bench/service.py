"""The service under measurement: the local stack, a provider, users, and the chat in a process of its own."""

import tempfile
import uuid
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import psycopg

from bench.load import Parts, Programs, Stream, cpu_seconds, parts, post, raise_file_limit, recorded, serving
from infra.local.auth import access_token, load_or_create_key
from infra.local.postgres import ROOT
from infra.local.serve import listener
from infra.local.stack import POSTGREST, Config, Stack, free_offset, running

USERS = 1000
PATHS = {"anthropic": "/v1/messages", "openai": "/v1/responses"}
# The first text of each format, and its end.
MARKERS = {
    "/chat": (b'"text-delta"', b"data: [DONE]"),
    "/v1/messages": (b"content_block_delta", b"message_stop"),
    "/v1/responses": (b"response.output_text.delta", b"response.completed"),
    "/v1/chat/completions": (b"The quorum", b"data: [DONE]"),
}


@dataclass(frozen=True, slots=True)
class Service:
    """What runs. Each user is an id and an access token."""

    stack: Stack
    programs: Programs
    provider_url: str
    users: Sequence[tuple[str, str]]

    @property
    def postgrest_url(self) -> str:
        """PostgREST's own address."""
        return self.stack.config.url(POSTGREST)

    @contextmanager
    def serving(self, factory: str, more: Mapping[str, str] | None = None) -> Iterator["Server"]:
        """Runs an app as functions/chat/run.sh runs the chat on Lambda."""
        port = free_port()
        info = self.stack.info
        environment = {
            "SUPABASE_URL": info["supabase_url"],
            "SUPABASE_ANON_KEY": info["anon_key"],
            "SUPABASE_SERVICE_ROLE_KEY": info["service_role_key"],  # a JWT: PostgREST is called without the gateway
            "POSTGREST_URL": self.postgrest_url,
            "ENCRYPTION_KEY": "0" * 64,
            "ANTHROPIC_API_KEY": "stand-in",
            "ANTHROPIC_BASE_URL": self.provider_url,
            "OPENAI_API_KEY": "stand-in",
            "OPENAI_BASE_URL": f"{self.provider_url}/v1",
            "PARLIAMENT_API_URL": info["parliament_url"],
            "AWS_LWA_PORT": str(port),
            "LAMBDA_TASK_ROOT": str(ROOT),
        }
        script = (ROOT / "functions/chat/run.sh").read_text()
        assert "functions.chat.handler:create" in script
        command = ["sh", "-c", script.replace("functions.chat.handler:create", factory)]
        with serving(command, environment | dict(more or {}), port) as pid:
            yield Server(f"http://127.0.0.1:{port}", pid)

    def ask(self, number: int, deltas: int, pause_ms: int, provider: str) -> bytes:
        """A user's question to the chat, in a new conversation."""
        text = f"What is a quorum? {script(deltas, pause_ms)}"
        message = {"id": str(uuid.uuid4()), "role": "user", "parts": [{"type": "text", "text": text}]}
        body = {"id": str(uuid.uuid4()), "messages": [message], "provider": provider}
        return post("/chat", body, {"authorization": f"Bearer {self.users[number % USERS][1]}"})

    def drive(self, server: "Server", requests: Sequence[bytes], at_once: int, a_second: float = 0) -> list[Stream]:
        """Sends the requests and measures them."""
        path = requests[0].split(b" ", 2)[1].decode()
        first, last = next(markers for name, markers in MARKERS.items() if path.endswith(name))
        return self.programs.drive(requests, server.url, at_once=at_once, a_second=a_second, first=first, last=last)

    def database_seconds(self) -> float:
        """The CPU time of PostgREST and Postgres so far."""
        children = (self.stack.postgrest_child, self.stack.postgres_child)
        return sum(cpu_seconds(child.process.pid) for child in children if child)

    def count(self, query: str) -> int:
        """The number that a query returns."""
        with psycopg.connect(self.stack.postgres.url("supabase_admin"), autocommit=True) as database:
            (number,) = database.execute(query).fetchone() or (0,)
        return int(number)

    def open_holds(self) -> int:
        """How many queries have not ended."""
        return self.count("select count(*) from public.query_holds")

    def charged(self) -> int:
        """How many queries were answered and charged."""
        return self.count("select count(*) from public.usage_logs where outcome = 'answered'")


@dataclass(frozen=True, slots=True)
class Server:
    """A running server. `pid` is its process, 0 where it is not measured."""

    url: str
    pid: int = 0


def free_port() -> int:
    """A port that was free a moment ago."""
    with listener(0) as listening:
        port: int = listening.getsockname()[1]
    return port


def script(deltas: int, pause_ms: int) -> str:
    """What makes the provider answer in this number of deltas, with this pause between them."""
    return f"[stream {deltas} {pause_ms}]"


def ask_provider(path: str, deltas: int, pause_ms: int, more: Mapping[str, Any] | None = None) -> bytes:
    """The same question to the provider itself, or to a proxy."""
    message = {"role": "user", "content": f"What is a quorum? {script(deltas, pause_ms)}"}
    body = {"model": "claude-haiku-5-5", "max_tokens": 4096, "messages": [message], "stream": True}
    headers = {"x-api-key": "stand-in", "authorization": "Bearer stand-in", "anthropic-version": "2023-06-01"}
    return post(path, {**body, **(more or {})}, headers)


def chat_completions() -> Parts:
    """A stream of OpenAI's Chat Completions, which our chat does not use."""
    head = '{"id":"chatcmpl-1","object":"chat.completion.chunk","created":1767225600,"model":"gpt-4o-mini","choices":'
    choice = '[{"index":0,"delta":%s,"finish_reason":%s}]}'
    deltas = [('{"role":"assistant","content":""}', "null"), ('{"content":"The quorum "}', "null"), ("{}", '"stop"')]
    usage = '[],"usage":{"prompt_tokens":20,"completion_tokens":20,"total_tokens":40}}'
    frames = [f"data: {head}{choice % delta}\n\n".encode() for delta in deltas]
    return parts([*frames, f"data: {head}{usage}\n\n".encode(), b"data: [DONE]\n\n"], b"The quorum")


@contextmanager
def running_service() -> Iterator[Service]:
    """Starts everything but the chat. The users' quota is above what the benchmarks use."""
    raise_file_limit()
    with tempfile.TemporaryDirectory() as programs_folder, tempfile.TemporaryDirectory() as folder:
        programs = Programs.compiled(Path(programs_folder))
        with running(Config(Path(folder), free_offset(), environ={})) as stack:
            streams = {path: recorded(stack.info["model_url"], path, MARKERS[path][0]) for path in PATHS.values()}
            with psycopg.connect(stack.postgres.url("supabase_admin"), autocommit=True) as database:
                created = database.execute(
                    "insert into auth.users (id) select gen_random_uuid() from generate_series(1, %s)"
                    " returning id::text",
                    (USERS,),
                ).fetchall()
                database.execute("update public.user_subscriptions set tier = 'pro', daily_quota = 1000000000")
                database.execute("update public.plans set concurrent_queries = 1000000")
            key = load_or_create_key(stack.config.folder / "signing-key.pem")
            issuer = f"{stack.info['supabase_url']}/auth/v1"
            users = [(user, access_token(key, issuer=issuer, user_id=user, email="")) for (user,) in created]
            streams["/v1/chat/completions"] = chat_completions()
            with programs.provider(streams) as provider_url:
                yield Service(stack, programs, provider_url, users)
