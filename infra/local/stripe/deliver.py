"""The webhook deliverer: posts signed events to one endpoint, by default at once and in order.

An answer other than 2xx is tried again, further and further apart by the fake's clock, for three days. `hold` keeps
events back, `drop` loses them as far as Stripe is concerned, and `deliver` posts chosen ones in any order, as often as
they are named, one after the other or together. Signatures carry the real time, which is what a receiver checks.
"""

import asyncio
import hashlib
import hmac
import json
import time
from collections import deque
from collections.abc import Sequence

import aiohttp

from infra.local.stripe.clock import HOUR
from infra.local.stripe.errors import Json
from infra.local.stripe.world import World, later, public

BACKOFF = (60, 5 * 60, 30 * 60, 2 * HOUR, 5 * HOUR, 10 * HOUR, 12 * HOUR, 12 * HOUR, 12 * HOUR, 12 * HOUR)
ANSWER_WITHIN = 30  # seconds


def sign(payload: str, secrets: str, at: int) -> str:
    """The `Stripe-Signature` header: one v1 for every secret, of which commas separate several."""
    signed = f"{at}.{payload}".encode()
    marks = [hmac.new(secret.encode(), signed, hashlib.sha256).hexdigest() for secret in secrets.split(",")]
    return ",".join([f"t={at}", *(f"v1={mark}" for mark in marks)])


class Deliverer:
    """`waiting` are the ids of events to post, in order; `run` posts them for as long as the server runs."""

    def __init__(self, world: World) -> None:
        self._world = world
        self.url, self.secret = world.settings.webhook_url, world.settings.webhook_secret
        self.types: list[str] = ["*"]
        self.hold, self.drop = world.settings.hold, False
        self.waiting: deque[str] = deque()
        self._wake = asyncio.Event()
        self._idle = asyncio.Event()
        self._idle.set()
        self._http: aiohttp.ClientSession | None = None

    def hear(self, event: Json) -> None:
        """A new event."""
        if not self.url or not ({"*", event["type"]} & {*self.types}):
            if event["type"] == "invoice.created":
                self._acknowledged(event)
            return
        event["pending_webhooks"] = 1
        if self.drop:
            self.lose(event)
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

    def lose(self, event: Json) -> None:
        """Never deliver it, unless somebody names it."""
        event["_delivery"]["state"], event["pending_webhooks"] = "dropped", 0
        if event["id"] in self.waiting:
            self.waiting.remove(event["id"])

    def release(self) -> None:
        """Post what was held, in order."""
        for event in list(self._world.of("event")):
            if event["_delivery"]["state"] == "held":
                self.queue(event)

    def clear(self) -> None:
        self.waiting.clear()

    async def idle(self) -> None:
        """Wait until everything that waits has been posted once."""
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
                event = self._world.objects.get(self.waiting.popleft())
                if event is not None:
                    await self.post(event)

    async def deliver(self, events: Sequence[Json], together: bool = False) -> list[int]:
        """Post these now, whatever their state. Returns each one's HTTP status, 0 for no answer."""
        if together:
            return list(await asyncio.gather(*(self.post(event) for event in events)))
        return [await self.post(event) for event in events]

    async def post(self, event: Json) -> int:
        payload = json.dumps(public(event), indent=2)
        headers = {
            "content-type": "application/json; charset=utf-8",
            "stripe-signature": sign(payload, self.secret, int(time.time())),
            "user-agent": "Stripe/1.0 (+https://stripe.com/docs/webhooks)",
        }
        assert self._http is not None, "the deliverer runs with the server's lifespan"
        try:
            async with self._http.post(
                self.url, data=payload.encode(), headers=headers, allow_redirects=False
            ) as answer:
                status = answer.status
        except (aiohttp.ClientError, TimeoutError, ValueError):
            status = 0
        delivery = event["_delivery"]
        delivery["attempts"].append({"at": self._world.now, "status": status})
        if 200 <= status < 300:
            delivery["state"], event["pending_webhooks"] = "delivered", 0
            self._acknowledged(event)
        elif delivery["state"] not in ("delivered", "dropped"):
            delivery["state"] = "failed"
            tries = len(delivery["attempts"])
            if tries <= len(BACKOFF):
                self._world.clock.due(self._world.now + BACKOFF[tries - 1], "redeliver", event["id"])
            else:
                event["pending_webhooks"] = 0
        return status

    def _acknowledged(self, event: Json) -> None:
        """A draft waits for this before it is finalized."""
        invoice = self._world.objects.get(event["data"]["object"]["id"], {})
        if event["type"] == "invoice.created" and not invoice.get("webhooks_delivered_at"):
            invoice["webhooks_delivered_at"] = self._world.now


@later("redeliver")
def redeliver(world: World, event_id: str) -> None:
    event = world.objects[event_id]
    if event["_delivery"]["state"] == "failed":
        world.retry(event)
