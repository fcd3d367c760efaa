"""A process killed with SIGKILL between any two steps of a turn: nothing is charged that was not answered, nothing
stays taken, and the same message sent again is answered and charged once.

`PROVE=1` takes every step, not every third.
"""

import json
import os
import random
import signal
import subprocess
import sys
from collections.abc import Callable
from decimal import Decimal
from typing import Any

import psycopg
import pytest
from psycopg.rows import dict_row

from infra.local.postgres import ROOT
from infra.local.stack import Stack
from tests.api import Api, Left, question
from tests.conftest import Person
from tests.sql.metering import pack

# before and after admit_query; start, a tool's call and result, words and end of the answer; before and after
# settle_query; the last words.
STEPS = 40
TIERS: dict[str, dict[str, Any]] = {
    "included": {"tier": "basic"},
    "credit": {"tier": "basic", "daily_quota": 0},
    "overage": {"tier": "usage_only"},
}
NOTHING = dict.fromkeys(TIERS, 0)
PRICE = Decimal("0.025")


def die_at(stack: Stack, person: Person, body: dict[str, Any], step: int) -> bool:
    """Run one turn that kills itself at a step; False if it ended before."""
    given = {
        "environment": {
            "SUPABASE_URL": stack.info["supabase_url"],
            "SUPABASE_ANON_KEY": stack.info["anon_key"],
            "SUPABASE_SERVICE_ROLE_KEY": stack.info["service_role_key"],
            "ENCRYPTION_KEY": "0" * 64,
            "ANTHROPIC_API_KEY": "stand-in",
            "ANTHROPIC_BASE_URL": stack.info["model_url"],
            "OPENAI_API_KEY": "stand-in",
            "PARLIAMENT_API_URL": stack.info["parliament_url"],
        },
        "user_id": person.id,
        "body": body,
    }
    done = subprocess.run(
        [sys.executable, "-m", "tests.journeys.kill_me", str(step)],
        cwd=ROOT,
        input=json.dumps(given),
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert done.returncode in (0, -signal.SIGKILL), done.stderr
    return done.returncode != 0


def later(stack: Stack) -> None:
    """Holds' time is over, and the sweep has run."""
    with psycopg.connect(stack.postgres.url(), autocommit=True) as db:
        db.execute("update public.query_holds set expires_at = created_at")
        db.execute("select public.release_stale_holds()")


def taken(stack: Stack, user: Person, after: Left) -> dict[str, int]:
    """How many queries each funding has paid."""
    with psycopg.connect(stack.postgres.url()) as db:
        used = db.execute("select sum(credits_used) from public.credit_packs where user_id = %s", (user.id,)).fetchone()
    assert used is not None
    return {"included": after.quota_used, "credit": used[0] or 0, "overage": int(Decimal(after.overage) / PRICE)}


@pytest.mark.prove
@pytest.mark.timeout(300)
@pytest.mark.parametrize("funding", TIERS)
def test_killed_between_any_two_steps_a_turn_is_charged_exactly_if_it_was_settled(
    stack: Stack, api: Api, person: Callable[..., Person], left: Callable[[Person], Left], funding: str
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
        died = die_at(stack, user, body, step)
        later(stack)
        after = left(user)
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
        final = left(user)
        assert final.outcomes.count("answered") == 1
        assert taken(stack, user, final) == {**NOTHING, funding: 1}
        if not died:
            break
    else:
        pytest.fail("the turn has more steps than this test thought")
    assert charged_from is not None
    assert 5 < charged_from <= step
    with psycopg.connect(stack.postgres.url(), autocommit=True) as db:
        # Of these users: other tests of this stack start theirs with counters of their own choosing.
        broken = db.execute("select * from public.reconcile() where user_id = any(%s::uuid[])", (users,)).fetchall()
    assert broken == []
