"""Reads a request body of either provider into one form."""

import json
import re
from collections.abc import Sequence
from dataclasses import dataclass, field

from infra.local.model.errors import Refused
from infra.local.model.text import Json, text_of, to_json, tokens
from infra.local.parliament.model import slugify

MESSAGE_TOKENS = 4  # around each message
OPENAI_CACHE_TOKENS = 1_024  # shorter prompts are not cached

NAME = re.compile("[a-zA-Z0-9_-]{1,64}")
POSTAL_CODE = re.compile(r"\b([A-Z]\d[A-Z])[ -]?(\d[A-Z]\d)\b", re.ASCII | re.IGNORECASE)
BILL = re.compile(r"\b[CS]-[1-9]\d{0,3}\b", re.ASCII | re.IGNORECASE)


# What a word of a question asks for, in English or French.
VOTES, DEBATE, LOBBYING = r"\bvot", r"\b(d[ée]bat|said\b|dit\b)", r"\blobb"
A_DAY, EXPENSES = r"\b(today|aujourd)|\b(latest|derniers) vot", r"\b(spend|spent|expens|d[ée]pens)"
CATEGORIES = {
    "travel": r"\b(travel|d[ée]plac)",
    "hospitality": r"\b(hospitality|accueil)",
    "contracts": r"\b(contract|contrat)",
    "salaries": r"\bsalar|\bsalair",
}
# Two words with capitals: a name, such as Josephine O’Fennimore.
PERSON = re.compile(r"\b({0} {0})".format(r"[A-ZÀ-Þ](?:[’'][A-ZÀ-Þ])?[\w-]+"))
OFFICE = r"\b(?:minister (?:of|for)|ministre d\w+|ministre de la|ministre de l[’'])\s*(\w+)"


def choose_tool(question: str, offered: Sequence[str]) -> tuple[str, Json] | None:
    """The first tool of those offered that fits a question without a directive, so that a demonstration needs none.

    A postal code, a bill's number and a few words select it.
    """

    def mentions(words: str) -> re.Match[str] | None:
        return re.search(words, question, re.IGNORECASE)

    fitting: list[tuple[str, Json]] = []
    code, bill = POSTAL_CODE.search(question), BILL.search(question)
    place = {"postal_code": f"{code[1]} {code[2]}".upper()} if code else {}
    number = bill[0].upper() if bill else ""
    if code and bill:
        fitting.append(("how_they_voted", {"bill": number, **place}))
    if code:
        fitting.append(("find_mps", place))
    elif bill:
        fitting += [("find_lobbying", {"bill": number})] if mentions(LOBBYING) else []
        detail = "_votes" if mentions(VOTES) else "_debate" if mentions(DEBATE) else ""
        fitting.append((f"get_bill{detail}", {"number": number}))
    elif office := mentions(OFFICE):
        fitting.append(("find_ministers", {"words": office[1]}))
    elif mentions(A_DAY):
        fitting.append(("get_house_day", {}))
    elif mentions(EXPENSES):
        category = next((name for name, words in CATEGORIES.items() if mentions(words)), "")
        if person := PERSON.search(question):
            fitting.append(("get_mp_expenses", {"slug": slugify(person[1])}))
        else:
            fitting.append(("largest_expenses", {"category": category} if category else {}))
    return next((call for call in fitting if call[0] in offered), None)


@dataclass(frozen=True, slots=True)
class Prompt:
    """A request body and its messages, each with role and text. A tool result has the role `tool`."""

    body: Json
    messages: list[dict[str, str]]
    called: list[str] = field(default_factory=list)  # the tool calls in the history, as text
    call_ids: list[str] = field(default_factory=list)

    @classmethod
    def read(cls, body: Json) -> "Prompt":
        """Raises Refused where the real APIs refuse the history.

        These are an empty text, a tool call without its result, a name of a tool or, at Anthropic, an id of a call with
        other characters than NAME, and ids that are not unique.
        """
        items = body.get("messages", body.get("input")) or []
        messages, called, answered, calls = list[dict[str, str]](), [], [], []
        for item in [{"role": "user", "content": items}] if isinstance(items, str) else items:
            content = item.get("content", [item])
            for block in content if isinstance(content, list) else [{"text": content}]:
                if block.get("text") == "" and "messages" in body:
                    raise Refused(400, "messages: text content blocks must be non-empty")
                if block.get("type") in ("tool_use", "function_call"):
                    called.append(block["call_id"] if "call_id" in block else block["id"])
                    if not NAME.fullmatch(block["name"]):
                        raise Refused(400, f"the name of a tool call must match {NAME.pattern}")
                    calls.append(block["name"] + (block.get("arguments") or json.dumps(block.get("input"))))
                elif block.get("type") in ("tool_result", "function_call_output"):
                    answered.append(block["call_id"] if "call_id" in block else block["tool_use_id"])
                    messages.append({"role": "tool", "text": text_of(block.get("content", block.get("output")))})
            if text := text_of(content):
                messages.append({"role": item["role"], "text": text})
        if not messages:
            raise Refused(400, "at least one message is required")
        if sorted(called) != sorted(answered):
            raise Refused(400, f"every tool call needs one result: called {called}, answered {answered}")
        if len(set(called)) < len(called) or "" in called:
            raise Refused(400, f"the ids of tool calls must be unique: {called}")
        if "messages" in body and not all(map(NAME.fullmatch, called)):
            raise Refused(400, f"tool_use ids must match {NAME.pattern}")
        return cls(body, messages, calls, called)

    @property
    def system(self) -> str:
        """The system prompt, empty where there is none."""
        return text_of(self.body.get("system", self.body.get("instructions")))

    @property
    def question(self) -> str:
        """The last user message."""
        return next((message["text"] for message in reversed(self.messages) if message["role"] == "user"), "")

    @property
    def results(self) -> list[str]:
        """The tool results that follow the question."""
        last = max((at for at, message in enumerate(self.messages) if message["role"] == "user"), default=-1)
        return [message["text"] for message in self.messages[last + 1 :] if message["role"] == "tool"]

    @property
    def tokens(self) -> int:
        """The sum over the system prompt, the tools as JSON, the text of each message and the calls."""
        texts = [self.system, self._tools, *(message["text"] for message in self.messages), *self.called]
        return sum(tokens(text) for text in texts if text) + MESSAGE_TOKENS * (len(self.messages) + len(self.called))

    @property
    def prefix(self) -> int:
        """The tokens that another request has left in the cache: at Anthropic those before a mark, at OpenAI the tools,
        if they are long enough."""
        tools = tokens(self._tools) if self._tools else 0
        if "input" in self.body:
            return tools if tools >= OPENAI_CACHE_TOKENS else 0
        system = self.body.get("system")
        marked = [block for block in system if "cache_control" in block] if isinstance(system, list) else []
        return tools + sum(tokens(block["text"]) for block in marked) if marked else 0

    @property
    def cacheable(self) -> int:
        """The tokens that the provider may write to its cache: OpenAI all that it reads."""
        return self.tokens if "input" in self.body else self.prefix

    @property
    def max_output(self) -> int | None:
        """The most tokens that the reply may have."""
        return self.body.get("max_tokens") or self.body.get("max_output_tokens")

    @property
    def _tools(self) -> str:
        return to_json(self.body["tools"]).decode() if self.body.get("tools") else ""

    def calls(self) -> list[tuple[str, Json]]:
        """The tools to call now, with their arguments: by the question's directives, otherwise by `choose_tool`."""
        if not self.body.get("tools") or self.body.get("tool_choice") in ("none", {"type": "none"}):
            return []
        calls = []
        for found in re.finditer(r"\[tool(-loop)?:([\w.-]+)\s*", self.question):
            rest = self.question[found.end() :]
            if found[1] or not self.results:
                calls.append((found[2], json.JSONDecoder().raw_decode(rest)[0] if rest.startswith("{") else {}))
        if not self.results and not re.search(r"\[(tool|tool-loop|fault):", self.question):
            chosen = choose_tool(self.question, [tool.get("name", "") for tool in self.body["tools"]])
            calls += [chosen] if chosen else []
        return calls
