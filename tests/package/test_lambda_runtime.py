"""The built artifacts under Lambda's own runtime client, on Lambda's Python, against the running stack.

Secrets come from the extension's address, as on AWS, and there from moto's Secrets Manager. An event is sent twice to
one process: whatever belongs to the event loop of the first one breaks at the second.
"""

import hmac
import json
import sys
import time
from collections.abc import Callable, Iterator
from typing import Any

import httpx
import pytest

from infra.deploy.secrets import NAMES, Secrets
from infra.local.stack import Stack
from infra.local.web_adapter import running as adapter
from infra.package.__main__ import find_compiler
from tests.api import Api, StateOf, question
from tests.chat_kit import chat_environment
from tests.conftest import Person
from tests.deploy.conftest import account
from tests.deploy.kit import extension
from tests.package.kit import Packaged
from tests.package.lambda_runtime import Twins, runtime, url_event

# Before the first test, the fixture builds every artifact, on a machine that runs other tests too.
pytestmark = [
    pytest.mark.timeout(600),
    pytest.mark.skipif(
        sys.platform != "linux" or find_compiler() is None, reason="needs Lambda's Python on Linux; no registry has it"
    ),
]

NewPerson = Callable[..., Person]
PUBLIC = ("SUPABASE_URL", "SUPABASE_ANON_KEY", "ANTHROPIC_BASE_URL", "OPENAI_BASE_URL", "PARLIAMENT_API_URL")


@pytest.fixture(scope="module")
def twins(packaged: Packaged, tmp_path_factory: pytest.TempPathFactory) -> Twins:
    return Twins(packaged, tmp_path_factory.mktemp("twins"))


@pytest.fixture(scope="module")
def environment(stack: Stack) -> Iterator[Callable[[str], dict[str, str]]]:
    """The environment of a function. Its secret is written by `make secrets` and read from Secrets Manager by ARN."""
    values = chat_environment(stack)
    values["ENCRYPTION_KEYS"] = values.get("ENCRYPTION_KEYS") or f"k1:{values['ENCRYPTION_KEY']}"
    values |= {"STRIPE_SECRET_KEY": stack.info["stripe_secret_key"], "STRIPE_WEBHOOK_SECRET": "whsec_runtime"}
    with pytest.MonkeyPatch.context() as patch, account(patch) as aws:
        aws.create()
        Secrets(aws.stage).write({name: values[name] for name in NAMES if name in values}, replace=True)
        with extension(aws) as served:

            def of(name: str) -> dict[str, str]:
                found = aws.stage.client("secretsmanager").describe_secret(SecretId=aws.stage.secret(name))
                return {
                    **{variable: values[variable] for variable in PUBLIC},
                    **served.environment,
                    "STRIPE_API_BASE": stack.info["stripe_url"],
                    "ALLOWED_ORIGINS": "https://canadagpt.example",
                    "SECRETS_ID": found["ARN"],
                }

            yield of


def event_of(name: str, user: Person) -> dict[str, Any]:
    if name == "webhooks":
        body = json.dumps({"id": "evt_1", "type": "product.created", "data": {"object": {}}})
        now = int(time.time())
        signature = hmac.new(b"whsec_runtime", f"{now}.{body}".encode(), "sha256").hexdigest()
        return url_event("POST", "/webhooks/stripe", body, **{"stripe-signature": f"t={now},v1={signature}"})
    path = {"keys": "/keys", "checkout": "/plans", "account": "/usage"}[name]
    return url_event("GET", path, **user.headers)


@pytest.mark.parametrize(
    ("name", "field"), [("keys", "keys"), ("checkout", "plans"), ("account", "tier"), ("webhooks", "outcome")]
)
def test_an_artifact_answers_url_events_twice_in_a_row(
    twins: Twins,
    packaged: Packaged,
    environment: Callable[[str], dict[str, str]],
    person: NewPerson,
    name: str,
    field: str,
) -> None:
    event = event_of(name, person("basic"))
    with runtime(twins, name, packaged.function(name)["Handler"], environment(name)) as running:
        answers = [running.invoke(event) for _ in range(2)]
    for answer in answers:
        assert answer["statusCode"] == 200, answer
        assert field in json.loads(answer["body"])
    assert answers[0]["headers"]["x-request-id"] != answers[1]["headers"]["x-request-id"]


def test_a_scheduled_event_runs_a_job_twice_in_a_row(
    twins: Twins, packaged: Packaged, environment: Callable[[str], dict[str, str]]
) -> None:
    """With the input of the schedule as the template has it."""
    inputs = [json.loads(one["Target"]["Input"]) for one in packaged.properties("AWS::Scheduler::Schedule")]
    event = next(one for one in inputs if one["job"] == "release-stale-holds")
    handler = packaged.function("maintenance")["Handler"]
    with runtime(twins, "maintenance", handler, environment("maintenance")) as running:
        assert [set(running.invoke(event)) for _ in range(2)] == [{"holds", "unfinished"}] * 2
        assert "An event can start these jobs" in running.invoke({"job": "nothing"})["error"]


def test_the_chats_artifact_streams_under_the_adapter(
    twins: Twins,
    environment: Callable[[str], dict[str, str]],
    person: NewPerson,
    state_of: StateOf,
    stack: Stack,
    tmp_path_factory: pytest.TempPathFactory,
) -> None:
    folder = tmp_path_factory.mktemp("adapter")
    (folder / "python3").symlink_to(twins.python)
    user = person("basic")
    with (
        adapter(
            folder / "logs", {**environment("chat"), "PATH": f"{folder}:/usr/bin:/bin"}, twins.folder / "chat"
        ) as url,
        httpx.Client(base_url=url.url, timeout=60) as http,
    ):
        api = Api(http, stack.info["model_url"])
        streamed = [api.stream(user, question("What is a quorum?")) for _ in range(2)]
        assert [(one.status, one.done, bool(one.text)) for one in streamed] == [(200, True, True)] * 2
        nothing = http.get("/chat/nothing-runs-here/stream", headers=user.headers)
    assert nothing.status_code == 204
    assert state_of(user).outcomes == ["answered", "answered"]
