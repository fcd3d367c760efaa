"""Rotation of each secret while clients use the functions: no request fails, and the new value is in use after it."""

import json
import threading
import uuid
from collections.abc import Callable, Iterator
from datetime import UTC, datetime, timedelta

import psycopg
import pytest

from infra.deploy import rotate as rotation
from infra.deploy.counterparts import signature
from infra.deploy.release import Canary, release
from infra.deploy.rotate import finish, rotate
from infra.deploy.secrets import ENTRIES, NAMES, Secrets, users_of
from infra.deploy.stage import FUNCTIONS, DeployError
from infra.deploy.versions import Versions
from infra.local.stack import Stack
from tests.conftest import Person
from tests.deploy.kit import Aws, extension

OLD_SIGNING = "whsec_old"
OLD = {
    "ANTHROPIC_API_KEY": "old-anthropic-key",
    "OPENAI_API_KEY": "old-openai-key",
    "ENCRYPTION_KEYS": f"1:{'0' * 64}",
    "STRIPE_SECRET_KEY": "sk_test_old",
    "STRIPE_WEBHOOK_SECRET": OLD_SIGNING,
    "SUPABASE_JWT_SECRET": "an-old-secret-of-at-least-thirty-two-characters",
}
NEW = {
    "ANTHROPIC_API_KEY": "new-anthropic-key",
    "OPENAI_API_KEY": "new-openai-key",
    "STRIPE_WEBHOOK_SECRET": "whsec_new",
    "SUPABASE_JWT_SECRET": "a-new-secret-of-at-least-thirty-two-characters",
}


@pytest.fixture
def live(aws: Aws, stack: Stack, monkeypatch: pytest.MonkeyPatch) -> Iterator[Aws]:
    """A stage that is live: its functions run here, on the local stack's services, with the old secrets."""
    aws.environment = {
        "SUPABASE_URL": stack.info["supabase_url"],
        "SUPABASE_ANON_KEY": stack.info["publishable_key"],
        "ALLOWED_ORIGINS": "http://localhost:3000",
        "ANTHROPIC_BASE_URL": stack.info["model_url"],
        "OPENAI_BASE_URL": f"{stack.info['model_url']}/v1",
        "STRIPE_API_BASE": stack.info["stripe_url"],
        "PARLIAMENT_API_URL": stack.info["parliament_url"],
    }
    aws.runs_functions = True
    aws.create()
    with extension(aws) as served:
        for name, value in {**aws.environment, **served.environment}.items():
            monkeypatch.setenv(name, value)
        for name in NAMES:
            monkeypatch.delenv(name, raising=False)
        monkeypatch.setenv("SECRETS_ID", "")
        old = {**OLD, "SUPABASE_SERVICE_ROLE_KEY": stack.info["service_role_key"]}
        Secrets(aws.stage).write(old, replace=False)
        release(aws.stage, "release a", Canary(0, 0), smoke=lambda: None)
        yield aws


class Clients:
    """Uses every function again and again, in a thread."""

    def __init__(self, aws: Aws, person: Person) -> None:
        self.requests = 0
        self.failures: list[tuple[str, object]] = []
        self._aws, self._person = aws, person
        self._stopped = threading.Event()
        self._thread = threading.Thread(target=self._run)

    def __enter__(self) -> "Clients":
        self._round()
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stopped.set()
        self._thread.join()
        self._round()
        assert self.failures == []

    def _run(self) -> None:
        while not self._stopped.is_set():
            self._round()

    def _round(self) -> None:
        """One request to each function that its secret is needed for."""
        token = self._person.headers
        event = json.dumps({"id": f"evt_{uuid.uuid4().hex}", "type": "unused", "data": {"object": {}}})
        signed = {"stripe-signature": signature(OLD_SIGNING, event.encode())}
        for name, method, path, body, headers, status in (
            ("chat", "GET", f"/chat/{uuid.uuid4()}/stream", "", token, 204),
            ("keys", "GET", "/keys", "", token, 200),
            ("checkout", "GET", "/plans", "", {}, 200),
            ("account", "GET", "/usage", "", token, 200),
            ("webhooks", "POST", "/webhooks/stripe", event, signed, 200),
        ):
            answer = self._aws.request(name, method, path, body, **headers)
            self.requests += 1
            if answer["statusCode"] != status:
                self.failures.append((name, answer))
        job = self._aws.run("maintenance", self._aws.alias("maintenance")["FunctionVersion"], {"job": "expire-credits"})
        if "error" in job:
            self.failures.append(("maintenance", job))


def later() -> datetime:
    return datetime.now(UTC) + rotation.RING_SETTLES


def never_asked(prompt: str) -> str:
    raise AssertionError(prompt)


@pytest.mark.parametrize("name", NAMES)
def test_no_request_fails_while_a_secret_rotates(
    live: Aws, stack: Stack, person: Callable[..., Person], name: str
) -> None:
    accepted = {
        "SUPABASE_SERVICE_ROLE_KEY": stack.info["secret_key"],
        "STRIPE_SECRET_KEY": stack.info["stripe_secret_key"],  # the only one that the stand-in accepts
    }
    new = {**NEW, **accepted}.get(name)
    ask_for = (lambda prompt: f" {new}\n") if new else never_asked  # the key ring's is made here
    with Clients(live, person("pro")) as clients:
        before = clients.requests
        rotate(live.stage, name, ask_for, {})
        during = clients.requests - before
    assert during > 0
    for function in FUNCTIONS:
        moved = name in ENTRIES[function]
        assert live.places()[function] == ("2" if moved else "1")
        entries = Secrets(live.stage).read(function)
        if new and moved:
            assert entries[name].split(",")[0] == new
        assert set(entries) == set(ENTRIES[function])


def test_the_first_key_of_the_ring_is_new_and_the_old_one_stays(live: Aws, stack: Stack) -> None:
    with psycopg.connect(stack.postgres.url()) as db:  # other tests' keys are encrypted with other rings
        db.execute("delete from public.user_api_keys")
    rotate(live.stage, "ENCRYPTION_KEYS", never_asked, {})
    first, second = (Secrets(live.stage).value("ENCRYPTION_KEYS") or "").split(",")
    assert second == OLD["ENCRYPTION_KEYS"]
    assert len(first.partition(":")[2]) == 64
    with pytest.raises(DeployError, match="may have the old ring until"):
        finish(live.stage, "ENCRYPTION_KEYS", {}, None, later() - timedelta(seconds=60))
    finish(live.stage, "ENCRYPTION_KEYS", {}, None, later())
    assert {Secrets(live.stage).read(function)["ENCRYPTION_KEYS"] for function in ("chat", "keys")} == {first}


def test_an_old_signing_secret_is_valid_until_the_end(live: Aws) -> None:
    def sent(secret: str) -> int:
        event = json.dumps({"id": f"evt_{uuid.uuid4().hex}", "type": "unused", "data": {"object": {}}})
        header = {"stripe-signature": signature(secret, event.encode())}
        status: int = live.request("webhooks", "POST", "/webhooks/stripe", event, **header)["statusCode"]
        return status

    name = "STRIPE_WEBHOOK_SECRET"
    assert (sent(OLD_SIGNING), sent(NEW[name])) == (200, 400)
    rotate(live.stage, name, lambda prompt: NEW[name], {})
    assert (sent(OLD_SIGNING), sent(NEW[name])) == (200, 200)
    line = {"message": "stripe event", "event_id": "evt_1", "signed_by": 0}
    for version, entry in (("2", {**line, "signed_by": 1}), ("2", {**line, "event_id": "evt_smoke_1"}), ("1", line)):
        live.log(version, entry, function="webhooks")
        with pytest.raises(DeployError, match="No event of Stripe signed with the new secret"):
            finish(live.stage, name, {}, None, later())
    live.log("2", line, function="webhooks")
    finish(live.stage, name, {}, None, later())
    assert (sent(OLD_SIGNING), sent(NEW[name])) == (400, 200)


@pytest.mark.parametrize(
    ("name", "value", "sentence"),
    [
        ("SUPABASE_SERVICE_ROLE_KEY", "sb_secret_unknown", "does not accept the new value"),
        ("SUPABASE_SERVICE_ROLE_KEY", "sb_publishable_x", "is a publishable key"),
        ("STRIPE_SECRET_KEY", "pk_test_x", "must be a secret or restricted key"),
        ("STRIPE_SECRET_KEY", "sk_live_x", "one key is live and the other is for tests"),
        ("STRIPE_WEBHOOK_SECRET", "wrong-prefix", "must be signing secrets of Stripe"),
        ("SUPABASE_JWT_SECRET", "short", "at least 32 characters"),
        ("OPENAI_API_KEY", "", "No new value"),
    ],
)
def test_a_useless_value_changes_nothing(live: Aws, name: str, value: str, sentence: str) -> None:
    before = {function: Secrets(live.stage).read(function) for function in FUNCTIONS}
    with pytest.raises(DeployError, match=sentence) as caught:
        rotate(live.stage, name, lambda prompt: value, {})
    assert not value or value not in str(caught.value)
    assert {function: Secrets(live.stage).read(function) for function in FUNCTIONS} == before
    assert set(live.places().values()) == {"1"}


def test_a_version_that_does_not_start_gives_the_secrets_back(live: Aws, monkeypatch: pytest.MonkeyPatch) -> None:
    before = {function: Secrets(live.stage).read(function) for function in FUNCTIONS}

    def fail(versions: Versions, name: str, version: str) -> None:
        assert Secrets(live.stage).read(name)["OPENAI_API_KEY"] == "new-openai-key"
        raise DeployError("it does not start")

    monkeypatch.setattr(Versions, "check", fail)
    with pytest.raises(DeployError, match="it does not start"):
        rotate(live.stage, "OPENAI_API_KEY", lambda prompt: "new-openai-key", {})
    assert {function: Secrets(live.stage).read(function) for function in FUNCTIONS} == before
    assert set(live.places().values()) == {"1"}


def test_a_rotation_waits_for_a_canary_and_for_uploaded_code(live: Aws) -> None:
    live.upload("chat", "b")
    with pytest.raises(DeployError, match="newest code or configuration of chat is not live"):
        rotate(live.stage, "OPENAI_API_KEY", lambda prompt: "new-openai-key", {})
    assert Secrets(live.stage).value("OPENAI_API_KEY") == "old-openai-key"
    versions = Versions(live.stage)
    versions.move("chat", versions.publish("chat", "b"), share=0.1)
    with pytest.raises(DeployError, match="A canary of chat runs"):
        rotate(live.stage, "OPENAI_API_KEY", lambda prompt: "new-openai-key", {})


def test_a_rollback_after_a_rotation_returns_to_other_code(live: Aws, stack: Stack) -> None:
    for function in FUNCTIONS:
        live.upload(function, "b")
    release(live.stage, "release b", Canary(0, 0), smoke=lambda: None)
    rotate(live.stage, "STRIPE_SECRET_KEY", lambda prompt: stack.info["stripe_secret_key"], {})
    assert live.places()["checkout"] == "3"
    assert Versions(live.stage).rollback() == dict.fromkeys(FUNCTIONS, "1")


def test_the_jwt_secret_ends_only_when_tokens_have_the_new_one(live: Aws) -> None:
    rotate(live.stage, "SUPABASE_JWT_SECRET", lambda prompt: NEW["SUPABASE_JWT_SECRET"], {})
    with pytest.raises(DeployError, match="Set SMOKE_TOKEN"):
        finish(live.stage, "SUPABASE_JWT_SECRET", {}, None, later())


@pytest.mark.parametrize("name", ["OPENAI_API_KEY", "STRIPE_WEBHOOK_SECRET"])
def test_there_is_nothing_to_finish_with_one_entry(live: Aws, name: str) -> None:
    with pytest.raises(DeployError, match="nothing to finish"):
        finish(live.stage, name, {}, None, later())


def test_each_of_the_seven_has_its_functions() -> None:
    assert len(NAMES) == 7
    assert all(users_of(name) for name in NAMES)
    assert set(rotation.WHERE_TO_DELETE) | set(rotation.LISTS) == set(NAMES)
