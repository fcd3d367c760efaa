"""The script language of faults: `[fault:NAME parameters]` in a question makes its reply fail."""

import re
from collections.abc import Sequence

from infra.local.model.errors import Refused
from infra.local.model.prompt import Prompt

FAULTS = {
    "status": "status CODE [RETRY_AFTER | KIND]: refused with this HTTP status, in the provider's error shape, with "
    "KIND as the error's type and code",
    "model-gone": "model-gone [MODEL...]: refused as a model that does not exist: these models, or all",
    "filtered": "refused because of the content of the prompt",
    "too-long": "refused as a prompt that does not fit into the model's context window",
    "overloaded": "refused as the provider does when it has no capacity: anthropic 529, openai 503",
    "stall-before": "stall-before N: accepted, then silent for N seconds before the first byte",
    "stall": "stall N: silent for N seconds in the middle, then continues",
    "slow": "slow N: N seconds before every delta",
    "long": "long N: an answer of N deltas",
    "talk": "talk N: N deltas of text before the tool calls",
    "cold": "nothing is read from the prompt cache, and all that can be is written to it",
    "empty": "a complete answer without any content",
    "max-tokens": "half an answer, ended by the output limit",
    "refusal": "refusal [silent | words]: half an answer, ended by the provider's own filter; silent: no text; words: "
    "openai: the model's own refusal; anthropic: same as refusal",
    "sse": "sse STYLE...: the same events, written in other ways: crlf, cr, bom, lines, heartbeats, done, bytes",
    "halves": "halves [end]: an emoji in the middle arrives as two halves; end: the answer ends with a half of one",
    "no-usage": "no-usage [null]: the end of the stream has no usage; null: it is null",
    "whole-input": "the arguments of tools do not arrive in pieces: anthropic: with the start, openai: with the end",
    "stop-reason": "stop-reason REASON: anthropic: the stop reason, whatever the answer has",
    "call-ids": "call-ids same | empty | dotted: the ids of calls are call_0, empty, or functions.NAME:0",
    "drop": "the connection is closed in the middle, without an end of the response",
    "early-end": "the stream ends cleanly in the middle: no stop reason, no response.completed",
    "bad-json": "one data line in the middle is not JSON",
    "error-event": "error-event [flat]: an `error` event in the middle; flat: the shape that OpenAI documents",
    "failed": "openai: response.failed in the middle; anthropic: same as error-event",
}
"""Fault names. A question may contain several. A condition may precede the name: `first-only` (only the first request
with exactly this text fails), `after-tools` (only a request with tool results), `anthropic` or `openai` (only requests
to that provider)."""


class Faults(dict[str, list[str]]):
    """The faults that apply to one request, with their parameters."""

    @classmethod
    def read(cls, prompt: Prompt, first: bool, provider: str, more: Sequence[str] = ()) -> "Faults":
        """The faults of the question, and of `more` directives, whose conditions hold.

        Raises ValueError for an unknown name.
        """
        faults = cls()
        for directive in [*re.findall(r"\[fault:([^\]]+)\]", prompt.question), *more]:
            name, *parameters = directive.split()
            applies = True
            conditions = {"first-only": first, "after-tools": bool(prompt.results)}
            conditions |= {"anthropic": provider == "anthropic", "openai": provider == "openai"}
            while name in conditions:
                applies &= conditions[name]
                name, *parameters = parameters
            if name not in FAULTS:
                raise ValueError(f"unknown fault {name!r}, known: {', '.join(FAULTS)}")
            if applies:
                faults[name] = parameters
        return faults

    def number(self, name: str, default: float = 0) -> float:
        """The fault's first parameter; `default` where the fault does not apply."""
        return float(self[name][0]) if name in self else default

    def first(self, name: str) -> str:
        """The fault's first parameter; empty where it has none or does not apply."""
        return next(iter(self.get(name, [])), "")

    def refuse(self, streams: bool, overloaded: int, model: str) -> None:
        """Raises Refused for the faults that refuse a request. `overloaded` is the provider's status for no capacity.

        Without a stream, an event that reports a failure becomes a refusal too.
        """
        before = self.number("stall-before")
        if "overloaded" in self or (not streams and self.keys() & {"error-event", "failed"}):
            raise Refused(overloaded, after=before)
        is_anthropic = overloaded == 529
        if "model-gone" in self and model in (self["model-gone"] or [model]):
            raise Refused(
                404, f"model: {model}" if is_anthropic else f"The model `{model}` does not exist.", after=before
            )
        if "filtered" in self:
            words = "Output blocked by content filtering policy" if is_anthropic else "Your prompt was flagged."
            raise Refused(400, words, "" if is_anthropic else "invalid_prompt", after=before)
        if "too-long" in self:
            words = "prompt is too long: 212042 tokens > 200000 maximum"
            raise Refused(400, words, "" if is_anthropic else "context_length_exceeded", after=before)
        if "status" in self:
            status, more, *_ = [*self["status"], ""]
            if not 400 <= int(status) < 600:
                raise ValueError(f"{status} is no error status")
            retry_after, kind = (more, "") if not more or more[0].isdigit() else ("", more)
            raise Refused(int(status), kind=kind, retry_after=retry_after, after=before)
