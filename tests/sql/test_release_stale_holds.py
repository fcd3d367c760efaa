"""release_stale_holds: returns the funding of queries that never ended."""

import pytest

from tests.conftest import new_user
from tests.sql.metering import Db, admit, at, counters, holds, ledger, settle, value


def test_only_expired_holds_are_released(db: Db) -> None:
    at(db, "2026-03-01T12:00Z")
    user, other = new_user(db, "basic"), new_user(db, "free")
    lost = [admit(db, user, p_hold_seconds=60), admit(db, other, p_hold_seconds=60)]
    running = admit(db, user, p_hold_seconds=61)
    at(db, "2026-03-01T12:01Z")
    assert value(db, "select public.release_stale_holds()") == 2
    assert value(db, "select public.release_stale_holds()") == 0
    assert (holds(db, user), counters(db, user)["quota_used"]) == (1, 1)
    assert (holds(db, other), counters(db, other)["lifetime_used"]) == (0, 0)
    assert [row["outcome"] for row in ledger(db, user) + ledger(db, other)] == ["lost", "lost"]
    # A lost query that settles late is not charged. A query that still runs is.
    assert settle(db, lost[0]["hold_id"])["outcome"] == "lost"
    assert settle(db, running["hold_id"])["outcome"] == "answered"


@pytest.mark.usefixtures("many_at_once")
def test_a_call_releases_at_most_a_hundred_holds(db: Db) -> None:
    at(db, "2026-03-01T12:00Z")
    user = new_user(db, "basic", daily_quota=200)
    for _ in range(101):
        admit(db, user, p_hold_seconds=1)
        at(db, "2026-03-01T12:00Z")
    at(db, "2026-03-01T12:01Z")
    assert [value(db, "select public.release_stale_holds()") for _ in range(3)] == [100, 1, 0]
