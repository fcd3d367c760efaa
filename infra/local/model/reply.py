"""Composes the reply to a prompt, independent of the provider's format."""

import json
import re
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import cycle, islice

from infra.local.model.faults import Faults
from infra.local.model.prompt import Prompt
from infra.local.model.prose import Language, written
from infra.local.model.text import Json, first_tokens, split_words, tokens

MAX_OUTPUT = 1_000_000  # tokens of a reply to a request without a limit
MAX_DELTAS = 100_000  # limit of `long`: a mistyped number must not hang the stack
FRENCH = re.compile(
    r"\b(?:[cdjlmnst]|qu)['’]|\b(?:aux?|avec|ces?|combien|comment|dans|des?|du|elle|est|et|il|la|les?|leurs?|ma|mes|mon"
    r"|où|par|pas|pour|pourquoi|quel(?:le)?s?|qui?|quoi|ses|son|sont|sur|une?|y)\b"
)
ENGLISH = re.compile(r"\b(?:about|an?|and|are|did|do|does|for|has|have|how|in|is|of|on|the|to|was|what|when|who|why)\b")


def language_of(question: str) -> Language:
    """French where the question seems French."""
    words = question.lower()
    return "fr" if len(FRENCH.findall(words)) > len(ENGLISH.findall(words)) else "en"


def answer(question: str, results: Sequence[str] = ()) -> str:
    """What the results of the tools say; without any, an invented answer that quotes the question."""
    language = language_of(question)
    if results:
        return written(results, language)
    if language == "fr":
        return (
            f"Réponse factice, aucun modèle n’a été consulté. Vous avez écrit : “{question[:400]}”. Dans une séance "
            "inventée de la Chambre des communes, trois députés en ont parlé et la question est allée en comité."
        )
    return (
        f"This is a stand-in answer, no model was asked. You wrote: “{question[:400]}”. In an invented sitting of the "
        "House of Commons, three members spoke to it and the matter was referred to a committee."
    )


@dataclass(frozen=True, slots=True)
class Reply:
    """Text, tool calls and token counts. `stop` is end_turn, tool_use, max_tokens or refusal, `call_ids` their kind.

    `in_words`: whether the text is the model's own refusal.
    """

    text: str
    calls: list[tuple[str, Json]]
    stop: str
    uncached: int  # input tokens neither read from the cache nor written to it
    read: int  # input tokens read from the cache
    written: int  # input tokens written to the cache
    output: int
    call_ids: str
    in_words: bool

    @classmethod
    def compose(cls, prompt: Prompt, faults: Faults) -> "Reply":
        """The reply, with the faults that change its content."""
        stop = "max_tokens" if "max-tokens" in faults else "refusal" if "refusal" in faults else ""
        calls = [] if stop or "empty" in faults else prompt.calls()
        text = (
            "" if "empty" in faults or faults.first("refusal") == "silent" else answer(prompt.question, prompt.results)
        )
        if deltas := int(faults.number("talk" if calls else "long")):
            text = "".join(islice(cycle(split_words(text + " ")), min(MAX_DELTAS, deltas)))
        elif calls:
            text = ""
        text = text[: len(text) // 2] if stop else text
        limit = prompt.max_output or MAX_OUTPUT
        if is_cut := tokens(text) > limit:
            text, calls, stop = first_tokens(text, limit), [], stop or "max_tokens"
        total = prompt.tokens
        read, written = (0, prompt.cacheable) if "cold" in faults else (prompt.prefix, 0)
        output = limit if is_cut else tokens(text + "".join(json.dumps(arguments) for _, arguments in calls))
        stop = stop or ("tool_use" if calls else "end_turn")
        stop = faults.first("stop-reason") or stop
        in_words = faults.first("refusal") == "words"
        kinds = (faults.first("call-ids"), in_words)
        return cls(text, calls, stop, total - read - written, read, written, output, *kinds)
