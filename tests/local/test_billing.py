"""The start of the Stripe stand-in: each seeded payer is subscribed once, also after kills and lost state."""

import itertools
from collections.abc import Iterator
from typing import Any

import psycopg
import pytest

from infra.local import billing
from infra.local.billing import Payer, StandIn
from tests.conftest import new_user
from tests.local.stripe.kit import DAY, KEY, CheckedClient, Fake, running

Db = psycopg.Connection[dict[str, Any]]
CATALOGUE_REQUESTS = 20


class Killed(Exception):
    """The process was killed."""


class KilledClient(CheckedClient):
    """A client that is killed after request number `last`; 0: never."""

    def __init__(self, last: int) -> None:
        super().__init__(allow_sync_methods=True)
        self.left = last

    async def request_async(self, *args: Any, **kwargs: Any) -> Any:
        answer = await super().request_async(*args, **kwargs)
        self.left -= 1
        if self.left == 0:
            raise Killed
        return answer


class Start:
    """The stand-in, a database with three payers, and the part of a stack's start that makes them customers."""

    def __init__(self, fake: Fake, db: Db, database_url: str) -> None:
        self.fake, self._db, self.database_url = fake, db, database_url
        self._stand_in = StandIn(fake.url, KEY)
        self._plans = db.execute("select public.list_plans() as plans").fetchone()["plans"]  # type: ignore[index]
        self.payers = [
            Payer(tier, new_user(db, tier), f"{tier}@example.test") for tier in ("basic", "pro", "usage_only")
        ]

    def missing(self) -> bool:
        return billing.needs_seeding(self._stand_in, self.database_url, self.payers)

    async def seed(self, last: int = 0) -> None:
        """Run the launcher's child, to its end or up to request number `last`."""
        http = KilledClient(last)
        try:
            client = self.fake.connect(http=http)
            await billing.seed(client, self._stand_in, self._plans, self.database_url, self.payers)
        finally:
            await http.close_async()

    def rows(self) -> dict[str, tuple[Any, ...]]:
        """Each payer's tier, ids and period."""
        found = self._db.execute(
            "select user_id::text, tier, stripe_customer_id, stripe_subscription_id,"
            " extract(epoch from current_period_start)::bigint as starts,"
            " extract(epoch from current_period_end)::bigint as ends from public.user_subscriptions"
        )
        return {user_id: tuple(rest) for user_id, *rest in (row.values() for row in found)}

    def set(self, payer: Payer, column: str, to: str | None) -> None:
        """Change a payer's row."""
        self._db.execute(f"update public.user_subscriptions set {column} = %s where user_id = %s", (to, payer.id))

    def at_stripe(self) -> dict[str, tuple[Any, ...]]:
        """The same, read from the stand-in. Each customer must have exactly one subscription, a live one."""
        found = {}
        for customer in self.fake.v1.customers.list({"limit": 100}).data:
            (subscription,) = self.fake.v1.subscriptions.list({"customer": customer.id, "status": "all"}).data
            (item,) = subscription["items"].data
            assert subscription.status == "active"
            assert customer.metadata is not None
            assert subscription.metadata.to_dict() == customer.metadata.to_dict()
            tier = str(item.price.lookup_key).removeprefix("plan_")
            assert customer.email == f"{tier}@example.test"
            found[customer.metadata["user_id"]] = (
                *(tier, customer.id, subscription.id),
                *(item.current_period_start, item.current_period_end),
            )
        return found


@pytest.fixture(scope="module")
def served() -> Iterator[Fake]:
    with running() as fake:
        yield fake


@pytest.fixture
def start(served: Fake, db: Db, database_url: str) -> Start:
    served.reset()
    return Start(served, db, database_url)


async def test_each_payer_has_a_live_subscription_and_a_row(start: Start) -> None:
    """The next start finds nothing to do."""
    assert start.missing()
    await start.seed()
    assert len(start.rows()) == 3
    assert start.rows() == start.at_stripe()
    assert not start.missing()


async def test_the_next_start_completes_a_killed_one(start: Start) -> None:
    """Killed at some requests for the catalogue and at each for the payers, days before the next start: each payer has
    exactly one subscription."""
    for last in itertools.chain(range(1, CATALOGUE_REQUESTS, 6), itertools.count(CATALOGUE_REQUESTS)):
        start.fake.reset()
        try:
            await start.seed(last)
            break
        except Killed:
            assert start.missing()
        start.fake.advance(3 * DAY)
        await start.seed()
        assert start.rows() == start.at_stripe()
        assert not start.missing()
    assert last > CATALOGUE_REQUESTS + 10


async def test_lost_stand_in_state_is_created_again(start: Start) -> None:
    """All state, or only a subscription. Each payer still gets one."""
    await start.seed()
    start.fake.reset()
    assert start.missing()
    await start.seed()
    assert start.rows() == start.at_stripe()
    before = start.rows()
    start.set(start.payers[1], "stripe_subscription_id", "sub_lost")
    assert start.missing()
    await start.seed()
    assert start.rows() == start.at_stripe() == before


async def test_a_reused_subscription_id_of_another_customer_does_not_count(start: Start) -> None:
    """A stand-in that lost its newest state may use a subscription id again."""
    await start.seed()
    another = start.fake.subscribe(start.fake.customer().id, start.fake.price(999).id)
    start.set(start.payers[0], "stripe_subscription_id", another.id)
    assert start.missing()


async def test_a_cancelled_payer_is_not_subscribed_again(start: Start) -> None:
    """While the stand-in has the customer."""
    await start.seed()
    basic = start.payers[0]
    _, customer, subscription, *_ = start.rows()[basic.id]
    start.fake.v1.subscriptions.cancel(subscription)
    assert not start.missing()  # the row still names it
    start.set(basic, "stripe_subscription_id", None)
    assert not start.missing()
    await start.seed()
    assert start.rows()[basic.id][1:3] == (customer, None)
    start.fake.v1.customers.delete(customer)
    assert start.missing()


async def test_without_payers_only_the_catalogue_is_created(start: Start) -> None:
    """For a real project, where users are not subscribed."""
    start.payers, start.database_url = [], "postgresql://postgres@127.0.0.1:1/postgres"
    assert start.missing()
    await start.seed()
    assert not start.missing()
    assert {"plan_basic", "pack_100"} <= {price.lookup_key for price in start.fake.v1.prices.list().data}
    assert start.fake.v1.customers.list().data == []


def test_the_error_names_a_project_without_migrations() -> None:
    """One sentence, without the key."""
    environ = {"SUPABASE_URL": "http://127.0.0.1:1", "SUPABASE_SERVICE_ROLE_KEY": "secret"}
    with pytest.raises(
        SystemExit, match=r"^http://127.0.0.1:1 did not answer list_plans .*: push the migrations\.$"
    ) as end:
        billing.main(environ)
    assert "secret" not in str(end.value)
