"""The functions' secrets: which entries each has, and the one place that sets a shared one.

Each function can read only its own secret, so a value that several functions need is written into each of theirs, from
one file or by one command.
"""

import json
from collections.abc import Iterable, Mapping
from datetime import datetime
from typing import Any

from functions.account.settings import AccountSettings
from functions.chat.settings import ChatSettings
from functions.checkout.settings import CheckoutSettings
from functions.common.settings import Settings, SettingsError, SupabaseSettings, load, load_vault
from functions.common.vault import DEFAULT_KEY_ID
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
LISTS = (RING, SIGNING, JWT_SECRET)  # we accept every entry; commas separate them
RING_OF_ONE = "ENCRYPTION_KEY"
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


def entries_of(value: str | None) -> list[str]:
    """The entries of a list."""
    return [entry.strip() for entry in (value or "").split(",") if entry.strip()]


def merged(values: Iterable[str | None]) -> str:
    """A list with the entries of several, the longest list's first: that is the one that got a new first entry."""
    lists = sorted(map(entries_of, values), key=len, reverse=True)
    return ",".join(dict.fromkeys(entry for entries in lists for entry in entries))


def with_one_ring(values: Mapping[str, str]) -> dict[str, str]:
    """The values, with ENCRYPTION_KEY as the entry of ENCRYPTION_KEYS that it stands for."""
    others = {name: value for name, value in values.items() if name != RING_OF_ONE}
    key = values.get(RING_OF_ONE, "").strip()
    return {**others, RING: merged([f"{others.get(RING, '')},{DEFAULT_KEY_ID}:{key}"])} if key else others


class Secrets:
    """The secrets of a stage."""

    def __init__(self, stage: Stage) -> None:
        self._stage = stage
        self._client = stage.client("secretsmanager")

    def read(self, function: str) -> dict[str, str]:
        """The entries of a function's secret; none while it is empty or missing. Raises DeployError."""
        found = self._find(function)
        if not found:
            return {}
        try:
            entries: Any = json.loads(found["SecretString"])
        except (KeyError, ValueError):
            entries = None
        if not isinstance(entries, dict) or not all(isinstance(value, str) for value in entries.values()):
            raise DeployError(f"{self._stage.secret(function)} is not a JSON object of strings.")
        return with_one_ring(entries)

    def version(self, function: str) -> str | None:
        """The id of what the secret holds now. It changes whenever the secret is written."""
        version: str | None = self._find(function).get("VersionId")
        return version

    def written_at(self, function: str) -> datetime | None:
        """When the secret got what it holds now."""
        at: datetime | None = self._find(function).get("CreatedDate")
        return at

    def _find(self, function: str) -> Mapping[str, Any]:
        """What the secret holds now, with its version; nothing while it is empty or missing. Raises DeployError."""
        name, errors = self._stage.secret(function), self._client.exceptions
        try:
            found: Mapping[str, Any] = self._client.get_secret_value(SecretId=name)
        except errors.ResourceNotFoundException:
            return {}
        except errors.InvalidRequestException:
            raise DeployError(
                f"{name} is scheduled for deletion. This keeps it: aws secretsmanager restore-secret "
                f"--region {self._stage.region} --secret-id {name}"
            ) from None
        return found

    def value(self, name: str) -> str | None:
        """The value that every function with this entry has. Of a list, the entries that any of them has: every one is
        accepted. Raises DeployError if they differ otherwise."""
        found = {self.read(function).get(name) for function in users_of(name)}
        if len(found) > 1 and name not in LISTS:
            raise DeployError(
                f"{name} differs between {', '.join(users_of(name))}: make rotate STAGE={self._stage.name} "
                f"SECRET={name} sets one value. A rotation that was interrupted continues with the same value."
            )
        return merged(found) or None if name in LISTS else found.pop()

    def all(self) -> dict[str, list[str]]:
        """The values of every entry, also of one that no function should have. There are several where the secrets of
        functions differ; a list is merged. Raises DeployError."""
        found: dict[str, list[str]] = {}
        for function in FUNCTIONS:
            for name, value in self.read(function).items():
                if value and value not in found.setdefault(name, []):
                    found[name].append(value)
        return {name: [merged(values)] if name in LISTS else values for name, values in found.items()}

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
            if self.read(function) != entries:
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
    extra = entries.keys() - {*ENTRIES[function]}
    if extra:
        found.append(f"{', '.join(sorted(extra))} should not be there: {function} does not use it.")
    return " ".join(found)
