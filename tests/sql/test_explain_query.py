"""explain_query: why a query was charged or refused. Also the limit on stored refusals."""

from decimal import Decimal

from tests.conftest import Connect, new_user
from tests.sql.metering import Db, admit, at, pack, release, settle, value


def explain(db: Db, request_id: str) -> list[tuple[object, ...]]:
    """Calls explain_query. Returns its main columns."""
    rows = db.execute("select * from public.explain_query(%s)", (request_id,)).fetchall()
    names = ("decision", "reason", "funding", "quota_used", "quota_limit", "overage_used", "outcome", "charged_usd")
    return [tuple(row[name] for name in names) for row in rows]


def test_every_attempt_is_explained_with_state_and_cost(db: Db, connect: Connect) -> None:
    at(db, "2026-03-01T12:00Z")
    user = new_user(
        db, "basic", stripe_subscription_id="sub_1", quota_used=15, quota_date="2026-03-01", overage_limit="0.05"
    )
    release(db, admit(db, user, "question")["hold_id"])
    at(db, "2026-03-01T12:01Z")
    settle(db, admit(db, user, "question")["hold_id"])
    at(db, "2026-03-01T12:02Z")
    running = admit(db, user, "another")
    admit(db, user, "third")
    zero, price = Decimal("0.000000"), Decimal("0.025000")
    expected = {
        "question": [
            ("admitted", "Overage allowed", "overage", 15, 15, zero, "failed", zero),
            ("admitted", "Overage allowed", "overage", 15, 15, zero, "answered", price),
        ],
        "another": [("admitted", "Overage allowed", "overage", 15, 15, price, None, None)],
        "third": [("refused", "Overage limit reached", None, 15, 15, 2 * price, None, None)],
    }
    for connection in (db, connect("service_role"), connect("authenticated", user)):
        assert {request: explain(connection, request) for request in expected} == expected
    assert explain(connect("authenticated", new_user(db)), "question") == []
    settle(db, running["hold_id"])
    assert explain(db, "another")[0][-2:] == ("answered", price)


def test_the_pack_that_paid_is_returned(db: Db) -> None:
    user = new_user(db, "usage_only")
    bought = pack(db, user, 1)
    settle(db, admit(db, user, "question")["hold_id"])
    row = db.execute("select credit_pack_id::text, reason from public.explain_query('question')").fetchone()
    assert row == {"credit_pack_id": bought, "reason": "Credits available"}


def test_the_newest_fifty_refusals_are_stored_one_per_request(db: Db) -> None:
    user, other = new_user(db, "usage_only"), new_user(db, "usage_only")
    admit(db, other, "request")
    for number in range(55):
        at(db, f"2026-03-01T12:{number:02}Z")
        admit(db, user, f"request-{number}")
        admit(db, user, "repeated")
    stored = {
        row["request_id"]
        for row in db.execute("select request_id from public.query_refusals where user_id = %s", (user,))
    }
    assert stored == {"repeated", *(f"request-{number}" for number in range(6, 55))}
    assert value(db, "select count(*) from public.query_refusals where user_id = %s", other) == 1


def test_a_refused_request_that_is_admitted_later_is_charged_once(db: Db) -> None:
    user = new_user(db, "usage_only")
    assert admit(db, user, "question")["decision"] == "refused"
    pack(db, user, 1)
    settle(db, admit(db, user, "question")["hold_id"])
    assert [row[0] for row in explain(db, "question")] == ["refused", "admitted"]
