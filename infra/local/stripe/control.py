"""The control API, JSON, with which tests and people steer the stand-in:

- `/_clock`: `POST {"advance": seconds}` or `{"to": time}` moves the clock;
- `/_webhooks`, `/_webhooks/mode`, `/_events`, `/_deliver`, `/_drop`, `/_replay_all`, `/_settle`: webhooks;
- `/_disputes`, `/_refunds/{id}/fail`, `/_customers/{id}/card`, `/_customers/{id}/discount`,
  `/_invoices/{id}/finalization`, `/_invoices/{id}/payment`: what at Stripe only a bank or a person can do;
- `/_tax`: whether the account has a head office and a registration to collect tax;
- `/_faults`, `/_requests`: faults of the API, and a log of its requests;
- `GET` and `DELETE /_state`: all objects.

Unknown fields are refused.
"""

import json
from collections.abc import Awaitable, Callable
from dataclasses import asdict
from typing import Any

import orjson
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from infra.local.stripe.api import Api, Fault
from infra.local.stripe.discounts import redeem
from infra.local.stripe.errors import ApiError, Json
from infra.local.stripe.invoice_lifecycle import OTHER_PAYMENTS, pay_otherwise
from infra.local.stripe.payment_methods import set_card
from infra.local.stripe.payments import DISPUTE_STATUSES, fail_refund, set_dispute
from infra.local.stripe.state import State, public
from infra.local.stripe.webhooks import WebhookSender


class Control:
    def __init__(self, state: State, api: Api, webhooks: WebhookSender) -> None:
        self.state, self.api, self.webhooks = state, api, webhooks

    def routes(self) -> list[Route]:
        paths: dict[str, dict[str, Callable[..., Awaitable[Any]]]] = {
            "/_clock": {"GET": self.show_clock, "POST": self.move_clock},
            "/_webhooks": {"GET": self.show_webhooks, "POST": self.set_webhooks},
            "/_webhooks/mode": {"POST": self.set_webhook_mode},
            "/_events": {"GET": self.list_events},
            "/_deliver": {"POST": self.deliver},
            "/_drop": {"POST": self.drop},
            "/_replay_all": {"POST": self.replay_all},
            "/_settle": {"POST": self.wait_for_webhooks},
            "/_disputes": {"POST": self.set_dispute},
            "/_refunds/{id}/fail": {"POST": self.fail_refund},
            "/_customers/{id}/card": {"POST": self.set_card},
            "/_customers/{id}/discount": {"POST": self.set_discount},
            "/_invoices/{id}/finalization": {"POST": self.set_finalization},
            "/_invoices/{id}/payment": {"POST": self.pay_otherwise},
            "/_tax": {"POST": self.set_tax},
            "/_faults": {"GET": self.list_faults, "POST": self.add_fault, "DELETE": self.clear_faults},
            "/_requests": {"GET": self.list_requests, "DELETE": self.clear_requests},
            "/_state": {"GET": self.show_state, "DELETE": self.reset},
        }
        return [Route(path, self._serve(by_method), methods=list(by_method)) for path, by_method in paths.items()]

    def _serve(self, by_method: dict[str, Callable[..., Awaitable[Any]]]) -> Any:
        async def answer(request: Request) -> Response:
            raw = await request.body()
            try:
                fields = json.loads(raw) if raw else {}
                if not isinstance(fields, dict):
                    raise ApiError("A JSON object is needed.")
                handler = by_method["GET" if request.method == "HEAD" else request.method]
                result = await handler(**request.path_params, **fields)
            except (TypeError, ValueError) as error:
                return _json({"error": {"message": f"This cannot be read: {error}", "type": "control"}}, 400)
            except ApiError as error:
                return _json({"error": error.body}, error.status)
            self.state.changes += request.method != "GET"
            return _json(result)

        return answer

    async def show_clock(self) -> Json:
        return {"now": self.state.now, "frozen": self.state.clock.frozen, "due": sorted(self.state.clock.agenda)[:20]}

    async def move_clock(self, advance: int = 0, to: int = 0) -> Json:
        """Move the clock. Answers when the actions until then have run and their webhooks have been posted."""
        target = to or self.state.now + advance
        if target < self.state.now or bool(to) == bool(advance):
            raise ApiError("One of `advance` and `to` is needed, and time goes only forward.")
        await self.state.clock.advance(target, self.state.run_action, self.webhooks.wait_until_idle)
        return {"now": self.state.now}

    async def show_webhooks(self) -> Json:
        webhooks = self.webhooks
        return {"url": webhooks.url, "types": webhooks.types, "hold": webhooks.hold, "drop": webhooks.drop}

    async def set_webhooks(self, url: str, secret: str = "", types: list[str] | None = None) -> Json:
        """An empty `secret` keeps the present one. Every one of several comma-separated secrets signs."""
        self.webhooks.set_endpoint(url, types or ["*"])
        self.webhooks.secret = secret or self.webhooks.secret
        return await self.show_webhooks()

    async def set_webhook_mode(self, hold: bool | None = None, drop: bool | None = None) -> Json:
        self.webhooks.hold = self.webhooks.hold if hold is None else hold
        self.webhooks.drop = self.webhooks.drop if drop is None else drop
        if hold is False:
            self.webhooks.release_held()
        return await self.show_webhooks()

    async def list_events(self) -> list[Json]:
        """All events, oldest first, each with the state and attempts of its delivery."""
        return [{**public(event), "delivery": event["_delivery"]} for event in self.state.objects_of("event")]

    async def deliver(self, ids: list[str] | None = None, together: bool = False) -> list[Json]:
        """Deliver these events now; without ids, all that are undelivered."""
        if ids is None:
            undelivered = ("waiting", "held", "failed")
            ids = [
                event["id"] for event in self.state.objects_of("event") if event["_delivery"]["state"] in undelivered
            ]
        events = [self.state.get("event", event_id) for event_id in ids]
        statuses = await self.webhooks.deliver(events, together)
        return [{"id": event_id, "status": status} for event_id, status in zip(ids, statuses, strict=True)]

    async def drop(self, ids: list[str]) -> list[str]:
        for event_id in ids:
            self.webhooks.drop_event(self.state.get("event", event_id))
        return ids

    async def replay_all(self) -> list[Json]:
        return await self.deliver([event["id"] for event in self.state.objects_of("event")])

    async def wait_for_webhooks(self) -> Json:
        await self.webhooks.wait_until_idle()
        return {"now": self.state.now}

    async def set_dispute(self, charge: str, status: str = "needs_response") -> Json:
        """Open a dispute, by default as `needs_response`, or close it as `won`, `lost` or `warning_closed`."""
        if status not in DISPUTE_STATUSES:
            raise ApiError(f"`status` is one of {', '.join(DISPUTE_STATUSES)}.")
        return self.state.render(set_dispute(self.state, charge, status), [])

    async def fail_refund(self, id: str, is_counted: bool = False) -> Json:  # noqa: A002 -- named in the path
        return self.state.render(fail_refund(self.state, id, is_counted), [])

    async def set_card(self, id: str, works: bool | None, asks: bool = False) -> Json:  # noqa: A002 -- in the path
        """`asks`: the bank wants each payment confirmed (3-D Secure)."""
        customer = self.state.get("customer", id)
        set_card(self.state, customer, works, asks)
        return self.state.render(customer, [])

    async def set_discount(self, id: str, coupon: str) -> Json:  # noqa: A002 -- named in the path
        """A discount of the customer, which this version of the API shows but cannot create."""
        customer = self.state.get("customer", id)
        (discount,) = redeem(self.state, [{"coupon": coupon}], customer)
        with self.state.updating(customer, "customer.updated"):
            customer["discount"] = self.state.objects[discount]
        return self.state.render(customer, [])

    async def set_finalization(self, id: str, fails: bool) -> Json:  # noqa: A002
        invoice = self.state.get("invoice", id)
        invoice["_unfinalizable"] = fails
        return self.state.render(invoice, [])

    async def pay_otherwise(self, id: str, kind: str) -> Json:  # noqa: A002
        """Pay an open invoice by a `payment_record`, money received outside Stripe, or a `charge` of its own."""
        invoice = self.state.get("invoice", id)
        if invoice["status"] != "open" or kind not in OTHER_PAYMENTS:
            raise ApiError(f"The invoice is open, and `kind` is one of {', '.join(OTHER_PAYMENTS)}.")
        pay_otherwise(self.state, invoice, kind)
        return self.state.render(invoice, [])

    async def set_tax(self, is_set_up: bool) -> Json:
        self.state.is_tax_set_up = is_set_up
        return {"is_set_up": is_set_up}

    async def list_faults(self) -> list[Json]:
        return [asdict(fault) for fault in self.api.faults]

    async def add_fault(self, **fault: Any) -> list[Json]:
        self.api.faults.append(Fault(**fault))
        return await self.list_faults()

    async def clear_faults(self) -> list[Json]:
        self.api.faults.clear()
        return []

    async def list_requests(self) -> list[Json]:
        return list(self.api.request_log)

    async def clear_requests(self) -> list[Json]:
        self.api.request_log.clear()
        return []

    async def show_state(self) -> Json:
        by_kind: dict[str, list[Json]] = {}
        for obj in self.state.objects.values():
            by_kind.setdefault(obj["object"], []).append(obj)
        return {
            "now": self.state.now,
            "webhooks": await self.show_webhooks(),
            "due": sorted(self.state.clock.agenda),
            **by_kind,
        }

    async def reset(self) -> Json:
        """Return to the start. The counters of ids go on, so that no id is ever used twice."""
        webhooks, settings = self.webhooks, self.state.settings
        webhooks.waiting.clear()
        webhooks.secret = settings.webhook_secret
        webhooks.hold = webhooks.drop = False
        self.state.objects.clear()
        self.state.is_tax_set_up = True
        webhooks.set_endpoint(settings.webhook_url, ["*"])
        self.state.clock.reset(settings.start)
        self.api.saved_answers.clear()
        self.api.faults.clear()
        self.api.request_log.clear()
        return await self.show_clock()


def _json(body: Any, status: int = 200) -> Response:
    text = orjson.dumps(body, default=str, option=orjson.OPT_INDENT_2)
    return Response(text, status, media_type="application/json")
