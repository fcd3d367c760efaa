"""Asks the service behind a secret whether it accepts a new value, before anything is written.

Each question reads, and costs nothing.
"""

import hashlib
import hmac
import time
from collections.abc import Mapping

import httpx
import jwt

from functions.common.billing.stripe_client import PRODUCT_PREFIX
from infra.deploy import secrets
from infra.deploy.stage import DeployError

TIMEOUT_S = 10.0
# What the functions use at Stripe (docs/billing.md). Whether a key may also write there cannot be asked.
STRIPE_RESOURCES = (
    "products",
    "prices",
    "customers",
    "checkout/sessions",
    "billing_portal/configurations",
    "webhook_endpoints",
    "invoices",
    "invoiceitems",
    "subscriptions",
    "charges",
    "payment_intents",
    "refunds",
    "disputes",
    "events",
)


def ask(name: str, value: str, environment: Mapping[str, str]) -> None:
    """Raise DeployError unless the counterpart of a secret accepts the value.

    `environment` has the addresses of stand-ins and SUPABASE_URL.
    """
    url, headers = question(name, value, environment)
    answer = _accepted(name, url, headers)
    if name == secrets.STRIPE and not any(one.startswith(PRODUCT_PREFIX) for one in _products(answer)):
        raise DeployError(f"{name}: the account of the new key does not sell our plans. Nothing was changed.")
    if name == secrets.STRIPE:
        for resource in STRIPE_RESOURCES:
            _accepted(name, f"{url.partition('/v1/')[0]}/v1/{resource}?limit=1", headers)


def _accepted(name: str, url: str, headers: Mapping[str, str]) -> httpx.Response:
    """The answer to a request with the value. Raises DeployError if it is refused."""
    try:
        answer = httpx.get(url, headers=headers, timeout=TIMEOUT_S)
    except (httpx.HTTPError, httpx.InvalidURL, ValueError) as error:
        raise DeployError(f"{name}: {url} cannot be reached ({type(error).__name__}).") from None
    if answer.status_code != 200:
        raise DeployError(
            f"{name}: {answer.url.host}{answer.url.path} does not accept the new value (status {answer.status_code}). "
            "Nothing was changed."
        )
    return answer


def _products(answer: httpx.Response) -> list[str]:
    """The ids of the products; none where another service answers."""
    try:
        return [str(one["id"]) for one in answer.json()["data"]]
    except (ValueError, TypeError, KeyError):
        return []


def supabase_headers(key: str) -> dict[str, str]:
    """The headers of a request to Supabase. Only legacy keys are tokens."""
    return {"apikey": key} | ({} if key.startswith("sb_") else {"authorization": f"Bearer {key}"})


def question(name: str, value: str, environment: Mapping[str, str]) -> tuple[str, dict[str, str]]:
    """The URL and the headers of a request that only an accepted value can make."""
    if name == secrets.SERVICE_KEY:
        # Only the service role may read this table.
        url = f"{environment['SUPABASE_URL'].rstrip('/')}/rest/v1/stripe_events?select=id&limit=1"
        return url, supabase_headers(value)
    if name == secrets.ANTHROPIC:
        base = environment.get("ANTHROPIC_BASE_URL") or "https://api.anthropic.com"
        return f"{base}/v1/models?limit=1", {"x-api-key": value, "anthropic-version": "2023-06-01"}
    if name == secrets.OPENAI:
        base = environment.get("OPENAI_BASE_URL") or "https://api.openai.com/v1"
        return f"{base.rstrip('/')}/models", {"authorization": f"Bearer {value}"}
    if name == secrets.STRIPE:
        base = environment.get("STRIPE_API_BASE") or "https://api.stripe.com"
        return f"{base}/v1/products?limit=100", {"authorization": f"Bearer {value}"}
    raise DeployError(f"{name} has no counterpart that can be asked.")


def signature(secret: str, body: bytes, now: float | None = None) -> str:
    """The header with which Stripe signs a webhook. https://docs.stripe.com/webhooks#verify-manually"""
    stamp = int(time.time() if now is None else now)
    digest = hmac.new(secret.encode(), f"{stamp}.".encode() + body, hashlib.sha256).hexdigest()
    return f"t={stamp},v1={digest}"


def signs(secret: str, token: str) -> bool:
    """Whether an access token was signed with HS256 and this secret."""
    try:
        jwt.decode(token, secret, algorithms=["HS256"], options={"verify_aud": False})
    except jwt.PyJWTError:
        return False
    return True
