"""OpenAI's Responses API, in the form that the openai SDK reads."""

import json
import time
from collections.abc import Iterator, Mapping

from infra.local.model.errors import Refused
from infra.local.model.faults import Faults
from infra.local.model.prompt import Prompt
from infra.local.model.reply import Reply
from infra.local.model.text import Json, call_id, new_id, split_chunks, split_words


class OpenAI:
    """Builds the bodies and events of the Responses API."""

    name = "openai"
    overloaded = 503
    id_header = "x-request-id"
    models = ("gpt-6-sol", "gpt-6-luna", "gpt-6-astra", "gpt-6.1-sol", "gpt-5.5", "gpt-5.4-mini")
    exhausted = (429, "You exceeded your current quota, please check your plan and billing.", "insufficient_quota")
    incomplete_reasons: Mapping[str, str] = {"max_tokens": "max_output_tokens", "refusal": "content_filter"}

    def error(self, refused: Refused, request_id: str) -> Json:
        """The body of an error reply."""
        return {"error": {"message": refused.message, "type": refused.openai, "param": None, "code": refused.code}}

    def list_models(self, query: Mapping[str, str]) -> Json:
        """The body of GET /v1/models."""
        common = {"object": "model", "created": 1767225600, "owned_by": "system"}
        return {"object": "list", "data": [{"id": name, **common} for name in self.models]}

    def count_tokens(self, prompt: Prompt) -> Json:
        """The body of POST /v1/responses/input_tokens."""
        return {"object": "response.input_tokens", "input_tokens": prompt.tokens}

    def message(self, prompt: Prompt, reply: Reply) -> Json:
        """The complete response, as POST /v1/responses returns it without a stream."""
        reason = None if reply.in_words else self.incomplete_reasons.get(reply.stop)
        status = "incomplete" if reason else "completed"
        part: Json = {"type": "output_text", "text": reply.text, "annotations": [], "logprobs": []}
        if reply.in_words:
            part = {"type": "refusal", "refusal": reply.text}
        message = {"id": new_id("msg"), "type": "message", "role": "assistant", "status": status, "content": [part]}
        common = {"type": "function_call", "status": status}
        calls = [
            {
                "id": new_id("fc"),
                "call_id": call_id("call", name, reply.call_ids),
                "name": name,
                "arguments": json.dumps(arguments),
                **common,
            }
            for name, arguments in reply.calls
        ]
        total = reply.uncached + reply.read + reply.written
        return {
            "id": new_id("resp"),
            "object": "response",
            "created_at": int(time.time()),
            "status": status,
            "error": None,
            "incomplete_details": {"reason": reason} if reason else None,
            "instructions": prompt.body.get("instructions"),
            "max_output_tokens": prompt.body.get("max_output_tokens"),
            "metadata": {},
            "model": prompt.body.get("model"),
            "output": ([message] if reply.text else []) + calls,
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

    def events(self, message: Json, faults: Faults) -> Iterator[Json]:
        """The events that stream the response, numbered."""
        return ({**event, "sequence_number": number} for number, event in enumerate(self._events(message, faults)))

    def _events(self, response: Json, faults: Faults) -> Iterator[Json]:
        opening = {**response, "status": "in_progress", "incomplete_details": None, "output": [], "usage": None}
        yield {"type": "response.created", "response": opening}
        yield {"type": "response.in_progress", "response": opening}
        for index, item in enumerate(response["output"]):
            place = {"item_id": item["id"], "output_index": index}
            empty: Json = {"content": []} if item["type"] == "message" else {"arguments": ""}
            started = {**item, **empty, "status": "in_progress"}
            yield {"type": "response.output_item.added", "output_index": index, "item": started}
            if item["type"] == "message":
                yield from self._text_events(item["content"][0], {**place, "content_index": 0})
            elif "whole-input" not in faults:
                for piece in split_chunks(item["arguments"]):
                    yield {"type": "response.function_call_arguments.delta", **place, "delta": piece}
                yield {"type": "response.function_call_arguments.done", **place, "arguments": item["arguments"]}
            yield {"type": "response.output_item.done", "output_index": index, "item": item}
        end = {"usage": None} if "no-usage" in faults else {}
        yield {"type": f"response.{response['status']}", "response": {**response, **end}}

    def _text_events(self, part: Json, place: Json) -> Iterator[Json]:
        kind, field = ("refusal", "refusal") if part["type"] == "refusal" else ("output_text", "text")
        more: Json = {} if kind == "refusal" else {"logprobs": []}
        yield {"type": "response.content_part.added", **place, "part": {**part, field: ""}}
        for word in split_words(part[field]):
            yield {"type": f"response.{kind}.delta", **place, "delta": word, **more}
        yield {"type": f"response.{kind}.done", **place, field: part[field], **more}
        yield {"type": "response.content_part.done", **place, "part": part}

    def with_text(self, event: Json, text: str) -> Json | None:
        """A copy of a delta of text with another text; None for other events."""
        return {**event, "delta": text} if event["type"] == "response.output_text.delta" else None

    def error_event(self, message: Json, faults: Faults, position: int) -> Json:
        """The event that reports a failure in the middle of a stream."""
        error = self.error(Refused(self.overloaded), "")["error"]
        if "failed" in faults:
            failure = {"code": "server_error", "message": error["message"]}
            failed = {**message, "status": "failed", "error": failure, "output": [], "usage": None}
            return {"type": "response.failed", "response": failed, "sequence_number": position}
        if "flat" in faults["error-event"]:
            return {**error, "type": "error", "sequence_number": position}
        return {"type": "error", "error": error, "sequence_number": position}
