"""The clock of the Stripe stand-in, its stored state and its home page."""

import json
import time
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import httpx
import pytest
import stripe

from infra.local.stripe.clock import add_interval, next_period_end
from tests.local.stripe.kit import DAY, HOUR, START, Fake, running

# --- the calendar ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("anchor", "interval", "ends"),
    [
        ("2026-01-31", "month", ["2026-02-28", "2026-03-31", "2026-04-30", "2026-05-31"]),
        ("2024-01-30", "month", ["2024-02-29", "2024-03-30"]),
        ("2024-02-29", "year", ["2025-02-28", "2026-02-28", "2027-02-28", "2028-02-29"]),
        ("2026-12-31", "day", ["2027-01-01", "2027-01-02"]),
        ("2026-01-01", "week", ["2026-01-08", "2026-01-15"]),
    ],
)
def test_periods_are_counted_from_the_anchor(anchor: str, interval: str, ends: list[str]) -> None:

    def at(day: str) -> int:
        return int(datetime.fromisoformat(f"{day}T08:30:00").replace(tzinfo=UTC).timestamp())

    found, start = [], at(anchor)
    for _ in ends:
        start = next_period_end(at(anchor), interval, 1, start)
        found.append(datetime.fromtimestamp(start, UTC).date().isoformat())
    assert found == ends
    assert add_interval(at("2026-11-30"), "month", 3) == at("2027-02-28")
    assert next_period_end(at("2026-01-31"), "month", 3, at("2026-04-30")) == at("2026-07-31")


# --- the control API ---------------------------------------------------------------------------------------------


def test_ids_are_reproducible_and_never_reused() -> None:
    with running(seed="same") as first:
        customer = first.v1.customers.create({})
        assert (customer.id, first.v1.customers.create({}).id) == ("cus_same00000001", "cus_same00000002")
        first.reset()
        assert first.v1.customers.create({}).id == "cus_same00000003"
        assert first.http.get("/_state").json()["customer"][0]["id"] == "cus_same00000003"
        with pytest.raises(stripe.InvalidRequestError):
            first.v1.customers.retrieve(customer.id)


def test_clock_moves_only_forward(fake: Fake) -> None:
    assert fake.now == START
    assert fake.control("/_clock", to=START + 5) == {"now": START + 5}
    for wrong in ({"to": START}, {"advance": -1}, {}, {"advance": 1, "to": START + 9}, {"forward": 1}):
        assert fake.http.post("/_clock", json=wrong).status_code == 400


def test_running_clock_continues_after_a_move() -> None:
    with running(start=None) as fake:
        started, before = time.monotonic(), fake.now
        moved = fake.advance(40 * DAY)
        elapsed = time.monotonic() - started
        assert before + 40 * DAY <= moved <= before + 40 * DAY + elapsed + 1  # both times are rounded to seconds
        assert fake.now >= before + 40 * DAY


def test_running_clock_renews_without_a_move() -> None:
    with running(start=None) as fake:
        subscription = fake.subscribe(fake.customer().id, fake.price().id)
        end = subscription["items"].data[0].current_period_end
        fake.control("/_clock", to=end - 1)
        deadline = time.monotonic() + 60
        while fake.subscription(subscription.id)["items"].data[0].current_period_end <= end:
            assert time.monotonic() < deadline, "the subscription was not renewed"
            time.sleep(0.1)


def test_state_file_survives_a_restart(tmp_path: Path) -> None:
    settings: Any = {"state_path": str(tmp_path / "stripe.json"), "seed": ""}
    with running(**settings) as fake:
        customer, price = fake.customer(), fake.price(999, lookup_key="basic")
        subscription = fake.subscribe(customer.id, price.id)
        fake.v1.customers.create({}, {"idempotency_key": "k1"})
    with running(**{**settings, "start": START + 31 * DAY + HOUR}) as fake:
        assert fake.subscription(subscription.id).status == "active"
        assert len(fake.v1.customers.list().data) == 2
        fake.v1.customers.create({}, {"idempotency_key": "k1"})
        fake.advance(HOUR)
        assert [invoice.status for invoice in fake.invoices()] == ["paid", "paid"]
        fresh = fake.v1.customers.create({})
        assert fresh.id not in (customer.id, "cus_t00000001")
        assert json.loads((tmp_path / "stripe.json").read_text())


def test_home_page_shows_objects_and_moves_the_clock(fake: Fake) -> None:
    subscription = fake.subscribe(fake.customer().id, fake.price().id)
    page = fake.http.get("/")
    assert subscription.id in page.text
    assert "customer.subscription.created" in page.text
    answer = fake.http.post("/", data={"advance": str(31 * DAY)})
    assert (answer.status_code, answer.headers["location"]) == (303, "/")
    assert fake.now == START + 31 * DAY
    assert isinstance(answer, httpx.Response)
