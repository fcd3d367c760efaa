"""Chats beside 24 hostile readers of the Data API.

They filter with regular expressions that take seconds of CPU, or embed tables that multiply.

The readers are visitors with the public key, one user, and 24 users. Each waits PAUSE_S between an answer and the next
request, as the network between them and the platform makes them. Slices with and without them alternate. The readers'
own CPU is on the same machine, and counts.
"""

import asyncio
import statistics
import threading
import uuid
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any
from urllib.parse import quote, urlsplit

import psycopg

from bench.service import Server, Service, running_service
from bench.turn import first_text_ms, row, to_chat, warm_up

READERS = 24
PAUSE_S = 0.05  # a round trip across the continent
ROUNDS = 3
CHATS = 40  # in a slice
ENDLESS = quote(r"^(.+)(.+)(.+)(.+)\4\3\2\1$")
MESSAGES = f"/messages?select=id&content=match.{ENDLESS}"
EMBEDDED = "/messages?select=content," + "conversations(messages(content," * 3 + "id" + "))" * 3


def run() -> list[dict[str, Any]]:
    """Measures the median of the first text, and prints how the readers' requests ended."""
    with running_service() as service, service.serving("bench.chat:create") as chat:
        warm_up(service, chat)
        store_messages(service)
        tokens = [token for _, token in service.users[:READERS]]
        kinds = {
            "24 visitors": [request(f"/plans?name=match.{ENDLESS}", service.stack.info["anon_key"])] * READERS,
            "one user, 24 times": [request(MESSAGES, tokens[0])] * READERS,
            "24 users": [request(MESSAGES, token) for token in tokens],
            "one user, embedded tables": [request(EMBEDDED, tokens[0])] * READERS,
        }
        return [measure(service, chat, kind, requests) for kind, requests in kinds.items()]


def measure(service: Service, chat: Server, kind: str, requests: Sequence[bytes]) -> dict[str, Any]:
    """One line of the table."""
    without: list[float] = []
    beside: list[float] = []
    statuses: Counter[int] = Counter()
    for number in range(ROUNDS):
        without += first_text_ms(service, chat, to_chat(service, CHATS, 2, 5))
        with reading(service.postgrest_url, requests) as ended:
            beside += first_text_ms(service, chat, to_chat(service, CHATS, 2, 5))
        statuses += ended
        print(f"readers: {kind}, round {number + 1} of {ROUNDS}: {dict(statuses)}", flush=True)
    return row(
        f"first text in ms beside hostile readers, {kind}, against without",
        statistics.median(beside),
        statistics.median(without),
    )


def store_messages(service: Service) -> None:
    """Gives each reader a conversation with long messages."""
    with psycopg.connect(service.stack.postgres.url("supabase_admin"), autocommit=True) as db:
        for user, _ in service.users[:READERS]:
            conversation = str(uuid.uuid4())
            db.execute(
                "insert into public.conversations (id, user_id, message_count, expires_at)"
                " values (%s, %s, 30, 'infinity')",
                (conversation, user),
            )
            db.execute(
                "insert into public.messages (conversation_id, position, role, content)"
                " select %s, n, 'user', repeat('a', 3000) || 'b' from generate_series(1, 30) n",
                (conversation,),
            )


def request(path: str, token: str) -> bytes:
    """The bytes of a request."""
    return f"GET {path} HTTP/1.1\r\nhost: 127.0.0.1\r\nauthorization: Bearer {token}\r\n\r\n".encode()


@contextmanager
def reading(url: str, requests: Sequence[bytes]) -> Iterator[Counter[int]]:
    """Repeats each request on a connection of its own. Yields the number of answers by status."""
    statuses: Counter[int] = Counter()
    ended = threading.Event()
    begun = threading.Event()

    async def read(one: bytes) -> None:
        reader, writer = await asyncio.open_connection(urlsplit(url).hostname, urlsplit(url).port)
        while not ended.is_set():
            writer.write(one)
            head = await reader.readuntil(b"\r\n\r\n")
            await answer(reader, head)
            statuses[int(head.split(b" ", 2)[1])] += 1
            begun.set()
            await asyncio.sleep(PAUSE_S)
        writer.close()

    async def read_all() -> None:
        await asyncio.gather(*map(read, requests))

    thread = threading.Thread(target=asyncio.run, args=(read_all(),))
    thread.start()
    begun.wait(10)
    try:
        yield statuses
    finally:
        ended.set()
        thread.join()


async def answer(reader: asyncio.StreamReader, head: bytes) -> None:
    """Reads the body of an answer, which is chunked or has a length."""
    headers = dict(line.lower().split(b": ", 1) for line in head.split(b"\r\n")[1:-2])
    if b"content-length" in headers:
        await reader.readexactly(int(headers[b"content-length"]))
        return
    while size := int(await reader.readline(), 16):
        await reader.readexactly(size + 2)
    await reader.readexactly(2)
