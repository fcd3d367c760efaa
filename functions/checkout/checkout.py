"""Stripe's pages for a user: checkout and the billing portal. However often a user clicks, they are one customer.

Money moves only on Stripe's pages. The results arrive as events (functions/webhooks).
"""

import asyncio
import hashlib
import json
import uuid
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass
from typing import TYPE_CHECKING

from stripe import InvalidRequestError, StripeClient, StripeError

from functions.checkout.settings import CheckoutSettings
from functions.common import results
from functions.common.auth import User
from functions.common.billing.catalog import Product, matches, portal_configuration, products
from functions.common.billing.records import BillingProfile, OverageSettings, PriceList, billing_profile
from functions.common.billing.stripe_client import Account, plan_key
from functions.common.billing.stripe_state import live_subscription, open_invoices
from functions.common.database import Database
from functions.common.errors import (
    AccountBlocked,
    CurrencyDiffers,
    Internal,
    NotFound,
    PaymentRequired,
    PaymentUnavailable,
    PriceDiffers,
    Unauthenticated,
)
from functions.common.observe import Observer

if TYPE_CHECKING:  # importing Stripe's types takes 30 ms, and nothing needs them at run time
    from stripe.checkout import Session
    from stripe.params.checkout import SessionCreateParams

TIMEOUT_S = 14.0  # with the signing keys and the prices before it, shorter than the function's (serverless.yml)


@dataclass(frozen=True, slots=True)
class Page:
    """A page at Stripe: a checkout session or a portal session."""

    url: str
    session_id: str


@dataclass(frozen=True, slots=True)
class ReturnUrls:
    """Where Stripe sends the user after they paid or left the page."""

    success: str
    cancel: str


@dataclass(frozen=True, slots=True)
class Order:
    """What a checkout page sells. `params` are the session's own parameters, `metadata` what the session records."""

    product: Product
    metadata: Mapping[str, str]
    params: "SessionCreateParams"

    @property
    def is_subscription(self) -> bool:
        return self.params.get("mode") == "subscription"


class Checkout:
    """Sells plans and packs on Stripe's pages. Holds what the routes share."""

    def __init__(self, settings: CheckoutSettings, observer: Observer) -> None:
        self.allowed_origins = settings.allowed_origins
        self._settings = settings
        self._database = Database(settings, observer)
        self._client = Account(settings)
        self._observer = observer

    async def close(self) -> None:
        """Close the connections."""
        await self._database.close()
        await self._client.close()

    async def plans(self) -> PriceList:
        """The plans and packs on sale."""
        prices: PriceList = await self._database.call("list_plans", parse=results.record("plans", "packs"))
        return prices

    async def subscribe(self, user: User, tier: str, urls: ReturnUrls) -> Page:
        """A page to subscribe to a plan; the portal for a user who has a subscription.

        Raises PaymentRequired while an invoice is open, AccountBlocked, NotFound, PaymentUnavailable, PriceDiffers,
        CurrencyDiffers, CatalogMissing, Unavailable.
        """
        product = _product(await self.plans(), plan_key(tier))
        async with self._stripe() as stripe:
            customer_id = await self._customer(stripe, user, await self._profile(user))
            params: SessionCreateParams = {
                "mode": "subscription",
                "subscription_data": {"metadata": {"user_id": user.id}},
                # Also for the plan of $0: its overage will be charged.
                "payment_method_collection": "always",
            }
            order = Order(product, {"user_id": user.id, "plan": tier}, params)
            return await self._page(stripe, user, customer_id, order, urls)

    async def buy(self, user: User, pack_id: str, urls: ReturnUrls) -> Page:
        """A page to buy a pack.

        Raises NotFound for a pack that is not sold, PaymentRequired for a user whose subscription would not let the
        credits pay, and what `subscribe` raises.
        """
        prices = await self.plans()
        pack = next((pack for pack in prices["packs"] if pack["id"] == pack_id), None)
        if pack is None:
            raise NotFound("pack_not_found")
        profile = await self._profile(user)
        if refusal := profile.refusal:
            raise PaymentRequired(
                refusal["reason_code"], reason=refusal["reason"], requires_payment=True, url=refusal["url"]
            )
        async with self._stripe() as stripe:
            customer_id = await self._customer(stripe, user, profile)
            # Record what was sold: the table may change before the payment arrives.
            metadata = {"user_id": user.id, "pack": pack_id, "credits": str(pack["credits"])}
            params: SessionCreateParams = {"mode": "payment", "payment_intent_data": {"metadata": metadata}}
            order = Order(_product(prices, pack_id), metadata, params)
            return await self._page(stripe, user, customer_id, order, urls)

    async def portal(self, user: User, return_url: str) -> Page:
        """The user's billing portal. Raises AccountBlocked; NotFound if they never bought anything."""
        profile = await self._profile(user)
        if profile.stripe_customer_id is None:
            raise NotFound("nothing_bought")
        async with self._stripe() as stripe:
            return await self._portal(stripe, profile.stripe_customer_id, return_url)

    async def set_overage(self, user: User, changes: Mapping[str, object]) -> OverageSettings:
        """Change the user's overage settings. Returns the `overage` object of GET /usage."""
        params = {"p_settings": changes}
        overage: OverageSettings = await self._database.call(
            "set_overage", params, user_token=user.token, parse=results.record("allowed")
        )
        return overage

    @asynccontextmanager
    async def _stripe(self) -> AsyncIterator[StripeClient]:
        """The client, for at most TIMEOUT_S. Logs Stripe's failures and raises them as PaymentUnavailable."""
        try:
            async with asyncio.timeout(TIMEOUT_S):
                yield self._client
        except CatalogMissing as error:
            self._observer.failure("stripe has no such price or portal: run publish-catalog", error)
            raise
        except CurrencyDiffers as error:
            self._observer.failure("the customer has another currency at stripe", error)
            raise
        except PriceDiffers as error:
            self._observer.failure("stripe has another price: run publish-catalog", error)
            raise
        except (StripeError, TimeoutError) as error:
            self._observer.failure("stripe failed", error, upstream_status=getattr(error, "http_status", None))
            raise PaymentUnavailable from error

    async def _profile(self, user: User) -> BillingProfile:
        profile = await billing_profile(self._database, user.id)
        if profile is None:
            raise Unauthenticated  # the account was deleted
        if profile.is_blocked:
            raise AccountBlocked
        return profile

    async def _customer(self, stripe: StripeClient, user: User, profile: BillingProfile) -> str:
        """The user's customer id. A customer is created and linked before any checkout, so that every event
        resolves to a user."""
        if profile.stripe_customer_id is not None:
            return profile.stripe_customer_id
        # Equal for all clicks until the customer is deleted. Without the e-mail address, which may change.
        key = f"customer:{user.id}:{profile.stripe_sequence}"
        customer = await stripe.v1.customers.create_async({"metadata": {"user_id": user.id}}, {"idempotency_key": key})
        params = {"p_user_id": user.id, "p_customer_id": customer.id}
        linked: str | None = await self._database.call("link_stripe_customer", params, parse=results.text)
        if linked is None:
            raise Unauthenticated
        if profile.email:
            await stripe.v1.customers.update_async(linked, {"email": profile.email})
        return linked

    async def _page(self, stripe: StripeClient, user: User, customer_id: str, order: Order, urls: ReturnUrls) -> Page:
        """The open page for the same order, otherwise a new one. Open pages to subscribe to anything else are closed:
        two of them could be paid twice."""
        prices, listed = await asyncio.gather(
            stripe.v1.prices.list_async({"lookup_keys": [order.product.lookup_key], "active": True, "limit": 1}),
            stripe.v1.checkout.sessions.list_async({"customer": customer_id, "limit": 100}),
        )
        if not prices.data:
            raise CatalogMissing(f"Stripe has no active price with the lookup key {order.product.lookup_key}.")
        price_id = prices.data[0].id
        # With the metadata: a page that was opened before a pack's credits changed would grant the old number.
        parts = (price_id, urls.success, urls.cancel, *(f"{key}={text}" for key, text in order.metadata.items()))
        purpose = hashlib.sha256("\n".join(parts).encode()).hexdigest()[:32]
        same = await _same_page(stripe, listed.data, order, purpose)
        if order.is_subscription:
            _, live = await live_subscription(stripe, customer_id)
            unpaid = await open_invoices(stripe, customer_id, live.id if live else None)
            if unpaid:
                url = unpaid[0].hosted_invoice_url
                raise PaymentRequired("invoice_open", reason="Open invoice", requires_payment=True, url=url)
            if live is not None:
                return await self._portal(stripe, customer_id, urls.cancel)
        if not matches(prices.data[0], order.product):
            raise PriceDiffers
        if same is not None:
            return _page_of(same)
        newest = listed.data[0].id if listed.data else "first"
        params: SessionCreateParams = {
            **order.params,
            "metadata": {**order.metadata, "purpose": purpose},
            # Otherwise the account's setting decides whether Stripe charges the buyer's currency instead of ours.
            "adaptive_pricing": {"enabled": False},
            "customer": customer_id,
            "client_reference_id": user.id,
            "line_items": [{"price": price_id, "quantity": 1}],
            "success_url": urls.success,
            "cancel_url": urls.cancel,
            **self._tax(),
            **self._codes(),
        }
        # Concurrent clicks see the same newest page and get the same new one. Changed settings get another one.
        digest = hashlib.sha256(json.dumps(params, sort_keys=True).encode()).hexdigest()[:32]
        try:
            session = await _create_session(stripe, params, f"checkout:{customer_id}:{newest}:{digest}")
        except InvalidRequestError as error:
            # Stripe has no code for it. A customer's subscriptions and invoice items have one currency.
            if order.is_subscription and await _has_other_currency(stripe, customer_id, order.product.currency):
                raise CurrencyDiffers from error
            raise
        try:
            await self._profile(user)
        except (AccountBlocked, Unauthenticated):  # since this request began; a deletion may not have seen this page
            with suppress(InvalidRequestError):
                await stripe.v1.checkout.sessions.expire_async(session.id)
            raise
        if order.is_subscription:
            await _close_older(stripe, customer_id, session)
        return _page_of(session)

    def _tax(self) -> "SessionCreateParams":
        if not self._settings.automatic_tax:
            return {}
        return {"automatic_tax": {"enabled": True}, "customer_update": {"address": "auto"}}

    def _codes(self) -> "SessionCreateParams":
        return {"allow_promotion_codes": True} if self._settings.promotion_codes else {}

    async def _portal(self, stripe: StripeClient, customer_id: str, return_url: str) -> Page:
        configuration = await portal_configuration(stripe)
        if configuration is None:
            raise CatalogMissing("Stripe has no portal configuration of ours.")
        session = await stripe.v1.billing_portal.sessions.create_async(
            {"customer": customer_id, "return_url": return_url, "configuration": configuration.id}
        )
        return Page(session.url, session.id)


class CatalogMissing(Internal):
    """The job publish-catalog has not been run."""


def _product(prices: PriceList, lookup_key: str) -> Product:
    return next(product for product in products(prices) if product.lookup_key == lookup_key)


async def _same_page(
    stripe: StripeClient, sessions: Sequence["Session"], order: Order, purpose: str
) -> "Session | None":
    """The open session with the same purpose. Closes the open sessions to subscribe to anything else."""
    same = None
    for session in sessions:
        if session.status != "open" or session.mode != order.params.get("mode"):
            continue
        if session.metadata is not None and session.metadata.to_dict().get("purpose") == purpose:
            same = session
        elif order.is_subscription:
            # A session that was just paid cannot expire; its subscription is read next.
            with suppress(InvalidRequestError):
                await stripe.v1.checkout.sessions.expire_async(session.id)
    return same


async def _create_session(stripe: StripeClient, params: "SessionCreateParams", key: str) -> "Session":
    try:
        return await stripe.v1.checkout.sessions.create_async(params, {"idempotency_key": key})
    except InvalidRequestError as error:
        # Stripe repeats a refusal for a day, also after its cause has ended.
        if (error.headers or {}).get("idempotent-replayed") != "true":
            raise
        return await stripe.v1.checkout.sessions.create_async(params, {"idempotency_key": f"{key}:{uuid.uuid4()}"})


async def _has_other_currency(stripe: StripeClient, customer_id: str, currency: str) -> bool:
    customer = await stripe.v1.customers.retrieve_async(customer_id)
    items = await stripe.v1.invoice_items.list_async({"customer": customer_id, "pending": True, "limit": 100})
    return customer.currency not in (None, currency) or any(item.currency != currency for item in items.data)


async def _close_older(stripe: StripeClient, customer_id: str, newest: "Session") -> None:
    """Close the pages to subscribe on that concurrent requests created before this one. Stripe lists newest first."""
    listed = await stripe.v1.checkout.sessions.list_async({"customer": customer_id, "status": "open", "limit": 100})
    ids = [session.id for session in listed.data if session.mode == "subscription"]
    for session_id in ids[ids.index(newest.id) + 1 :] if newest.id in ids else []:
        with suppress(InvalidRequestError):
            await stripe.v1.checkout.sessions.expire_async(session_id)


def _page_of(session: "Session") -> Page:
    assert session.url is not None
    return Page(session.url, session.id)
