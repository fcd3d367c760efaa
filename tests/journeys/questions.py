"""`make questions`: whether the tools, and with a provider's key a real model, answer what citizens ask.

Each question of questions.toml has the calls that answer it and the facts that their results must contain. The calls
run on the sample Parliament. With ANTHROPIC_API_KEY or OPENAI_API_KEY set, the chat answers the same questions with the
real model, and each answer is checked: its facts, its links, its language, and whether it has a number or a name that
is neither in the results nor in the question.
"""

import asyncio
import json
import os
import re
import sys
import tempfile
import tomllib
import uuid
from collections.abc import AsyncIterator, Iterable, Iterator, Mapping, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import httpx
import psycopg

from functions.chat.sources.base import Language
from functions.chat.sources.text import normalize
from functions.chat.tools import Outcome, Source, Tools
from infra.local.model.prose import MONTHS
from infra.local.model.reply import language_of
from infra.local.stack import Config, Stack, free_offset, running
from tests.own_keys import ENCRYPTION
from tests.sources import database_of, parliament_at

FILE = Path(__file__).with_suffix(".toml")
KEYS = ("ANTHROPIC_API_KEY", "OPENAI_API_KEY")

LINK = re.compile(r"https?://[^\s)\]>\"”»*]+")
# A number with its thousands and decimals, in either language.
NUMBER = re.compile(r"\d+(?:[\u202f\u00a0 ,.]\d{3})*(?:[.,]\d+)?")
NAME = re.compile(r"\b[A-ZÀ-Þ][\w’'-]+(?:[ —][A-ZÀ-Þ][\w’'-]+)+")
# Words of names that belong to Parliament and not to a source.
COMMON = frozenset(
    normalize(
        "bill act house commons senate parliament canada government opposition member members minister prime royal"
        " assent first second third reading report stage committee speaker question period motion vote votes yea yeas"
        " nay nays yes no an the on in of at by no data liberal mp mps projet loi chambre communes sénat parlement"
        " gouvernement opposition député députée ministre premier première deuxième troisième lecture sanction royale"
        " comité étape rapport présidence période questions motion vote votes oui non le la les un une en au"
    ).split()
)


@dataclass(frozen=True, slots=True)
class Call:
    """A call of a tool."""

    tool: str
    arguments: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Question:
    """A question, and what answers it.

    A fact is a text or number of the results; `a|b` are two ways to write it in an answer. `pages` end the addresses of
    pages that must be among the sources.
    """

    asks: str
    calls: Sequence[Call]
    facts: Sequence[str]
    pages: Sequence[str] = ()
    context: Mapping[str, Any] | None = None

    @property
    def language(self) -> Language:
        return language_of(self.asks)


def questions() -> list[Question]:
    """The questions of the file."""
    document = tomllib.loads(FILE.read_text(encoding="utf-8"))
    return [Question(**{**entry, "calls": [Call(**call) for call in entry["calls"]]}) for entry in document["question"]]


@asynccontextmanager
async def sample_tools(stack: Stack) -> AsyncIterator[Tools]:
    """The tools on the sample Parliament of a stack."""

    def fail(name: str, error: BaseException) -> None:
        raise error

    database = database_of(stack)
    tools = Tools(parliament_at(stack.info["parliament_url"], database=database), fail)
    try:
        yield tools
    finally:
        await tools.close()
        await database.close()


async def run(question: Question, tools: Tools) -> list[Outcome]:
    """The outcomes of the question's calls."""
    return [await tools.run(call.tool, dict(call.arguments), question.language) for call in question.calls]


# What is missing ------------------------------------------------------------------------------------------------------


def misses_in_results(question: Question, outcomes: Sequence[Outcome]) -> list[str]:
    """What the results lack: an error, a fact, a page."""
    errors = [outcome.error for outcome in outcomes if outcome.error]
    known = list(_texts([outcome.output for outcome in outcomes]))
    urls = [source.url for outcome in outcomes for source in outcome.sources]
    missing = [fact for fact in question.facts if not any(_has(known, way) for way in fact.split("|"))]
    missing += [page for page in question.pages if not any(url.endswith(page) for url in urls)]
    return [*errors, *(f"no {each}" for each in missing), *([] if urls else ["no source"])]


def facts_from_results(question: Question) -> list[str]:
    """The facts and pages that the results cannot just repeat from the arguments."""
    arguments = [text.replace("-", " ") for call in question.calls for text in _texts(dict(call.arguments))]
    return [fact for fact in question.facts if not any(_has(arguments, way) for way in fact.split("|"))] + [
        *question.pages
    ]


def _texts(value: Any) -> Iterator[str]:
    """All texts and numbers of a JSON value, and the names of what is true."""
    if isinstance(value, dict | list):
        for inner in value.values() if isinstance(value, dict) else value:
            yield from _texts(inner)
        if isinstance(value, dict):
            yield from (name.replace("_", " ") for name, inner in value.items() if inner is True)
    elif value is not None:
        yield str(value)


def _has(texts: Iterable[str], fact: str) -> bool:
    """Whether a text contains the fact: a number as a whole number, with any separators."""
    if re.fullmatch(r"[\d.]+", fact):
        return any(_digits(number) == _digits(fact) for text in texts for number in NUMBER.findall(text))
    return any(normalize(fact) in normalize(text) for text in texts)


def misses_in_answer(question: Question, answer: str, outcomes: Sequence[Outcome]) -> list[str]:
    """What an answer lacks or invents. `outcomes` are those of the calls that the model made."""
    results = [outcome.output for outcome in outcomes]
    known = "\n".join([question.asks, json.dumps(question.context), *_texts(results)])
    pages = {source.url for outcome in outcomes for source in outcome.sources}
    links = set(LINK.findall(answer))
    prose = LINK.sub(" ", answer)
    missing = [
        fact
        for fact in question.facts
        if not any(_has([prose], way) for each in fact.split("|") for way in _ways(each))
    ]
    found = [f"no {each}" for each in missing]
    if not links & pages:
        found.append("no link to a source")
    found += [f"a link of its own: {link}" for link in sorted(links - pages - set(LINK.findall(known)))]
    if language_of(prose) != question.language:
        found.append("another language")
    return [*found, *(f"invented: {each}" for each in invented(prose, known))]


def _ways(fact: str) -> list[str]:
    """The fact, and a date as people write it."""
    if not re.fullmatch(r"\d{4}-\d\d-\d\d", fact):
        return [fact]
    month, day = int(fact[5:7]) - 1, int(fact[8:])
    english, french = (MONTHS[language].split(",")[month] for language in ("en", "fr"))
    return [fact, f"{english} {day}", f"{day} {french}", f"1er {french}" if day == 1 else fact]


def invented(prose: str, known: str) -> list[str]:
    """The numbers and names of a text that are not known. Numbers up to twenty may count the items of a result."""
    numbers = {_digits(number) for number in NUMBER.findall(known)}
    numbers |= {part for number in re.findall(r"\d+", known) for part in (number, number.lstrip("0"))}
    words = {*normalize(known).split(), *COMMON}
    wrong = [number for number in NUMBER.findall(prose) if _digits(number) not in numbers and _value(number) > 20]
    wrong += [name for name in NAME.findall(prose) if not {*normalize(name).split()} <= words]
    return wrong


def _digits(number: str) -> str:
    """The number without separators and zeros at its ends: 1,234.50 becomes 1234.5."""
    whole, _, decimals = re.sub(r"[\u202f\u00a0 ]|[,.](?=\d{3}\b)", "", number).replace(",", ".").partition(".")
    return f"{whole}.{decimals}".rstrip("0").rstrip(".") if decimals else whole


def _value(number: str) -> float:
    return float(_digits(number))


# The command ----------------------------------------------------------------------------------------------------------


def answered_by_chat(question: Question, http: httpx.Client, token: str) -> tuple[str, list[Outcome]]:
    """The answer of the chat, and the outcomes of the calls that its model made."""
    message = {"id": f"{uuid.uuid4()}", "role": "user", "parts": [{"type": "text", "text": question.asks}]}
    body = {"id": f"{uuid.uuid4()}", "messages": [message], "language": question.language}
    body |= {"context": question.context} if question.context else {}
    headers = {"authorization": f"Bearer {token}", "accept": "application/json"}
    response = http.post("/chat", json=body, headers=headers)
    if response.status_code != 200:
        return response.text, []
    return read_message(response.json()["message"]["parts"])


def read_message(parts: Sequence[Mapping[str, Any]]) -> tuple[str, list[Outcome]]:
    """The text of a message, and the outcomes of its calls. The first has the sources of all calls."""
    text = "".join(part["text"] for part in parts if part["type"] == "text")
    sources = [Source(part["url"], part.get("title", "")) for part in parts if part["type"] == "source-url"]
    outputs = [part.get("output") for part in parts if part["type"].startswith("tool-")]
    return text, [Outcome(None, None, sources), *(Outcome(output, None, []) for output in outputs)]


def table(rows: Sequence[tuple[Question, Sequence[str]]]) -> str:
    """The questions with what is missing, and the score."""
    width = max(len(question.asks) for question, _ in rows)
    lines = [f"{question.asks:<{width}}  {'; '.join(missing) or 'ok'}" for question, missing in rows]
    return "\n".join([*lines, f"{sum(not missing for _, missing in rows)} of {len(rows)} answered\n"])


def ask_tools(asked: Sequence[Question], stack: Stack) -> list[tuple[Question, list[str]]]:
    """What the tools' results lack."""

    async def ask() -> list[tuple[Question, list[str]]]:
        async with sample_tools(stack) as tools:
            return [(each, misses_in_results(each, await run(each, tools))) for each in asked]

    return asyncio.run(ask())


def ask_model(asked: Sequence[Question], stack: Stack) -> list[tuple[Question, list[str]]]:
    """What the model's answers lack or invent."""
    user = stack.info["users"]["pro"]
    with psycopg.connect(stack.postgres.url(), autocommit=True) as db:
        db.execute("update public.user_subscriptions set daily_quota = 1000 where user_id = %s", (user["id"],))
    with httpx.Client(base_url=stack.info["functions_url"], timeout=200) as http:
        return [(each, misses_in_answer(each, *answered_by_chat(each, http, user["access_token"]))) for each in asked]


def main() -> int:
    """Print the table of the tools, and with a key the table of the model. Returns 1 if one has a miss."""
    environ = {**os.environ, **ENCRYPTION, "PARLIAMENT_API_URL": ""}
    asked = questions()
    with (
        tempfile.TemporaryDirectory() as folder,
        running(Config(Path(folder), offset=free_offset(), durable=False, environ=environ)) as stack,
    ):
        rows = ask_tools(asked, stack)
        sys.stdout.write(table(rows))
        if any(os.environ.get(key) for key in KEYS):
            answered = ask_model(asked, stack)
            sys.stdout.write(f"\nthe model\n{table(answered)}")
            rows += answered
        else:
            sys.stdout.write(f"\nSet {' or '.join(KEYS)} to ask a real model too.\n")
    return int(any(missing for _, missing in rows))


if __name__ == "__main__":
    sys.exit(main())
