"""No query costs more than its limit, on any model of any plan, in any script: the real turn against the stand-in.

The stand-in counts one token for each byte of other scripts, writes as much as it may, and has nothing cached.
"""

import base64
import os
import random
import uuid
from collections.abc import Callable, Iterator
from decimal import Decimal
from typing import Any

import psycopg
import pytest

from functions.chat.system_prompt import cut_short
from tests.api import Api, StateOf, Streamed, question
from tests.conftest import Person

NewPerson = Callable[..., Person]
Db = psycopg.Connection[dict[str, Any]]

SCRIPTS = {
    "english": "The House met this afternoon to debate the second reading of the bill on ferry routes. ",
    "french": "La Chambre s’est réunie cet après-midi pour débattre de la deuxième lecture du projet de loi. ",
    "cyrillic": "Палата общин собралась сегодня, чтобы обсудить второе чтение законопроекта о паромах. ",
    "arabic": "اجتمع مجلس العموم بعد ظهر اليوم لمناقشة القراءة الثانية لمشروع قانون العبارات. ",
    "devanagari": "हाउस ऑफ कॉमन्स की बैठक आज दोपहर नौका मार्गों पर विधेयक पर बहस करने के लिए हुई। ",
    "chinese": "下议院今天下午开会，辩论渡轮航线法案的二读，部长回答了有关码头费用的问题。",
    "emoji": "🚢🍁🏛️👩🏽‍⚖️🧾🪶🫎🦫🇨🇦🗳️",
    "inuktitut": "ᓄᓇᕗᒻᒥ ᒪᓕᒐᓕᐅᖅᑎᑦ ᑲᑎᒪᔪᑦ ᐅᓪᓗᒥ ᐅᒥᐊᕐᔪᐊᑦ ᐱᔾᔪᑎᒋᓪᓗᒋᑦ. ",
    "noise": base64.b64encode(random.Random(7).randbytes(3_000)).decode(),  # noqa: S311 -- no secret
}
DIRECTIVES = "[fault:cold] [fault:slow 0] [fault:long 300] [fault:talk 100] "
TOOLS = '[tool-loop:get_bill_debate {"number": "C-5", "limit": 20}] [tool-loop:find_mps {"party": "Heron"}] '
ERROR = Decimal("1.1")


def text(script: str, size: int) -> str:
    """At least one directive-free text of the script, of at most `size` bytes."""
    repeated = (SCRIPTS[script] * (size // len(SCRIPTS[script].encode()) + 1)).encode()
    return repeated[:size].decode(errors="ignore")


@pytest.fixture
def models(stack_db: Db) -> list[tuple[str, str, str, Decimal]]:
    plans = stack_db.execute("select tier, models, query_cost_limit_usd from public.plans order by tier").fetchall()
    return [
        (plan["tier"], provider, model, plan["query_cost_limit_usd"])
        for plan in plans
        for provider, names in plan["models"].items()
        for model in names
    ]


@pytest.mark.prove
@pytest.mark.parametrize("script", SCRIPTS)
def test_no_query_exceeds_its_limit(
    api: Api, person: NewPerson, stack_db: Db, models: list[tuple[str, str, str, Decimal]], script: str
) -> None:
    """`make test` asks each model in three of the scripts, `make prove` in all of them."""
    chosen = models if os.environ.get("PROVE") else models[list(SCRIPTS).index(script) % 3 :: 3]
    for tier, provider, model, limit in chosen:
        user, chat = person(tier), str(uuid.uuid4())
        stack_db.execute(
            "update public.user_subscriptions set lifetime_quota = 100, daily_quota = 100 where user_id = %s",
            (user.id,),
        )
        fields = {"chat_id": chat, "provider": provider, "model": model}
        earlier: list[tuple[str, str]] = []
        for asked in (
            f"{DIRECTIVES}{text(script, 15_000)}",
            f"{DIRECTIVES}{text(script, 15_000)}",
            f"{DIRECTIVES}{TOOLS}{text(script, 300)}",
            f"{DIRECTIVES}{TOOLS}{text(script, 4_000)}",
        ):
            data = {"notes": text(script, 12_000)}
            answer = api.chat(user, question(asked, *earlier, context={"type": "dashboard", "data": data}, **fields))
            parts = answer.json()["message"]["parts"]
            earlier += [("user", asked), ("assistant", "".join(part.get("text", "") for part in parts))]
        rows = stack_db.execute("select cost_usd from public.usage_logs where user_id = %s", (user.id,)).fetchall()
        costs = [row["cost_usd"] for row in rows]
        assert len(costs) == 4
        assert limit / 2 < max(costs) <= limit * ERROR


@pytest.fixture
def set_limit(stack_db: Db) -> Iterator[Callable[[str, str], None]]:
    """Sets the cost limit of a plan for the test."""
    before = stack_db.execute("select tier, query_cost_limit_usd from public.plans").fetchall()

    def set_limit(tier: str, usd: str) -> None:
        stack_db.execute("update public.plans set query_cost_limit_usd = %s where tier = %s", (usd, tier))

    yield set_limit
    for plan in before:
        set_limit(plan["tier"], plan["query_cost_limit_usd"])


def kinds(streamed: Streamed) -> tuple[int, int]:
    """How many tools succeeded, and how many failed."""
    return streamed.kinds.count("tool-output-available"), streamed.kinds.count("tool-output-error")


@pytest.mark.parametrize(
    ("limit", "steps", "reason", "tools"),
    [("0.0010", 1, "limit", (0, 1)), ("0.0017", 2, "stop", (1, 0)), ("0.0032", 4, "stop", (3, 0))],
    ids=["no second step", "the second step is the last", "the fourth step is the last"],
)
def test_an_answer_ends_at_the_limit(
    api: Api, person: NewPerson, state_of: StateOf, set_limit: Callable[[str, str], None],
    limit: str, steps: int, reason: str, tools: tuple[int, int],
) -> None:  # fmt: skip
    """Where no step fits, a sentence of ours ends the answer. The last step that fits calls no tools."""
    user = person("free")
    set_limit("free", limit)
    asked = f'[tool-loop:get_bill {{"number": "C-5"}}] [fault:cold] {uuid.uuid4()}'
    streamed = api.stream(user, question(asked, provider="anthropic", language="fr"))
    assert len(api.provider_requests(asked)) == steps
    assert streamed.metadata["finish_reason"] == reason
    assert streamed.text.endswith(cut_short("fr")) == (reason == "limit")
    assert kinds(streamed) == tools
    assert (state_of(user).outcomes, state_of(user).lifetime_used) == (["answered"], 1)


def test_an_output_that_was_limited_says_so(api: Api, person: NewPerson, set_limit: Callable[[str, str], None]) -> None:
    set_limit("free", "0.001")
    streamed = api.stream(person("free"), question("[fault:long 2000] [fault:slow 0] [fault:cold]"))
    assert (streamed.parts[-1]["finishReason"], streamed.metadata["finish_reason"]) == ("length", "limit")
    assert streamed.text.endswith(f"\n\n{cut_short('en')}")
    assert streamed.metadata["cost_usd"] <= 0.001


def test_results_without_room_are_left_out(api: Api, person: NewPerson, set_limit: Callable[[str, str], None]) -> None:
    """The model answers with the results that fit."""
    set_limit("free", "0.0022")
    call = '[tool:get_bill_debate {"number": "C-5", "limit": 20}]'
    streamed = api.stream(person("free"), question(f"{call} {call} {call} [fault:cold]"))
    assert kinds(streamed) == (1, 2)
    assert streamed.parts[-1]["finishReason"] == "stop"


def test_history_is_trimmed_before_the_answer_is_cut(api: Api, person: NewPerson) -> None:
    """The oldest turns are left out, and the model is asked with the newest."""
    user, chat, marks = person("pro"), str(uuid.uuid4()), [uuid.uuid4().hex for _ in range(4)]
    for mark in marks:
        assert api.stream(user, question(f"{mark} [fault:slow 0] {text('english', 3_000)}", chat_id=chat)).done
    (asked,) = (entry for entry in api.provider_requests(marks[3]) if marks[3] in entry["messages"][-1]["text"])
    sent = [message["text"].partition(" ")[0] for message in asked["messages"] if message["role"] == "user"]
    assert sent == marks[-len(sent) :]
    assert 1 < len(sent) < 4


def test_a_long_question_goes_to_a_cheaper_model(api: Api, person: NewPerson) -> None:
    asked = question(text("inuktitut", 15_900), provider="anthropic", model="claude-sonnet-5-5")
    assert api.stream(person("pro"), asked).metadata["model"] == "claude-haiku-5-5"


def test_a_question_that_fits_no_model_is_refused(
    api: Api, person: NewPerson, state_of: StateOf, set_limit: Callable[[str, str], None]
) -> None:
    user = person("free")
    set_limit("free", "0.000001")
    refused = api.chat(user, question("Well?"))
    assert (refused.status_code, refused.json()["error"]["code"]) == (422, "invalid_request")
    assert "shorten" in refused.json()["error"]["message"]
    assert (state_of(user).outcomes, state_of(user).lifetime_used) == (["failed"], 0)


def test_the_page_is_left_out_before_the_question(api: Api, person: NewPerson) -> None:
    """16 KB about the page and the question do not both fit on a dear model."""
    data = {"notes": text("inuktitut", 12_000)}
    streamed = api.stream(
        person("pro"), question("Well?", model="claude-sonnet-5-5", context={"type": "dashboard", "data": data})
    )
    assert streamed.metadata["model"] == "claude-sonnet-5-5"
    assert streamed.metadata["usage"]["input_tokens"] < 12_000


def test_the_other_provider_gets_a_prompt_that_fits_there(api: Api, person: NewPerson, stack_db: Db) -> None:
    """claude-haiku-5-5 is a twentieth of the price of gpt-6-sol, which answers if Anthropic is overloaded."""
    user, chat = person("pro"), str(uuid.uuid4())
    for _ in range(2):
        api.stream(user, question(text("inuktitut", 9_000), chat_id=chat, model="claude-haiku-5-5"))
    asked = "[fault:anthropic overloaded] [fault:cold] Well?"
    streamed = api.stream(user, question(asked, chat_id=chat, model="claude-haiku-5-5"))
    assert streamed.metadata["model"] == "gpt-6-sol"
    assert streamed.metadata["cost_usd"] <= 0.035
    assert streamed.metadata["usage"]["input_tokens"] < 9_000
