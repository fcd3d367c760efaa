"""Limits of users who want free answers or many at once, over HTTP: failures, queries at once, budgets, readers."""

from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager
from typing import Any

import httpx
import psycopg
import pytest
from psycopg import sql

from functions.chat import limits
from functions.chat.request import ChatRequest
from functions.common.errors import TooManyFollowers, TooManyRequests
from infra.local.stack import Stack
from tests.api import Api, StateOf, question
from tests.chat_kit import chat_environment, running_chat
from tests.conftest import Person
from tests.journeys.endings_client import Received

NewPerson = Callable[..., Person]
Db = psycopg.Connection[dict[str, Any]]
CLIENTS = 64
SLOW = "[fault:slow 0.1] [fault:long 60]"
# Notes how many holds a user has at each admission. The user lock orders admissions, so no more exist in between.
COUNT_HOLDS = """
create table private.counted_holds (holds bigint not null);
create function private.count_holds() returns trigger language plpgsql as $$
begin
  insert into private.counted_holds select count(*) from public.query_holds h where h.user_id = new.user_id;
  return new;
end $$;
create trigger count_holds after insert on public.query_holds for each row
when (new.user_id = {user_id}) execute function private.count_holds();
"""


@contextmanager
def counted_holds(db: Db, user_id: str) -> Iterator[Callable[[], int]]:
    """Yields a function that returns the highest number of holds that the user had at once."""

    def highest() -> int:
        (row,) = db.execute("select max(holds) from private.counted_holds").fetchall()
        return int(row["max"])

    db.execute(sql.SQL(COUNT_HOLDS).format(user_id=sql.Literal(user_id)))
    try:
        yield highest
    finally:
        db.execute("drop function private.count_holds cascade; drop table private.counted_holds")


def error_of(response: httpx.Response) -> dict[str, Any]:
    """The error of a refusal. Checks that its header says when to try again."""
    assert response.status_code == 429
    assert int(response.headers["retry-after"]) > 0
    error: dict[str, Any] = response.json()["error"]
    return error


# Free failures -------------------------------------------------------------------------------------------------------


def test_streams_that_end_without_text_use_the_free_quota(api: Api, person: NewPerson, state_of: StateOf) -> None:
    user = person("free")
    asked = [
        api.stream(user, question(f'[tool:find_bills {{"words": "Number {number}"}}] [fault:after-tools empty]'))
        for number in range(25)
    ]
    assert [streamed.status for streamed in asked] == [200] * 10 + [402] * 15
    for streamed in asked[:10]:
        assert streamed.kinds.count("tool-output-available") == 1
        assert streamed.parts[-1]["finishReason"] == streamed.metadata["finish_reason"] == "stop"
        assert "ended here without a text" in streamed.text
    after = state_of(user)
    assert (after.lifetime_used, after.holds, set(after.outcomes)) == (10, 0, {"answered"})


def test_long_answers_before_a_refused_step_use_the_quota(api: Api, person: NewPerson, state_of: StateOf) -> None:
    user = person("basic", daily_quota=2, allow_overages=False)
    text = '[tool:get_bill {"number": "C-5"}] [fault:talk 500] [fault:after-tools too-long]'
    asked = [api.stream(user, question(text)) for _ in range(3)]
    assert [streamed.status for streamed in asked] == [200, 200, 429]
    for streamed in asked[:2]:
        assert len(streamed.text) > 3000
        assert streamed.parts[-1]["finishReason"] == streamed.metadata["finish_reason"] == "length"
    after = state_of(user)
    assert (after.quota_used, after.outcomes) == (2, ["answered"] * 2)


def test_failures_are_free_until_they_cost_too_much(api: Api, person: NewPerson, stack_db: Db) -> None:
    """Provider failures after a whole step stay free. Past the day's budget the user is refused until midnight."""
    user = person("pro")
    body = question('[tool:get_bill {"number": "C-5"}] [fault:after-tools drop]')
    assert api.stream(user, body).parts[-1]["finishReason"] == "error"
    (state,) = stack_db.execute(
        "select s.quota_used, s.failed_cost_usd, sum(u.cost_usd) as cost_usd from public.user_subscriptions s"
        " join public.usage_logs u using (user_id) where s.user_id = %s group by s.id",
        (user.id,),
    ).fetchall()
    assert state["quota_used"] == 0
    assert state["failed_cost_usd"] == state["cost_usd"] > 0
    stack_db.execute(
        "update public.user_subscriptions s set failed_cost_usd = p.failed_cost_limit_usd from public.plans p"
        " where p.tier = s.tier and s.user_id = %s",
        (user.id,),
    )
    error = error_of(api.chat(user, question("Again?")))
    assert (error["code"], error["reason"]) == ("too_many_requests", "Too many failed queries today")
    assert error["requires_payment"] is False
    assert error["resets_at"].endswith("T00:00:00+00:00")
    assert stack_db.execute("select public.repair_counters(%s)", (user.id,)).fetchone() == {"repair_counters": 1}
    assert api.chat(user, question("Again?")).status_code == 200


# Queries at once -----------------------------------------------------------------------------------------------------


def test_64_clients_of_a_user_run_three_queries_at_once(api: Api, person: NewPerson, stack_db: Db) -> None:
    """The other queries are refused. After that, no query is refused."""
    user = person("pro", daily_quota=1000)

    def ask(_: int) -> httpx.Response:
        return api.chat(user, question("[fault:stall-before 0.5] [fault:long 3]"))

    with ThreadPoolExecutor(CLIENTS) as pool, counted_holds(stack_db, user.id) as highest:
        responses = list(pool.map(ask, range(CLIENTS)))
        refused = [response for response in responses if response.status_code != 200]
        assert 3 <= CLIENTS - len(refused) < CLIENTS
        for error in map(error_of, refused):
            assert (error["code"], error["reason"]) == ("too_many_requests", "Too many queries at once")
        assert highest() == 3
        for _ in range(5):
            assert [response.status_code for response in pool.map(ask, range(3))] == [200] * 3
    violations = "select * from public.reconcile() where user_id = %s"
    assert stack_db.execute(violations, (user.id,)).fetchall() == []


# Readers of one answer -----------------------------------------------------------------------------------------------


def test_three_clients_may_resume_an_answer(
    api: Api, person: NewPerson, stack_db: Db, eventually: Callable[[Callable[[], bool]], None]
) -> None:
    user, body = person("pro"), question(SLOW)
    path = f"/chat/{body['id']}/stream"

    def resume() -> int:
        with api.http.stream("GET", path, headers=user.headers) as response:
            return response.status_code

    with api.http.stream("POST", "/chat", json=body, headers=user.headers) as asked:
        Received().start_reading(asked).until("text-delta")
        with ExitStack() as readers:
            for _ in range(limits.FOLLOWERS):
                reading = readers.enter_context(api.http.stream("GET", path, headers=user.headers))
                assert reading.status_code == 200
                Received().start_reading(reading).until("text-delta")
            error = error_of(api.http.get(path, headers=user.headers))
            assert (error["code"], error["message"]) == ("too_many_requests", TooManyFollowers().sentence("en"))
        eventually(lambda: resume() == 200)  # when the server has noticed that they left
        stack_db.execute("select public.stop_query(%s, %s)", (user.id, body["id"]))


# Budgets -------------------------------------------------------------------------------------------------------------


async def test_a_spent_budget_refuses_free_users_with_a_metric(
    api: Api, stack: Stack, person: NewPerson, stack_db: Db, capsys: pytest.CaptureFixture[str]
) -> None:
    free, paid, body = person("free"), person("basic"), question("[fault:long 3]")
    (before,) = stack_db.execute("select free_daily_budget_usd from public.settings").fetchall()
    stack_db.execute("update public.settings set free_daily_budget_usd = 0")
    try:
        error = error_of(api.chat(free, body))
        assert (error["code"], error["reason"]) == ("too_many_requests", "Free answers are off today")
        assert (error["reason_code"], error["requires_payment"]) == ("free_answers_off", False)
        assert error["resets_at"].endswith("T00:00:00+00:00")
        assert api.chat(paid, question("[fault:long 3]")).status_code == 200
        async with running_chat(chat_environment(stack)) as chat:
            feed = chat.start(free.id, ChatRequest.model_validate(body))
            with pytest.raises(TooManyRequests):
                await feed.answer()
        assert '"FreeAnswersRefused":[1.0]' in capsys.readouterr().out.replace(" ", "")
    finally:
        stack_db.execute("update public.settings set free_daily_budget_usd = %s", (before["free_daily_budget_usd"],))
    assert api.chat(free, body).status_code == 200
