"""publish-catalog, settings: the portal configuration, the webhook endpoint and Stripe Tax.

The API cannot set how failed payments are retried, when invoices are finalized, or Stripe's e-mails: docs/billing.md
has them.
"""

from collections.abc import Iterable, Mapping
from typing import TYPE_CHECKING, Any, cast

from stripe import PermissionError as KeyNotAllowed
from stripe import StripeClient, WebhookEndpoint

from functions.common.billing.catalog import PORTAL_KEY, portal_configuration
from functions.common.billing.events import HANDLED_EVENTS

if TYPE_CHECKING:
    from stripe.params import WebhookEndpointUpdateParams
    from stripe.params.billing_portal import ConfigurationCreateParamsFeatures

# The metadata of our webhook endpoint. An account may have endpoints of other projects at the same path.
ENDPOINT_KEY = "canadagpt_webhooks"
# An endpoint keeps the version in which its events are written. Older ones have the objects' fields elsewhere.
OLDEST_VERSION = "2025-03-31.basil"
# What null means in the settings that may be null.
NULLS = {"billing_cycle_anchor": "unchanged"}


def portal_features(plan_prices: Mapping[str, str]) -> dict[str, Any]:
    """What the portal allows. `plan_prices`: the price of each plan by its product.

    An upgrade is invoiced at once, and ends a trial. A downgrade and a cancellation wait for the end of the period. No
    change moves the end of the period.
    """
    fixed = {"adjustable_quantity": {"enabled": False}}
    products = [{"product": product, "prices": [price], **fixed} for product, price in sorted(plan_prices.items())]
    return {
        "customer_update": {"enabled": True, "allowed_updates": ["address", "email", "name", "tax_id"]},
        "invoice_history": {"enabled": True},
        "payment_method_update": {"enabled": True},
        "subscription_cancel": {"enabled": True, "mode": "at_period_end", "proration_behavior": "none"},
        "subscription_update": {
            "enabled": True,
            "billing_cycle_anchor": "unchanged",
            "default_allowed_updates": ["price"],
            "products": products,
            "proration_behavior": "always_invoice",
            "schedule_at_period_end": {"conditions": [{"type": "decreasing_item_amount"}]},
            "trial_update_behavior": "end_trial",
        },
    }


async def publish_portal(stripe: StripeClient, plan_prices: Mapping[str, str], *, check: bool) -> list[str]:
    """Create or update the portal configuration; with `check`, only compare. Returns what differs. Raises StripeError.

    A plan without a price has been reported before, and is left out.
    """
    features = portal_features(plan_prices)
    found = await portal_configuration(stripe)
    if found is None:
        if not check:
            await stripe.v1.billing_portal.configurations.create_async(
                {
                    "features": cast("ConfigurationCreateParamsFeatures", features),
                    "metadata": {PORTAL_KEY: "true"},
                    "name": "CanadaGPT",
                }
            )
        return ["missing" if check else "created"]
    differing = sorted(_differences(features, found.features.to_dict()))
    if differing and not check:
        # Create and update have equal types under different names.
        await stripe.v1.billing_portal.configurations.update_async(found.id, {"features": cast("Any", features)})
    return differing


def _differences(wanted: Mapping[str, Any], found: Mapping[str, Any], path: str = "") -> Iterable[str]:
    """The paths of the wanted values that Stripe does not have. Values that we do not set are not compared."""
    for name, value in wanted.items():
        here = found.get(name)
        if isinstance(value, dict):
            yield from _differences(value, here or {}, f"{path}{name}.")
        elif name == "products":
            if sorted(map(_sold, here or [])) != sorted(map(_sold, value)):
                yield path + name
        elif isinstance(value, list) and not isinstance(value[0], dict):
            if sorted(here or []) != sorted(value):
                yield path + name
        elif (NULLS.get(name) if here is None else here) != value:
            yield path + name


async def check_tax(stripe: StripeClient) -> list[str]:
    """What keeps Stripe from collecting tax; a person has to set it. Raises StripeError."""
    try:
        settings = await stripe.v1.tax.settings.retrieve_async()
        registrations = await stripe.v1.tax.registrations.list_async({"status": "active", "limit": 1})
    except KeyNotAllowed:
        return ["cannot be read: allow the key to read Tax"]
    differing = []
    if settings.status != "active":
        pending = settings.status_details.to_dict().get("pending") or {}
        differing = [f"{settings.status}, without {', '.join(pending.get('missing_fields') or [])}"]
    return differing if registrations.data else [*differing, "no registration is active"]


def _sold(one: Mapping[str, Any]) -> tuple[str, list[str], bool]:
    """What the portal allows of a product: its prices, and whether another quantity."""
    return one["product"], sorted(one["prices"]), one["adjustable_quantity"]["enabled"]


async def publish_endpoint(stripe: StripeClient, *, check: bool, url: str | None = None) -> list[str]:
    """Make our webhook endpoint receive every event that we handle; with `check`, only compare. Returns what differs.

    `url` names our endpoint, marks it in its metadata for later runs, and enables it. Without `url`, only the marked
    one is read and changed. It is not created here, because only its creation shows its signing secret.
    Raises StripeError.
    """
    listed = await stripe.v1.webhook_endpoints.list_async({"limit": 100})
    found = [one async for one in listed.auto_paging_iter()]
    marked = [one for one in found if ENDPOINT_KEY in one.metadata.to_dict()]
    ours = marked if url is None else [one for one in found if one.url.rstrip("/") == url.rstrip("/")]
    if not ours:
        return [f"none at {url}: create it in the dashboard" if url else "none is ours: use --webhooks-url"]
    differing = []
    for old in marked:
        if old not in ours:
            differing.append(f"{old.url} is no longer ours")
            if not check:
                await stripe.v1.webhook_endpoints.update_async(old.id, {"metadata": {ENDPOINT_KEY: ""}})
    for one in ours:
        differing += await _publish_endpoint(stripe, one, check=check, is_named=url is not None)
    return differing


async def _publish_endpoint(
    stripe: StripeClient, endpoint: WebhookEndpoint, *, check: bool, is_named: bool
) -> list[str]:
    changes: WebhookEndpointUpdateParams = {}
    differing = []
    if ENDPOINT_KEY not in endpoint.metadata.to_dict():
        changes["metadata"] = {ENDPOINT_KEY: "true"}
        differing.append("not marked as ours")
    missing = sorted(HANDLED_EVENTS - set(endpoint.enabled_events)) if "*" not in endpoint.enabled_events else []
    if missing:
        # Literal types of the SDK: the names are checked by Stripe.
        changes["enabled_events"] = cast("Any", sorted({*endpoint.enabled_events, *HANDLED_EVENTS}))
        differing.append(f"without {', '.join(missing)}")
    if endpoint.status != "enabled" and is_named:
        changes["disabled"] = False
        differing.append(endpoint.status)
    elif endpoint.status != "enabled":
        differing.append(f"{endpoint.status}: enable it with --webhooks-url {endpoint.url}")
    if endpoint.api_version is not None and endpoint.api_version < OLDEST_VERSION:
        differing.append(f"of version {endpoint.api_version}: create another endpoint")
    if changes and not check:
        await stripe.v1.webhook_endpoints.update_async(endpoint.id, changes)
    return differing
