"""Where the milliseconds of a turn go: until the first text, and after the last one until the stream ends.

One stream at a time, of Anthropic's format. chat.py measures the steps inside the process, the clients measure the
whole, and "other" is the difference: HTTP, routing, the prompt, and sending. A call of the database is measured three
times, each without the layer above it: as the chat sends it, over a bare socket to PostgREST, and as SQL.
"""

import copy
import re
import socket
import statistics
import time
import uuid
from collections.abc import Callable, Mapping
from typing import Any
from urllib.parse import urlsplit

import httpx
import psycopg
from psycopg.types.json import Jsonb

from bench.load import post
from bench.service import Server, Service, ask_provider, running_service
from bench.turn import row, to_chat, warm_up

ROUNDS = 300
PAUSE_MS = 5

Call = Callable[[str, Mapping[str, Any]], None]


def run() -> list[dict[str, Any]]:
    """Measures the medians."""
    with running_service() as service, service.serving("bench.chat:timed") as chat:
        warm_up(service, chat)
        provider = Server(service.provider_url)
        direct = service.drive(provider, [ask_provider("/v1/messages", 2, PAUSE_MS)] * ROUNDS, 1)
        turns = service.drive(chat, to_chat(service, ROUNDS, 2, PAUSE_MS, "anthropic"), 1)
        print(f"breakdown: {ROUNDS} turns", flush=True)
        seen = httpx.get(f"{chat.url}/_times").json()
        steps = {step: statistics.median(times[-ROUNDS:]) for step, times in seen["times"].items()}
        calls = database_calls(service, seen["params"])
    for function in ("admit_query", "settle_query"):
        postgrest, sql = calls["http", function], calls["sql", function]
        steps |= {f"{function} client": steps[function] - postgrest, f"{function} PostgREST": postgrest - sql}
        steps[f"{function} SQL"] = sql
    first = statistics.median(stream.waited for stream in turns)
    # The provider sends its last frames a pause after the last delta, directly as here.
    rest = [statistics.median(stream.lasted - stream.waited for stream in streams) for streams in (turns, direct)]
    return [
        *shares(
            "first text",
            first,
            {
                "token": steps["token"],
                "admission: client": steps["admit_query client"],
                "admission: PostgREST": steps["admit_query PostgREST"],
                "admission: SQL": steps["admit_query SQL"],
                "provider: request to headers": steps["headers"],
                "provider: headers to first delta": steps["first delta"],
            },
        ),
        *shares(
            "end",
            rest[0] - rest[1],
            {
                "before settlement": steps["before settlement"],
                "settlement: client": steps["settle_query client"],
                "settlement: PostgREST": steps["settle_query PostgREST"],
                "settlement: SQL": steps["settle_query SQL"],
            },
        ),
    ]


def shares(title: str, total: float, steps: Mapping[str, float]) -> list[dict[str, Any]]:
    """A row of each step, whose ratio is its share."""
    every = {**steps, "other": total - sum(steps.values())}
    return [row(f"{title}: {step} in ms, of the whole", ms, total) for step, ms in every.items()]


def database_calls(service: Service, params: Mapping[str, Mapping[str, Any]]) -> dict[tuple[str, str], float]:
    """The median milliseconds of the calls by layer and function, with these parameters. Interleaved."""
    times: dict[tuple[str, str], list[float]] = {}
    url = urlsplit(service.postgrest_url)
    key = service.stack.info["service_role_key"]
    headers = {"apikey": key, "authorization": f"Bearer {key}"}  # a JWT: these calls do not pass the gateway
    with (
        socket.create_connection((url.hostname or "", url.port or 0)) as connection,
        psycopg.connect(service.stack.postgres.url("supabase_admin"), autocommit=True) as database,
    ):
        database.execute("set role service_role")

        def over_http(function: str, arguments: Mapping[str, Any]) -> None:
            connection.sendall(post(f"/rpc/{function}", arguments, headers))
            response = b""
            while not (response.endswith(b"0\r\n\r\n") or has_content(response)):
                response += connection.recv(65536)
            assert response.startswith(b"HTTP/1.1 200"), response

        def as_sql(function: str, arguments: Mapping[str, Any]) -> None:
            named = ", ".join(f"{name} => %({name})s" for name in arguments)
            values = {name: Jsonb(value) if isinstance(value, dict) else value for name, value in arguments.items()}
            database.execute(f"select public.{function}({named})", values, prepare=True)

        layers: Mapping[str, Call] = {"http": over_http, "sql": as_sql}
        for _ in range(ROUNDS):
            for layer, call in layers.items():
                for function, arguments in new_turn(params):
                    started = time.perf_counter()
                    call(function, arguments)
                    times.setdefault((layer, function), []).append((time.perf_counter() - started) * 1000)
    return {name: statistics.median(values) for name, values in times.items()}


def has_content(response: bytes) -> bool:
    """Whether a response with Content-Length is complete."""
    head, _, body = response.partition(b"\r\n\r\n")
    length = re.search(rb"(?i)\r\ncontent-length: (\d+)", head)
    return length is not None and len(body) >= int(length[1])


def new_turn(params: Mapping[str, Mapping[str, Any]]) -> list[tuple[str, dict[str, Any]]]:
    """The calls of another turn with the same texts."""
    admit, settle = copy.deepcopy(dict(params["admit_query"])), copy.deepcopy(dict(params["settle_query"]))
    hold_id, chat_id, question_id = (str(uuid.uuid4()) for _ in range(3))
    admit |= {"p_hold_id": hold_id, "p_request_id": hold_id, "p_chat_id": chat_id, "p_question_id": question_id}
    settle["p_hold_id"] = hold_id
    settle["p_turn"]["chat_id"] = chat_id
    settle["p_turn"]["question"]["id"] = question_id
    settle["p_turn"]["answer"]["id"] = str(uuid.uuid4())
    return [("admit_query", admit), ("settle_query", settle)]
