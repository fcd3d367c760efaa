"""The model provider stand-in: Anthropic's Messages and OpenAI's Responses API on one origin, offline.

Point the SDKs at it: `base_url` is http://host:port for anthropic, http://host:port/v1 for openai. Every key is good
unless it contains `invalid` or `exhausted`; every answer quotes its question and says that it is invented. The last
user message may steer it: `[tool:NAME {"json": "arguments"}]` calls a tool, `[tool-loop:NAME {}]` calls it again after
every result, `[fault:NAME]` makes the reply fail as FAULTS says. Without a directive, a postal code or a bill's number
calls the parliamentary tool that `pick` finds, where it is offered. `GET /_requests` tells what was asked.
"""

import asyncio
import json
import re
import secrets
import time
from collections import deque
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from itertools import cycle, islice
from typing import Any

import anyio
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route
from starlette.types import Receive, Scope, Send

FAULTS = {
    "status": "status CODE [RETRY_AFTER]: refused with this HTTP status, in the provider's error shape",
    "overloaded": "refused as the provider does when it has no capacity: anthropic 529, openai 503",
    "stall-before": "stall-before N: accepted, then silent for N seconds before the first byte",
    "stall": "stall N: silent for N seconds in the middle, then goes on",
    "slow": "slow N: N seconds before every delta",
    "long": "long N: an answer of N deltas",
    "empty": "a complete answer without any content",
    "max-tokens": "half an answer, ended by the output limit",
    "refusal": "half an answer, ended by the provider's own filter",
    "drop": "the connection is torn down in the middle",
    "early-end": "the stream ends cleanly in the middle: no stop reason, no response.completed",
    "bad-json": "one data line in the middle is not JSON",
    "error-event": "error-event [flat]: an `error` event in the middle; flat as OpenAI documents, not as it sends",
    "failed": "openai: response.failed in the middle; anthropic: as error-event",
}
"""`[fault:NAME …]`; several may stand in one text. Before NAME may stand `first-only` (only the first request with this
very text suffers), `after-tools` (only a request that carries tool results does), and `anthropic` or `openai` (only
where that provider is asked)."""

# HTTP status: message, Anthropic's error type, OpenAI's error type and code.
ERRORS: dict[int, tuple[str, str, str, str | None]] = {
    400: ("The request is not valid.", "invalid_request_error", "invalid_request_error", None),
    401: ("The API key is not valid.", "authentication_error", "invalid_request_error", "invalid_api_key"),
    403: ("This API key may not do this.", "permission_error", "invalid_request_error", "insufficient_permissions"),
    404: ("The model does not exist.", "not_found_error", "invalid_request_error", "model_not_found"),
    413: ("The request is too large.", "request_too_large", "invalid_request_error", "request_too_large"),
    429: ("The rate limit is reached.", "rate_limit_error", "tokens", "rate_limit_exceeded"),
    500: ("The server had an error.", "api_error", "server_error", "server_error"),
    503: ("The servers are overloaded.", "api_error", "service_unavailable_error", "server_is_overloaded"),
    529: ("Overloaded", "overloaded_error", "server_error", "server_error"),
}
DELTAS = {"content_block_delta", "response.output_text.delta", "response.function_call_arguments.delta"}
MAX_EXCHANGES = 1000  # a whole test run fits, and memory stays bounded
MAX_DELTAS = 100_000  # of `long`: a mistyped number must not hang the stack
FRENCH = re.compile(
    r"\b(?:aux?|ce|ces|combien|dans|de|des|du|elle|est|et|il|l|la|les?|où|par|pourquoi|qui?|quelle|une?)\b"
)
POSTAL_CODE = re.compile(r"\b([A-Z]\d[A-Z])[ -]?(\d[A-Z]\d)\b", re.ASCII | re.IGNORECASE)
BILL = re.compile(r"\b[CS]-[1-9]\d{0,3}\b", re.ASCII | re.IGNORECASE)
ENGLISH = re.compile(r"\b(?:about|an?|and|are|did|do|does|for|has|have|how|in|is|of|on|the|to|was|what|when|who|why)\b")

Json = dict[str, Any]
Step = bytes | float | None
"""What a reply does next: send these bytes, be silent for these seconds, or tear the connection down."""


def tokens(text: str) -> int:
    """What a text counts for here, in place of a tokenizer: a token for every four characters begun, at least one."""
    return max(1, -(-len(text) // 4))


def answer(question: str, results: Sequence[str] = ()) -> str:
    """The invented answer: quotes the question and how each tool result begins, in French if the question seems so."""
    found = ", ".join(f"“{result[:120]}”" for result in results)
    if len(FRENCH.findall(question.lower())) > len(ENGLISH.findall(question.lower())):
        told = f"Les outils ont répondu : {found}. " if results else ""
        return told + (
            f"Réponse factice, aucun modèle n’a été consulté. Vous avez écrit : “{question[:400]}”. Dans une séance "
            "inventée de la Chambre des communes, trois députés en ont parlé et la question est allée en comité."
        )
    told = f"The tools answered: {found}. " if results else ""
    return told + (
        f"This is a stand-in answer, no model was asked. You wrote: “{question[:400]}”. In an invented sitting of the "
        "House of Commons, three members spoke to it and the matter was referred to a committee."
    )


def pick(question: str) -> tuple[str, Json] | None:
    """The tool for a question without a directive, so that a demonstration needs none: of a postal code the members,
    of a bill its votes or its debate where a word in English or French is about those, else the bill."""
    if code := POSTAL_CODE.search(question):
        return "find_mps", {"postal_code": f"{code[1]} {code[2]}".upper()}
    if bill := BILL.search(question):
        votes, debate = (
            re.search(words, question, re.IGNORECASE) for words in (r"\bvot", r"\b(d[ée]bat|said\b|dit\b)")
        )
        return f"get_bill{'_votes' if votes else '_debate' if debate else ''}", {"number": bill[0].upper()}
    return None


def _text(content: Any) -> str:
    """The text of a message, a system prompt or a tool result: a string, or blocks of which some have text."""
    return content if isinstance(content, str) else "".join(block.get("text", "") for block in content or [])


def _words(text: str) -> list[str]:
    return re.findall(r"\s*\S+\s*", text)


def _chunks(text: str) -> list[str]:
    return re.findall(r"(?s).{1,8}", text)


def _id(prefix: str) -> str:
    return f"{prefix}_{secrets.token_hex(12)}"


def _dump(value: Json) -> bytes:
    return json.dumps(value, ensure_ascii=False, separators=(",", ":")).encode()


class Refused(Exception):
    """A reply that is an error: `kind` replaces the type and code that ERRORS has for the status."""

    def __init__(self, status: int, message: str = "", kind: str = "", retry_after: str = "", after: float = 0) -> None:
        self.status, self.retry_after, self.after = status, retry_after, after
        text, self.anthropic, self.openai, self.code = ERRORS.get(status, ERRORS[400 if status < 500 else 500])
        self.message = message or text
        if kind:
            self.anthropic = self.openai = self.code = kind


@dataclass(frozen=True, slots=True)
class Prompt:
    """A request body of either provider, read alike: each message's role and text; a tool result has the role tool."""

    body: Json
    messages: list[dict[str, str]]

    @classmethod
    def read(cls, body: Json) -> "Prompt":
        """Raises Refused for a history that the real APIs refuse: an empty text, or a tool call without its result."""
        items = body.get("messages", body.get("input")) or []
        messages, called, answered = list[dict[str, str]](), [], []
        for item in [{"role": "user", "content": items}] if isinstance(items, str) else items:
            content = item.get("content", [item])
            for block in content if isinstance(content, list) else [{"text": content}]:
                if block.get("text") == "" and "messages" in body:
                    raise Refused(400, "messages: text content blocks must be non-empty")
                if block.get("type") in ("tool_use", "function_call"):
                    called.append(block.get("call_id") or block["id"])
                elif block.get("type") in ("tool_result", "function_call_output"):
                    answered.append(block.get("call_id") or block["tool_use_id"])
                    messages.append({"role": "tool", "text": _text(block.get("content", block.get("output")))})
            if text := _text(content):
                messages.append({"role": item["role"], "text": text})
        if not messages:
            raise Refused(400, "at least one message is required")
        if sorted(called) != sorted(answered):
            raise Refused(400, f"every tool call needs one result: called {called}, answered {answered}")
        return cls(body, messages)

    @property
    def system(self) -> str:
        return _text(self.body.get("system", self.body.get("instructions")))

    @property
    def question(self) -> str:
        return next((message["text"] for message in reversed(self.messages) if message["role"] == "user"), "")

    @property
    def results(self) -> list[str]:
        """The tool results that follow the question."""
        last = max((at for at, message in enumerate(self.messages) if message["role"] == "user"), default=-1)
        return [message["text"] for message in self.messages[last + 1 :] if message["role"] == "tool"]

    @property
    def tokens(self) -> int:
        """The sum over the system prompt, the tools as JSON and the text of each message."""
        tools = json.dumps(self.body["tools"]) if self.body.get("tools") else ""
        texts = [self.system, tools, *(message["text"] for message in self.messages)]
        return sum(tokens(text) for text in texts if text)

    @property
    def cached(self) -> bool:
        return '"cache_control": {' in json.dumps(self.body) or "prompt_cache_key" in self.body

    def calls(self) -> list[tuple[str, Json]]:
        """The tools that the question asks to call now, with their arguments; without a directive the one it is for."""
        if not self.body.get("tools") or self.body.get("tool_choice") in ("none", {"type": "none"}):
            return []
        calls = []
        for found in re.finditer(r"\[tool(-loop)?:([\w.-]+)\s*", self.question):
            rest = self.question[found.end() :]
            if found[1] or not self.results:
                calls.append((found[2], json.JSONDecoder().raw_decode(rest)[0] if rest.startswith("{") else {}))
        if not self.results and not re.search(r"\[(tool|tool-loop|fault):", self.question):
            picked, offered = pick(self.question), [tool.get("name") for tool in self.body["tools"]]
            calls += [picked] if picked and picked[0] in offered else []
        return calls


class Faults(dict[str, list[str]]):
    """The faults that are due, with their parameters."""

    @classmethod
    def read(cls, prompt: Prompt, first: bool, provider: str) -> "Faults":
        faults = cls()
        for directive in re.findall(r"\[fault:([^\]]+)\]", prompt.question):
            name, *parameters = directive.split()
            due = True
            only = {"first-only": first, "after-tools": bool(prompt.results)}
            only |= {"anthropic": provider == "anthropic", "openai": provider == "openai"}
            while name in only:
                due &= only[name]
                name, *parameters = parameters
            if name not in FAULTS:
                raise ValueError(f"unknown fault {name!r}, known: {', '.join(FAULTS)}")
            if due:
                faults[name] = parameters
        return faults

    def number(self, name: str, otherwise: float = 0) -> float:
        return float(self[name][0]) if name in self else otherwise

    def refuse(self, streams: bool, overloaded: int) -> None:
        """Raises Refused where a fault says so: without a stream, an event that reports a failure is a refusal too."""
        before = self.number("stall-before")
        if "overloaded" in self or (not streams and self.keys() & {"error-event", "failed"}):
            raise Refused(overloaded, after=before)
        if "status" in self:
            status, retry_after, *_ = [*self["status"], ""]
            if not 400 <= int(status) < 600:
                raise ValueError(f"{status} is no error status")
            raise Refused(int(status), retry_after=retry_after, after=before)


@dataclass(frozen=True, slots=True)
class Reply:
    """What to say, before it takes a provider's shape. `stop` is end_turn, tool_use, max_tokens or refusal."""

    text: str
    calls: list[tuple[str, Json]]
    stop: str
    fresh: int  # input tokens that no cache knew
    read: int  # … read from the cache
    written: int  # … written to it
    output: int

    @classmethod
    def compose(cls, prompt: Prompt, faults: Faults) -> "Reply":
        stop = "max_tokens" if "max-tokens" in faults else "refusal" if "refusal" in faults else ""
        calls = [] if stop or "empty" in faults else prompt.calls()
        text = "" if calls or "empty" in faults else answer(prompt.question, prompt.results)
        if text and "long" in faults:
            text = "".join(islice(cycle(_words(text + " ")), min(MAX_DELTAS, int(faults.number("long")))))
        text = text[: len(text) // 2] if stop else text
        total = prompt.tokens
        read, written = (max(1, total // 2), total // 4) if prompt.cached else (0, 0)
        output = tokens(text + "".join(json.dumps(arguments) for _, arguments in calls))
        stop = stop or ("tool_use" if calls else "end_turn")
        return cls(text, calls, stop, total - read - written, read, written, output)


class Anthropic:
    """The Messages API as the anthropic SDK reads it."""

    name = "anthropic"
    overloaded = 529
    id_header = "request-id"
    models = ("claude-opus-5-5", "claude-sonnet-5-5", "claude-haiku-5-5", "claude-fable-5-2", "claude-haiku-4-5")
    exhausted = (400, "Your credit balance is too low to access the Anthropic API. Go to Plans & Billing.", "")

    def error(self, refused: Refused, request_id: str) -> Json:
        error = {"type": refused.anthropic, "message": refused.message}
        return {"type": "error", "error": error, "request_id": request_id}

    def listing(self, query: Mapping[str, str]) -> Json:
        left = self.models[self.models.index(query["after_id"]) + 1 if "after_id" in query else 0 :]
        page = left[: int(query.get("limit", 20))]
        made = {"type": "model", "created_at": "2026-01-01T00:00:00Z", "lifecycle": "active"}
        data = [{"id": name, "display_name": name.replace("-", " ").title(), **made} for name in page]
        ends = {"first_id": page[0], "last_id": page[-1]} if page else {"first_id": None, "last_id": None}
        return {"data": data, "has_more": len(page) < len(left), **ends}

    def count(self, prompt: Prompt) -> Json:
        return {"input_tokens": prompt.tokens}

    def message(self, prompt: Prompt, reply: Reply) -> Json:
        used = {"type": "tool_use"}
        calls = [{**used, "id": _id("toolu"), "name": name, "input": arguments} for name, arguments in reply.calls]
        refusal = {"type": "refusal", "category": None, "explanation": None}
        return {
            "id": _id("msg"),
            "type": "message",
            "role": "assistant",
            "model": prompt.body.get("model"),
            "content": ([{"type": "text", "text": reply.text}] if reply.text else []) + calls,
            "stop_reason": reply.stop,
            "stop_sequence": None,
            "stop_details": refusal if reply.stop == "refusal" else None,
            "usage": {
                "input_tokens": reply.fresh,
                "cache_creation_input_tokens": reply.written,
                "cache_read_input_tokens": reply.read,
                "cache_creation": {"ephemeral_5m_input_tokens": reply.written, "ephemeral_1h_input_tokens": 0},
                "output_tokens": reply.output,
                "service_tier": "standard",
            },
        }

    def events(self, message: Json) -> Iterator[Json]:
        ending = {key: message[key] for key in ("stop_reason", "stop_sequence", "stop_details")}
        usage = message["usage"]
        start = {**message, **dict.fromkeys(ending), "content": [], "usage": {**usage, "output_tokens": 1}}
        yield {"type": "message_start", "message": start}
        for index, block in enumerate(message["content"]):
            if block["type"] == "text":
                hollow: Json = {"text": ""}
                deltas: list[Json] = [{"type": "text_delta", "text": word} for word in _words(block["text"])]
            else:
                hollow = {"input": {}}
                pieces = ["", *_chunks(json.dumps(block["input"]))]
                deltas = [{"type": "input_json_delta", "partial_json": piece} for piece in pieces]
            yield {"type": "content_block_start", "index": index, "content_block": {**block, **hollow}}
            if index == 0:
                yield {"type": "ping"}
            for delta in deltas:
                yield {"type": "content_block_delta", "index": index, "delta": delta}
            yield {"type": "content_block_stop", "index": index}
        counted = ("input_tokens", "cache_creation_input_tokens", "cache_read_input_tokens", "output_tokens")
        yield {"type": "message_delta", "delta": ending, "usage": {key: usage[key] for key in counted}}
        yield {"type": "message_stop"}

    def broken(self, message: Json, faults: Faults, position: int) -> Json:
        return self.error(Refused(self.overloaded), message["id"].replace("msg", "req"))


class OpenAI:
    """The Responses API as the openai SDK reads it."""

    name = "openai"
    overloaded = 503
    id_header = "x-request-id"
    models = ("gpt-6-sol", "gpt-6-luna", "gpt-6-astra", "gpt-6.1-sol", "gpt-5.5", "gpt-5.4-mini")
    exhausted = (429, "You exceeded your current quota, please check your plan and billing.", "insufficient_quota")
    reasons: Mapping[str, str] = {"max_tokens": "max_output_tokens", "refusal": "content_filter"}

    def error(self, refused: Refused, request_id: str) -> Json:
        return {"error": {"message": refused.message, "type": refused.openai, "param": None, "code": refused.code}}

    def listing(self, query: Mapping[str, str]) -> Json:
        made = {"object": "model", "created": 1767225600, "owned_by": "system"}
        return {"object": "list", "data": [{"id": name, **made} for name in self.models]}

    def count(self, prompt: Prompt) -> Json:
        return {"object": "response.input_tokens", "input_tokens": prompt.tokens}

    def message(self, prompt: Prompt, reply: Reply) -> Json:
        reason = self.reasons.get(reply.stop)
        status = "incomplete" if reason else "completed"
        part = {"type": "output_text", "text": reply.text, "annotations": [], "logprobs": []}
        said = {"id": _id("msg"), "type": "message", "role": "assistant", "status": status, "content": [part]}
        called = {"type": "function_call", "status": status}
        calls = [
            {"id": _id("fc"), "call_id": _id("call"), "name": name, "arguments": json.dumps(arguments), **called}
            for name, arguments in reply.calls
        ]
        total = reply.fresh + reply.read + reply.written
        return {
            "id": _id("resp"),
            "object": "response",
            "created_at": int(time.time()),
            "status": status,
            "error": None,
            "incomplete_details": {"reason": reason} if reason else None,
            "instructions": prompt.body.get("instructions"),
            "max_output_tokens": prompt.body.get("max_output_tokens"),
            "metadata": {},
            "model": prompt.body.get("model"),
            "output": ([said] if reply.text else []) + calls,
            "parallel_tool_calls": True,
            "text": {"format": {"type": "text"}},
            "tool_choice": "auto",
            "tools": [],
            "usage": {
                "input_tokens": total,
                "input_tokens_details": {"cached_tokens": reply.read, "cache_write_tokens": reply.written},
                "output_tokens": reply.output,
                "output_tokens_details": {"reasoning_tokens": 0},
                "total_tokens": total + reply.output,
            },
        }

    def events(self, message: Json) -> Iterator[Json]:
        return ({**event, "sequence_number": number} for number, event in enumerate(self._events(message)))

    def _events(self, response: Json) -> Iterator[Json]:
        opening = {**response, "status": "in_progress", "incomplete_details": None, "output": [], "usage": None}
        yield {"type": "response.created", "response": opening}
        yield {"type": "response.in_progress", "response": opening}
        for index, item in enumerate(response["output"]):
            place = {"item_id": item["id"], "output_index": index}
            hollow: Json = {"content": []} if item["type"] == "message" else {"arguments": ""}
            started = {**item, **hollow, "status": "in_progress"}
            yield {"type": "response.output_item.added", "output_index": index, "item": started}
            if item["type"] == "message":
                part, place = item["content"][0], {**place, "content_index": 0}
                yield {"type": "response.content_part.added", **place, "part": {**part, "text": ""}}
                for word in _words(part["text"]):
                    yield {"type": "response.output_text.delta", **place, "delta": word, "logprobs": []}
                yield {"type": "response.output_text.done", **place, "text": part["text"], "logprobs": []}
                yield {"type": "response.content_part.done", **place, "part": part}
            else:
                for piece in _chunks(item["arguments"]):
                    yield {"type": "response.function_call_arguments.delta", **place, "delta": piece}
                yield {"type": "response.function_call_arguments.done", **place, "arguments": item["arguments"]}
            yield {"type": "response.output_item.done", "output_index": index, "item": item}
        yield {"type": f"response.{response['status']}", "response": response}

    def broken(self, message: Json, faults: Faults, position: int) -> Json:
        error = self.error(Refused(self.overloaded), "")["error"]
        if "failed" in faults:
            failure = {"code": "server_error", "message": error["message"]}
            ended = {**message, "status": "failed", "error": failure, "output": [], "usage": None}
            return {"type": "response.failed", "response": ended, "sequence_number": position}
        if "flat" in faults["error-event"]:
            return {**error, "type": "error", "sequence_number": position}
        return {"type": "error", "error": error, "sequence_number": position}


ANTHROPIC, OPENAI = Anthropic(), OpenAI()


def script(provider: Anthropic | OpenAI, message: Json, faults: Faults, streams: bool, delay: float) -> list[Step]:
    """The steps of an answer, with what its faults do to the pace and in the middle."""
    if streams:
        events = list(provider.events(message))
        deltas = [at for at, event in enumerate(events) if event["type"] in DELTAS]
        middle = deltas[len(deltas) // 2] if deltas else len(events) // 2
        if faults.keys() & {"error-event", "failed"}:
            events[middle:] = [provider.broken(message, faults, middle)]
        frames = [b"event: %b\ndata: %b\n\n" % (event["type"].encode(), _dump(event)) for event in events]
    else:
        body, deltas, middle = _dump(message), [], 1
        frames = [body[: len(body) // 2], body[len(body) // 2 :]]
    steps: list[Step] = [faults.number("stall-before")]
    paced = set(deltas)
    for at, frame in enumerate(frames):
        if at in paced:
            steps.append(faults.number("slow", delay))
        if at == middle:
            steps.append(faults.number("stall"))
            if "drop" in faults:
                return [*steps, None]
            if "early-end" in faults:
                return steps
        steps.append(frame[:-8] + b"\n\n" if at == middle and "bad-json" in faults else frame)
    return steps


@dataclass(slots=True)
class Exchange:
    """One request and what became of it: an entry of the journal."""

    provider: Anthropic | OpenAI
    path: str
    api_key_last4: str
    prompt: Prompt = field(default_factory=lambda: Prompt({}, []))
    request_id: str = field(default_factory=lambda: _id("req"))
    at: str = field(default_factory=lambda: datetime.now(UTC).isoformat())
    aborted: bool = False  # the client left before the end
    finished: bool = False  # the reply went out to its scripted end

    def entry(self) -> Json:
        roles = {message["role"] for message in self.prompt.messages}
        return {
            "provider": self.provider.name,
            "path": self.path,
            "model": self.prompt.body.get("model"),
            "api_key_last4": self.api_key_last4,
            "system_present": bool(self.prompt.system) or not roles.isdisjoint({"system", "developer"}),
            "messages": self.prompt.messages,
            "stream": bool(self.prompt.body.get("stream")),
            "aborted": self.aborted,
            "finished": self.finished,
            "at": self.at,
        }


class Playback(Response):
    """Plays the steps of a reply, stops when the client leaves, and notes in the journal how it ended."""

    def __init__(self, exchange: Exchange, steps: Sequence[Step], status: int = 200, media: str = "application/json"):
        self.exchange, self.steps = exchange, steps
        self.status_code, self.media_type = status, media
        self.init_headers({exchange.provider.id_header: exchange.request_id})

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        async with anyio.create_task_group() as group:
            group.start_soon(self._watch, receive, group.cancel_scope)
            await self._play(send)
            group.cancel_scope.cancel()

    async def _watch(self, receive: Receive, playing: anyio.CancelScope) -> None:
        while (await receive())["type"] != "http.disconnect":
            pass
        self.exchange.aborted = not self.exchange.finished
        playing.cancel()

    async def _play(self, send: Send) -> None:
        started = False
        for step in self.steps:
            if step is None:
                return  # a reply without its end: the server tears the connection down
            if not isinstance(step, bytes):
                await asyncio.sleep(step)
                continue
            if not started:
                await send({"type": "http.response.start", "status": self.status_code, "headers": self.raw_headers})
                started = True
            await send({"type": "http.response.body", "body": step, "more_body": True})
        self.exchange.finished = True
        await send({"type": "http.response.body", "body": b"", "more_body": False})


async def _open(request: Request, generates: bool = False) -> Exchange:
    """Journals a request and checks its key. Only generating costs money, so only it sees an exhausted balance."""
    path, headers = request.url.path, request.headers
    to_anthropic = path.startswith("/v1/messages") or "anthropic-version" in headers or "x-api-key" in headers
    provider = ANTHROPIC if to_anthropic else OPENAI
    key = headers.get("x-api-key") or headers.get("authorization", "").removeprefix("Bearer").strip()
    exchange = request.state.exchange = Exchange(provider, path, key[-4:])
    request.app.state.exchanges.append(exchange)
    if not key or "invalid" in key:
        raise Refused(401, "" if key else "No API key was sent.")
    if generates and "exhausted" in key:
        raise Refused(*provider.exhausted)
    if request.method == "POST":
        try:
            exchange.prompt = Prompt.read(json.loads(await request.body()))
        except (ValueError, AttributeError, KeyError, TypeError) as error:
            raise Refused(400, f"The request body cannot be read: {error!r}") from error
    return exchange


async def list_models(request: Request) -> Playback:
    exchange = await _open(request)
    return Playback(exchange, [_dump(exchange.provider.listing(request.query_params))])


async def count_tokens(request: Request) -> Playback:
    exchange = await _open(request)
    return Playback(exchange, [_dump(exchange.provider.count(exchange.prompt))])


async def generate(request: Request) -> Playback:
    exchange = await _open(request, generates=True)
    provider, prompt = exchange.provider, exchange.prompt
    streams = bool(prompt.body.get("stream"))
    earlier = (past for past in request.app.state.exchanges if past is not exchange and past.path == exchange.path)
    try:
        first = all(past.prompt.question != prompt.question for past in earlier)
        faults = Faults.read(prompt, first, provider.name)
        message = provider.message(prompt, Reply.compose(prompt, faults))
        faults.refuse(streams, provider.overloaded)
        steps = script(provider, message, faults, streams, request.app.state.delay)
    except (ValueError, IndexError) as error:
        raise Refused(400, f"This stand-in cannot follow its directive: {error}") from error
    return Playback(exchange, steps, media="text/event-stream" if streams else "application/json")


async def refuse(request: Request, refused: Exception) -> Playback:
    assert isinstance(refused, Refused)  # Starlette types every handler for any exception
    exchange: Exchange = request.state.exchange
    body = _dump(exchange.provider.error(refused, exchange.request_id))
    reply = Playback(exchange, [refused.after, body], refused.status)
    if refused.retry_after:
        reply.headers["retry-after"] = refused.retry_after
    return reply


async def journal(request: Request) -> Response:
    exchanges: deque[Exchange] = request.app.state.exchanges
    if request.method == "DELETE":
        exchanges.clear()
        return Response(status_code=204)
    return Response(json.dumps([exchange.entry() for exchange in exchanges]), media_type="application/json")


def create_app(delay: float = 0.01) -> Starlette:
    """The stand-in, with `delay` seconds before every delta of a stream."""
    routes = [
        Route("/v1/models", list_models),
        Route("/v1/messages", generate, methods=["POST"]),
        Route("/v1/messages/count_tokens", count_tokens, methods=["POST"]),
        Route("/v1/responses", generate, methods=["POST"]),
        Route("/v1/responses/input_tokens", count_tokens, methods=["POST"]),
        Route("/_requests", journal, methods=["GET", "DELETE"]),
    ]
    app = Starlette(routes=routes, exception_handlers={Refused: refuse})
    app.state.exchanges, app.state.delay = deque(maxlen=MAX_EXCHANGES), delay
    return app
