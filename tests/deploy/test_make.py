"""`make smoke`, `secrets`, `rotate` and `rollback` as an operator types them. tests/package runs `make deploy`."""

import stat
from collections.abc import Iterator
from pathlib import Path

import pytest

from infra.deploy.__main__ import parser
from infra.deploy.release import Canary, release
from infra.deploy.secrets import Secrets
from infra.deploy.stage import FUNCTIONS
from infra.local.stack import Stack
from tests.deploy.conftest import CREDENTIALS
from tests.deploy.kit import Aws, make, over_http

NOTHING = dict.fromkeys(("SMOKE_TOKEN", "STRIPE_WEBHOOK_SECRET", "ALLOWED_ORIGINS"), "")


@pytest.fixture
def live(aws: Aws) -> Iterator[Aws]:
    """An account that commands in other processes reach. Its functions only pretend to run."""
    aws.create()
    with over_http(aws) as variables, pytest.MonkeyPatch.context() as patch:
        for name, value in variables.items():
            patch.setenv(name, value)
        yield aws


def test_smoke_without_a_token_checks_the_rest(stack: Stack) -> None:
    done = make(
        "smoke", f"URL={stack.info['functions_url']}", SMOKE_TOKEN="", STRIPE_WEBHOOK_SECRET="", ALLOWED_ORIGINS=""
    )
    assert (done.returncode, done.stderr) == (0, "")
    assert [line.split()[0] for line in done.stdout.splitlines()] == ["ok"] * 4 + ["skip"] * 5


def test_a_service_that_is_down_fails_in_a_sentence() -> None:
    done = make("smoke", "URL=http://127.0.0.1:9", **NOTHING)
    assert done.returncode == 2  # make's own status for a command that failed
    assert done.stderr.splitlines()[0] == "smoke: 4 of 9 checks failed."


def test_secrets_are_filled_and_saved(live: Aws, tmp_path: Path) -> None:
    """The file's name has a space, and a value what a shell and make would change."""
    file, saved = tmp_path / "my secrets.env", tmp_path / "saved.env"
    file.write_text("STRIPE_SECRET_KEY='sk_test_$(id)$HOME'\n")
    done = make("secrets", "STAGE=prod", f"FILE={file}")
    assert done.returncode == 0, done.stderr
    assert "ok    webhooks: STRIPE_SECRET_KEY" in done.stdout
    assert Secrets(live.stage).value("STRIPE_SECRET_KEY") == "sk_test_$(id)$HOME"
    assert make("secrets", "STAGE=prod", f"SAVE={saved}").returncode == 0
    assert saved.read_text() == "STRIPE_SECRET_KEY=sk_test_$(id)$HOME\n"
    assert stat.S_IMODE(saved.stat().st_mode) == 0o600
    again = make("secrets", "STAGE=prod", f"SAVE={saved}")
    assert (again.returncode, again.stderr.splitlines()[0]) == (
        2,
        f"secrets: {saved} cannot be written: File exists. Nothing was saved.",
    )


def test_a_secret_rotates_and_a_release_rolls_back(live: Aws, stack: Stack) -> None:
    """A `$` of the new value stays."""
    others = {"SUPABASE_SERVICE_ROLE_KEY": "service", "ENCRYPTION_KEYS": f"1:{'0' * 64}"}
    Secrets(live.stage).write({"OPENAI_API_KEY": "old", **others}, replace=True)
    for name in ("release a", "release b"):
        for function in FUNCTIONS:
            live.upload(function, name)
        release(live.stage, name, Canary(0, 0), smoke=lambda: None)
    address = f"{stack.info['model_url']}/v1"
    done = make("rotate", "STAGE=prod", "SECRET=OPENAI_API_KEY", NEW="new-$HOME", OPENAI_BASE_URL=address)
    assert done.returncode == 0, done.stderr
    assert "delete the old key in OpenAI's platform" in done.stdout
    assert Secrets(live.stage).value("OPENAI_API_KEY") == "new-$HOME"
    assert live.places() == {**dict.fromkeys(FUNCTIONS, "2"), "chat": "3"}
    back = make("rollback", "STAGE=prod")
    assert back.returncode == 0
    assert "their secrets have changed since, and running processes have the old ones: chat\n" in back.stdout
    assert live.places() == dict.fromkeys(FUNCTIONS, "1")
    unknown = make("rollback", "STAGE=other")
    assert unknown.returncode == 2
    assert unknown.stderr.startswith(
        "rollback: canadagpt-chat-other-chat, or its alias, does not exist in ca-central-1"
    )


def test_rotate_names_the_secrets_that_there_are() -> None:
    done = make("rotate", "STAGE=prod", "SECRET=STRIPE_KEY")
    assert done.returncode == 2
    assert "invalid choice: 'STRIPE_KEY'" in done.stderr
    assert "STRIPE_SECRET_KEY" in done.stderr


def test_missing_credentials_are_one_sentence(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in (*CREDENTIALS, "AWS_PROFILE"):
        monkeypatch.delenv(name, raising=False)
    done = make("rollback")
    assert done.returncode == 2
    assert done.stderr.startswith("rollback: there are no AWS credentials. Set AWS_PROFILE")
    assert "Traceback" not in done.stderr


@pytest.mark.parametrize(("answer", "expected"), [("yes", True), ("no", False)])
def test_a_flag_is_yes_or_no(answer: str, expected: bool) -> None:
    shown = make("-n", "rotate", "SECRET=STRIPE_SECRET_KEY", f"FINISH={answer}").stdout
    assert ("--finish" in shown) is expected
    wrong = make("-n", "deploy", "CONTRACT=true")
    assert (wrong.returncode, "CONTRACT is yes or no" in wrong.stderr) == (2, True)


def test_variables_of_the_shell_do_not_reach_commands() -> None:
    shown = make("-n", "smoke", STAGE="prod", URL="https://elsewhere.example", REGION="us-east-1").stdout
    (line,) = (line for line in shown.splitlines() if "infra.deploy" in line)
    assert line.split() == ["python", "-m", "infra.deploy", "smoke"]


@pytest.mark.parametrize("percent", ["150", "100", "-1"])
def test_a_canary_is_a_part_of_the_requests(percent: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        parser().parse_args(["deploy", f"--canary={percent}"])
    assert "from 0 (none) to less than 100" in capsys.readouterr().err
