"""Helpers for the tests of the tools: calls of every tool, the tools against the stand-in, and a scripted server."""

import asyncio
import json
import threading
from collections.abc import Callable
from dataclasses import dataclass
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any, get_args

import httpx

from functions.chat.sources import Parliament
from functions.chat.sources.base import Language
from functions.chat.tools import Tools

CONTACT = "clerk@example.test"
LANGUAGES: tuple[Language, ...] = get_args(Language)
# A successful call of every tool.
CALLS: dict[str, dict[str, Any]] = {
    "find_bills": {"words": "act", "limit": 20},
    "find_committees": {},
    "find_lobbying": {"bill": "C-5", "limit": 20},
    "find_ministers": {},
    "find_mps": {"party": "Heron", "limit": 20},
    "get_bill": {"number": "C-5"},
    "get_bill_debate": {"number": "C-5", "limit": 20},
    "get_bill_votes": {"number": "C-5", "limit": 20},
    "get_committee": {"slug": "wharves", "limit": 20},
    "get_committee_members": {"slug": "wharves"},
    "get_house_day": {},
    "get_mp": {"slug": "fern-quillwater"},
    "get_mp_expenses": {"slug": "fern-quillwater"},
    "get_mp_speeches": {"slug": "fern-quillwater", "limit": 20},
    "get_mp_votes": {"slug": "fern-quillwater", "limit": 20},
    "get_vote": {"number": 21},
    "how_they_voted": {"bill": "C-5", "postal_code": "K1A 0A6"},
    "largest_expenses": {"category": "travel", "limit": 20},
    "search_debates": {"words": "ferries", "limit": 20},
}


@dataclass(slots=True)
class Runner:
    """All tools against the stand-in, and the stand-in's own control routes."""

    origin: str
    tools: Tools
    parliament: Parliament
    http: httpx.AsyncClient

    async def output(self, name: str, language: Language = "en", /, **arguments: Any) -> dict[str, Any]:
        """The output of a call that succeeds."""
        outcome = await self.tools.run(name, arguments, language)
        assert outcome.error is None
        assert outcome.output is not None
        return outcome.output

    async def error(self, name: str, /, **arguments: Any) -> str:
        """The error of a call that fails."""
        outcome = await self.tools.run(name, arguments, "en")
        assert (outcome.output, outcome.sources) == (None, [])
        assert outcome.error is not None
        return outcome.error

    async def record(self, path: str) -> Any:
        """The stand-in's own JSON at a path."""
        return (await self.http.get(path, headers={"accept": "application/json"})).json()

    async def requests(self) -> list[dict[str, Any]]:
        """The requests that the stand-in has received."""
        entries: list[dict[str, Any]] = (await self.http.get("/_requests")).json()
        return entries

    async def add_fault(self, **fault: Any) -> None:
        """Make the stand-in's next answers fail."""
        await self.http.post("/_fail", json=fault)

    async def remove_faults(self) -> None:
        await self.http.delete("/_fail")

    async def wait_for_request(self) -> None:
        """Wait until the stand-in has received a request."""
        for _ in range(1000):
            if await self.requests():
                return
            await asyncio.sleep(0.01)
        raise AssertionError("the stand-in received no request")

    async def wait_until_free(self) -> None:
        """Wait until the stand-in has noticed that a client left, and accepts requests again."""
        for _ in range(1000):
            if (await self.http.get("/votes/?limit=1")).status_code == 200:
                return
            await asyncio.sleep(0.01)
        raise AssertionError("the stand-in still refuses requests")

    def url(self, path: str) -> str:
        """The public page at a path of the stand-in."""
        return f"{self.origin}{path}"


def values(output: dict[str, Any], key: str = "mp") -> list[Any]:
    """The values of a key in all items."""
    return [item[key] for item in output["items"]]


Answer = tuple[int, dict[str, str], bytes]


class ScriptedServer:
    """Answers each path from a list, in order; the last answer repeats. None closes the connection instead.

    Calls `before_answer` for every request. Records all requests, and how many ran at the same time.
    """

    def __init__(self) -> None:
        self.answers: dict[str, list[Answer | None]] = {}
        self.requests: list[str] = []
        self.active = self.max_active = 0
        self.before_answer: Callable[[], Any] = lambda: None
        server, lock = self, threading.Lock()

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"
            wbufsize = -1  # buffers head and body into one write: Nagle's algorithm would delay two by 40 ms

            def do_GET(self) -> None:
                with lock:
                    server.requests.append(self.path)
                    server.active += 1
                    server.max_active = max(server.active, server.max_active)
                server.before_answer()
                with lock:
                    server.active -= 1
                script = server.answers.get(self.path.partition("?")[0], [(404, {}, b"<html>Not found</html>")])
                answer = script.pop(0) if len(script) > 1 else script[0]
                if answer is None:
                    self.close_connection = True
                    return
                status, headers, body = answer
                self.send_response(status)
                for name, value in {"content-length": str(len(body)), **headers}.items():
                    self.send_header(name, value)
                self.end_headers()
                self.wfile.write(body)

            def log_message(self, *args: object) -> None:
                pass

        self.http = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self.http.server_port}"

    def answer(self, path: str, *answers: Any) -> None:
        """Set the answers of a path: JSON, a body as bytes, an Answer, or None."""
        self.answers[path] = [
            each
            if each is None or isinstance(each, tuple)
            else (200, {}, each if isinstance(each, bytes) else json.dumps(each).encode())
            for each in answers
        ]


def page(records: list[Any], next_url: str | None = None) -> dict[str, Any]:
    """A page of a list of openparliament.ca."""
    return {"objects": records, "pagination": {"next_url": next_url}}
