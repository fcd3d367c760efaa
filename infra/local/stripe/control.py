"""What tests and people steer the fake with, as JSON: `POST /_clock {"advance": seconds}` or `{"to": time}`; webhooks
at `/_webhooks`, `/_webhooks/mode`, `/_events`, `/_deliver`, `/_drop`, `/_replay_all`, `/_settle`; what only a
bank or a person at Stripe can do, `/_disputes`, `/_customers/{id}/card`, `/_invoices/{id}/finalization`; `/_faults` and
`/_requests`; `GET` and `DELETE /_state`. Unknown fields are refused.
"""

import json
from collections.abc import Awaitable, Callable
from dataclasses import asdict
from typing import Any

from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from infra.local.stripe.api import Api, Fault
from infra.local.stripe.customers import set_card
from infra.local.stripe.deliver import Deliverer
from infra.local.stripe.errors import Json, Refused
from infra.local.stripe.payments import dispute
from infra.local.stripe.world import World, public


class Control:
    """The control surface of one fake."""

    def __init__(self, world: World, api: Api, deliverer: Deliverer) -> None:
        self.world, self.api, self.deliverer = world, api, deliverer

    def routes(self) -> list[Route]:
        paths: dict[str, dict[str, Callable[..., Awaitable[Any]]]] = {
            "/_clock": {"GET": self.time, "POST": self.move},
            "/_webhooks": {"GET": self.endpoint, "POST": self.set_endpoint},
            "/_webhooks/mode": {"POST": self.set_mode},
            "/_events": {"GET": self.events},
            "/_deliver": {"POST": self.deliver},
            "/_drop": {"POST": self.drop},
            "/_replay_all": {"POST": self.replay_all},
            "/_settle": {"POST": self.settle},
            "/_disputes": {"POST": self.dispute},
            "/_customers/{id}/card": {"POST": self.card},
            "/_invoices/{id}/finalization": {"POST": self.finalization},
            "/_faults": {"GET": self.faults, "POST": self.add_fault, "DELETE": self.clear_faults},
            "/_requests": {"GET": self.requests, "DELETE": self.clear_requests},
            "/_state": {"GET": self.state, "DELETE": self.reset},
        }
        return [Route(path, self._serve(by_method), methods=list(by_method)) for path, by_method in paths.items()]

    def _serve(self, by_method: dict[str, Callable[..., Awaitable[Any]]]) -> Any:
        async def answer(request: Request) -> Response:
            raw = await request.body()
            try:
                given = json.loads(raw) if raw else {}
                if not isinstance(given, dict):
                    raise Refused("A JSON object is needed.")
                told = await by_method["GET" if request.method == "HEAD" else request.method](
                    **request.path_params, **given
                )
            except (TypeError, ValueError) as error:
                return _json({"error": {"message": f"This cannot be read: {error}", "type": "control"}}, 400)
            except Refused as refused:
                return _json({"error": refused.error}, refused.status)
            self.world.changes += request.method != "GET"
            return _json(told)

        return answer

    async def time(self) -> Json:
        return {"now": self.world.now, "frozen": self.world.clock.frozen, "due": sorted(self.world.clock.agenda)[:20]}

    async def move(self, advance: int = 0, to: int = 0) -> Json:
        """Everything that falls due until then happens, and its webhooks have been posted, when this answers."""
        target = to or self.world.now + advance
        if target < self.world.now or bool(to) == bool(advance):
            raise Refused("One of `advance` and `to` is needed, and time goes only forward.")
        await self.world.clock.move(target, self.world.act, self.deliverer.idle)
        return {"now": self.world.now}

    async def endpoint(self) -> Json:
        one = self.deliverer
        return {"url": one.url, "types": one.types, "hold": one.hold, "drop": one.drop}

    async def set_endpoint(self, url: str, secret: str = "", types: list[str] | None = None) -> Json:
        """An empty `secret` keeps the one before; commas separate several, which all sign."""
        self.deliverer.url, self.deliverer.types = url, types or ["*"]
        self.deliverer.secret = secret or self.deliverer.secret
        return await self.endpoint()

    async def set_mode(self, hold: bool | None = None, drop: bool | None = None) -> Json:
        self.deliverer.hold = self.deliverer.hold if hold is None else hold
        self.deliverer.drop = self.deliverer.drop if drop is None else drop
        if hold is False:
            self.deliverer.release()
        return await self.endpoint()

    async def events(self) -> list[Json]:
        """Oldest first, each with how its delivery went."""
        return [{**public(event), "delivery": event["_delivery"]} for event in self.world.of("event")]

    async def deliver(self, ids: list[str] | None = None, together: bool = False) -> list[Json]:
        """Without ids, everything that has not been delivered."""
        states = ("waiting", "held", "failed")
        names = (
            [one["id"] for one in self.world.of("event") if one["_delivery"]["state"] in states] if ids is None else ids
        )
        found = [self.world.get("event", name) for name in names]
        statuses = await self.deliverer.deliver(found, together)
        return [{"id": name, "status": status} for name, status in zip(names, statuses, strict=True)]

    async def drop(self, ids: list[str]) -> list[str]:
        for name in ids:
            self.deliverer.lose(self.world.get("event", name))
        return ids

    async def replay_all(self) -> list[Json]:
        return await self.deliver([one["id"] for one in self.world.of("event")])

    async def settle(self) -> Json:
        await self.deliverer.idle()
        return {"now": self.world.now}

    async def dispute(self, charge: str, status: str = "needs_response") -> Json:
        """Open it, by default as `needs_response`, or end it: `won`, `lost` or `warning_closed`."""
        known = ("needs_response", "under_review", "warning_needs_response", "won", "lost", "warning_closed")
        if status not in known:
            raise Refused(f"`status` is one of {', '.join(known)}.")
        return self.world.shown(dispute(self.world, charge, status), [])

    async def card(self, id: str, works: bool | None) -> Json:  # noqa: A002 -- the path says so
        customer = self.world.get("customer", id)
        set_card(self.world, customer, works)
        return self.world.shown(customer, [])

    async def finalization(self, id: str, fails: bool) -> Json:  # noqa: A002
        invoice = self.world.get("invoice", id)
        invoice["_unfinalizable"] = fails
        return self.world.shown(invoice, [])

    async def faults(self) -> list[Json]:
        return [asdict(one) for one in self.api.faults]

    async def add_fault(self, **fault: Any) -> list[Json]:
        self.api.faults.append(Fault(**fault))
        return await self.faults()

    async def clear_faults(self) -> list[Json]:
        self.api.faults.clear()
        return []

    async def requests(self) -> list[Json]:
        return list(self.api.journal)

    async def clear_requests(self) -> list[Json]:
        self.api.journal.clear()
        return []

    async def state(self) -> Json:
        by_kind: dict[str, list[Json]] = {}
        for thing in self.world.objects.values():
            by_kind.setdefault(thing["object"], []).append(thing)
        return {
            "now": self.world.now,
            "webhooks": await self.endpoint(),
            "due": sorted(self.world.clock.agenda),
            **by_kind,
        }

    async def reset(self) -> Json:
        """As at the start; only the ids go on, so that none is ever used twice."""
        deliverer, settings = self.deliverer, self.world.settings
        deliverer.waiting.clear()
        deliverer.url, deliverer.secret, deliverer.types = settings.webhook_url, settings.webhook_secret, ["*"]
        deliverer.hold = deliverer.drop = False
        self.world.objects.clear()
        self.world.clock.reset(settings.start)
        self.api.kept.clear()
        self.api.faults.clear()
        self.api.journal.clear()
        return await self.time()


def _json(body: Any, status: int = 200) -> Response:
    return Response(json.dumps(body, indent=2, default=str), status, media_type="application/json")
