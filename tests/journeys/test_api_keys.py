"""Every function and a job with both kinds of the project's API keys."""

import json
import os
import sys
import uuid
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import httpx
import pytest

from infra.local.postgres import ROOT
from infra.local.processes import Processes
from infra.local.stack import Stack, answers, locked
from tests.api import Api, question
from tests.billing_kit import SITE, BillingStack, environment, stripe_get
from tests.chat_kit import chat_environment
from tests.conftest import Person
from tests.functions.maintenance.kit import command
from tests.functions.webhooks.kit import outcome, send
from tests.servers import free_port

KINDS = {
    "publishable and secret": ("publishable_key", "secret_key"),
    "anon and service_role": ("anon_key", "service_role_key"),
}


@dataclass(frozen=True, slots=True)
class Functions:
    """The functions with keys of one kind."""

    keys: dict[str, str]
    api: Api


@pytest.fixture(scope="module", params=KINDS)
def functions(
    request: pytest.FixtureRequest, stack: Stack, billing: BillingStack, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Functions]:
    """All functions in a process of their own, with Supabase's keys of one kind."""
    public, secret = (stack.info[name] for name in KINDS[request.param])
    keys = {"SUPABASE_ANON_KEY": public, "SUPABASE_SERVICE_ROLE_KEY": secret}
    port = free_port()
    env = {**environment(stack, billing.fake.url), **chat_environment(stack), **keys}
    process = {"PATH": os.environ["PATH"], "PYTHONPATH": str(ROOT), "FUNCTIONS_PORT": str(port), "PAGE_LINES": ""}
    folder: Path = tmp_path_factory.mktemp("functions")
    with locked(folder) as lock, Processes(folder, lock) as processes:
        child = processes.start(
            "functions", [sys.executable, "-m", "infra.local.serve", "functions"], env=env | process
        )
        url = f"http://127.0.0.1:{port}"
        child.wait_until(lambda: answers(f"{url}/health"))
        with httpx.Client(base_url=url, timeout=30) as http:
            yield Functions(keys, Api(http, stack.info["model_url"]))


def test_chats_are_answered_and_stored(functions: Functions, person: Callable[..., Person]) -> None:
    api, user = functions.api, person("basic")
    answer = api.stream(user, question("What is a writ?"))
    assert answer.done
    assert (answer.metadata["funding"], answer.metadata["persisted"]) == ("included", True)
    assert api.usage(user)["included"]["used"] == 1


def test_own_keys_are_stored_and_used(functions: Functions, person: Callable[..., Person]) -> None:
    api, user = functions.api, person("pro")
    put = api.http.put("/keys/anthropic", json={"api_key": f"sk-own-{uuid.uuid4().hex}"}, headers=user.headers)
    assert (put.status_code, put.json()["status"]) == (200, "valid")
    answer = api.chat(user, question("What is a division?", provider="anthropic"))
    assert answer.json()["metadata"]["funding"] == "byok"
    listed = api.http.get("/keys", headers=user.headers).json()["keys"]
    assert [key["provider"] for key in listed] == ["anthropic"]


def test_a_purchase_is_applied_and_its_settings_change(functions: Functions, billing: BillingStack) -> None:
    http, user = functions.api.http, billing.new_user("free")
    assert {plan["tier"] for plan in http.get("/plans").json()["plans"]} >= {"basic", "pro"}
    purchase = {"plan": "basic", "success_url": f"{SITE}/done", "cancel_url": f"{SITE}/left"}
    page = http.post("/checkout", json=purchase, headers=user.headers)
    assert page.status_code == 200, page.text
    assert billing.fake.http.post(page.json()["url"], data={"way": "good_card"}).status_code == 303
    (subscription,) = stripe_get(billing, "subscriptions", customer=billing.customer_id(user))["data"]
    event = billing.make_event("customer.subscription.created", subscription)
    assert outcome(send(billing, event, http)) == "processed"
    assert functions.api.usage(user)["tier"] == "basic"
    changed = http.patch("/overage", json={"allow_overages": False}, headers=user.headers)
    assert (changed.status_code, changed.json()["allowed"]) == (200, False)


def test_a_job_runs(functions: Functions, billing: BillingStack) -> None:
    done = command(billing, "expire-credits", **functions.keys)
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout)["packs"] >= 0
