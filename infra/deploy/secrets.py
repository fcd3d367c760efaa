"""The functions' secrets: which entries each has, and the one place that sets a shared one.

Each function can read only its own secret, so a value that several functions need is written into each of theirs, from
one file or by one command.
"""

import json
from collections.abc import Mapping
from typing import Any

from functions.account.settings import AccountSettings
from functions.chat.settings import ChatSettings
from functions.checkout.settings import CheckoutSettings
from functions.common.settings import Settings, SettingsError, SupabaseSettings, load, load_vault
from functions.keys.settings import KeysSettings
from functions.webhooks.settings import WebhooksSettings
from infra.deploy.stage import FUNCTIONS, DeployError, Stage

SERVICE_KEY, JWT_SECRET, RING = "SUPABASE_SERVICE_ROLE_KEY", "SUPABASE_JWT_SECRET", "ENCRYPTION_KEYS"
ANTHROPIC, OPENAI = "ANTHROPIC_API_KEY", "OPENAI_API_KEY"
STRIPE, SIGNING = "STRIPE_SECRET_KEY", "STRIPE_WEBHOOK_SECRET"

# SUPABASE_JWT_SECRET: only for a project that signs access tokens with HS256.
ENTRIES: Mapping[str, tuple[str, ...]] = {
    "chat": (SERVICE_KEY, ANTHROPIC, OPENAI, RING, JWT_SECRET),
    "keys": (SERVICE_KEY, RING, JWT_SECRET),
    "checkout": (SERVICE_KEY, STRIPE, JWT_SECRET),
    "account": (SERVICE_KEY, STRIPE, JWT_SECRET),
    "webhooks": (SERVICE_KEY, STRIPE, SIGNING),
    "maintenance": (SERVICE_KEY, STRIPE),
}
NAMES = (SERVICE_KEY, ANTHROPIC, OPENAI, RING, STRIPE, SIGNING, JWT_SECRET)
SETTINGS: Mapping[str, type[Settings]] = {
    "chat": ChatSettings,
    "keys": KeysSettings,
    "checkout": CheckoutSettings,
    "account": AccountSettings,
    "webhooks": WebhooksSettings,
    "maintenance": SupabaseSettings,
}


def users_of(name: str) -> list[str]:
    """The functions that have an entry of this name."""
    return [function for function in FUNCTIONS if name in ENTRIES[function]]


class Secrets:
    """The secrets of a stage."""

    def __init__(self, stage: Stage) -> None:
        self._stage = stage
        self._client = stage.client("secretsmanager")

    def read(self, function: str) -> dict[str, str]:
        """The entries of a function's secret; none while it is empty or missing. Raises DeployError."""
        try:
            text = self._client.get_secret_value(SecretId=self._stage.secret(function))["SecretString"]
            entries: Any = json.loads(text)
        except self._client.exceptions.ResourceNotFoundException:
            return {}
        except (KeyError, ValueError):
            entries = None
        if not isinstance(entries, dict) or not all(isinstance(value, str) for value in entries.values()):
            raise DeployError(f"{self._stage.secret(function)} is not a JSON object of strings.")
        return entries

    def value(self, name: str) -> str | None:
        """The value that every function with this entry has. Raises DeployError if they differ."""
        found = {self.read(function).get(name) for function in users_of(name)}
        if len(found) > 1:
            raise DeployError(
                f"{name} differs between {', '.join(users_of(name))}: set one value: make secrets REPLACE=yes."
            )
        return found.pop()

    def differs(self, name: str, value: str) -> bool:
        """Whether a function has another value of this entry."""
        return any(self.read(function).get(name, value) != value for function in users_of(name))

    def write(self, values: Mapping[str, str], *, replace: bool) -> dict[str, list[str]]:
        """Set the entries of every function that are empty, or with `replace` all. Keeps entries that are not named.

        Returns the entries that changed, by function. Secrets Manager keeps the value before as AWSPREVIOUS.
        """
        changed = {}
        for function in FUNCTIONS:
            present = self.read(function)
            wanted = {
                name: values[name]
                for name in ENTRIES[function]
                if values.get(name) and present.get(name) != values[name] and (replace or not present.get(name))
            }
            if wanted:
                self._put(function, {**present, **wanted})
                changed[function] = list(wanted)
        return changed

    def restore(self, before: Mapping[str, Mapping[str, str]]) -> None:
        """Write back the entries that functions had."""
        for function, entries in before.items():
            self._put(function, entries)

    def _put(self, function: str, entries: Mapping[str, str]) -> None:
        try:
            self._client.put_secret_value(SecretId=self._stage.secret(function), SecretString=json.dumps(dict(entries)))
        except self._client.exceptions.ResourceNotFoundException:
            raise DeployError(
                f"{self._stage.secret(function)} does not exist: the first deployment creates it."
            ) from None


def problems(function: str, entries: Mapping[str, str], environment: Mapping[str, str]) -> str:
    """Why a function cannot start with these entries and its environment, in sentences without values; or nothing."""
    everything = {**entries, **{name: value for name, value in environment.items() if name != "SECRETS_ID"}}
    found = []
    try:
        load(SETTINGS[function], everything)
    except SettingsError as error:
        found.append(str(error))
    if function == "maintenance" and not everything.get(STRIPE):
        found.append(f"{STRIPE} is missing.")
    if RING in ENTRIES[function]:
        try:
            load_vault(everything)
        except SettingsError as error:
            found.append(str(error))
    extra = entries.keys() - {*ENTRIES[function], "ENCRYPTION_KEY" if RING in ENTRIES[function] else ""}
    if extra:
        found.append(f"{', '.join(sorted(extra))} should not be there: {function} does not use it.")
    return " ".join(found)
