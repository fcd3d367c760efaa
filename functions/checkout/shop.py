"""What a user is sent to Stripe for: a page to pay on, or the portal. One customer a user, however many clicks.

Money moves only on Stripe's pages; what comes of it comes back as events (functions/webhooks).
"""

import asyncio
import hashlib
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from typing import Any

from stripe import InvalidRequestError, StripeClient, StripeError
from stripe.checkout import Session
from stripe.params.checkout import SessionCreateParams

from functions.checkout.settings import CheckoutSettings
from functions.common.auth import User
from functions.common.billing.look import live_subscription
from functions.common.billing.stripe_client import Account, plan_key
from functions.common.database import Database
from functions.common.errors import Internal, NotFound, PaymentUnavailable
from functions.common.observe import Observer

WITHIN_S = 16.0  # below the function's own time (serverless.yml)


class Shop:
    """The account at Stripe and the tables plans and packs, as a user meets them."""

    def __init__(self, settings: CheckoutSettings, observer: Observer) -> None:
        self.allowed_origins = settings.allowed_origins
        self._settings = settings
        self._database = Database(settings)
        self._client = Account(settings)
        self._observer = observer

    async def close(self) -> None:
        """Close the connections."""
        await self._database.close()
        await self._client.close()

    async def plans(self) -> dict[str, Any]:
        """`{"plans", "packs"}`, as anyone may read them."""
        anyone = self._settings.anon_key
        plans: dict[str, Any] = await self._database.call("list_plans", user_token=anyone, idempotent=True)
        return plans

    async def subscribe(self, user: User, tier: str, success_url: str, cancel_url: str) -> dict[str, str]:
        """A page to subscribe on; the portal for who has a subscription. `{"url", "session_id"}`."""
        async with self._stripe() as stripe:
            customer_id = await self._customer(stripe, user)
            wanted: SessionCreateParams = {
                "mode": "subscription",
                "metadata": {"user_id": user.id, "plan": tier},
                "subscription_data": {"metadata": {"user_id": user.id}},
                # Also for the plan of $0, whose overage will be charged.
                "payment_method_collection": "always",
            }
            return await self._page(stripe, user, customer_id, plan_key(tier), wanted, success_url, cancel_url)

    async def buy(self, user: User, slug: str, success_url: str, cancel_url: str) -> dict[str, str]:
        """A page to buy a pack on. `{"url", "session_id"}`. Raises NotFound for a pack that is not sold."""
        pack = next((pack for pack in (await self.plans())["packs"] if pack["id"] == slug), None)
        if pack is None:
            raise NotFound("There is no such credit pack.")
        async with self._stripe() as stripe:
            customer_id = await self._customer(stripe, user)
            # What was sold is said here: the table may change before the payment comes.
            sold = {"user_id": user.id, "pack": slug, "credits": str(pack["credits"])}
            wanted: SessionCreateParams = {
                "mode": "payment",
                "metadata": sold,
                "payment_intent_data": {"metadata": sold},
            }
            return await self._page(stripe, user, customer_id, slug, wanted, success_url, cancel_url)

    async def portal(self, user: User, return_url: str) -> dict[str, str]:
        """The user's portal. Raises NotFound for who has never bought anything."""
        profile = await self._profile(user)
        if profile["stripe_customer_id"] is None:
            raise NotFound("You have not bought anything yet, so there is nothing to manage.")
        async with self._stripe() as stripe:
            return await self._portal(stripe, profile["stripe_customer_id"], return_url)

    async def set_overage(self, user: User, given: dict[str, Any]) -> dict[str, Any]:
        """Change the user's overage settings; returns the overage of their usage."""
        params = {"p_settings": given}
        overage: dict[str, Any] = await self._database.call(
            "set_overage", params, user_token=user.token, idempotent=True
        )
        return overage

    @asynccontextmanager
    async def _stripe(self) -> AsyncIterator[StripeClient]:
        """Stripe, whose failures are told as PaymentUnavailable, and who has no more than WITHIN_S for a page."""
        try:
            async with asyncio.timeout(WITHIN_S):
                yield self._client
        except CatalogMissing as error:
            self._observer.failure("stripe has no such price", error)
            raise
        except (StripeError, TimeoutError) as error:
            self._observer.failure("stripe failed", error, upstream_status=getattr(error, "http_status", None))
            raise PaymentUnavailable from error

    async def _profile(self, user: User) -> dict[str, Any]:
        profile: dict[str, Any] | None = await self._database.call(
            "billing_profile", {"p_user_id": user.id}, idempotent=True
        )
        if profile is None:
            raise NotFound("There is no subscription.")
        return profile

    async def _customer(self, stripe: StripeClient, user: User) -> str:
        """The user's customer, made before anything is bought: no event ever comes for one that is nobody's."""
        profile = await self._profile(user)
        if profile["stripe_customer_id"] is not None:
            return str(profile["stripe_customer_id"])
        # The same for all clicks until a customer of theirs has been deleted; so without the address, which may change.
        key = f"customer:{user.id}:{profile['stripe_sequence']}"
        customer = await stripe.v1.customers.create_async({"metadata": {"user_id": user.id}}, {"idempotency_key": key})
        params = {"p_user_id": user.id, "p_customer_id": customer.id}
        linked: str | None = await self._database.call("link_stripe_customer", params, idempotent=True)
        if linked is None:
            raise NotFound("There is no subscription.")
        if profile["email"]:
            await stripe.v1.customers.update_async(linked, {"email": profile["email"]})
        return linked

    async def _page(
        self,
        stripe: StripeClient,
        user: User,
        customer_id: str,
        lookup_key: str,
        wanted: SessionCreateParams,
        success_url: str,
        cancel_url: str,
    ) -> dict[str, str]:
        """The page that is open for the same thing, else a new one, which closes the others of its kind: two pages
        could be paid twice."""
        prices, listed = await asyncio.gather(
            stripe.v1.prices.list_async({"lookup_keys": [lookup_key], "active": True, "limit": 1}),
            stripe.v1.checkout.sessions.list_async({"customer": customer_id, "limit": 100}),
        )
        if not prices.data:
            raise CatalogMissing(f"Stripe has no active price with the lookup key {lookup_key}.")
        purpose = hashlib.sha256("\n".join((prices.data[0].id, success_url, cancel_url)).encode()).hexdigest()[:32]
        assert "mode" in wanted
        assert isinstance(wanted["metadata"], dict)
        same = None
        for session in listed.data:
            if session.status != "open" or session.mode != wanted["mode"]:
                continue
            if session.metadata is not None and session.metadata.to_dict().get("purpose") == purpose:
                same = session
            elif wanted["mode"] == "subscription":
                # Where it was paid a moment ago, we see the subscription next.
                with suppress(InvalidRequestError):
                    await stripe.v1.checkout.sessions.expire_async(session.id)
        if wanted["mode"] == "subscription":
            _, live = await live_subscription(stripe, customer_id)
            if live is not None:
                return await self._portal(stripe, customer_id, cancel_url)
        if same is not None:
            return _shown(same)
        newest = listed.data[0].id if listed.data else "first"
        session = await stripe.v1.checkout.sessions.create_async(
            {
                **wanted,
                "metadata": {**wanted["metadata"], "purpose": purpose},
                "customer": customer_id,
                "client_reference_id": user.id,
                "line_items": [{"price": prices.data[0].id, "quantity": 1}],
                "success_url": success_url,
                "cancel_url": cancel_url,
                **self._tax(),
            },
            # Clicks at once see the same newest page, and get the same new one.
            {"idempotency_key": f"checkout:{user.id}:{newest}:{purpose}"},
        )
        if wanted["mode"] == "subscription":
            await _close_older(stripe, customer_id, session)
        return _shown(session)

    def _tax(self) -> SessionCreateParams:
        if not self._settings.automatic_tax:
            return {}
        return {"automatic_tax": {"enabled": True}, "customer_update": {"address": "auto"}}

    async def _portal(self, stripe: StripeClient, customer_id: str, return_url: str) -> dict[str, str]:
        session = await stripe.v1.billing_portal.sessions.create_async(
            {"customer": customer_id, "return_url": return_url}
        )
        return {"url": session.url, "session_id": session.id}


class CatalogMissing(Internal):
    """`python -m functions.checkout.catalog` has not been run."""


async def _close_older(stripe: StripeClient, customer_id: str, newest: Session) -> None:
    """Close the pages to subscribe on that were made before this one, while it was being made. Newest come first."""
    listed = await stripe.v1.checkout.sessions.list_async({"customer": customer_id, "status": "open", "limit": 100})
    ids = [session.id for session in listed.data if session.mode == "subscription"]
    for session_id in ids[ids.index(newest.id) + 1 :] if newest.id in ids else []:
        with suppress(InvalidRequestError):
            await stripe.v1.checkout.sessions.expire_async(session_id)


def _shown(session: Session) -> dict[str, str]:
    assert session.url is not None
    return {"url": session.url, "session_id": session.id}
