"""Anthropic's Messages API, in the form that the anthropic SDK reads."""

import json
from collections.abc import Iterator, Mapping

from infra.local.model.errors import Refused
from infra.local.model.faults import Faults
from infra.local.model.prompt import Prompt
from infra.local.model.reply import Reply
from infra.local.model.text import Json, call_id, new_id, split_chunks, split_words


class Anthropic:
    """Builds the bodies and events of the Messages API."""

    name = "anthropic"
    overloaded = 529
    id_header = "request-id"
    models = ("claude-opus-5-5", "claude-sonnet-5-5", "claude-haiku-5-5", "claude-fable-5-2", "claude-haiku-4-5")
    exhausted = (400, "Your credit balance is too low to access the Anthropic API. Go to Plans & Billing.", "")

    def error(self, refused: Refused, request_id: str) -> Json:
        """The body of an error reply."""
        error = {"type": refused.anthropic, "message": refused.message}
        return {"type": "error", "error": error, "request_id": request_id}

    def list_models(self, query: Mapping[str, str]) -> Json:
        """A page of GET /v1/models."""
        remaining = self.models[self.models.index(query["after_id"]) + 1 if "after_id" in query else 0 :]
        page = remaining[: int(query.get("limit", 20))]
        common = {"type": "model", "created_at": "2026-01-01T00:00:00Z", "lifecycle": "active"}
        data = [{"id": name, "display_name": name.replace("-", " ").title(), **common} for name in page]
        ends = {"first_id": page[0], "last_id": page[-1]} if page else {"first_id": None, "last_id": None}
        return {"data": data, "has_more": len(page) < len(remaining), **ends}

    def count_tokens(self, prompt: Prompt) -> Json:
        """The body of POST /v1/messages/count_tokens."""
        return {"input_tokens": prompt.tokens}

    def message(self, prompt: Prompt, reply: Reply) -> Json:
        """The complete message, as POST /v1/messages returns it without a stream."""
        calls = [
            {"type": "tool_use", "id": call_id("toolu", name, reply.call_ids), "name": name, "input": arguments}
            for name, arguments in reply.calls
        ]
        refusal = {"type": "refusal", "category": None, "explanation": None}
        return {
            "id": new_id("msg"),
            "type": "message",
            "role": "assistant",
            "model": prompt.body.get("model"),
            "content": ([{"type": "text", "text": reply.text}] if reply.text else []) + calls,
            "stop_reason": reply.stop,
            "stop_sequence": None,
            "stop_details": refusal if reply.stop == "refusal" else None,
            "usage": {
                "input_tokens": reply.uncached,
                "cache_creation_input_tokens": reply.written,
                "cache_read_input_tokens": reply.read,
                "cache_creation": {"ephemeral_5m_input_tokens": reply.written, "ephemeral_1h_input_tokens": 0},
                "output_tokens": reply.output,
                "service_tier": "standard",
            },
        }

    def events(self, message: Json, faults: Faults) -> Iterator[Json]:
        """The events that stream the message."""
        ending = {key: message[key] for key in ("stop_reason", "stop_sequence", "stop_details")}
        usage = message["usage"]
        start = {**message, **dict.fromkeys(ending), "content": [], "usage": {**usage, "output_tokens": 1}}
        yield {"type": "message_start", "message": start}
        for index, block in enumerate(message["content"]):
            if block["type"] == "text":
                empty: Json = {"text": ""}
                deltas: list[Json] = [{"type": "text_delta", "text": word} for word in split_words(block["text"])]
            else:
                is_whole = "whole-input" in faults
                empty = {} if is_whole else {"input": {}}
                pieces = [] if is_whole else ["", *split_chunks(json.dumps(block["input"]))]
                deltas = [{"type": "input_json_delta", "partial_json": piece} for piece in pieces]
            yield {"type": "content_block_start", "index": index, "content_block": {**block, **empty}}
            if index == 0:
                yield {"type": "ping"}
            for delta in deltas:
                yield {"type": "content_block_delta", "index": index, "delta": delta}
            yield {"type": "content_block_stop", "index": index}
        counted = ("input_tokens", "cache_creation_input_tokens", "cache_read_input_tokens", "output_tokens")
        end: Json = {"type": "message_delta", "delta": ending, "usage": {key: usage[key] for key in counted}}
        if "no-usage" in faults:
            del end["usage"]
            end |= {"usage": None} if faults.first("no-usage") == "null" else {}
        yield end
        yield {"type": "message_stop"}

    def with_text(self, event: Json, text: str) -> Json | None:
        """A copy of a delta of text with another text; None for other events."""
        if event["type"] != "content_block_delta" or event["delta"]["type"] != "text_delta":
            return None
        return {**event, "delta": {"type": "text_delta", "text": text}}

    def error_event(self, message: Json, faults: Faults, position: int) -> Json:
        """The event that reports a failure in the middle of a stream."""
        return self.error(Refused(self.overloaded), message["id"].replace("msg", "req"))
