"""Puts the fake together: its routes, its background work, and a file that keeps the state where one is named."""

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
    events,
    invoice_items,
    invoices,
    payments,
    portal,
    subscriptions,
)
from infra.local.stripe.api import Api
from infra.local.stripe.clock import Clock
from infra.local.stripe.control import Control
from infra.local.stripe.deliver import Deliverer
from infra.local.stripe.endpoints import ENDPOINTS
from infra.local.stripe.pages import Pages
from infra.local.stripe.world import Settings, World

FAMILIES = (catalog, checkout, customers, events, invoice_items, invoices, payments, portal, subscriptions)
"""Importing them filled the table of endpoints."""
TICK = 0.5  # seconds between looks at what has fallen due


def create_app(settings: Settings | None = None) -> Starlette:
    """The stand-in. It delivers webhooks and lets its clock run while the server runs the app's lifespan."""
    assert {endpoint.run.__module__ for endpoint in ENDPOINTS} == {family.__name__ for family in FAMILIES}
    settings = settings or Settings()
    settings = replace(settings, seed=settings.seed or secrets.token_hex(3))
    world = World(settings, Clock(settings.start))
    deliverer, api = Deliverer(world), Api(world)
    world.announce, world.retry = deliverer.hear, deliverer.queue
    path = Path(settings.state_path) if settings.state_path else None
    if path and path.exists():
        _restore(world, api, json.loads(path.read_text()))

    @asynccontextmanager
    async def lifespan(_: Starlette) -> AsyncIterator[None]:
        for event in [one for one in world.of("event") if one["_delivery"]["state"] == "waiting"]:
            deliverer.queue(event)
        tasks = [asyncio.create_task(deliverer.run()), asyncio.create_task(_tick(world, deliverer, api, path))]
        try:
            yield
        finally:
            for task in tasks:
                task.cancel()
            for task in tasks:
                with suppress(asyncio.CancelledError):
                    await task
            if path:
                _keep(world, api, path)

    routes = [*api.routes(), *Control(world, api, deliverer).routes(), *Pages(world, deliverer).routes()]
    return Starlette(routes=routes, lifespan=lifespan)


async def _tick(world: World, deliverer: Deliverer, api: Api, path: Path | None) -> None:
    """Let what the running clock brings happen, and keep what changed."""
    kept = world.changes
    while True:
        await asyncio.sleep(TICK)
        clock = world.clock
        if not clock.frozen and clock.agenda and clock.agenda[0][0] <= clock.now:
            await clock.move(clock.now, world.act, deliverer.idle)
        if path and kept != world.changes:
            kept = world.changes
            _keep(world, api, path)


def _keep(world: World, api: Api, path: Path) -> None:
    state = {
        "seed": world.settings.seed,
        "ids": world.ids,
        "objects": list(world.objects.values()),
        "clock": world.clock.keep(),
        "kept": api.kept,
    }
    draft = path.with_suffix(".new")
    draft.write_text(json.dumps(state))
    draft.rename(path)


def _restore(world: World, api: Api, state: dict[str, Any]) -> None:
    world.settings = replace(world.settings, seed=state["seed"])
    world.ids.update(state["ids"])
    world.objects.update({thing["id"]: thing for thing in state["objects"]})
    for item in world.of("subscription_item"):  # one object each again, wherever it is held
        item["price"] = world.objects[item["price"]["id"]]
    for subscription in world.of("subscription"):
        held = subscription["items"]
        held["data"] = [world.objects[item["id"]] for item in held["data"]]
    world.clock.restore(state["clock"])
    api.kept.update({key: (at, print_, status, body) for key, (at, print_, status, body) in state["kept"].items()})
