"""Every way in which a query ends, with both providers and every funding, as one table says: what is heard, what is
kept, what the ledger and the counters say. Whatever the ending, no hold stays and the chat goes on."""

import asyncio
import http.client
import json
import re
import threading
import time
import uuid
from collections.abc import AsyncGenerator, Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import AbstractContextManager, closing, contextmanager, nullcontext
from dataclasses import dataclass, field
from decimal import Decimal
from itertools import repeat
from typing import Any, TypeVar

import httpx
import psycopg
import pytest

from functions.chat import limits
from functions.chat.chat import Chat
from functions.chat.providers import Event, Opened, Providers, Text
from functions.chat.request import ChatRequest
from functions.chat.settings import ChatSettings
from functions.chat.tools.parliament import Parliament
from functions.common.database import Database
from functions.common.observe import Observer
from functions.common.settings import load, load_vault
from infra.local.stack import Stack
from tests.api import Api, question
from tests.conftest import Person

Db = psycopg.Connection[dict[str, Any]]
Wait = Callable[[Callable[[], bool]], None]
Part = dict[str, Any]
T = TypeVar("T")

# on the wire  the last parts of the stream, or the status and the code of an error; `gone`: the client hung up
# said         of the provider's answer: the whole, the first half, a part, none; limit: the sentence about the limit
# tools        a sign for each call that the client was told of: + found, ! failed, ? the answer ended before it was run
# ask          how often the provider was asked
# kept         both: the question and what was said, where the plan keeps history (PAYERS)
# cost         for how many steps' tokens, and what they cost, the ledger has
# incl … byok  the funding and its counters: paid, given back, or the same whatever happens; -: does not occur
ENDINGS = """
ending                        on the wire              said   tools    ask  kept  outcome   cost  incl  cred  over  byok
finished                      finish stop              whole  -        1    both  answered  1     paid  paid  paid  same
finished after tools          finish stop              whole  +        2    both  answered  2     paid  paid  paid  same
a tool failed                 finish stop              whole  !        2    both  answered  2     paid  paid  paid  same
over the steps limit          finish stop              whole  +++++++  8    both  answered  8     paid  paid  paid  same
over the cost ceiling         finish length            limit  ?        1    both  answered  1     paid  paid  paid  same
cut short by output limit     finish length            half   -        1    both  answered  1     paid  paid  paid  same
refused by the filter         finish content-filter    half   -        1    both  answered  1     paid  paid  paid  same
failed once, asked again      finish stop              whole  -        2    both  answered  1     paid  paid  paid  same
client gone before a byte     gone                     whole  -        1    both  answered  1     paid  paid  paid  same
client gone in the text       gone                     whole  -        1    both  answered  1     paid  paid  paid  same
sent twice at once            finish stop, 409         whole  -        1    both  answered  1     paid  paid  paid  same
sent a day later, kept        finish stop              whole  +        2    both  answered  2     paid  paid  paid  same
sent a day later, not kept    409 already_answered     none   -        2    none  answered  2     paid  -     paid  -
stopped before a byte         metadata, abort          none   -        1    both  stopped   0     paid  paid  paid  same
stopped in the text           metadata, abort          part   -        1    both  stopped   1     paid  paid  paid  same
stopped by another process    metadata, abort          part   -        1    both  stopped   1     paid  paid  paid  same
stopped while a tool runs     metadata, abort          none   +?       1    both  stopped   1     paid  paid  paid  same
finished without a word       error, finish error      none   -        1    none  failed    1     back  back  back  same
failed before a byte          502 provider_error       none   -        2    none  failed    0     back  back  back  same
failed in the text            error, finish error      part   -        1    none  failed    1     back  back  back  same
failed while it calls one     error, finish error      none   ?        1    none  failed    1     back  back  back  same
failed after tools, mute      error, finish error      none   +        3    none  failed    1     back  back  back  same
failed after tools, talking   error, finish error      part   +        2    none  failed    2     back  back  back  same
out of time before a byte     504 provider_timeout     none   -        1    none  failed    0     back  back  back  same
out of time in the text       error, finish error      part   -        1    none  failed    1     back  back  back  same
out of time as a tool runs    error, finish error      none   +?       1    none  failed    1     back  back  back  same
its hold lost meanwhile       finish stop              whole  -        1    none  lost      0     back  back  back  same
forgotten by the database     finish stop              whole  -        1    both  answered  1     paid  paid  paid  same
forgotten, and it failed      error, finish error      part   -        1    none  failed    1     back  back  back  same
"""

# Who pays how, and what one paid query leaves: used today and for life, this period's overage, credits left and used;
# and in its row of the ledger: counted_against_quota, was_overage, overage_charge. left: queries that the funding has
# then; unpaid: … that it has if the query was given back.
PAYERS = """
payer  funding   tier        history  today  life  overage   credits  counted  was_overage  charge    left  unpaid
free   included  free        no       0      1     0.000000  -        yes      no           0.000000  9     10
pro    included  pro         yes      1      0     0.000000  -        yes      no           0.000000  39    40
pack   credit    basic       yes      0      0     0.000000  2+1      no       no           0.000000  2     3
payg   overage   usage_only  no       0      0     0.025000  -        no       yes          0.025000  399   400
over   overage   basic       yes      0      0     0.025000  -        no       yes          0.025000  399   400
own    byok      basic       yes      0      0     0.000000  -        no       no           0.000000  None  None
"""
# … and what a query leaves that is given back.
NOTHING_PAID = {"today": "0", "life": "0", "overage": "0.000000", "counted": "no", "was_overage": "no",
                "charge": "0.000000"}  # fmt: skip
ALL_CREDITS = "3+0"
# Makes them: pro's and free's own quota pays, the others have none.
SUBSCRIPTIONS: dict[str, dict[str, Any]] = {
    "free": {}, "pro": {}, "pack": {"daily_quota": 0}, "payg": {"stripe": True},
    "over": {"daily_quota": 0, "stripe": True}, "own": {},
}  # fmt: skip

PROVIDERS = ["anthropic", "openai"]
# The last four characters of the platform's key, in the stand-in's journal.
PLATFORM = "d-in"
# What the stand-in says, in whole, and before that of its tools; what the product says of limits and of unrun tools.
WHOLE = (
    "This is a stand-in answer, no model was asked. You wrote: “{question}”. In an invented sitting of the House of "
    "Commons, three members spoke to it and the matter was referred to a committee."
)
OF_TOOLS = "The tools answered: “"
LIMIT = "This answer has reached the limit of one question and ends here. Ask on for more."
UNRUN = "The answer ended before this tool was run."
# Bills that nobody has: what is asked of them is not found, so no cache spares Parliament the question.
SLOW_BILL, BROKEN_BILL = "C-9999", "C-9998"


def rows(table: str) -> list[dict[str, str]]:
    """The rows of a table of words, whose columns are two spaces apart."""
    heading, *lines = (re.split(r"\s{2,}", line.strip()) for line in table.strip().splitlines())
    return [dict(zip(heading, line, strict=True)) for line in lines]


TABLE = {row["ending"]: row for row in rows(ENDINGS)}
PAYER = {row["payer"]: row for row in rows(PAYERS)}
COMMON = ("on the wire", "said", "tools", "ask", "kept", "outcome", "cost")
COLUMN = {"included": "incl", "credit": "cred", "overage": "over", "byok": "byok"}


# What is heard ------------------------------------------------------------------------------------------------------


@dataclass(slots=True)
class Heard:
    """A response as far as it was read."""

    status: int = 0
    request_id: str = ""
    parts: list[Part] = field(default_factory=list)
    done: bool = False
    error: dict[str, Any] = field(default_factory=dict)
    gone: bool = True
    _more: Iterator[Part] = field(init=False)

    def listen(self, response: httpx.Response) -> "Heard":
        self.status, self.request_id = response.status_code, response.headers["x-request-id"]
        self._more = self._read(response)
        return self

    def _read(self, response: httpx.Response) -> Iterator[Part]:
        if self.status != 200:
            self.error = json.loads(response.read())["error"]
            return
        rest = b""
        for chunk in response.iter_raw():
            *events, rest = (rest + chunk).split(b"\n\n")
            for event in events:
                assert not self.done, "nothing follows [DONE]"
                if event == b"data: [DONE]":
                    self.done = True
                elif event != b": keep-alive":
                    part = json.loads(event.removeprefix(b"data: "), parse_float=Decimal)
                    self.parts.append(part)
                    yield part
        assert rest == b""

    def until(self, kind: str, times: int = 1) -> None:
        """Listen until a kind of part has come so many times."""
        for part in self._more:
            times -= part["type"] == kind
            if times == 0:
                return
        pytest.fail(f"there was no {kind} among {self.kinds}")

    def to_the_end(self) -> "Heard":
        """Listen to the rest."""
        for _ in self._more:
            pass
        self.gone = False
        return self

    @property
    def kinds(self) -> list[str]:
        return [part["type"] for part in self.parts]

    def all_of(self, *kinds: str) -> list[Part]:
        return [part for part in self.parts if part["type"] in kinds]

    @property
    def text(self) -> str:
        return "".join(part["delta"] for part in self.all_of("text-delta"))

    @property
    def metadata(self) -> dict[str, Any] | None:
        return self.all_of("finish", "message-metadata")[-1]["messageMetadata"] if self.done else None

    @property
    def wire(self) -> str:
        """How it ended, in the table's words."""
        if self.gone:
            return "gone"
        if self.status != 200:
            return f"{self.status} {self.error['code']}"
        if self.kinds[-1] == "abort":
            return "metadata, abort"
        failed = "error, " if self.kinds[-2] == "error" else ""
        return f"{failed}{self.kinds[-1]} {self.parts[-1].get('finishReason')}"

    @property
    def tools(self) -> str:
        """How the calls of tools ended, in the table's signs."""
        ends = self.all_of("tool-output-available", "tool-output-error", "tool-input-error")
        return "".join("+" if "output" in end else "?" if end["errorText"] == UNRUN else "!" for end in ends) or "-"


def check_protocol(heard: Heard) -> None:
    """One message: it starts once, steps do not nest, everything that is opened is closed, and in that order."""
    assert heard.done, heard.kinds
    assert heard.kinds[0] == "start"
    ending = 1 if heard.wire.startswith("finish") else 2
    middle, ended = heard.parts[1:-ending], heard.kinds[-ending:]
    assert ended in (["finish"], ["error", "finish"], ["message-metadata", "abort"])
    in_step, text, texts = False, None, set[str]()
    calls: dict[str, str] = {}
    for part in middle:
        kind, call = part["type"], part.get("toolCallId", "")
        assert in_step != (kind == "start-step"), heard.kinds
        if kind in ("start-step", "finish-step"):
            in_step = kind == "start-step"
            assert text is None
            assert set(calls.values()) <= {"ended"}, "the step ends after its tools"
        elif kind == "text-start":
            assert text is None
            text = part["id"]
            assert text not in texts
            texts.add(text)
        elif kind in ("text-delta", "text-end"):
            assert part["id"] == text
            text = text if kind == "text-delta" else None
        elif kind == "tool-input-start":
            assert call not in calls
            calls[call] = "begun"
        elif kind in ("tool-input-available", "tool-input-error"):
            assert calls[call] == "begun"
            calls[call] = "called" if kind == "tool-input-available" else "ended"
        elif kind in ("tool-output-available", "tool-output-error"):
            assert calls[call] == "called"
            calls[call] = "ended"
        else:
            assert kind == "source-url"
    assert not in_step


# Who asks -----------------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Cell:
    """Somebody who asks a provider something, in one funding."""

    payer: dict[str, str]
    provider: str
    person: Person
    account: str
    body: dict[str, Any]
    api: Api
    stack: Stack
    db: Db
    eventually: Wait

    def __str__(self) -> str:
        return f"{self.payer['funding']} ({self.payer['payer']}), {self.provider}"

    @property
    def chat_id(self) -> str:
        return str(self.body["id"])

    @property
    def question(self) -> str:
        return str(self.body["messages"][0]["parts"][0]["text"])

    @property
    def keeps(self) -> bool:
        return self.payer["history"] == "yes"

    def all_of(self, query: str) -> list[dict[str, Any]]:
        """Rows of the person, who is the query's only parameter."""
        return self.db.execute(query, (self.person.id,)).fetchall()

    @contextmanager
    def asking(self) -> Iterator[Heard]:
        """Ask, and hear as much as you like; who has not heard it to the end hangs up."""
        with self.api.http.stream("POST", "/chat", json=self.body, headers=self.person.headers) as response:
            yield Heard().listen(response)

    def ask(self, **headers: str) -> Heard:
        """Ask, and hear it to the end."""
        sent = {**self.person.headers, **headers}
        with self.api.http.stream("POST", "/chat", json=self.body, headers=sent) as response:
            return Heard().listen(response).to_the_end()

    def stop(self) -> None:
        """POST /chat/{id}/stop, of a chat that is being answered."""
        stopped = self.api.http.post(f"/chat/{self.chat_id}/stop", headers=self.person.headers)
        assert (stopped.status_code, stopped.json()) == (202, {"stopping": True})

    def asked(self) -> list[dict[str, Any]]:
        """What the provider was asked for this question."""
        return self.api.asked(self.question)

    def is_asked(self) -> None:
        """Wait until the provider has the question."""
        self.eventually(lambda: self.asked() != [])

    def is_hung_up(self) -> None:
        """Wait until the provider is told that nobody listens any more."""
        self.eventually(lambda: bool(self.asked()[-1]["aborted"]))

    def has_ended(self) -> None:
        """Wait until the query has its row in the ledger."""
        self.eventually(lambda: self.all_of("select id from public.usage_logs where user_id = %s") != [])


# How it comes to each ending ------------------------------------------------------------------------------------------


def ask(cell: Cell) -> list[Heard]:
    return [cell.ask()]


def within(seconds: float) -> Callable[[Cell], list[Heard]]:
    """Ask a function that has so many seconds for the answer, beside those in which it ends well."""

    def ask_in_time(cell: Cell) -> list[Heard]:
        deadline = time.time() + limits.DEADLINE_MARGIN_S + seconds
        heard = cell.ask(**{"x-amzn-lambda-context": json.dumps({"deadline": int(deadline * 1000)})})
        if not heard.tools.endswith("?"):  # else the provider had said all there was
            cell.is_hung_up()
        return [heard]

    return ask_in_time


def stop_before_a_byte(cell: Cell) -> list[Heard]:
    with ThreadPoolExecutor(1) as pool:
        answer = pool.submit(cell.ask)
        cell.is_asked()
        cell.stop()
        heard = answer.result()
    cell.is_hung_up()
    return [heard]


def stop_in_the_text(cell: Cell) -> list[Heard]:
    with cell.asking() as heard:
        heard.until("text-delta", 3)
        cell.stop()
        heard.to_the_end()
    cell.is_hung_up()
    return [heard]


def stop_elsewhere(cell: Cell) -> list[Heard]:
    """As a process of the function does that does not run the answer itself."""
    with cell.asking() as heard:
        heard.until("text-delta", 3)
        stopping = cell.db.execute("select public.stop_query(%s, %s)", (cell.person.id, cell.chat_id)).fetchone()
        assert stopping == {"stop_query": True}
        heard.to_the_end()
    cell.is_hung_up()
    return [heard]


def stop_a_tool(cell: Cell) -> list[Heard]:
    with cell.asking() as heard:
        heard.until("tool-output-available")  # of the first; they are run one after the other
        cell.stop()
        return [heard.to_the_end()]


def leave_before_a_byte(cell: Cell) -> list[Heard]:
    url = httpx.URL(cell.stack.info["functions_url"])
    headers = {**cell.person.headers, "content-type": "application/json"}
    with closing(http.client.HTTPConnection(url.host, url.port or 80)) as connection:
        connection.request("POST", "/chat", json.dumps(cell.body), headers)
        cell.is_asked()
    cell.has_ended()
    return [Heard()]


def leave_in_the_text(cell: Cell) -> list[Heard]:
    with cell.asking() as heard:
        heard.until("text-delta", 3)
    cell.has_ended()
    return [heard]


def ask_twice_at_once(cell: Cell) -> list[Heard]:
    together = threading.Barrier(2)

    def ask(_: int) -> Heard:
        together.wait()
        return cell.ask()

    with ThreadPoolExecutor(2) as pool:
        first, second = sorted(pool.map(ask, range(2)), key=lambda heard: heard.status)
    assert second.wire == "409 request_in_progress"
    return [first, second]


def ask_again_a_day_later(cell: Cell) -> list[Heard]:
    first = cell.ask()
    assert (first.wire, first.tools) == ("finish stop", "+")
    for table, column, day in (
        ("usage_logs", "query_date", "1"),
        ("usage_logs", "query_timestamp", "interval '1 day'"),
        ("usage_logs", "created_at", "interval '1 day'"),
        ("conversations", "created_at", "interval '1 day'"),
        ("conversations", "last_message_at", "interval '1 day'"),
        ("conversations", "expires_at", "interval '1 day'"),
        ("user_subscriptions", "quota_date", "1"),
    ):
        cell.db.execute(
            f"update public.{table} set {column} = {column} - {day} where user_id = '{cell.person.id}'".encode()
        )
    second = cell.ask()
    if second.status == 200:
        assert second.parts[0] == first.parts[0]  # the same message id
        assert second.text == first.text
        told = ("tool-input-available", "tool-output-available", "source-url")
        assert second.all_of(*told) == first.all_of(*told)
    return [second]


def lose_the_hold(cell: Cell) -> list[Heard]:
    with cell.asking() as heard:
        heard.until("text-delta")
        cell.all_of("update public.query_holds set expires_at = created_at where user_id = %s returning id")
        cell.db.execute("select public.release_stale_holds()")
        return [heard.to_the_end()]


def forget(cell: Cell, *meanwhile: str) -> list[Heard]:
    """As a database does that is restored, or takes over from another, without the last admissions."""
    with cell.asking() as heard:
        heard.until("text-delta")
        for change in meanwhile:
            cell.all_of(change)
        assert cell.all_of("delete from public.query_holds where user_id = %s returning id") != []
        cell.all_of(
            "update public.credit_packs set credits_remaining = credits_purchased, credits_used = 0"
            " where user_id = %s returning id"
        )
        cell.all_of("select public.repair_counters(%s)")
        return [heard.to_the_end()]


def spoiled(bill: str, **fault: Any) -> Callable[[Stack, Db], AbstractContextManager[None]]:
    """Parliament's trouble with one bill."""

    @contextmanager
    def trouble(stack: Stack, _: Db) -> Iterator[None]:
        parliament = stack.info["parliament_url"]
        fault_of_bill = {"path_prefix": f"/bills/45-1/{bill}/", "times": 1000, **fault}
        assert httpx.post(f"{parliament}/_fail", json=fault_of_bill).status_code == 204
        try:
            yield
        finally:
            httpx.delete(f"{parliament}/_fail")

    return trouble


@contextmanager
def low_ceilings(_: Stack, db: Db) -> Iterator[None]:
    """Plans on which any step costs more than a query may."""
    before = db.execute("select query_cost_limit_usd, tier from public.plans").fetchall()
    db.execute("update public.plans set query_cost_limit_usd = 0.000001")
    try:
        yield
    finally:
        for row in before:
            db.execute("update public.plans set query_cost_limit_usd = %s where tier = %s", tuple(row.values()))


@dataclass(frozen=True, slots=True)
class How:
    """What the question tells the stand-in to do, what the client does, in what circumstances; with history or not."""

    directives: str = ""
    talk: Callable[[Cell], list[Heard]] = ask
    circumstances: Callable[[Stack, Db], AbstractContextManager[None]] = lambda _, __: nullcontext()
    history: bool | None = None


A_BILL = '[tool:get_bill {"number": "C-5"}]'
A_BILL_AND_A_SLOW_ONE = f'{A_BILL} [tool:get_bill {{"number": "{SLOW_BILL}", "session": "45-1"}}]'
A_BROKEN_BILL = f'[tool:get_bill {{"number": "{BROKEN_BILL}", "session": "45-1"}}]'
AT_LENGTH = "[fault:slow 0.1] [fault:long 80]"

HOW = {
    "finished": How(),
    "finished after tools": How(A_BILL),
    "a tool failed": How(A_BROKEN_BILL, circumstances=spoiled(BROKEN_BILL, status=500)),
    "over the steps limit": How('[tool-loop:get_bill {"number": "C-5"}]'),
    "over the cost ceiling": How(A_BILL, circumstances=low_ceilings),
    "cut short by output limit": How("[fault:max-tokens]"),
    "refused by the filter": How("[fault:refusal]"),
    "failed once, asked again": How("[fault:first-only status 500]"),
    "client gone before a byte": How("[fault:stall-before 1]", leave_before_a_byte),
    "client gone in the text": How("[fault:slow 0.02]", leave_in_the_text),
    "sent twice at once": How("[fault:stall-before 2]", ask_twice_at_once),
    "sent a day later, kept": How(A_BILL, ask_again_a_day_later, history=True),
    "sent a day later, not kept": How(A_BILL, ask_again_a_day_later, history=False),
    "stopped before a byte": How("[fault:stall-before 30]", stop_before_a_byte),
    "stopped in the text": How(AT_LENGTH, stop_in_the_text),
    "stopped by another process": How(AT_LENGTH, stop_elsewhere),
    "stopped while a tool runs": How(A_BILL_AND_A_SLOW_ONE, stop_a_tool, spoiled(SLOW_BILL, slow=30)),
    "finished without a word": How("[fault:empty]"),
    "failed before a byte": How("[fault:status 500]"),
    "failed in the text": How("[fault:drop]"),
    "failed while it calls one": How(f"{A_BILL} [fault:drop]"),
    "failed after tools, mute": How(f"{A_BILL} [fault:after-tools status 500]"),
    "failed after tools, talking": How(f"{A_BILL} [fault:after-tools drop]"),
    "out of time before a byte": How("[fault:stall-before 30]", within(0.9)),
    "out of time in the text": How("[fault:stall 30]", within(2.5)),
    "out of time as a tool runs": How(A_BILL_AND_A_SLOW_ONE, within(2.5), spoiled(SLOW_BILL, slow=30)),
    "its hold lost meanwhile": How("[fault:stall 2]", lose_the_hold),
    "forgotten by the database": How("[fault:stall 2]", forget),
    "forgotten, and it failed": How("[fault:slow 0.1] [fault:drop]", forget),
}


# What it leaves -----------------------------------------------------------------------------------------------------


def amount(text: str, question: str) -> str:
    """How much of the provider's answer to a question a text is, in the table's words."""
    whole = WHOLE.format(question=question)
    if text in ("", LIMIT):
        return "limit" if text else "none"
    if text == whole or (text.startswith(OF_TOOLS) and text.endswith(whole)):
        return "whole"
    if text == whole[: len(whole) // 2]:
        return "half"
    return "part" if whole.startswith(text) or text.startswith(OF_TOOLS) else text


def yes(flag: bool) -> str:
    return "yes" if flag else "no"


def counters(cell: Cell, row: dict[str, Any]) -> str:
    """Whether the query is paid, given back, or neither; else what its counters and its row say."""
    (state,) = cell.all_of("select * from public.user_subscriptions where user_id = %s")
    packs = cell.all_of("select * from public.credit_packs where user_id = %s")
    found = {
        "today": str(state["quota_used"]),
        "life": str(state["lifetime_used"]),
        "overage": str(state["current_overage_amount"]),
        "credits": "".join(f"{pack['credits_remaining']}+{pack['credits_used']}" for pack in packs) or "-",
        "counted": yes(row["counted_against_quota"]),
        "was_overage": yes(row["was_overage"]),
        "charge": str(row["overage_charge"]),
    }
    assert row["credit_pack_id"] == (packs[0]["id"] if packs else None)
    paid = {name: cell.payer[name] for name in found}
    given_back = {**NOTHING_PAID, "credits": "-" if paid["credits"] == "-" else ALL_CREDITS}
    if paid == given_back:
        return "same" if found == paid else str(found)
    return {str(paid): "paid", str({name: given_back[name] for name in found}): "back"}.get(str(found), str(found))


def cost(row: dict[str, Any], asked: int, a_step: int) -> str:
    """For how many steps there are tokens in the ledger: each reads `a_step` of them at least, and little more."""
    counted = [row[name] for name in ("tokens_input", "tokens_output", "cost_usd")]
    if not any(counted):
        return "0"
    return str(min(asked, row["tokens_input"] // a_step)) if all(counted) else str(counted)


def kept(cell: Cell, heard: Heard, row: dict[str, Any]) -> str:
    """What is kept of the question and of what was said, which is the very same; all that belongs to it, too."""
    conversations = cell.all_of("select id, message_count from public.conversations where user_id = %s")
    messages = cell.all_of(
        "select m.* from public.messages m join public.conversations c on c.id = m.conversation_id"
        " where c.user_id = %s order by m.position"
    )
    if not messages:
        assert conversations == []
        assert (row["conversation_id"], row["message_id"]) == (None, None)
        return "none"
    said = WHOLE.format(question=cell.question) if heard.gone else heard.text
    found = [(message["role"], message["content"]) for message in messages]
    if found != [("user", cell.question), ("assistant", said)]:
        return str(found)
    asked, answer = messages
    assert asked["external_id"] == cell.body["messages"][0]["id"]
    assert [(str(chat["id"]), chat["message_count"]) for chat in conversations] == [(cell.chat_id, 2)]
    assert (str(row["conversation_id"]), row["message_id"]) == (cell.chat_id, answer["id"])
    if heard.parts:
        assert str(answer["id"]) == heard.parts[0]["messageId"]
    for name in ("provider", "model", "used_byo_key", "tokens_input", "tokens_output", "cost_usd"):
        assert answer[name] == row[name], name
    calls = [(call["id"], call["name"], call["input"]) for call in answer["function_calls"] or []]
    told = heard.all_of("tool-input-available")
    assert calls == [(part["toolCallId"], part["toolName"], part["input"]) for part in told]
    results = answer["function_results"] or []
    told = heard.all_of("tool-output-available", "tool-output-error")
    assert [(result["id"], result.get("output"), result.get("error")) for result in results] == [
        (part["toolCallId"], part.get("output"), part.get("errorText")) for part in told
    ]
    sources = [(source["url"], source["title"]) for result in results for source in result["sources"]]
    assert list(dict.fromkeys(sources)) == [(part["url"], part["title"]) for part in heard.all_of("source-url")]
    return "both"


def ledger(cell: Cell) -> dict[str, Any]:
    """The query's row, the only one, with what every ending has in common."""
    (row,) = cell.all_of("select * from public.usage_logs where user_id = %s")
    assert row["request_id"] == cell.body["messages"][0]["id"]
    common = (row["funding"], row["tier"], row["provider"], row["used_byo_key"])
    funding = cell.payer["funding"]
    assert common == (funding, cell.payer["tier"], cell.provider, funding == "byok")
    assert cell.all_of("select id from public.query_holds where user_id = %s") == []
    assert cell.all_of("select id from public.query_refusals where user_id = %s") == []
    return row


def check_telling(heard: Heard, row: dict[str, Any]) -> None:
    """What the client is told at the end is what the ledger says, and who failed says that nothing was charged."""
    metadata = heard.metadata
    if row["outcome"] == "failed":
        (sentence,) = [part["errorText"] for part in heard.all_of("error")] or [heard.error["message"]]
        assert "Nothing was charged" in sentence
    if metadata is None:
        return
    assert metadata["request_id"] == heard.request_id
    for name in ("provider", "model", "funding"):
        assert metadata[name] == row[name]
    assert metadata["charged_usd"] == row["overage_charge"]
    assert metadata["persisted"] == (row["message_id"] is not None)
    if row["outcome"] != "lost":  # of which the ledger cannot know
        assert metadata["cost_usd"] == row["cost_usd"]
        assert metadata["usage"] == {
            "input_tokens": row["tokens_input"],
            "output_tokens": row["tokens_output"],
            "cache_read_tokens": row["cache_read_tokens"],
            "cache_write_tokens": row["cache_write_tokens"],
        }


def check_gone(cell: Cell, heard: Heard, row: dict[str, Any]) -> None:
    """Nobody heard the end, but there was one: the provider was heard to its end and counted."""
    whole = WHOLE.format(question=cell.question)
    assert whole.startswith(heard.text)
    assert row["tokens_output"] == -(-len(whole) // 4)  # as the stand-in counts
    (asked,) = cell.asked()
    assert (asked["finished"], asked["aborted"]) == (True, False)


def expected(cell: Cell, row: dict[str, str]) -> str:
    """What the table says of one cell."""
    said = {name: row[name] for name in COMMON} | ({} if cell.keeps else {"kept": "none"})
    return line(cell, [*said.values(), row[COLUMN[cell.payer["funding"]]]])


def found(cell: Cell, heards: list[Heard], journal: list[dict[str, Any]], a_step: int) -> str:
    """What is so, in the table's words."""
    first, *others = heards
    row = ledger(cell)
    if first.gone:
        check_gone(cell, first, row)
    elif first.status == 200:
        check_protocol(first)
    check_telling(first, row)
    asked = [entry for entry in journal if any(cell.question in message["text"] for message in entry["messages"])]
    assert {(entry["provider"], entry["api_key_last4"]) for entry in asked} == {(cell.provider, cell.account)}
    on_the_wire = ", ".join([first.wire, *(str(heard.status) for heard in others)])
    said = "whole" if first.gone else amount(first.text, cell.question)
    ended = [kept(cell, first, row), row["outcome"], cost(row, len(asked), a_step), counters(cell, row)]
    return line(cell, [on_the_wire, said, first.tools, str(len(asked)), *ended])


def line(cell: Cell, words: list[str]) -> str:
    return "  ".join([f"{cell!s:<28}", f"{words[0]:<22}", *words[1:]])


# The matrix -----------------------------------------------------------------------------------------------------------


@pytest.fixture
def somebody(
    api: Api, stack: Stack, stack_db: Db, person: Callable[..., Person], eventually: Wait
) -> Callable[..., Cell]:
    """Makes somebody who asks: `somebody("pack", "openai", "[fault:drop]")`."""

    def make(payer: str, provider: str, directives: str = "") -> Cell:
        row = PAYER[payer]
        columns = {**SUBSCRIPTIONS[payer]}
        if columns.pop("stripe", False):
            columns["stripe_subscription_id"] = f"sub_{uuid.uuid4()}"
        user = person(row["tier"], **columns)
        account = PLATFORM
        if row["funding"] == "credit":
            stack_db.execute(
                "insert into public.credit_packs (user_id, credits_purchased, credits_remaining, price_paid)"
                " values (%s, 3, 3, 1)",
                (user.id,),
            )
        elif row["funding"] == "byok":
            key = f"sk-own-{uuid.uuid4().hex}"
            put = api.http.put(f"/keys/{provider}", json={"api_key": key}, headers=user.headers)
            assert put.json()["status"] == "valid"
            account = key[-4:]
        body = question(f"What is a quorum, {uuid.uuid4()}? {directives}".strip(), provider=provider)
        return Cell(row, provider, user, account, body, api, stack, stack_db, eventually)

    return make


def broken(db: Db, cells: list[Cell]) -> list[dict[str, Any]]:
    """The rows of reconcile() about these people. Others of this stack may have started with odd counters."""
    people = [cell.person.id for cell in cells]
    return db.execute("select * from public.reconcile() where user_id = any(%s::uuid[])", (people,)).fetchall()


def go_on(cell: Cell) -> None:
    """The next question in the same chat is answered: there is a history that the provider takes, and the funding.
    A token costs there what it cost before.
    """
    body = question("And then? [fault:long 1]", chat_id=cell.chat_id, provider=cell.provider)
    assert cell.api.chat(cell.person, body).status_code == 200
    before, after = (
        row["cost_usd"] / max(1, row["tokens_input"])
        for row in cell.all_of("select * from public.usage_logs where user_id = %s order by created_at")
    )
    assert before == 0 or before > after * Decimal("0.9")  # it may be more: little was said now, and all was counted


def read_at_least(cell: Cell) -> int:
    """How many tokens a step reads, if it is the only one of a short question."""
    body = question("Hm [fault:long 1]", provider=cell.provider)
    tokens: int = cell.api.chat(cell.person, body).json()["metadata"]["usage"]["input_tokens"]
    return tokens


def named(function: Callable[..., T]) -> Callable[..., T]:
    """The same function of a cell; its failure says of which."""

    def called(cell: Cell, *others: Any) -> T:
        try:
            return function(cell, *others)
        except Exception as error:
            error.add_note(str(cell))
            raise

    return called


def test_the_table_has_every_ending_and_every_funding() -> None:
    assert list(TABLE) == list(HOW)
    assert {row["funding"] for row in PAYER.values()} == set(COLUMN)
    assert {row["outcome"] for row in TABLE.values()} == {"answered", "stopped", "failed", "lost"}


@pytest.mark.parametrize("ending", TABLE)
def test_an_ending_is_as_the_table_says_with_both_providers_and_every_funding(
    stack: Stack, stack_db: Db, somebody: Callable[..., Cell], ending: str
) -> None:
    row, how = TABLE[ending], HOW[ending]
    who = [
        (payer["payer"], provider, how.directives)
        for payer in PAYER.values()
        for provider in PROVIDERS
        if row[COLUMN[payer["funding"]]] != "-" and how.history in (None, payer["history"] == "yes")
    ]
    assert {PAYER[payer]["funding"] for payer, *_ in who} == {name for name in COLUMN if row[COLUMN[name]] != "-"}
    httpx.delete(f"{stack.info['model_url']}/_requests")

    with ThreadPoolExecutor(len(who)) as pool:
        cells = list(pool.map(lambda given: somebody(*given), who))
        read = pool.map(lambda provider: read_at_least(somebody("free", provider)), PROVIDERS)
        a_step = dict(zip(PROVIDERS, read, strict=True))
        with how.circumstances(stack, stack_db):
            heards = list(pool.map(named(how.talk), cells))
        journal = httpx.get(f"{stack.info['model_url']}/_requests").json()
        steps = [a_step[cell.provider] for cell in cells]
        seen = list(map(named(found), cells, heards, repeat(journal), steps))
        assert seen == [expected(cell, row) for cell in cells]
        assert broken(stack_db, cells) == []
        list(pool.map(named(go_on), cells))
    assert broken(stack_db, cells) == []


# What the matrix does not show --------------------------------------------------------------------------------------


@pytest.mark.parametrize(("directives", "column"), [("", "left"), ("[fault:drop]", "unpaid")])
def test_what_is_said_to_remain_is_what_remains(somebody: Callable[..., Cell], directives: str, column: str) -> None:
    def ask(payer: str) -> str:
        metadata = somebody(payer, "anthropic", f"[fault:long 3] {directives}").ask().metadata
        return str(metadata and metadata["remaining"])

    with ThreadPoolExecutor(len(PAYER)) as pool:
        told = dict(zip(PAYER, pool.map(ask, PAYER), strict=True))
    assert told == {payer: row[column] for payer, row in PAYER.items()}


@pytest.mark.parametrize(
    ("payer", "meanwhile"),
    [
        # The quota is used up: nobody is charged past it.
        ("pro", "update public.user_subscriptions set daily_quota = 0 where user_id = %s returning id"),
        # Their own key is gone: what it has paid, the plan does not pay.
        ("own", "delete from public.user_api_keys where user_id = %s returning id"),
    ],
)
def test_what_is_forgotten_is_not_charged_to_what_cannot_pay_for_it(
    somebody: Callable[..., Cell], payer: str, meanwhile: str
) -> None:
    cell = somebody(payer, "anthropic", "[fault:stall 2]")
    (heard,) = forget(cell, meanwhile)
    assert (heard.wire, heard.text) == ("finish stop", WHOLE.format(question=cell.question))
    metadata = heard.metadata
    assert metadata is not None
    assert (metadata["charged_usd"], metadata["persisted"]) == (None, False)
    assert cell.all_of("select * from public.usage_logs where user_id = %s") == []
    assert cell.all_of("select * from public.query_holds where user_id = %s") == []
    assert broken(cell.db, [cell]) == []


def test_what_the_plan_has_paid_is_not_paid_by_a_key_that_came_later(somebody: Callable[..., Cell]) -> None:
    cell = somebody("pro", "anthropic", "[fault:stall 2]")
    with cell.asking() as heard:
        heard.until("text-delta")
        key = {"api_key": f"sk-own-{uuid.uuid4().hex}"}
        assert cell.api.http.put("/keys/anthropic", json=key, headers=cell.person.headers).status_code == 200
        cell.all_of("delete from public.query_holds where user_id = %s returning id")
        cell.all_of("select public.repair_counters(%s)")
        heard.to_the_end()
    assert ledger(cell)["funding"] == "included"


class Lingering:
    """A provider whose connection takes a while to close: until it is told to."""

    platform = ("anthropic",)

    def __init__(self) -> None:
        self.is_closing, self.may_close = asyncio.Event(), asyncio.Event()

    async def get(self, _: str) -> "Lingering":
        return self

    async def stream(self, *_: Any) -> AsyncGenerator[Event, None]:
        yield Opened()
        yield Text("Well, ")
        try:
            await asyncio.Event().wait()
        finally:
            self.is_closing.set()
            await self.may_close.wait()

    async def close(self) -> None:
        pass


async def test_stopping_an_answer_that_is_stopping_already_is_accepted(
    stack: Stack, stack_db: Db, somebody: Callable[..., Cell]
) -> None:
    """Who presses stop twice gets what the first press got, and no error that says that nothing was charged."""
    asked = somebody("pro", "anthropic")
    settings = load(
        ChatSettings,
        {
            "SUPABASE_URL": stack.info["supabase_url"],
            "SUPABASE_ANON_KEY": stack.info["anon_key"],
            "SUPABASE_SERVICE_ROLE_KEY": stack.info["service_role_key"],
            "ANTHROPIC_API_KEY": "of-the-platform",
        },
    )
    parliament = Parliament(settings.parliament_api_url, settings.represent_api_url, settings.contact)
    vault = load_vault({"ENCRYPTION_KEY": "0" * 64})
    provider = Lingering()
    chat = Chat(Database(settings), Providers(settings), parliament, vault, Observer("endings"))
    chat.providers = provider  # type: ignore[assignment]
    try:
        feed = chat.start(asked.person.id, ChatRequest.model_validate(asked.body), "request")
        await feed.opened()
        assert await chat.stop(asked.person.id, asked.chat_id)
        await provider.is_closing.wait()
        try:
            assert await chat.stop(asked.person.id, asked.chat_id)
        finally:
            provider.may_close.set()
            answer = await feed.answer()
    finally:
        await chat.close()
    assert answer["message"]["parts"] == [{"type": "text", "text": "Well, "}]
    assert counters(asked, ledger(asked)) == "paid"
    assert broken(stack_db, [asked]) == []
