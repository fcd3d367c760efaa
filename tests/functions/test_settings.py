"""Settings: errors name every missing or malformed variable and never show a value."""

import json
from typing import Any

import pytest

from functions.chat.settings import ChatSettings
from functions.common.settings import SettingsError, load

CANARY = "canary-of-thirty-two-characters-or-more"
VALID = {
    "SUPABASE_URL": "https://project.supabase.co/",
    "SUPABASE_ANON_KEY": "anon",
    "SUPABASE_SERVICE_ROLE_KEY": CANARY,
    "ANTHROPIC_API_KEY": CANARY,
    "OPENAI_API_KEY": CANARY,
}


def test_variables_are_read_by_their_own_or_frontend_names() -> None:
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


def test_a_secret_adds_variables_that_the_environment_lacks(secrets_manager: Any) -> None:
    secret = {name: VALID[name] for name in ("SUPABASE_SERVICE_ROLE_KEY", "ANTHROPIC_API_KEY", "OPENAI_API_KEY")}
    secrets_manager.create_secret(Name="chat", SecretString=json.dumps({**secret, "SUPABASE_ANON_KEY": "other"}))
    environment = {name: value for name, value in VALID.items() if name not in secret}
    settings = load(ChatSettings, {**environment, "SECRETS_ID": "chat"})
    assert settings.openai_api_key.get_secret_value() == CANARY
    assert settings.anon_key == "anon"


@pytest.mark.parametrize(
    "content", [None, "not json " + CANARY, json.dumps([CANARY]), json.dumps({"A": {"B": CANARY}})]
)
def test_an_unusable_secret_is_reported_without_its_content(secrets_manager: Any, content: str | None) -> None:
    if content is not None:
        secrets_manager.create_secret(Name="chat", SecretString=content)
    with pytest.raises(SettingsError, match="SECRETS_ID names a secret") as caught:
        load(ChatSettings, {**VALID, "SECRETS_ID": "chat"})
    assert CANARY not in str(caught.value)
    assert caught.value.__cause__ is None
