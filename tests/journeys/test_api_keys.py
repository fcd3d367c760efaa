"""Every function and a job with both kinds of the project's API keys."""

import json
import os
import sys
import uuid
from collections.abc import Callable, Iterator
from contextlib import contextmanager
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


REFUSED = (503, "unavailable", "2")


@dataclass(frozen=True, slots=True)
class Functions:
    """The functions with certain keys. `log`: their standard output."""

    keys: dict[str, str]
    api: Api
    log: Path


@contextmanager
def running_functions(
    stack: Stack, billing: BillingStack, folder: Path, public: str, secret: str
) -> Iterator[Functions]:
    """All functions in a process of their own."""
    keys = {"SUPABASE_ANON_KEY": public, "SUPABASE_SERVICE_ROLE_KEY": secret}
    port = free_port()
    env = {**environment(stack, billing.fake.url), **chat_environment(stack), **keys}
    process = {"PATH": os.environ["PATH"], "PYTHONPATH": str(ROOT), "FUNCTIONS_PORT": str(port)}
    arguments = [sys.executable, "-m", "infra.local.serve", "functions"]
    with locked(folder) as lock, Processes(folder, lock) as processes:
        child = processes.start("functions", arguments, env={**env, **stack.page_variables(), **process})
        url = f"http://127.0.0.1:{port}"
        child.wait_until(lambda: answers(f"{url}/health"))
        with httpx.Client(base_url=url, timeout=30) as http:
            yield Functions(keys, Api(http, stack.info["model_url"]), folder / "functions.log")


@pytest.fixture(scope="module", params=KINDS)
def functions(
    request: pytest.FixtureRequest, stack: Stack, billing: BillingStack, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Functions]:
    """All functions, with Supabase's keys of one kind."""
    public, secret = (stack.info[name] for name in KINDS[request.param])
    with running_functions(stack, billing, tmp_path_factory.mktemp("functions"), public, secret) as functions:
        yield functions


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


def refusal(response: httpx.Response) -> tuple[int, str, str | None]:
    """The status, the code and the Retry-After of an error."""
    return response.status_code, response.json()["error"]["code"], response.headers.get("retry-after")


def failures(log: Path) -> int:
    """The counted failures in the log. Each has a line of its own."""
    text = log.read_text()
    lines = [json.loads(line) for line in text.splitlines() if line.startswith("{")]
    refused = [line for line in lines if line.get("message") == "API key refused"]
    assert {line["upstream"] for line in refused} == {"401 with an unreadable body"}
    assert "sb_" not in text
    assert len(refused) == sum(line.get("ServiceCredentialFailures", [0])[0] for line in lines)
    return len(refused)


def test_a_refused_secret_key_is_never_the_users_fault(
    stack: Stack, billing: BillingStack, person: Callable[..., Person], tmp_path: Path
) -> None:
    user, deleted = person("basic"), stack.info["secret_key"] + "-"
    purchase = {"plan": "pro", "success_url": f"{SITE}/done", "cancel_url": f"{SITE}/left"}
    with running_functions(stack, billing, tmp_path, stack.info["publishable_key"], deleted) as functions:
        http = functions.api.http
        responses = [
            functions.api.chat(user, question("What is a writ?")),
            http.delete("/keys/anthropic", headers=user.headers),
            http.post("/checkout", json=purchase, headers=user.headers),
            http.get("/plans"),
            send(billing, billing.make_event("invoice.paid", {"customer": "cus_of_nobody"}), http),
        ]
        assert [refusal(response) for response in responses] == [REFUSED] * len(responses)
        assert functions.api.usage(user)["included"]["used"] == 0  # read with the user's token
        assert failures(functions.log) >= len(responses)  # a chat also releases what it may have admitted
    done = command(billing, "retry-events", SUPABASE_SERVICE_ROLE_KEY=deleted)
    assert done.returncode == 1
    assert "API key refused" in done.stdout


def test_a_refused_publishable_key_is_never_the_users_fault(
    stack: Stack, billing: BillingStack, person: Callable[..., Person], tmp_path: Path
) -> None:
    user, deleted = person("basic"), stack.info["publishable_key"] + "-"
    with running_functions(stack, billing, tmp_path, deleted, stack.info["secret_key"]) as functions:
        http = functions.api.http
        responses = [
            http.get("/usage", headers=user.headers),
            http.get("/keys", headers=user.headers),
            http.patch("/overage", json={"allow_overages": False}, headers=user.headers),
        ]
        assert [refusal(response) for response in responses] == [REFUSED] * len(responses)
        assert failures(functions.log) == len(responses)
        assert functions.api.chat(user, question("What is a writ?")).status_code == 200
