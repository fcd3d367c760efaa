"""Random billing histories: two users have the same history at Stripe. The events of the first one are delivered in
order, as they happen. Those of the second are delayed, repeated, concurrent, failing or lost until the end. Both must
end alike, with everything billed once, and as `expected` computes from Stripe's own state.

A history is a script of actions that its seed determines. The histories of a batch share a clock, which moves from one
due action or event to the next. `make test` runs a sample with fresh seeds, `make prove` 2,000 histories. A failure
prints the script, the deliveries, both results, and the command that replays this history.

What Stripe does must not depend on us; otherwise the twins would differ for a good reason. A draft waits up to three
days for its event, so an action that depends on a payment (`NEEDS_EQUAL_PAYMENTS`) waits until the payments of both
twins are equal. Where cards fail and a month may cost nothing, late overage would be the first payment to fail: in such
a history the events that bill overage are delivered immediately (`bills_immediately`).
"""

import os
import random
import secrets
import sys
import time
from collections.abc import Iterator
from unittest import mock

import pytest

from infra.local.stack import Stack
from tests.billing_kit import running_billing
from tests.functions.billing_histories.batch import Batch
from tests.functions.billing_histories.database_control import DatabaseControl
from tests.functions.billing_histories.history import describe
from tests.functions.billing_histories.script import (
    STARTS,
)

FULL = bool(os.environ.get("PROVE"))
BATCHES = 125 if FULL else 1
HISTORIES = 16 if FULL else 5  # in a batch


@pytest.fixture(scope="module")
def database_control(stack: Stack) -> Iterator[DatabaseControl]:
    with DatabaseControl(stack) as database_control:
        yield database_control


@pytest.mark.prove
@pytest.mark.timeout(3600 if FULL else 300)
@pytest.mark.parametrize("number", range(1 if os.environ.get("SEED") else BATCHES))
def test_event_order_and_failures_do_not_change_the_result(
    stack: Stack, database_control: DatabaseControl, capfd: pytest.CaptureFixture[str], number: int
) -> None:
    seed = int(os.environ.get("SEED") or secrets.randbelow(2**32))
    only = os.environ.get("HISTORY")
    start = int(random.Random(seed).choice(STARTS).timestamp())  # noqa: S311
    began = time.monotonic()
    with mock.patch.dict(os.environ, STRIPE_PROMOTION_CODES="true"), running_billing(stack, start=start) as billing:
        batch = Batch(billing, database_control, seed, [int(only)] if only else list(range(HISTORIES)))
        try:
            batch.run()
        except BaseException as error:
            size = " PROVE=1" if FULL else ""
            with capfd.disabled():
                sys.stderr.write(f"batch {number + 1}: FAILED {seed}, {type(error).__name__}\n")
            error.add_note(f"replay: SEED={seed}{size} make test ONLY=tests/functions/billing_histories")
            raise
        finally:
            batch.close()
    problems = [history for history in batch.histories if history.problems]
    if FULL:
        with capfd.disabled():
            many = f"{len(batch.histories)} histories, {sum(len(one.events) for one in batch.histories)} events"
            failed = "".join(f", FAILED {one.seed}" for one in problems)
            sys.stderr.write(f"batch {number + 1} of {BATCHES}: {many}, {time.monotonic() - began:.0f} s{failed}\n")
    if problems:
        name, _, place = problems[0].seed.partition("/")
        replay = f"SEED={name} HISTORY={place} make test ONLY=tests/functions/billing_histories"
        others = f" The others: {', '.join(one.seed for one in problems[1:])}" if problems[1:] else ""
        pytest.fail(
            f"{len(problems)} of {len(batch.histories)} failed.{others}\n{describe(problems[0])}\nreplay: {replay}",
            pytrace=False,
        )
