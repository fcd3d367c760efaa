"""Pieces of billing's real work, each in a process of its own that kills itself at a chosen step.

Reads JSON from stdin, a line each: the environment first, then `{"work", "given", "step"}`, where a step of null lets
it live. Starting Python takes a second, so one process has everything imported and forks for each piece. It answers
each with a line: `{"killed", "steps", "result", "error"}`, of which a killed one tells nothing but that.

Steps count what the work does: each call of the database and each request to Stripe, before it is sent and after it was
carried out.
"""

import asyncio
import importlib
import json
import os
import signal
import sys
import traceback
from collections.abc import Awaitable, Callable, Mapping
from typing import Any

from stripe import HTTPXClient

from functions.checkout.settings import CheckoutSettings
from functions.checkout.shop import Shop
from functions.common.auth import User
from functions.common.billing import stripe_client
from functions.common.billing.events import deal_with
from functions.common.billing.stripe_client import Account
from functions.common.database import Database
from functions.common.observe import Observer
from functions.common.settings import load
from functions.maintenance.bill_overages import bill_overages
from functions.maintenance.leaving import delete_user

# What Stripe's SDK and httpx import when they first need it: here once, not in every process.
LAZY = (
    "anyio._backends._asyncio",
    "stripe._invoice_line_item",
    "stripe._object_classes",
    "stripe._payment_intent",
    "stripe._subscription_item",
    "stripe._telemetry_id",
    "stripe.checkout._session_service",
)


class Steps:
    """Counts, and kills."""

    def __init__(self) -> None:
        self.taken = 0
        self.last: int | None = None

    def step(self) -> None:
        if self.taken == self.last:
            os.kill(os.getpid(), signal.SIGKILL)
        self.taken += 1


STEPS = Steps()


class MortalDatabase(Database):
    """Two steps a call."""

    only: str | None = None
    """The sweep meets nobody else: what it has to do for others is none of the steps, and theirs to try."""

    async def call(self, function: str, params: Mapping[str, Any] | None = None, **how: Any) -> Any:
        if function == "users_to_bill":
            params = {**(params or {}), "p_limit": 1000}
        STEPS.step()
        result = await super().call(function, params, **how)
        STEPS.step()
        if function == "users_to_bill":
            return [user for user in result if user["user_id"] == self.only]
        return result


class MortalHTTP(HTTPXClient):
    """Two steps a request, however often it has to be sent."""

    async def request_with_retries_async(self, *args: Any, **kwargs: Any) -> Any:
        STEPS.step()
        answer = await super().request_with_retries_async(*args, **kwargs)
        STEPS.step()
        return answer


class Works:
    """What can be done, by name."""

    def __init__(self, environment: Mapping[str, str]) -> None:
        settings = load(CheckoutSettings, environment)
        stripe_client.HTTPXClient = MortalHTTP  # type: ignore[misc]
        self._database, self._stripe = MortalDatabase(settings), Account(settings)
        self._shop = Shop(settings, Observer("kill-my-billing"))
        self._shop._database, self._shop._client = self._database, self._stripe
        for name in LAZY:
            importlib.import_module(name)

    async def do(self, work: str, given: dict[str, Any]) -> Any:
        do: Callable[..., Awaitable[Any]] = getattr(self, work)
        return await do(**given)

    async def event(self, event: dict[str, Any]) -> bool:
        return await deal_with(self._database, self._stripe, event)

    async def sweep(self, user_id: str) -> dict[str, Any]:
        self._database.only = user_id
        return await bill_overages(self._database, self._stripe, lambda line: None)

    async def leave(self, user_id: str) -> dict[str, Any]:
        return await delete_user(self._database, self._stripe, user_id, lambda line: None)

    async def subscribe(self, user_id: str, **what: str) -> dict[str, str]:
        return await self._shop.subscribe(User(user_id, ""), **what)

    async def buy(self, user_id: str, **what: str) -> dict[str, str]:
        return await self._shop.buy(User(user_id, ""), **what)


def child(works: Works, piece: dict[str, Any], write: int) -> None:
    """Do it, and tell how it went, unless killed before."""
    STEPS.last = piece["step"]
    told: dict[str, Any] = {"killed": False, "result": None, "error": None}
    try:
        told["result"] = asyncio.run(works.do(piece["work"], piece["given"]))
    except Exception:  # noqa: BLE001 -- whatever it was, the test is to read it
        told["error"] = traceback.format_exc()
    os.write(write, json.dumps({**told, "steps": STEPS.taken}).encode())


def main() -> None:
    """Fork for each line."""
    answers = os.fdopen(os.dup(1), "w", buffering=1)
    os.dup2(2, 1)  # a function's log is no answer
    works = Works(json.loads(sys.stdin.readline()))
    for line in sys.stdin:
        read, write = os.pipe()
        pid = os.fork()
        if pid == 0:
            try:
                child(works, json.loads(line), write)
            finally:
                os._exit(0)
        os.close(write)
        with os.fdopen(read) as told:
            answer = told.read()
        _, status = os.waitpid(pid, 0)
        killed = os.WIFSIGNALED(status) and os.WTERMSIG(status) == signal.SIGKILL
        answers.write((json.dumps({"killed": True}) if killed else answer) + "\n")


if __name__ == "__main__":
    main()
