"""A process killed with SIGKILL between any two steps of a turn: only an answered query is charged, no funding is lost,
and the same message sent again is answered and charged once.

`PROVE=1` tests every step, otherwise every fifth.
"""

import json
import os
import random
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from decimal import Decimal
from tempfile import TemporaryFile
from typing import Any

import psycopg
import pytest
from psycopg.rows import dict_row

from infra.local.postgres import ROOT
from infra.local.stack import Stack
from tests.api import Api, StateOf, UserState, question
from tests.chat_kit import chat_environment
from tests.conftest import Person
from tests.sql.metering import pack

# An upper bound. The steps: before and after admit_query; start, a tool's call and result, text and end of the answer;
# before and after settle_query; the finish.
STEPS = 40
TIERS: dict[str, dict[str, Any]] = {
    "included": {"tier": "basic"},
    "credit": {"tier": "basic", "daily_quota": 0},
    "overage": {"tier": "usage_only"},
}
NOTHING = dict.fromkeys(TIERS, 0)
PRICE = Decimal("0.025")


KillAt = Callable[[Person, dict[str, Any], int], bool]


@pytest.fixture(scope="module")
def kill_at(stack: Stack) -> Iterator[KillAt]:
    """Runs a turn that kills its process at a step. Returns False if the turn ended before."""
    with (
        TemporaryFile("w+") as errors,
        subprocess.Popen(
            [sys.executable, "-m", "tests.journeys.killable_turn"],
            cwd=ROOT,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=errors,
            text=True,
            bufsize=1,
        ) as process,
    ):
        stdin, stdout = process.stdin, process.stdout
        assert stdin is not None
        assert stdout is not None

        def kill_at(person: Person, body: dict[str, Any], step: int) -> bool:
            turn = {"environment": chat_environment(stack), "user_id": person.id, "body": body, "step": step}
            stdin.write(json.dumps(turn) + "\n")
            status = stdout.readline().strip()
            errors.seek(0)
            assert status in ("0", str(-signal.SIGKILL)), errors.read()
            return status != "0"

        yield kill_at
        stdin.close()


def expire_holds(stack: Stack) -> None:
    """Let all holds expire and release them."""
    with psycopg.connect(stack.postgres.url(), autocommit=True) as db:
        db.execute("update public.query_holds set expires_at = created_at")
        db.execute("select public.release_stale_holds()")


def taken(stack: Stack, user: Person, after: UserState) -> dict[str, int]:
    """How many queries each funding has paid."""
    with psycopg.connect(stack.postgres.url()) as db:
        used = db.execute("select sum(credits_used) from public.credit_packs where user_id = %s", (user.id,)).fetchone()
    assert used is not None
    return {"included": after.quota_used, "credit": used[0] or 0, "overage": int(Decimal(after.overage) / PRICE)}


@pytest.mark.prove
@pytest.mark.timeout(300)
@pytest.mark.parametrize("funding", TIERS)
def test_a_killed_turn_is_charged_exactly_if_it_was_settled(
    stack: Stack, api: Api, person: Callable[..., Person], state_of: StateOf, kill_at: KillAt, funding: str
) -> None:
    charged_from = None
    users = []
    text = 'Briefly [tool:get_bill {"number": "C-5"}] [fault:long 3]'
    stride = 1 if os.environ.get("PROVE") else 5
    for step in range(random.randrange(stride), STEPS, stride):  # noqa: S311 -- any of them
        user = person(**TIERS[funding], stripe_subscription_id=f"sub_{funding}_{step}")
        if funding == "credit":
            with psycopg.connect(stack.postgres.url(), autocommit=True, row_factory=dict_row) as db:
                pack(db, user.id, 5)
        users.append(user.id)
        body = question(text)
        killed = kill_at(user, body, step)
        expire_holds(stack)
        after = state_of(user)
        assert after.holds == 0
        assert len(after.outcomes) <= 1
        charged = after.outcomes == ["answered"]
        if charged and charged_from is None:
            charged_from = step
        assert charged == (charged_from is not None), "once settled, always settled"
        assert taken(stack, user, after) == {**NOTHING, funding: int(charged)}
        assert bool(after.messages) == (charged and funding != "overage")

        again = api.chat(user, body)
        assert again.status_code == (409 if charged and funding == "overage" else 200)
        final = state_of(user)
        assert final.outcomes.count("answered") == 1
        assert taken(stack, user, final) == {**NOTHING, funding: 1}
        if not killed:
            break
    else:
        pytest.fail("the turn has more than STEPS steps")
    assert charged_from is not None
    assert 5 < charged_from <= step
    with psycopg.connect(stack.postgres.url(), autocommit=True) as db:
        # Only these users: other tests of this stack set counters as they like.
        broken = db.execute("select * from public.reconcile() where user_id = any(%s::uuid[])", (users,)).fetchall()
    assert broken == []
