"""claim_stripe_event, finish_stripe_event, unfinished_stripe_events."""

from typing import Any

import pytest

from tests.conftest import Connect
from tests.sql.concurrency import CLIENTS, run_concurrently
from tests.sql.metering import Db, at, value


def claim_event(db: Db, event: str = "evt_1", kind: str = "invoice.paid") -> dict[str, Any]:
    """Calls claim_stripe_event."""
    claimed: dict[str, Any] = value(db, "select public.claim_stripe_event(%s, %s)", event, kind)
    return claimed


def finish_event(db: Db, event: str = "evt_1", error: str | None = None) -> None:
    """Calls finish_stripe_event."""
    db.execute("select public.finish_stripe_event(%s, %s)", (event, error))


def event_state(db: Db, event: str = "evt_1") -> tuple[Any, ...]:
    """The attempts, the last error and the time of processing of an event."""
    row = db.execute("select * from public.stripe_events where event_id = %s", (event,)).fetchone()
    assert row is not None
    return row["attempts"], row["last_error"], row["processed_at"] and row["processed_at"].isoformat()


def test_an_event_is_processed_until_its_effect_is_committed(db: Db, connect: Connect) -> None:
    service = connect("service_role")
    at(service, "2026-03-01T12:00Z")
    assert claim_event(service)["processed"] is False
    assert event_state(db) == (1, None, None)
    finish_event(service, error="PaymentUnavailable")
    assert event_state(db) == (1, "PaymentUnavailable", None)
    assert claim_event(service)["processed"] is False
    at(service, "2026-03-01T13:00Z")
    finish_event(service)
    assert event_state(db) == (2, None, "2026-03-01T13:00:00+00:00")
    # A repeated delivery, and a concurrent attempt that failed.
    at(service, "2026-03-01T14:00Z")
    assert claim_event(service)["processed"] is True
    finish_event(service, error="TimeoutError")
    finish_event(service)
    assert event_state(db) == (2, None, "2026-03-01T13:00:00+00:00")


def test_sequence_numbers_are_unique_and_increase(connect: Connect, db: Db) -> None:
    earlier = [claim_event(db, f"evt_{number}")["sequence"] for number in range(3)]
    earlier.append(claim_event(db, "evt_0")["sequence"])
    finish_event(db)
    earlier.append(claim_event(db)["sequence"])
    assert earlier == sorted(set(earlier))
    claims = run_concurrently(connect, [claim_event] * CLIENTS)
    assert {claim["processed"] for claim in claims} == {True}
    assert len({claim["sequence"] for claim in claims}) == CLIENTS
    assert min(claim["sequence"] for claim in claims) > max(earlier)


def test_concurrent_deliveries_are_one_event(connect: Connect, db: Db) -> None:
    claims = run_concurrently(connect, [claim_event] * CLIENTS)
    assert [claim["processed"] for claim in claims] == [False] * CLIENTS
    assert event_state(db) == (CLIENTS, None, None)


def unfinished(db: Db, after: str | None = None, limit: int = 100) -> list[tuple[str, str]]:
    """Calls unfinished_stripe_events."""
    rows = db.execute("select * from public.unfinished_stripe_events(%s, %s)", (after, limit)).fetchall()
    return [(str(row["id"]), row["event_id"]) for row in rows]


@pytest.mark.parametrize(
    ("moment", "found"),
    [
        ("2026-03-01T12:04:59Z", []),
        ("2026-03-01T12:05:00Z", ["evt_1"]),
        ("2026-03-30T12:00:00Z", ["evt_1"]),
        ("2026-03-30T12:00:01Z", []),
    ],
)
def test_unfinished_events_are_found_from_five_minutes_to_29_days(
    db: Db, connect: Connect, moment: str, found: list[str]
) -> None:
    at(db, "2026-03-01T12:00Z")
    for event in ("evt_1", "evt_2"):
        claim_event(db, event)
    finish_event(db, error="TimeoutError")
    finish_event(db, "evt_2")
    service = connect("service_role")
    at(service, moment)
    assert [event for _, event in unfinished(service)] == found


def test_unfinished_events_are_returned_in_pages(db: Db) -> None:
    at(db, "2026-03-01T12:00Z")
    for number in range(5):
        claim_event(db, f"evt_{number}")
    at(db, "2026-03-01T13:00Z")
    events = unfinished(db)
    assert {event for _, event in events} == {f"evt_{number}" for number in range(5)}
    assert events == sorted(events)
    assert unfinished(db, limit=2) == events[:2]
    assert unfinished(db, events[1][0], 2) == events[2:4]
    assert unfinished(db, events[-1][0]) == []


def test_a_final_failure_is_not_tried_again(db: Db) -> None:
    at(db, "2026-03-01T12:00Z")
    claim_event(db)
    db.execute("select public.finish_stripe_event('evt_1', 'NotAtStripe', true)")
    at(db, "2026-03-01T13:00Z")
    assert unfinished(db) == []
    assert claim_event(db)["processed"]
    attempts, error, processed = event_state(db)
    assert (attempts, error) == (1, "NotAtStripe")
    assert processed is not None
