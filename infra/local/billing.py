"""Seeds the Stripe stand-in: the catalogue, and a customer with a live subscription for each seeded user who pays.

Every start calls `needs_seeding`, which avoids stripe-python because importing it would take longer than the check.
If something is missing, `python -m infra.local.billing` makes it, as a process of its own configured by environment
variables. Each step first checks what exists, and the rows of the users are written last, in one transaction: after a
kill the next start completes the rest, and no user is subscribed twice.
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
    """A seeded user with a paid plan."""

    tier: str
    id: str
    email: str


@dataclass(frozen=True, slots=True)
class StandIn:
    """A client of the stand-in."""

    url: str
    key: str

    def get(self, path: str) -> Json | None:
        """The object, or None if it does not exist."""
        try:
            return _call(f"{self.url}{path}", {"authorization": f"Bearer {self.key}"})
        except urllib.error.HTTPError as error:
            error.close()
            if error.code == 404:
                return None
            raise

    def control(self, path: str, **body: Any) -> Json:
        """Post to the control API."""
        return _call(f"{self.url}{path}", {"content-type": "application/json"}, body)


def needs_seeding(stand_in: StandIn, database_url: str, payers: Sequence[Payer]) -> bool:
    """Whether the catalogue or a subscription is missing. Without payers the database is not queried."""
    for path in ("/v1/prices?limit=1", "/v1/billing_portal/configurations?limit=1"):
        found = stand_in.get(path)
        if not found or not found["data"]:
            return True
    return bool(_unsubscribed(stand_in, database_url, payers))


def _unsubscribed(stand_in: StandIn, database_url: str, payers: Sequence[Payer]) -> list[Payer]:
    """The payers with no customer in their row, or with one that the stand-in does not have.

    The state of the stand-in may have been deleted, or stored half a second before the row was written.
    """
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
    return [payer for payer in payers if not _is_known(stand_in, *rows[payer.id])]


def _is_known(stand_in: StandIn, customer: str | None, subscription: str | None) -> bool:
    """Whether the stand-in has the customer and subscription. A user who canceled later still counts."""
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
    """Publish the catalogue, subscribe the payers to their plans, and record the subscriptions in their rows."""
    from functions.maintenance.publish_catalog import publish_catalog

    endpoint = stand_in.get("/_webhooks") or {}
    await publish_catalog(stripe, cast("PriceList", plans), webhooks_url=endpoint.get("url"))
    unsubscribed = _unsubscribed(stand_in, database_url, payers)
    if not unsubscribed:
        return
    keys = [f"plan_{payer.tier}" for payer in unsubscribed]
    listed = await stripe.v1.prices.list_async({"lookup_keys": keys, "active": True})
    prices = {price.lookup_key: price.id for price in listed.data}
    subscribed = [
        (payer, await _subscribe(stripe, stand_in, payer, prices[key]))
        for payer, key in zip(unsubscribed, keys, strict=True)
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
    """The live subscription of the payer. Makes it, the customer and a card where they are missing."""
    metadata = {"user_id": payer.id}
    customers = (await stripe.v1.customers.search_async({"query": f"metadata['user_id']:'{payer.id}'"})).data
    customer = (
        customers[0]
        if customers
        else await stripe.v1.customers.create_async({"email": payer.email, "metadata": metadata})
    )
    await asyncio.to_thread(stand_in.control, f"/_customers/{customer.id}/card", works=True)
    live = (await stripe.v1.subscriptions.list_async({"customer": customer.id})).data
    subscription = (
        live[0]
        if live
        else await stripe.v1.subscriptions.create_async(
            {"customer": customer.id, "items": [{"price": price}], "metadata": metadata}
        )
    )
    return subscription.to_dict()


def environment(stand_in: StandIn, database_url: str, payers: Sequence[Payer]) -> dict[str, str]:
    """The variables that `main` reads, besides SUPABASE_URL and SUPABASE_SERVICE_ROLE_KEY."""
    return {
        "STRIPE_API_BASE": stand_in.url,
        "STRIPE_SECRET_KEY": stand_in.key,
        "DATABASE_URL": database_url,
        "PAYERS": json.dumps([[payer.tier, payer.id, payer.email] for payer in payers]),
    }


def main(environ: Mapping[str, str]) -> None:
    """Seed the stand-in named in the environment."""
    from functions.common.billing.stripe_client import Account
    from functions.common.settings import StripeSettings, load

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
    """The result of `list_plans`. Exits with a sentence if the database does not answer it."""
    from functions.common.database import request_headers

    url = environ.get("SUPABASE_URL") or environ["NEXT_PUBLIC_SUPABASE_URL"]
    headers = request_headers(environ["SUPABASE_SERVICE_ROLE_KEY"])
    try:
        return _call(f"{url.rstrip('/')}/rest/v1/rpc/list_plans", headers, {})
    except OSError as error:
        sys.exit(f"{url} did not answer list_plans ({error}), which the Stripe stand-in needs: push the migrations.")


def _call(url: str, headers: Mapping[str, str], body: Json | None = None) -> Json:
    """The JSON answer of an address. With a body the request is a POST."""
    data = None if body is None else json.dumps(body).encode()
    request = urllib.request.Request(url, data, dict(headers))  # noqa: S310 -- configured, not given by a user
    with urllib.request.urlopen(request, timeout=60) as answer:  # noqa: S310
        result: Json = json.load(answer)
        return result


if __name__ == "__main__":
    main(os.environ)
