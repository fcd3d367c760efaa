"""Settings: errors name every missing or malformed variable and never show a value."""

import json

import httpx
import pytest

from functions.chat.handler import create
from functions.chat.settings import ChatSettings
from functions.common.settings import SettingsError, load, read_environment
from tests.functions.conftest import SecretsExtension
from tests.servers import free_port

CANARY = "canary-of-thirty-two-characters-or-more"
VALID = {
    "SUPABASE_URL": "https://project.supabase.co/",
    "SUPABASE_ANON_KEY": "anon",
    "SUPABASE_SERVICE_ROLE_KEY": CANARY,
    "ANTHROPIC_API_KEY": CANARY,
    "OPENAI_API_KEY": CANARY,
}


def test_names_of_the_frontend_are_accepted() -> None:
    settings = load(ChatSettings, {**VALID, "UNRELATED": "x"})
    assert settings.url == "https://project.supabase.co"
    assert settings.openai_base_url is None
    renamed = {"NEXT_PUBLIC_SUPABASE_URL": "http://127.0.0.1:54321", "NEXT_PUBLIC_SUPABASE_ANON_KEY": "anon"}
    settings = load(
        ChatSettings, {**{k: v for k, v in VALID.items() if k not in ("SUPABASE_URL", "SUPABASE_ANON_KEY")}, **renamed}
    )
    assert (settings.url, settings.anon_key) == ("http://127.0.0.1:54321", "anon")


def test_every_missing_or_empty_variable_is_named() -> None:
    with pytest.raises(SettingsError) as caught:
        load(ChatSettings, {**dict.fromkeys(VALID, ""), "SUPABASE_ANON_KEY": "anon"})
    assert str(caught.value) == "SUPABASE_URL is missing. SUPABASE_SERVICE_ROLE_KEY is missing."


def test_at_least_one_provider_account_is_required() -> None:
    both, one = load(ChatSettings, VALID), load(ChatSettings, {**VALID, "ANTHROPIC_API_KEY": ""})
    assert (both.platform_providers, one.platform_providers) == (["anthropic", "openai"], ["openai"])
    with pytest.raises(SettingsError, match=r"^ANTHROPIC_API_KEY or OPENAI_API_KEY is missing\.$"):
        load(ChatSettings, {**VALID, "ANTHROPIC_API_KEY": "", "OPENAI_API_KEY": ""})


@pytest.mark.parametrize(
    ("name", "value", "sentence"),
    [
        ("SUPABASE_URL", "project.supabase.co", "SUPABASE_URL must start with https:// or http://."),
        (
            "SUPABASE_JWT_SECRET",
            "short-canary",
            "SUPABASE_JWT_SECRET must be at least 32 characters, as Supabase generates it.",
        ),
        (
            "SUPABASE_ANON_KEY",
            "sb_secret_canary",
            "SUPABASE_ANON_KEY is a secret key: use the publishable key, or the anon key.",
        ),
        (
            "SUPABASE_SERVICE_ROLE_KEY",
            "sb_publishable_canary",
            "SUPABASE_SERVICE_ROLE_KEY is a publishable key: use a secret key, or the service_role key.",
        ),
        ("OPENAI_BASE_URL", "canary", "OPENAI_BASE_URL must start with https:// or http://."),
    ],
)
def test_a_malformed_variable_is_named_without_its_value(name: str, value: str, sentence: str) -> None:
    with pytest.raises(SettingsError) as caught:
        load(ChatSettings, {**VALID, name: value})
    assert str(caught.value) == sentence
    assert caught.value.__cause__ is None
    assert caught.value.__suppress_context__


def test_no_text_form_of_settings_contains_a_secret() -> None:
    settings = load(ChatSettings, {**VALID, "SUPABASE_JWT_SECRET": CANARY})
    assert settings.service_role_key.get_secret_value() == CANARY
    for shown in (repr(settings), str(settings), settings.model_dump_json(), str(settings.model_dump())):
        assert CANARY not in shown


def test_a_secret_adds_variables_that_the_environment_lacks(secrets_extension: SecretsExtension) -> None:
    secret = {name: VALID[name] for name in ("SUPABASE_SERVICE_ROLE_KEY", "ANTHROPIC_API_KEY", "OPENAI_API_KEY")}
    name = "arn:aws:secretsmanager:ca-central-1:1:secret:canadagpt-chat/prod/chat-AbC"
    secrets_extension.secrets[name] = json.dumps({**secret, "SUPABASE_ANON_KEY": "other"})
    environment = {name: value for name, value in VALID.items() if name not in secret}
    settings = load(ChatSettings, {**environment, **secrets_extension.environment, "SECRETS_ID": name})
    assert settings.openai_api_key is not None
    assert settings.openai_api_key.get_secret_value() == CANARY
    assert settings.anon_key == "anon"


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        (None, "cannot be read: the extension answered 400"),
        ("not json " + CANARY, "is not a JSON object of strings"),
        (json.dumps([CANARY]), "is not a JSON object of strings"),
        (json.dumps({"A": {"B": CANARY}}), "is not a JSON object of strings"),
    ],
)
def test_an_unusable_secret_is_reported_without_its_content(
    secrets_extension: SecretsExtension, content: str | None, reason: str
) -> None:
    if content is not None:
        secrets_extension.secrets["chat"] = content
    with pytest.raises(SettingsError) as caught:
        load(ChatSettings, {**VALID, **secrets_extension.environment, "SECRETS_ID": "chat"})
    assert str(caught.value) == f"SECRETS_ID names a secret that {reason}."
    assert caught.value.__cause__ is None
    assert secrets_extension.requests == 1


def test_an_extension_that_is_not_ready_is_asked_again(secrets_extension: SecretsExtension) -> None:
    secrets_extension.secrets["chat"] = json.dumps({"ANTHROPIC_API_KEY": CANARY})
    secrets_extension.not_ready = 3
    read = read_environment({**secrets_extension.environment, "SECRETS_ID": "chat"})
    assert read["ANTHROPIC_API_KEY"] == CANARY
    assert secrets_extension.requests == 4


def test_an_extension_that_never_gets_ready_is_reported(
    secrets_extension: SecretsExtension, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("functions.common.secrets_extension.READY_WITHIN_S", 0.1)
    secrets_extension.not_ready = 1_000_000
    with pytest.raises(SettingsError, match=r"cannot be read: the extension answered 400\.$"):
        read_environment({**secrets_extension.environment, "SECRETS_ID": "chat"})
    missing = {"PARAMETERS_SECRETS_EXTENSION_HTTP_PORT": str(free_port()), "SECRETS_ID": "chat"}
    with pytest.raises(SettingsError, match=r"cannot be read: the extension does not listen\.$"):
        read_environment(missing)


def test_the_extension_gets_the_session_token(secrets_extension: SecretsExtension) -> None:
    secrets_extension.secrets["chat"] = json.dumps({"ANTHROPIC_API_KEY": CANARY})
    with pytest.raises(SettingsError, match="the extension answered 401"):
        read_environment({**secrets_extension.environment, "AWS_SESSION_TOKEN": "", "SECRETS_ID": "chat"})


async def test_the_chat_reads_its_secret_at_its_first_request(
    secrets_extension: SecretsExtension, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Lambda polls /health before the extension serves secrets. The reason of a failure is in the log."""
    for name in (*VALID, "ENCRYPTION_KEY", "ENCRYPTION_KEYS"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("SUPABASE_ANON_KEY", "anon")
    monkeypatch.setenv("SECRETS_ID", "chat")
    app = create()
    transport = httpx.ASGITransport(app)
    async with app.router.lifespan_context(app), httpx.AsyncClient(transport=transport, base_url="http://chat") as http:
        assert (await http.get("/health")).status_code == 200
        assert secrets_extension.requests == 0
        secrets_extension.secrets["chat"] = json.dumps({"ANTHROPIC_API_KEY": CANARY})
        assert (await http.get("/chat/one/stream")).status_code == 500
        log = capsys.readouterr().out
        assert "SUPABASE_URL is missing. SUPABASE_SERVICE_ROLE_KEY is missing." in log
        assert CANARY not in log
        secrets_extension.secrets["chat"] = json.dumps({**VALID, "ENCRYPTION_KEYS": f"a:{'0' * 64}"})
        assert [(await http.get("/chat/one/stream")).status_code for _ in range(2)] == [401, 401]
        assert secrets_extension.requests == 2
