"""The routes of key storage: `/keys`. `handler` runs on Lambda; `create` makes the app for any other server."""

from typing import Annotated, Literal

from fastapi import Depends, FastAPI, Request, Response
from pydantic import AfterValidator, BaseModel, SecretStr
from typing_extensions import TypedDict

from functions.common import results
from functions.common.auth import CurrentUser, User, Verifier
from functions.common.database import Database
from functions.common.errors import AccountBlocked, ByokKeyRejected, ByokNotAllowed, NotFound
from functions.common.ids import time_ordered_id
from functions.common.lambda_http import create_lambda_app, lambda_handler
from functions.common.language import Language
from functions.common.observe import Observer
from functions.common.operation import Operation
from functions.common.provider_keys import PROVIDER_NAMES
from functions.common.settings import load, load_vault, read_environment
from functions.common.thread_transport import ThreadTransport
from functions.common.validation import problem
from functions.common.vault import MAX_KEY_LENGTH, DecryptionFailed, EncryptedKey, PlainKey, StoredKey, Vault
from functions.common.web import Deleted, json_body, json_response, language_of
from functions.keys.check import CheckResult, check
from functions.keys.settings import KeysSettings


class KeyInfo(TypedDict):
    """A stored key as its user sees it. Times are in ISO 8601."""

    provider: Literal["anthropic", "openai"]
    hint: str
    status: Literal["valid", "invalid", "unchecked"]
    last_validated_at: str | None
    validation_error: str | None
    created_at: str


class KeyList(TypedDict):
    """The result of `list_api_keys`. `allowed`: whether the user's plan includes own keys."""

    allowed: bool
    keys: list[KeyInfo]


class StoredKeys(TypedDict):
    """The user's keys."""

    keys: list[KeyInfo]


class Keys:
    """Stores, checks and deletes users' keys. The routes share one instance."""

    def __init__(self, database: Database, vault: Vault, settings: KeysSettings, observer: Observer) -> None:
        self._database = database
        self._vault = vault
        self._settings = settings
        self._observer = observer

    async def close(self) -> None:
        """Close the connections."""
        await self._database.close()

    async def list(self, user: User) -> KeyList:
        """The user's keys, without their contents."""
        listed: KeyList = await self._database.call(
            "list_api_keys", user_token=user.token, parse=results.record("allowed", "keys")
        )
        return listed

    async def put(self, user: User, provider: str, key: PlainKey) -> KeyInfo:
        """Check a key and store it in place of the user's present one. Raises ByokNotAllowed, ByokKeyRejected."""
        if not (await self.list(user))["allowed"]:
            raise ByokNotAllowed  # before the key is sent to the provider
        result = await self._check(user, provider, key)
        if result is CheckResult.REJECTED:
            raise ByokKeyRejected("byok_key_not_stored", provider=provider)
        encrypted = await self._vault.encrypt(key, user.id, provider)
        params = {
            "p_id": time_ordered_id(),
            "p_user_id": user.id,
            "p_provider": provider,
            **{f"p_{name}": value for name, value in encrypted.to_row().items()},
            "p_hint": key.hint,
            "p_is_valid": result is CheckResult.VALID,
        }
        stored: KeyInfo = await self._database.call("put_api_key", params, parse=results.record("hint"))
        return stored

    async def validate(self, user: User, provider: str, language: Language) -> KeyInfo:
        """Check the stored key again and store the result, a rejection in `language`.

        Raises NotFound, and ByokKeyRejected if it cannot be decrypted.
        """
        stored: StoredKey | None = await self._database.call(
            "get_api_key", {"p_user_id": user.id, "p_provider": provider}, parse=results.record_or_none("encrypted_key")
        )
        if stored is None:
            raise NotFound
        try:
            key = await self._vault.decrypt(EncryptedKey.from_row(stored), user.id, provider)
        except DecryptionFailed as error:
            self._observer.failure("own key not decrypted", error, user_id=user.id, provider=provider)
            raise ByokKeyRejected("byok_key_unreadable") from None
        result = await self._check(user, provider, key)
        updated: KeyInfo | None = None
        if result is not CheckResult.UNCLEAR:
            rejection = ByokKeyRejected(provider=provider).sentence(language)
            params = {"p_id": stored["id"], "p_user_id": user.id, "p_is_valid": result is CheckResult.VALID}
            updated = await self._database.call(
                "note_api_key", {**params, "p_error": rejection}, parse=results.record_or_none("hint")
            )
        if updated is None:  # the check had no result, or the key was replaced during the check
            updated = next((key for key in (await self.list(user))["keys"] if key["provider"] == provider), None)
        if updated is None:
            raise NotFound
        return updated

    async def delete(self, user: User, provider: str) -> bool:
        """Delete the key for a provider. Returns whether there was one."""
        params = {"p_user_id": user.id, "p_provider": provider}
        deleted: bool = await self._database.call("delete_api_key", params, parse=results.flag)
        return deleted

    async def _check(self, user: User, provider: str, key: PlainKey) -> CheckResult:
        result = await check(provider, key, self._settings)
        self._observer.info("key checked", user_id=user.id, provider=provider, outcome=result.value)
        return result


def _plausible_key(value: SecretStr) -> SecretStr:
    text = value.get_secret_value().strip()
    if not 16 <= len(text) <= MAX_KEY_LENGTH or not text.isascii() or not text.isprintable() or " " in text:
        raise problem("api_key", limit=MAX_KEY_LENGTH)
    return SecretStr(text)


class KeyRequest(BaseModel):
    """The body of PUT /keys/{provider}."""

    api_key: Annotated[SecretStr, AfterValidator(_plausible_key)]


async def get_keys(request: Request) -> Keys:
    """The Keys of the running app."""
    keys: Keys = request.app.state.keys
    return keys


async def supported_provider(provider: str) -> str:
    """The provider in the path. Raises NotFound if it is not supported."""
    if provider not in PROVIDER_NAMES:
        raise NotFound
    return provider


CurrentKeys = Annotated[Keys, Depends(get_keys)]
Provider = Annotated[str, Depends(supported_provider)]
KeyBody = Annotated[KeyRequest, Depends(json_body(KeyRequest))]


@Operation(StoredKeys, errors=(AccountBlocked,))
async def list_keys(user: CurrentUser, keys: CurrentKeys) -> Response:
    """The user's keys."""
    return json_response({"keys": (await keys.list(user))["keys"]})


@Operation(KeyInfo, body=KeyRequest, errors=(AccountBlocked, NotFound, ByokNotAllowed, ByokKeyRejected))
async def put_key(user: CurrentUser, provider: Provider, body: KeyBody, keys: CurrentKeys) -> Response:
    """Check and store a key."""
    return json_response(await keys.put(user, provider, PlainKey(body.api_key.get_secret_value())))


@Operation(KeyInfo, errors=(AccountBlocked, NotFound, ByokKeyRejected))
async def validate_key(user: CurrentUser, provider: Provider, keys: CurrentKeys, request: Request) -> Response:
    """Check the stored key again."""
    return json_response(await keys.validate(user, provider, language_of(request)))


@Operation(Deleted, errors=(NotFound,))
async def delete_key(user: CurrentUser, provider: Provider, keys: CurrentKeys) -> Response:
    """Delete the stored key."""
    return json_response({"deleted": await keys.delete(user, provider)})


def create() -> FastAPI:
    """The function's app, from the environment. Raises SettingsError."""
    environment = read_environment()
    settings, vault = load(KeysSettings, environment), load_vault(environment)
    observer = Observer("keys")
    keys = Keys(Database(settings, observer, ThreadTransport()), vault, settings, observer)
    app = create_lambda_app(observer, keys.close)
    app.state.verifier = Verifier(settings, observer)
    app.state.keys = keys
    app.add_api_route("/keys", list_keys, methods=["GET"])
    app.add_api_route("/keys/{provider}", put_key, methods=["PUT"])
    app.add_api_route("/keys/{provider}", delete_key, methods=["DELETE"])
    app.add_api_route("/keys/{provider}/validate", validate_key, methods=["POST"])
    return app


handler = lambda_handler(create)
