"""What the Stripe stand-in begins with: the catalogue, and a customer with a live subscription for each seeded payer.

`missing` looks at every start, without stripe-python, which takes longer to import than this takes to look. What is
missing is made by `python -m infra.local.billing`, a process of its own, from what its environment names. Every step
first looks for what is there, and the users' rows are written last and together: what a kill interrupts the next start
finishes, and nobody subscribes twice.
"""

import asyncio
import json
import os
import sys
import urllib.error
import urllib.request
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, cast

import psycopg

if TYPE_CHECKING:
    from stripe import StripeClient

    from functions.common.billing.records import PriceList

Json = dict[str, Any]


@dataclass(frozen=True, slots=True)
class Payer:
    """A seeded user whose plan costs something."""

    tier: str
    id: str
    email: str


@dataclass(frozen=True, slots=True)
class StandIn:
    """Where the stand-in is, and its key."""

    url: str
    key: str

    def get(self, path: str) -> Json | None:
        """An object; None where there is none."""
        try:
            return _call(f"{self.url}{path}", {"authorization": f"Bearer {self.key}"})
        except urllib.error.HTTPError as error:
            error.close()
            if error.code == 404:
                return None
            raise

    def control(self, path: str, **body: Any) -> Json:
        """Post to the control surface."""
        return _call(f"{self.url}{path}", {"content-type": "application/json"}, body)


def missing(stand_in: StandIn, database_url: str, payers: Sequence[Payer]) -> bool:
    """Whether there is something to make. Without payers the database is not asked."""
    prices = stand_in.get("/v1/prices?limit=1")
    return not prices or not prices["data"] or bool(_strangers(stand_in, database_url, payers))


def _strangers(stand_in: StandIn, database_url: str, payers: Sequence[Payer]) -> list[Payer]:
    """Those whose row names no customer, or one that the stand-in does not know: its state may have been thrown away,
    or be half a second older than the row."""
    if not payers:
        return []
    with psycopg.connect(database_url) as database:
        rows = {
            user_id: (customer, subscription)
            for user_id, customer, subscription in database.execute(
                "select user_id::text, stripe_customer_id, stripe_subscription_id from public.user_subscriptions"
                " where user_id = any(%s::uuid[])",
                ([payer.id for payer in payers],),
            )
        }
    return [payer for payer in payers if not _knows(stand_in, *rows[payer.id])]


def _knows(stand_in: StandIn, customer: str | None, subscription: str | None) -> bool:
    """Somebody who cancelled later is a customer still."""
    if customer is None:
        return False
    if subscription is None:
        found = stand_in.get(f"/v1/customers/{customer}")
        return found is not None and not found.get("deleted")
    found = stand_in.get(f"/v1/subscriptions/{subscription}")
    return found is not None and found["customer"] == customer


async def seed(
    stripe: "StripeClient", stand_in: StandIn, plans: Json, database_url: str, payers: Sequence[Payer]
) -> None:
    """Publish the catalogue, subscribe the payers to their plans, and write that into their rows."""
    from functions.maintenance.publish_catalog import publish_catalog

    await publish_catalog(stripe, cast("PriceList", plans))
    strangers = _strangers(stand_in, database_url, payers)
    if not strangers:
        return
    keys = [f"plan_{payer.tier}" for payer in strangers]
    listed = await stripe.v1.prices.list_async({"lookup_keys": keys, "active": True})
    prices = {price.lookup_key: price.id for price in listed.data}
    subscribed = [
        (payer, await _subscribe(stripe, stand_in, payer, prices[key]))
        for payer, key in zip(strangers, keys, strict=True)
    ]
    with psycopg.connect(database_url) as database:
        for payer, subscription in subscribed:
            (item,) = subscription["items"]["data"]
            database.execute(
                "update public.user_subscriptions set tier = %s, stripe_customer_id = %s, stripe_subscription_id = %s,"
                " current_period_start = to_timestamp(%s), current_period_end = to_timestamp(%s) where user_id = %s",
                (
                    *(payer.tier, subscription["customer"], subscription["id"]),
                    *(item["current_period_start"], item["current_period_end"], payer.id),
                ),
            )


async def _subscribe(stripe: "StripeClient", stand_in: StandIn, payer: Payer, price: str) -> Json:
    """The payer's live subscription, with the customer and the card that it needs."""
    about = {"user_id": payer.id}
    known = (await stripe.v1.customers.search_async({"query": f"metadata['user_id']:'{payer.id}'"})).data
    customer = known[0] if known else await stripe.v1.customers.create_async({"email": payer.email, "metadata": about})
    await asyncio.to_thread(stand_in.control, f"/_customers/{customer.id}/card", works=True)
    live = (await stripe.v1.subscriptions.list_async({"customer": customer.id})).data
    subscription = (
        live[0]
        if live
        else await stripe.v1.subscriptions.create_async(
            {"customer": customer.id, "items": [{"price": price}], "metadata": about}
        )
    )
    return subscription.to_dict()


def environment(stand_in: StandIn, database_url: str, payers: Sequence[Payer]) -> dict[str, str]:
    """What `main` reads, beside SUPABASE_URL and SUPABASE_SERVICE_ROLE_KEY."""
    return {
        "STRIPE_API_BASE": stand_in.url,
        "STRIPE_SECRET_KEY": stand_in.key,
        "DATABASE_URL": database_url,
        "PAYERS": json.dumps([[payer.tier, payer.id, payer.email] for payer in payers]),
    }


def main(environ: Mapping[str, str]) -> None:
    """Make what is missing."""
    from functions.common.billing.stripe_client import Account, StripeSettings
    from functions.common.settings import load

    plans = _plans(environ)
    stand_in = StandIn(environ["STRIPE_API_BASE"], environ["STRIPE_SECRET_KEY"])
    payers = [Payer(*fields) for fields in json.loads(environ["PAYERS"])]

    async def run() -> None:
        stripe = Account(load(StripeSettings, environ))
        try:
            await seed(stripe, stand_in, plans, environ["DATABASE_URL"], payers)
        finally:
            await stripe.close()

    asyncio.run(run())


def _plans(environ: Mapping[str, str]) -> Json:
    """What `list_plans` returns."""
    url = environ.get("SUPABASE_URL") or environ["NEXT_PUBLIC_SUPABASE_URL"]
    key = environ["SUPABASE_SERVICE_ROLE_KEY"]
    headers = {"apikey": key, "authorization": f"Bearer {key}", "content-type": "application/json"}
    try:
        return _call(f"{url.rstrip('/')}/rest/v1/rpc/list_plans", headers, {})
    except OSError as error:
        sys.exit(f"{url} does not say what is sold ({error}), and Stripe's stand-in needs that: push the migrations.")


def _call(url: str, headers: Mapping[str, str], body: Json | None = None) -> Json:
    """JSON from an address; a POST where there is a body."""
    data = None if body is None else json.dumps(body).encode()
    request = urllib.request.Request(url, data, dict(headers))  # noqa: S310 -- configured, not given by a user
    with urllib.request.urlopen(request, timeout=60) as answer:  # noqa: S310
        told: Json = json.load(answer)
        return told


if __name__ == "__main__":
    main(os.environ)
