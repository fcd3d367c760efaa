"""Runs one piece of billing work in a process of its own, which kills itself at a chosen step.

Reads lines of JSON from stdin: first the environment, then one `{"work", "given", "step"}` for each piece; a step of
null lets the process finish. Starting Python takes a second, so this process imports everything once and forks for each
piece. It answers each with a line `{"killed", "steps", "result", "error"}`; for a killed process only `killed`.

A step is counted before and after each call of the database and each request to Stripe.
"""

import asyncio
import dataclasses
import importlib
import json
import os
import signal
import sys
import traceback
from collections.abc import Awaitable, Callable, Mapping
from typing import Any

from stripe import AIOHTTPClient

from functions.checkout.checkout import Checkout, ReturnUrls
from functions.checkout.settings import CheckoutSettings
from functions.common.auth import User
from functions.common.billing import stripe_client
from functions.common.billing.events import StripeEvent, process_event
from functions.common.billing.stripe_client import Account
from functions.common.database import Database
from functions.common.leaving.auth_admin import AuthAdmin
from functions.common.leaving.deletion import delete_user
from functions.common.observe import Observer
from functions.common.settings import load
from functions.maintenance.bill_overages import bill_overages

# Modules that Stripe's SDK and httpx import lazily. Imported here once, not in every forked process.
LAZY_MODULES = (
    "anyio._backends._asyncio",
    "stripe._invoice_line_item",
    "stripe._object_classes",
    "stripe._payment_intent",
    "stripe._subscription_item",
    "stripe._telemetry_id",
    "stripe.checkout._session_service",
    "supabase_auth",
)


class StepCounter:
    """Counts steps, and kills the process at step `kill_at`."""

    def __init__(self) -> None:
        self.taken = 0
        self.kill_at: int | None = None

    def step(self) -> None:
        if self.taken == self.kill_at:
            os.kill(os.getpid(), signal.SIGKILL)
        self.taken += 1


STEPS = StepCounter()


class CountingDatabase(Database):
    """Two steps for each call."""

    only: str | None = None
    """The job bill-overages bills this user only: work for other users would add steps."""

    async def call(self, function: str, params: Mapping[str, Any] | None = None, **how: Any) -> Any:
        if function == "users_to_bill":
            params = {**(params or {}), "p_limit": 1000}
        STEPS.step()
        result = await super().call(function, params, **how)
        STEPS.step()
        if function == "users_to_bill":
            return [user for user in result if user["user_id"] == self.only]
        return result


class CountingHTTP(AIOHTTPClient):
    """Two steps for each request, whatever the number of retries."""

    async def request_with_retries_async(self, *args: Any, **kwargs: Any) -> Any:
        STEPS.step()
        answer = await super().request_with_retries_async(*args, **kwargs)
        STEPS.step()
        return answer


class CountingAuth(AuthAdmin):
    """Two steps for a deletion."""

    async def delete_user(self, user_id: str) -> bool:
        STEPS.step()
        existed = await super().delete_user(user_id)
        STEPS.step()
        return existed


class Works:
    """The pieces of work, by name."""

    def __init__(self, environment: Mapping[str, str]) -> None:
        settings = load(CheckoutSettings, environment)
        stripe_client.AIOHTTPClient = CountingHTTP  # type: ignore[misc]
        observer = Observer("killable-billing")
        self._database, self._stripe = CountingDatabase(settings, observer), Account(settings)
        self._auth = CountingAuth(settings)
        self._checkout = Checkout(settings, observer)
        self._checkout._database, self._checkout._client = self._database, self._stripe
        for name in LAZY_MODULES:
            importlib.import_module(name)

    async def run(self, work: str, given: dict[str, Any]) -> Any:
        method: Callable[..., Awaitable[Any]] = getattr(self, work)
        return await method(**given)

    async def event(self, event: StripeEvent) -> str:
        return await process_event(self._database, self._stripe, event, lambda event_id: None)

    async def sweep(self, user_id: str) -> Mapping[str, Any]:
        self._database.only = user_id
        return await bill_overages(self._database, self._stripe, lambda line: None)

    async def delete(self, user_id: str) -> Mapping[str, Any]:
        return await delete_user(self._database, self._stripe, self._auth, user_id, lambda line: None)

    async def subscribe(self, user_id: str, tier: str, success_url: str, cancel_url: str) -> dict[str, str]:
        urls = ReturnUrls(success_url, cancel_url)
        return dataclasses.asdict(await self._checkout.subscribe(User(user_id, ""), tier, urls))

    async def buy(self, user_id: str, pack_id: str, success_url: str, cancel_url: str) -> dict[str, str]:
        urls = ReturnUrls(success_url, cancel_url)
        return dataclasses.asdict(await self._checkout.buy(User(user_id, ""), pack_id, urls))


def child(works: Works, piece: dict[str, Any], write: int) -> None:
    """Run the piece and write its answer, unless killed before."""
    STEPS.kill_at = piece["step"]
    answer: dict[str, Any] = {"killed": False, "result": None, "error": None}
    try:
        answer["result"] = asyncio.run(works.run(piece["work"], piece["given"]))
    except Exception:  # noqa: BLE001 -- the test reports any error
        answer["error"] = traceback.format_exc()
    os.write(write, json.dumps({**answer, "steps": STEPS.taken}).encode())


def main() -> None:
    """Fork for each line of stdin."""
    answers = os.fdopen(os.dup(1), "w", buffering=1)
    os.dup2(2, 1)  # keep the functions' logs out of the answers
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
        with os.fdopen(read) as written:
            answer = written.read()
        _, status = os.waitpid(pid, 0)
        killed = os.WIFSIGNALED(status) and os.WTERMSIG(status) == signal.SIGKILL
        answers.write((json.dumps({"killed": True}) if killed else answer) + "\n")


if __name__ == "__main__":
    main()
