"""`make secrets`: one file fills every function's secret, and saves what they have."""

import json
from collections.abc import Callable
from pathlib import Path

import pytest

from infra.deploy import __main__ as command
from infra.deploy.secrets import NAMES, Secrets
from infra.deploy.stage import FUNCTIONS, DeployError
from infra.local import env_file
from tests.deploy.kit import Aws

KEY, OTHER_KEY = "1" * 64, "2" * 64


@pytest.fixture
def put(aws: Aws, monkeypatch: pytest.MonkeyPatch) -> Callable[[str, dict[str, str]], None]:
    """Writes a function's secret."""
    for name in (*NAMES, "ENCRYPTION_KEY"):
        monkeypatch.delenv(name, raising=False)
    client = aws.stage.client("secretsmanager")
    for function in FUNCTIONS:
        client.create_secret(Name=aws.stage.secret(function))

    def write(function: str, entries: dict[str, str]) -> None:
        client.put_secret_value(SecretId=aws.stage.secret(function), SecretString=json.dumps(entries))

    return write


def save(path: Path) -> dict[str, str]:
    assert command.main(["secrets", "--stage", "prod", "--save", str(path)]) == 0
    return env_file.read(path)


def test_every_entry_is_saved(put: Callable[[str, dict[str, str]], None], tmp_path: Path) -> None:
    """Also one that no function uses, and values that a line changes without quotes."""
    put("chat", {"OPENAI_API_KEY": "with #hash", "ENCRYPTION_KEY": KEY})
    put("webhooks", {"STRIPE_SECRET_KEY": "it's", "UNKNOWN": "'quoted'"})
    assert save(tmp_path / "saved") == {
        "OPENAI_API_KEY": "with #hash",
        "ENCRYPTION_KEYS": f"1:{KEY}",
        "STRIPE_SECRET_KEY": "it's",
        "UNKNOWN": "'quoted'",
    }


def test_secrets_that_differ_are_all_saved(
    put: Callable[[str, dict[str, str]], None], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    put("chat", {"ENCRYPTION_KEYS": f"2:{OTHER_KEY},1:{KEY}", "SUPABASE_SERVICE_ROLE_KEY": "new"})
    put("keys", {"ENCRYPTION_KEYS": f"1:{KEY}", "SUPABASE_SERVICE_ROLE_KEY": "old"})
    saved = save(tmp_path / "saved")
    assert saved == {"ENCRYPTION_KEYS": f"2:{OTHER_KEY},1:{KEY}", "SUPABASE_SERVICE_ROLE_KEY": "new"}
    assert "# SUPABASE_SERVICE_ROLE_KEY=old\n" in (tmp_path / "saved").read_text()
    assert "SUPABASE_SERVICE_ROLE_KEY differs" in capsys.readouterr().out


def test_nothing_and_a_line_break_cannot_be_saved(
    put: Callable[[str, dict[str, str]], None], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    arguments = ["secrets", "--stage", "prod", "--save", str(tmp_path / "saved")]
    assert command.main(arguments) == 1
    assert "no secret of prod has a value" in capsys.readouterr().err
    put("chat", {"OPENAI_API_KEY": "canary\nof two lines"})
    assert command.main(arguments) == 1
    error = capsys.readouterr().err
    assert "OPENAI_API_KEY cannot be written as a line" in error
    assert "canary" not in error
    assert not (tmp_path / "saved").exists()


def test_a_secret_that_will_be_deleted_is_named(
    aws: Aws, put: Callable[[str, dict[str, str]], None], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    aws.stage.client("secretsmanager").delete_secret(SecretId=aws.stage.secret("keys"), RecoveryWindowInDays=7)
    assert command.main(["secrets", "--stage", "prod", "--save", str(tmp_path / "saved")]) == 1
    assert "aws secretsmanager restore-secret --region ca-central-1 --secret-id canadagpt-chat/prod/keys" in (
        capsys.readouterr().err
    )


def test_a_file_with_one_key_fills_the_ring(
    aws: Aws, put: Callable[[str, dict[str, str]], None], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """What is misspelt is named."""
    file = tmp_path / "file"
    file.write_text(f"ENCRYPTION_KEY={KEY}\nSTRIPE_SECRET_KY=canary\nSUPABASE_URL=https://x.example\n")
    assert command.main(["secrets", "--stage", "prod", "--file", str(file)]) == 0
    assert Secrets(aws.stage).value("ENCRYPTION_KEYS") == f"1:{KEY}"
    out = capsys.readouterr().out
    assert "not used: STRIPE_SECRET_KY\n" in out
    assert "canary" not in out


def test_a_file_without_a_secret_is_refused(
    put: Callable[[str, dict[str, str]], None], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    file = tmp_path / "file"
    file.write_text("SUPABASE_URL=https://x.example\n")
    assert command.main(["secrets", "--stage", "prod", "--file", str(file)]) == 1
    assert "has no value for" in capsys.readouterr().err


def test_the_version_of_a_malformed_secret_is_known(aws: Aws, put: Callable[[str, dict[str, str]], None]) -> None:
    """A rollback needs it, and not the entries."""
    secrets, name = aws.stage.client("secretsmanager"), aws.stage.secret("chat")
    secrets.put_secret_value(SecretId=name, SecretString="{")
    assert Secrets(aws.stage).version("chat") == secrets.get_secret_value(SecretId=name)["VersionId"]
    with pytest.raises(DeployError, match="canadagpt-chat/prod/chat is not a JSON object of strings"):
        Secrets(aws.stage).read("chat")
