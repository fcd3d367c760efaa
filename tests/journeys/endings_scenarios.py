"""How each ending of the table is produced."""

import http.client
import json
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import AbstractContextManager, closing, contextmanager, nullcontext
from dataclasses import dataclass
from typing import Any

import httpx

from functions.chat import limits
from infra.local.stack import Stack
from infra.local.web_adapter import TIMEOUT_HEADER
from tests.journeys.endings_client import Cell, Db, Received
from tests.journeys.endings_table import BROKEN_BILL, SLOW_BILL


def ask(cell: Cell) -> list[Received]:
    return [cell.ask()]


def within_time(seconds: float) -> Callable[[Cell], list[Received]]:
    """Ask a function whose timeout leaves the turn so many seconds."""

    def ask_in_time(cell: Cell) -> list[Received]:
        received = cell.ask(**{TIMEOUT_HEADER: str(limits.DEADLINE_MARGIN_S + seconds)})
        if not received.tools.endswith("?"):  # otherwise the provider had finished its response
            cell.wait_until_aborted()
        return [received]

    return ask_in_time


def stop_before_a_byte(cell: Cell) -> list[Received]:
    with ThreadPoolExecutor(1) as pool:
        answer = pool.submit(cell.ask)
        cell.wait_until_asked()
        cell.stop()
        received = answer.result()
    cell.wait_until_aborted()
    return [received]


def stop_in_the_text(cell: Cell) -> list[Received]:
    with cell.asking() as received:
        received.until("text-delta", 3)
        cell.stop()
        received.read_all()
    cell.wait_until_aborted()
    return [received]


def stop_elsewhere(cell: Cell) -> list[Received]:
    """As another process of the function does."""
    with cell.asking() as received:
        received.until("text-delta", 3)
        stopping = cell.db.execute("select public.stop_query(%s, %s)", (cell.person.id, cell.chat_id)).fetchone()
        assert stopping == {"stop_query": True}
        received.read_all()
    cell.wait_until_aborted()
    return [received]


def stop_a_tool(cell: Cell) -> list[Received]:
    with cell.asking() as received:
        received.until("tool-output-available")  # of the first call; the second one runs after it
        cell.stop()
        return [received.read_all()]


def disconnect_before_a_byte(cell: Cell) -> list[Received]:
    url = cell.api.http.base_url
    headers = {**cell.person.headers, "content-type": "application/json"}
    with closing(http.client.HTTPConnection(url.host, url.port or 80)) as connection:
        connection.request("POST", "/chat", json.dumps(cell.body), headers)
        cell.wait_until_asked()
    cell.wait_until_ended()
    return [Received()]


def disconnect_in_the_text(cell: Cell) -> list[Received]:
    with cell.asking() as received:
        received.until("text-delta", 3)
    cell.wait_until_ended()
    return [received]


def ask_twice_at_once(cell: Cell) -> list[Received]:
    together = threading.Barrier(2)

    def ask(_: int) -> Received:
        together.wait()
        return cell.ask()

    with ThreadPoolExecutor(2) as pool:
        first, second = sorted(pool.map(ask, range(2)), key=lambda received: received.status)
    assert second.wire == "409 request_in_progress"
    return [first, second]


def ask_again_a_day_later(cell: Cell) -> list[Received]:
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
        sent = ("tool-input-available", "tool-output-available", "source-url")
        assert second.all_of(*sent) == first.all_of(*sent)
    return [second]


def lose_the_hold(cell: Cell) -> list[Received]:
    with cell.asking() as received:
        received.until("text-delta")
        cell.all_of("update public.query_holds set expires_at = created_at where user_id = %s returning id")
        cell.db.execute("select public.release_stale_holds()")
        return [received.read_all()]


def lose_the_admission(cell: Cell, *meanwhile: str) -> list[Received]:
    """As if a backup was restored, or a replica promoted, without the last admissions."""
    with cell.asking() as received:
        received.until("text-delta")
        for change in meanwhile:
            cell.all_of(change)
        assert cell.all_of("delete from public.query_holds where user_id = %s returning id") != []
        cell.all_of(
            "update public.credit_packs set credits_remaining = credits_purchased, credits_used = 0"
            " where user_id = %s returning id"
        )
        cell.all_of("select public.repair_counters(%s)")
        return [received.read_all()]


def failing(bill: str, **fault: Any) -> Callable[[Stack, Db], AbstractContextManager[None]]:
    """Requests for one bill fail in this way."""

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


def cost_limits(usd: str, pro: str) -> Callable[[Stack, Db], AbstractContextManager[None]]:
    """Plans with these cost limits. The default models of pro have twenty times the price of the others'."""

    @contextmanager
    def changed(_: Stack, db: Db) -> Iterator[None]:
        before = db.execute("select query_cost_limit_usd, tier from public.plans").fetchall()
        new = "case when tier = 'pro' then %s::numeric else %s::numeric end"
        db.execute(f"update public.plans set query_cost_limit_usd = {new}".encode(), (pro, usd))
        try:
            yield
        finally:
            for row in before:
                db.execute("update public.plans set query_cost_limit_usd = %s where tier = %s", tuple(row.values()))

    return changed


@dataclass(frozen=True, slots=True)
class Scenario:
    """Directives for the stand-in, the client's actions, a setup around them.

    `history`: only plans with or without it. `own_key`: whether it occurs on an own key, too. `at_once`: the client's
    requests at the same time.
    """

    directives: str = ""
    act: Callable[[Cell], list[Received]] = ask
    setup: Callable[[Stack, Db], AbstractContextManager[None]] = lambda _, __: nullcontext()
    history: bool | None = None
    own_key: bool = True
    at_once: int = 1


A_BILL = '[tool:get_bill {"number": "C-5"}]'
A_BILL_AND_A_SLOW_ONE = f'{A_BILL} [tool:get_bill {{"number": "{SLOW_BILL}", "session": "45-1"}}]'
A_BROKEN_BILL = f'[tool:get_bill {{"number": "{BROKEN_BILL}", "session": "45-1"}}]'
LONG = "[fault:slow 0.1] [fault:long 80]"

SCENARIOS = {
    "finished": Scenario(),
    "finished after tools": Scenario(A_BILL),
    "a tool failed": Scenario(A_BROKEN_BILL, setup=failing(BROKEN_BILL, status=500)),
    "over the steps limit": Scenario('[tool-loop:get_bill {"number": "C-5"}]', setup=cost_limits("1", "1")),
    "over the cost limit": Scenario(f"{A_BILL} [fault:cold]", setup=cost_limits("0.0010", "0.020"), own_key=False),
    "cut short by output limit": Scenario("[fault:max-tokens]"),
    "refused by the filter": Scenario("[fault:refusal]"),
    "refused in silence": Scenario("[fault:refusal silent]"),
    "refused before a byte": Scenario("[fault:filtered]"),
    "refused after tools": Scenario(f"{A_BILL} [fault:after-tools refusal silent]"),
    "failed once, asked again": Scenario("[fault:first-only status 500]"),
    "client left before a byte": Scenario("[fault:stall-before 1]", disconnect_before_a_byte),
    "client left in the text": Scenario("[fault:slow 0.02]", disconnect_in_the_text),
    "sent twice at once": Scenario("[fault:stall-before 2]", ask_twice_at_once, at_once=2),
    "sent a day later, kept": Scenario(A_BILL, ask_again_a_day_later, history=True),
    "sent a day later, not kept": Scenario(A_BILL, ask_again_a_day_later, history=False),
    "stopped before a byte": Scenario("[fault:stall-before 30]", stop_before_a_byte, at_once=2),
    "stopped in the text": Scenario(LONG, stop_in_the_text, at_once=2),
    "stopped by another process": Scenario(LONG, stop_elsewhere),
    "stopped while a tool runs": Scenario(A_BILL_AND_A_SLOW_ONE, stop_a_tool, failing(SLOW_BILL, slow=30), at_once=2),
    "finished without text": Scenario("[fault:empty]"),
    "failed before a byte": Scenario("[fault:status 500]"),
    "failed in the text": Scenario("[fault:drop]"),
    "failed during a tool call": Scenario(f"{A_BILL} [fault:drop]"),
    "failed after tools, silent": Scenario(f"{A_BILL} [fault:after-tools status 500]"),
    "failed after tools, writing": Scenario(f"{A_BILL} [fault:after-tools drop]"),
    "out of time before a byte": Scenario("[fault:stall-before 30]", within_time(0.9)),
    "out of time in the text": Scenario("[fault:stall 30]", within_time(2.5)),
    "out of time as a tool runs": Scenario(A_BILL_AND_A_SLOW_ONE, within_time(2.5), failing(SLOW_BILL, slow=30)),
    "no text after tools": Scenario(f"{A_BILL} [fault:after-tools empty]"),
    "too long before a byte": Scenario("[fault:too-long]"),
    "too long after tools": Scenario(f"{A_BILL} [fault:after-tools too-long]"),
    "too long after text, tools": Scenario(f"{A_BILL} [fault:talk 20] [fault:after-tools too-long]"),
    "hold lost meanwhile": Scenario("[fault:stall 2]", lose_the_hold),
    "admission lost": Scenario("[fault:stall 2]", lose_the_admission),
    "admission lost, failed": Scenario("[fault:slow 0.1] [fault:drop]", lose_the_admission),
}
