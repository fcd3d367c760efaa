"""How the tools send requests: one at a time per host, cached, retried, and cancelled where they take too long."""

import asyncio
from typing import Any

import pytest

from functions.chat import limits
from functions.chat.sources.http import ResponseCache
from tests.functions.tools.kit import CALLS, CONTACT, LANGUAGES, Runner

IMPORTED = {"largest_expenses"}  # from our database alone


async def test_concurrent_tools_send_one_request_at_a_time(runner: Runner, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(limits, "TOOL_S", 100)  # the last call waits for all others, which a busy machine slows down
    calls = [runner.tools.run(name, CALLS[name], language) for name in CALLS for language in LANGUAGES]
    outcomes = await asyncio.gather(*calls)
    assert [outcome.error for outcome in outcomes] == [None] * len(outcomes)
    requests = await runner.requests()
    assert len(requests) > len(CALLS)
    assert not any(entry["concurrent"] for entry in requests)
    # No request is sent twice.
    sent = [(entry["path"], entry["query"], entry["accept"]) for entry in requests]
    assert len({*sent}) == len(sent)


async def test_requests_identify_the_product_and_the_format(runner: Runner) -> None:
    for name in CALLS:
        await runner.tools.run(name, CALLS[name], "en")
    requests = await runner.requests()
    assert {entry["user_agent"] for entry in requests} == {f"CanadaGPT/0.1 ({CONTACT})"}
    assert {entry["api_version"] for entry in requests} == {"v1"}
    formats = {(entry["path"].split("/")[1], entry["accept"]) for entry in requests}
    others = {("search", "application/rss+xml"), ("Members", "application/xml"), ("Committees", "text/html")}
    others |= {("votes", "text/html")}
    assert others <= formats
    assert {accept for _, accept in formats - others} == {"application/json"}
    assert all(entry["status"] == 200 for entry in requests)


@pytest.mark.parametrize("name", CALLS)
async def test_repeated_calls_are_served_from_the_cache(runner: Runner, name: str) -> None:
    first = await runner.tools.run(name, CALLS[name], "en")
    sent = len(await runner.requests())
    assert (sent > 0) == (name not in IMPORTED)
    assert await runner.tools.run(name, CALLS[name], "en") == first
    assert (await runner.tools.run(name, CALLS[name], "fr")).error is None
    # The House has a page of each language.
    assert len(await runner.requests()) == sent + (name in ("find_ministers", "get_committee_members"))


async def test_expired_response_is_requested_again(runner: Runner, monkeypatch: pytest.MonkeyPatch) -> None:
    now = 0.0
    cache = ResponseCache(limits.TOOL_CACHE_ENTRIES, limits.TOOL_CACHE_BYTES, limits.TOOL_CACHE_S, lambda: now)
    monkeypatch.setattr(runner.parliament.client, "cache", cache)
    await runner.output("get_mp", slug="fern-quillwater")
    now = limits.TOOL_CACHE_S - 0.1
    await runner.output("get_mp", slug="fern-quillwater")
    assert len(await runner.requests()) == 1
    now = limits.TOOL_CACHE_S
    await runner.output("get_mp", slug="fern-quillwater")
    assert len(await runner.requests()) == 2


async def test_cancelled_call_releases_the_host_lock(runner: Runner) -> None:
    await runner.add_fault(path_prefix="/politicians/fern-quillwater/", slow=30)
    call = asyncio.create_task(runner.tools.run("get_mp", {"slug": "fern-quillwater"}, "en"))
    await runner.wait_for_request()
    call.cancel()
    with pytest.raises(asyncio.CancelledError):
        await call
    await runner.wait_until_free()
    assert (await runner.output("get_mp", slug="corin-ashpetal"))["name"] == "Corin Ashpetal"


async def test_slow_call_is_cancelled_with_an_error(runner: Runner, monkeypatch: pytest.MonkeyPatch) -> None:
    await runner.add_fault(path_prefix="/politicians/", slow=30)
    monkeypatch.setattr(limits, "TOOL_S", 0.2)
    error = await runner.error("get_mp", slug="fern-quillwater")
    assert error == "get_mp took longer than 0.2 seconds and was cancelled."
    monkeypatch.undo()
    await runner.remove_faults()  # a slow machine may not have sent the request in 0.2 seconds
    await runner.wait_until_free()
    assert (await runner.output("get_mp", slug="fern-quillwater"))["name"] == "Fern Quillwater"


@pytest.mark.parametrize(
    ("fault", "error"),
    [
        ({"status": 500, "times": 9}, "openparliament.ca failed to answer."),
        ({"status": 400, "times": 9}, "openparliament.ca rejected the request."),
        ({"status": 429, "times": 9, "retry_after": "0"}, "openparliament.ca is too busy at the moment."),
        ({"status": 503, "times": 9, "retry_after": "0"}, "openparliament.ca is too busy at the moment."),
        ({"status": 200, "body": "<html>"}, "openparliament.ca returned a response that cannot be read."),
        ({"status": 200, "body": '{"objects": ['}, "openparliament.ca returned a response that cannot be read."),
        ({"status": 200, "body": "[]"}, "openparliament.ca returned a response that cannot be read."),
        (
            {"status": 200, "body": '{"objects": [1], "pagination": {}}'},
            "openparliament.ca returned a response that cannot be read.",
        ),
    ],
)
async def test_failure_names_the_service_and_is_not_cached(runner: Runner, fault: dict[str, Any], error: str) -> None:
    await runner.add_fault(path_prefix="/politicians/", **fault)
    assert await runner.error("find_mps", name="quillwater") == error
    await runner.remove_faults()
    assert len((await runner.output("find_mps", name="quillwater"))["items"]) == 2


async def test_failure_of_represent_names_represent(runner: Runner) -> None:
    await runner.add_fault(path_prefix="/postcodes/", status=500)
    assert await runner.error("find_mps", postal_code="K1A 0A6") == "Represent failed to answer."


@pytest.mark.parametrize("status", [429, 503])
@pytest.mark.parametrize("retry_after", ["0", None])
async def test_busy_server_gets_one_retry(
    runner: Runner, status: int, retry_after: str | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("functions.chat.sources.http.RETRY_PAUSE_S", 0.01)
    await runner.add_fault(path_prefix="/politicians/", status=status, retry_after=retry_after)
    assert len((await runner.output("find_mps", name="quillwater"))["items"]) == 2
    assert [entry["status"] for entry in await runner.requests()] == [status, 200]


@pytest.mark.parametrize("retry_after", ["3", "3600", "Wed, 21 Oct 2026 07:28:00 GMT", "-1", "nan"])
async def test_long_or_invalid_retry_after_prevents_a_retry(runner: Runner, retry_after: str) -> None:
    await runner.add_fault(path_prefix="/politicians/", status=429, retry_after=retry_after, times=9)
    assert await runner.error("find_mps", name="quillwater") == "openparliament.ca is too busy at the moment."
    assert len(await runner.requests()) == 1
