"""Assembles the stand-in: routes, background tasks, and the file that stores the state, if one is named."""

import asyncio
import json
import secrets
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from dataclasses import replace
from pathlib import Path
from typing import Any

from starlette.applications import Starlette

from infra.local.stripe import (
    catalog,
    checkout,
    customers,
    discounts,
    events,
    invoice_items,
    invoices,
    payment_methods,
    payments,
    portal,
    schedules,
    subscription_items,
    subscriptions,
    taxes,
    webhooks,
)
from infra.local.stripe.api import Api
from infra.local.stripe.clock import Clock
from infra.local.stripe.control import Control
from infra.local.stripe.endpoints import ENDPOINTS
from infra.local.stripe.pages import Pages
from infra.local.stripe.state import Settings, State
from infra.local.stripe.webhooks import WebhookSender

ENDPOINT_MODULES = (
    catalog,
    checkout,
    customers,
    discounts,
    events,
    invoice_items,
    invoices,
    payment_methods,
    payments,
    portal,
    schedules,
    subscription_items,
    subscriptions,
    taxes,
    webhooks,
)
"""Importing them registered their endpoints."""
TICK = 0.5  # seconds between two checks for due actions


def create_app(settings: Settings | None = None) -> Starlette:
    """The stand-in. Webhooks are delivered, and the clock runs, while the server runs the lifespan of the app."""
    assert {endpoint.run.__module__ for endpoint in ENDPOINTS} == {module.__name__ for module in ENDPOINT_MODULES}
    settings = settings or Settings()
    settings = replace(settings, seed=settings.seed or secrets.token_hex(3))
    state = State(settings, Clock(settings.start))
    sender, api = WebhookSender(state), Api(state)
    state.on_event, state.resend = sender.on_event, sender.queue
    path = Path(settings.state_path) if settings.state_path else None
    if path and path.exists():
        _restore(state, api, json.loads(path.read_text()))
        sender.set_endpoint(settings.webhook_url, sender.types)  # the functions may have moved

    @asynccontextmanager
    async def lifespan(_: Starlette) -> AsyncIterator[None]:
        for event in [event for event in state.objects_of("event") if event["_delivery"]["state"] == "waiting"]:
            sender.queue(event)
        tasks = [asyncio.create_task(sender.run()), asyncio.create_task(_tick(state, sender, api, path))]
        try:
            yield
        finally:
            for task in tasks:
                task.cancel()
            for task in tasks:
                with suppress(asyncio.CancelledError):
                    await task
            if path:
                _save(state, api, path)

    routes = [*api.routes(), *Control(state, api, sender).routes(), *Pages(state, sender).routes()]
    return Starlette(routes=routes, lifespan=lifespan)


async def _tick(state: State, sender: WebhookSender, api: Api, path: Path | None) -> None:
    """Run due actions of a running clock, and store the state after changes."""
    stored = state.changes
    while True:
        await asyncio.sleep(TICK)
        clock = state.clock
        if not clock.frozen and clock.agenda and clock.agenda[0][0] <= clock.now:
            await clock.advance(clock.now, state.run_action, sender.wait_until_idle)
        if path and stored != state.changes:
            stored = state.changes
            _save(state, api, path)


def _save(state: State, api: Api, path: Path) -> None:
    content = {
        "seed": state.settings.seed,
        "ids": state.ids,
        "objects": list(state.objects.values()),
        "clock": state.clock.dump(),
        "kept": api.saved_answers,
    }
    draft = path.with_suffix(".new")
    draft.write_text(json.dumps(content))
    draft.rename(path)


def _restore(state: State, api: Api, content: dict[str, Any]) -> None:
    state.settings = replace(state.settings, seed=content["seed"])
    state.ids.update(content["ids"])
    for obj in content["objects"]:
        state.add(obj)
    # Items and subscriptions refer to other objects: the copies in the file become the same object again.
    for item in state.objects_of("subscription_item"):
        item["price"] = state.objects[item["price"]["id"]]
    for subscription in state.objects_of("subscription"):
        items = subscription["items"]
        items["data"] = [state.objects[item["id"]] for item in items["data"]]
    state.clock.restore(content["clock"])
    api.saved_answers.update({key: tuple(answer) for key, answer in content["kept"].items()})
