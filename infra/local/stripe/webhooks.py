"""Webhook delivery: posts signed events to one endpoint, by default at once and in order.

A delivery without a 2xx answer is retried for three days of the stand-in's clock, with growing intervals. Tests can
hold events back, drop them, or deliver chosen events in any order and as often as they are named, one after the other
or together. Signatures carry the real time, because a receiver checks it against its own clock.
"""

import asyncio
import hashlib
import hmac
import time
from collections import deque
from collections.abc import Sequence

import aiohttp
import orjson
from stripe import params as param_types

from infra.local.stripe.clock import HOUR
from infra.local.stripe.endpoints import LIST_PARAMS, endpoint
from infra.local.stripe.errors import Json, missing_param
from infra.local.stripe.state import API_VERSION, State, public, scheduled_action

ENDPOINT = "we_standin"
BACKOFF = (60, 5 * 60, 30 * 60, 2 * HOUR, 5 * HOUR, 10 * HOUR, 12 * HOUR, 12 * HOUR, 12 * HOUR, 12 * HOUR)
ANSWER_WITHIN = 30  # seconds


def sign(payload: str, secrets: str, at: int) -> str:
    """The `Stripe-Signature` header: one v1 signature for each of the comma-separated secrets."""
    signed = f"{at}.{payload}".encode()
    signatures = [hmac.new(secret.encode(), signed, hashlib.sha256).hexdigest() for secret in secrets.split(",")]
    return ",".join([f"t={at}", *(f"v1={signature}" for signature in signatures)])


class WebhookSender:
    """`waiting` holds the ids of events to deliver, in order. `run` delivers them while the server runs."""

    def __init__(self, state: State) -> None:
        self._state = state
        self.secret = state.settings.webhook_secret
        self.set_endpoint(state.settings.webhook_url, ["*"])
        self.hold, self.drop = state.settings.hold, False
        self.waiting: deque[str] = deque()
        self._wake = asyncio.Event()
        self._idle = asyncio.Event()
        self._idle.set()
        self._http: aiohttp.ClientSession | None = None

    @property
    def url(self) -> str:
        return str(self._state.objects.get(ENDPOINT, {}).get("url", ""))

    @property
    def types(self) -> list[str]:
        return list(self._state.objects.get(ENDPOINT, {}).get("enabled_events", ["*"]))

    def set_endpoint(self, url: str, types: list[str]) -> None:
        """Make this the endpoint of the account, with the metadata of the one before. An empty `url` removes it."""
        old = self._state.objects.pop(ENDPOINT, {"metadata": {}})
        if url:
            self._state.add(_endpoint(self._state, ENDPOINT, url, types, old["metadata"]))

    def on_event(self, event: Json) -> None:
        """Queue, hold or drop a new event."""
        is_disabled = self._state.objects.get(ENDPOINT, {}).get("status") == "disabled"
        if not self.url or is_disabled or not ({"*", event["type"]} & {*self.types}):
            if event["type"] == "invoice.created":
                self._acknowledge(event)
            return
        event["pending_webhooks"] = 1
        if self.drop:
            self.drop_event(event)
        else:
            self.queue(event)

    def queue(self, event: Json) -> None:
        if self.hold:
            event["_delivery"]["state"] = "held"
            return
        event["_delivery"]["state"] = "waiting"
        self.waiting.append(event["id"])
        self._idle.clear()
        self._wake.set()

    def drop_event(self, event: Json) -> None:
        """Do not deliver the event, unless a test names it."""
        event["_delivery"]["state"], event["pending_webhooks"] = "dropped", 0
        if event["id"] in self.waiting:
            self.waiting.remove(event["id"])

    def release_held(self) -> None:
        """Queue the events that were held, in order."""
        for event in list(self._state.objects_of("event")):
            if event["_delivery"]["state"] == "held":
                self.queue(event)

    async def wait_until_idle(self) -> None:
        """Wait until every queued event has been posted once."""
        await self._idle.wait()

    async def run(self) -> None:
        timeout = aiohttp.ClientTimeout(total=ANSWER_WITHIN)
        async with aiohttp.ClientSession(timeout=timeout, cookie_jar=aiohttp.DummyCookieJar()) as self._http:
            while True:
                if not self.waiting:
                    self._idle.set()
                    self._wake.clear()
                    await self._wake.wait()
                    continue
                event = self._state.objects.get(self.waiting.popleft())
                if event is not None:
                    await self.post(event)

    async def deliver(self, events: Sequence[Json], together: bool = False) -> list[int]:
        """Post these events now, whatever their state. Returns the HTTP status of each, 0 for no answer."""
        if together:
            return list(await asyncio.gather(*(self.post(event) for event in events)))
        return [await self.post(event) for event in events]

    async def post(self, event: Json) -> int:
        payload = orjson.dumps(public(event), option=orjson.OPT_INDENT_2).decode()
        headers = {
            "content-type": "application/json; charset=utf-8",
            "stripe-signature": sign(payload, self.secret, int(time.time())),
            "user-agent": "Stripe/1.0 (+https://stripe.com/docs/webhooks)",
        }
        assert self._http is not None, "events are delivered only while the server runs"
        try:
            async with self._http.post(
                self.url, data=payload.encode(), headers=headers, allow_redirects=False
            ) as answer:
                status = answer.status
        except (aiohttp.ClientError, TimeoutError, ValueError):
            status = 0
        self._record(event, status)
        return status

    def _record(self, event: Json, status: int) -> None:
        """Record a delivery attempt, and schedule the next one after a failure."""
        delivery = event["_delivery"]
        delivery["attempts"].append({"at": self._state.now, "status": status})
        if 200 <= status < 300:
            delivery["state"], event["pending_webhooks"] = "delivered", 0
            self._acknowledge(event)
        elif delivery["state"] not in ("delivered", "dropped"):
            delivery["state"] = "failed"
            attempts = len(delivery["attempts"])
            if attempts <= len(BACKOFF):
                self._state.clock.schedule(self._state.now + BACKOFF[attempts - 1], "redeliver", event["id"])
            else:
                event["pending_webhooks"] = 0

    def _acknowledge(self, event: Json) -> None:
        """Record when the endpoint acknowledged `invoice.created`: an hour later the draft is finalized."""
        invoice = self._state.objects.get(event["data"]["object"]["id"], {})
        if event["type"] == "invoice.created" and not invoice.get("webhooks_delivered_at"):
            invoice["webhooks_delivered_at"] = self._state.now


def _endpoint(
    state: State, endpoint_id: str, url: str, types: list[str], metadata: Json, version: str | None = API_VERSION
) -> Json:
    return {
        "id": endpoint_id,
        "object": "webhook_endpoint",
        "api_version": version,
        "application": None,
        "created": state.now,
        "description": None,
        "enabled_events": types,
        "livemode": False,
        "metadata": metadata,
        "status": "enabled",
        "url": url,
    }


@endpoint(
    "POST", "/v1/webhook_endpoints", param_types.WebhookEndpointCreateParams, "api_version enabled_events metadata url"
)
def create_endpoint(state: State, params: Json) -> Json:
    """Another project's endpoint. Its events are not delivered: the stand-in posts to one endpoint."""
    for name in ("enabled_events", "url"):
        if name not in params:
            raise missing_param(name)
    metadata = state.merge_metadata({}, params.get("metadata", {}))
    types, version = params["enabled_events"], params.get("api_version")
    return state.add(_endpoint(state, state.new_id("we"), params["url"], types, metadata, version))


@endpoint("GET", "/v1/webhook_endpoints", param_types.WebhookEndpointListParams, LIST_PARAMS.removesuffix(" created"))
def list_endpoints(state: State, params: Json) -> Json:
    return state.list_page(list(state.objects_of("webhook_endpoint")), params, "/v1/webhook_endpoints")


@endpoint(
    "POST",
    "/v1/webhook_endpoints/{id}",
    param_types.WebhookEndpointUpdateParams,
    "description disabled enabled_events metadata url",
)
def update_endpoint(state: State, params: Json, id: str) -> Json:  # noqa: A002 -- named in the path
    found = state.get("webhook_endpoint", id)
    if "disabled" in params:
        found["status"] = "disabled" if params["disabled"] else "enabled"
    for name in {"description", "enabled_events", "url"} & params.keys():
        found[name] = params[name]
    found["metadata"] = state.merge_metadata(found["metadata"], params.get("metadata", {}))
    return found


@scheduled_action("redeliver")
def redeliver(state: State, event_id: str) -> None:
    event = state.objects[event_id]
    if event["_delivery"]["state"] == "failed":
        state.resend(event)
