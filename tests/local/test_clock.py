"""The clocks of the local stack: quotas, invoices and retention follow them."""

import asyncio
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import psycopg
import pytest

from infra.local.billing import StandIn
from infra.local.clock import Clocks, JobFailed, align, database_offset, set_database_offset, stripe_offset
from infra.local.stack import free_offset
from infra.local.stripe import Settings, create_app
from tests.api import question
from tests.conftest import copy_stack
from tests.local.launcher_kit import launched
from tests.servers import serve

DAY = 86_400


def test_a_day_gives_the_quota_back_and_a_month_an_invoice(stopped_stack: Path, tmp_path: Path) -> None:
    """15 of 15 are left again after a day. After a month the overage is billed and the chats are deleted."""
    with launched(copy_stack(stopped_stack, tmp_path / "stack"), free_offset()) as running:
        info = running.ready()
        headers = {
            "authorization": f"Bearer {info['users']['basic']['access_token']}",
            "accept": "application/json",
        }
        with httpx.Client(base_url=info["functions_url"], headers=headers, timeout=60) as http:

            def usage() -> dict[str, Any]:
                found: dict[str, Any] = http.get("/usage").json()
                return found

            def move(days: int) -> dict[str, Any]:
                moved = http.post("/_stack/clock", json={"days": days})
                assert moved.status_code == 200, moved.text
                found: dict[str, Any] = moved.json()
                return found

            kept = question("What is a riding?")
            fundings = [http.post("/chat", json=kept).json()["metadata"]["funding"]]
            fundings += [http.post("/chat", json=question("Briefly")).json()["metadata"]["funding"] for _ in range(15)]
            assert fundings == ["included"] * 15 + ["overage"]
            assert usage()["included"]["remaining"] == 0

            assert move(1)["clock"]["offset_s"] == DAY
            assert usage()["included"]["remaining"] == 15
            assert http.get(f"/chat/{kept['id']}/messages").status_code == 200

            month = move(31)
            assert (month["clock"]["offset_s"], month["clock"]["moving"]) == (32 * DAY, None)
            assert month["jobs"]["cleanup-expired-conversations"]["conversations"] == 16
            assert month["jobs"]["reconcile"]["differences"] == 0
            assert http.get(f"/chat/{kept['id']}/messages").status_code == 404
            assert [bill["queries"] for bill in usage()["billing"]["billed"]] == [1]
            invoices = httpx.get(
                f"{info['stripe_url']}/v1/invoices", headers={"authorization": "Bearer sk_test_local"}
            ).json()["data"]
            assert (999 + 2, "paid") in [(invoice["total"], invoice["status"]) for invoice in invoices]
            assert abs(httpx.get(f"{info['stripe_url']}/_clock").json()["now"] - time.time() - 32 * DAY) < 60


@pytest.fixture
def stand_in(tmp_path: Path) -> Iterator[StandIn]:
    """A Stripe stand-in of the test's own, whose clock follows the real time."""
    settings = Settings(public_url="http://stripe.test", api_key="sk_test_local", webhook_url="http://127.0.0.1:9/")
    with serve(create_app(settings)) as url:
        yield StandIn(url, "sk_test_local")


def is_in_step(database_url: str, stand_in: StandIn, ahead: int) -> bool:
    return all(abs(offset - ahead) <= 2 for offset in (database_offset(database_url), stripe_offset(stand_in)))


def test_the_clock_that_is_behind_catches_up(database_url: str, stand_in: StandIn) -> None:
    set_database_offset(database_url, DAY)
    align(database_url, stand_in)
    assert is_in_step(database_url, stand_in, DAY)
    stand_in.control("/_clock", advance=DAY)
    align(database_url, stand_in)
    assert is_in_step(database_url, stand_in, 2 * DAY)


def test_the_moved_clock_keeps_rights_and_the_setting_of_tests(database_url: str) -> None:
    with psycopg.connect(database_url) as db:
        about = "select proacl::text, obj_description(oid) from pg_proc where oid = 'private.clock()'::regprocedure"
        before = db.execute(about).fetchone()
        set_database_offset(database_url, DAY)
        assert db.execute(about).fetchone() == before
        db.execute("set metering.now = '2026-03-01T00:00:00Z'")
        assert db.execute("select private.clock() = '2026-03-01T00:00:00Z'").fetchone() == (True,)


def test_a_failing_job_is_named(database_url: str, stand_in: StandIn, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("SUPABASE_URL", "NEXT_PUBLIC_SUPABASE_URL"):
        monkeypatch.delenv(name, raising=False)
    clocks = Clocks(database_url, stand_in)
    stand_in.control("/_clock", advance=DAY)  # by its own button
    with pytest.raises(JobFailed, match=r"moved 1 of 2 days\. Then release-stale-holds failed: SettingsError: "):
        asyncio.run(clocks.move(2))
    assert is_in_step(database_url, stand_in, 2 * DAY)
    assert asyncio.run(clocks.show())["moving"] is None
