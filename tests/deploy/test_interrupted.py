"""Commands that are killed between any two calls of AWS, and run again: they continue."""

from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from typing import Any

import jwt
import pytest

from infra.deploy.release import Canary, release
from infra.deploy.rotate import finish, rotate
from infra.deploy.secrets import Secrets, users_of
from infra.deploy.stage import FUNCTIONS, DeployError
from infra.deploy.versions import Versions
from infra.local.stack import Stack
from tests.deploy.kit import Aws

WRITES = {
    "secretsmanager": ("PutSecretValue",),
    "lambda": ("UpdateFunctionConfiguration", "PublishVersion", "UpdateAlias"),
}
OLD = {
    "ANTHROPIC_API_KEY": "old-anthropic-key",
    "OPENAI_API_KEY": "old-openai-key",
    "ENCRYPTION_KEYS": f"1:{'0' * 64}",
    "STRIPE_SECRET_KEY": "sk_test_old",
    "STRIPE_WEBHOOK_SECRET": "whsec_old",
    "SUPABASE_JWT_SECRET": "an-old-secret-of-at-least-thirty-two-characters",
}
NEW_JWT_SECRET = "a-new-secret-of-at-least-thirty-two-characters"
TOKEN = jwt.encode({"sub": "user"}, NEW_JWT_SECRET, algorithm="HS256")


class Killed(BaseException):
    """The process has ended: it makes no further call."""


class Calls:
    """The calls that write. `fatal`: the number of the one before which the process is killed."""

    def __init__(self, aws: Aws) -> None:
        self.fatal: int | None = None
        self.made = 0
        # What the processes of a version have read at least.
        self.read_by: dict[tuple[str, str], dict[str, str]] = {}
        self._aws = aws
        clients = {"lambda": aws.lambda_, "secretsmanager": aws.stage.client("secretsmanager")}
        for service, operations in WRITES.items():
            for operation in operations:
                clients[service].meta.events.register(f"before-call.{service}.{operation}", self._before)
        aws.lambda_.meta.events.register("after-call.lambda.PublishVersion", self._published)

    def _before(self, **_: object) -> None:
        if self.fatal is not None and self.made >= self.fatal:
            raise Killed
        self.made += 1

    def _published(self, parsed: dict[str, Any], **_: object) -> None:
        function = parsed["FunctionName"].rpartition("-")[2]
        self.read_by.setdefault((function, parsed["Version"]), Secrets(self._aws.stage).read(function))

    @contextmanager
    def killed_before(self, fatal: int) -> Iterator[None]:
        """Kill what runs in the block before its write call of this number, if it makes as many."""
        self.fatal, self.made = fatal, 0
        try:
            yield
        except Killed:
            pass
        finally:
            self.fatal = None

    def live(self, name: str) -> set[str | None]:
        """The values of an entry that the live versions of its functions have read."""
        return {self.read_by[function, self._aws.places()[function]].get(name) for function in users_of(name)}


@pytest.fixture
def calls(aws: Aws, monkeypatch: pytest.MonkeyPatch) -> Calls:
    """A stage whose functions pretend to run."""
    monkeypatch.setattr("infra.deploy.versions.KEPT", 1000)  # moto would give the numbers of deleted versions again
    aws.create()
    return Calls(aws)


@pytest.fixture
def environment(stack: Stack) -> dict[str, str]:
    return {
        "SUPABASE_URL": stack.info["supabase_url"],
        "SUPABASE_ANON_KEY": stack.info["publishable_key"],
        "ALLOWED_ORIGINS": "http://localhost:3000",
        "ANTHROPIC_BASE_URL": stack.info["model_url"],
        "OPENAI_BASE_URL": f"{stack.info['model_url']}/v1",
        "STRIPE_API_BASE": stack.info["stripe_url"],
    }


def reset(aws: Aws, values: dict[str, str]) -> None:
    """Fill the secrets, and make versions live that have read them."""
    Secrets(aws.stage).write(values, replace=True)
    versions = Versions(aws.stage)
    for name in FUNCTIONS:
        if not versions.has_read(name):
            versions.move(name, versions.publish(name, "release"))


def deploy(aws: Aws) -> None:
    release(aws.stage, "release", Canary(0, 0), smoke=lambda: None)


@pytest.mark.parametrize(
    ("name", "every"),
    [
        ("OPENAI_API_KEY", 1),
        ("ENCRYPTION_KEYS", 1),
        ("SUPABASE_SERVICE_ROLE_KEY", 5),
        ("SUPABASE_JWT_SECRET", 5),
    ],
)
def test_a_killed_rotation_continues(
    aws: Aws, calls: Calls, stack: Stack, environment: dict[str, str], name: str, every: int
) -> None:
    """Of many calls, only some are the last."""
    old = {**OLD, "SUPABASE_SERVICE_ROLE_KEY": stack.info["service_role_key"]}
    new = {
        "OPENAI_API_KEY": "new-openai-key",
        "SUPABASE_SERVICE_ROLE_KEY": stack.info["secret_key"],
        "SUPABASE_JWT_SECRET": NEW_JWT_SECRET,
    }.get(name, "")
    fatal, made = 0, 1
    while fatal < made:
        reset(aws, old)
        with calls.killed_before(fatal):
            rotate(aws.stage, name, lambda prompt: new, environment)
        rotate(aws.stage, name, lambda prompt: new, environment)
        made = max(made, calls.made) if fatal == 0 else made
        (value,) = calls.live(name)
        assert value == Secrets(aws.stage).value(name), f"killed before call {fatal}"
        first, *rest = (value or "").split(",")
        assert rest in ([], [old[name]])
        assert first != old[name]
        fatal += every
    assert made >= 4 * len(users_of(name))


def test_a_killed_finish_continues(aws: Aws, calls: Calls, environment: dict[str, str]) -> None:
    name, made = "SUPABASE_JWT_SECRET", 4 * 4
    for fatal in range(0, made, 5):
        reset(aws, {**OLD, "SUPABASE_SERVICE_ROLE_KEY": "service", name: f"{NEW_JWT_SECRET},{OLD[name]}"})
        with calls.killed_before(fatal):
            finish(aws.stage, name, environment, TOKEN, datetime.now(UTC))
        finish(aws.stage, name, environment, TOKEN, datetime.now(UTC))
        assert calls.live(name) == {NEW_JWT_SECRET}, f"killed before call {fatal}"
    with pytest.raises(DeployError, match="nothing to finish"):
        finish(aws.stage, name, environment, TOKEN, datetime.now(UTC))


def test_a_finish_waits_for_a_killed_rotation(aws: Aws, calls: Calls, environment: dict[str, str]) -> None:
    name = "SUPABASE_JWT_SECRET"
    for fatal in (1, 4, 13):  # after one secret, all secrets, one alias
        reset(aws, {**OLD, "SUPABASE_SERVICE_ROLE_KEY": "service"})
        with calls.killed_before(fatal):
            rotate(aws.stage, name, lambda prompt: NEW_JWT_SECRET, environment)
        with pytest.raises(DeployError, match="is not complete"):
            finish(aws.stage, name, environment, TOKEN, datetime.now(UTC))


def test_a_complete_rotation_changes_nothing(
    aws: Aws, calls: Calls, environment: dict[str, str], capsys: pytest.CaptureFixture[str]
) -> None:
    """Its next step, to delete the old key, is not printed for the key that is in use."""
    reset(aws, {**OLD, "SUPABASE_SERVICE_ROLE_KEY": "service"})
    calls.made = 0
    capsys.readouterr()
    rotate(aws.stage, "OPENAI_API_KEY", lambda prompt: "old-openai-key", environment)
    assert calls.made == 0
    out = capsys.readouterr().out
    assert "OPENAI_API_KEY has this value already" in out
    assert "delete" not in out


def test_replaced_secrets_are_read_after_a_deployment_without_new_code(aws: Aws, calls: Calls) -> None:
    Secrets(aws.stage).write({**OLD, "SUPABASE_SERVICE_ROLE_KEY": "service"}, replace=True)
    deploy(aws)
    before = aws.places()
    Secrets(aws.stage).write({"OPENAI_API_KEY": "replaced"}, replace=True)
    deploy(aws)
    assert calls.live("OPENAI_API_KEY") == {"replaced"}
    after = aws.places()
    assert {name for name in FUNCTIONS if after[name] != before[name]} == {"chat"}
    deploy(aws)
    assert aws.places() == after


def test_a_failed_rotation_starts_its_processes_anew_later(
    aws: Aws, calls: Calls, environment: dict[str, str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Processes that started while the new value was in the secret have read it."""
    reset(aws, {**OLD, "SUPABASE_SERVICE_ROLE_KEY": "service"})
    before = aws.places()

    def fail(versions: Versions, name: str, version: str) -> None:
        raise DeployError("it does not start")

    with monkeypatch.context() as patch:
        patch.setattr(Versions, "check", fail)
        with pytest.raises(DeployError, match="it does not start"):
            rotate(aws.stage, "OPENAI_API_KEY", lambda prompt: "new-openai-key", environment)
    assert aws.places() == before
    deploy(aws)
    assert aws.places()["chat"] != before["chat"]
    assert calls.live("OPENAI_API_KEY") == {"old-openai-key"}


@pytest.mark.parametrize(
    "change",
    [
        {"Environment": {"Variables": {"PARLIAMENT_API_URL": "https://unreleased.example"}}},
        {"MemorySize": 2048},
        {"Timeout": 7},
        {"Handler": "other.handler"},
        {"Runtime": "python3.12"},
    ],
    ids=lambda change: next(iter(change)),
)
def test_a_rotation_makes_no_other_configuration_live(
    aws: Aws, calls: Calls, environment: dict[str, str], change: dict[str, object]
) -> None:
    """A deployment that failed has uploaded it."""
    reset(aws, {**OLD, "SUPABASE_SERVICE_ROLE_KEY": "service"})
    aws.lambda_.update_function_configuration(FunctionName=aws.stage.function("chat"), **change)
    with pytest.raises(DeployError, match="newest code or configuration of chat is not live"):
        rotate(aws.stage, "OPENAI_API_KEY", lambda prompt: "new-openai-key", environment)
    assert Secrets(aws.stage).value("OPENAI_API_KEY") == "old-openai-key"
