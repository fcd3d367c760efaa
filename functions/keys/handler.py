"""The routes of key storage: `/keys`. On Lambda Mangum runs the app; `create` makes it for any other server."""

from typing import Annotated, Any

from fastapi import Depends, FastAPI, Request, Response
from pydantic import AfterValidator, BaseModel, SecretStr

from functions.common.auth import CurrentUser, User, Verifier
from functions.common.database import Database
from functions.common.errors import ByokKeyRejected, ByokNotAllowed, NotFound
from functions.common.ids import time_ordered_id
from functions.common.lambda_http import create_lambda_app, lambda_handler
from functions.common.observe import Observer
from functions.common.settings import load, load_vault, read_environment
from functions.common.vault import MAX_KEY_LENGTH, DecryptionFailed, EncryptedKey, PlainKey, Vault
from functions.common.web import json_body, json_response
from functions.keys.check import PROVIDERS, Verdict, check
from functions.keys.settings import KeysSettings


class Keys:
    """Stores, checks and deletes users' keys. Holds what the routes share."""

    def __init__(self, database: Database, vault: Vault, settings: KeysSettings, observer: Observer) -> None:
        self._database = database
        self._vault = vault
        self._settings = settings
        self._observer = observer

    async def close(self) -> None:
        """Close the connections."""
        await self._database.close()

    async def list(self, user: User) -> dict[str, Any]:
        """`{"allowed", "keys": […]}`, without anything of what is in them."""
        listed: dict[str, Any] = await self._database.call("list_api_keys", user_token=user.token)
        return listed

    async def put(self, user: User, provider: str, key: PlainKey) -> dict[str, Any]:
        """Store a key in place of the one there is. Raises ByokNotAllowed, ByokKeyRejected."""
        if not (await self.list(user))["allowed"]:
            raise ByokNotAllowed  # before the key is shown to anybody
        verdict = await check(provider, key, self._settings)
        self._observer.info("key checked", user_id=user.id, provider=provider, outcome=verdict.value)
        if verdict is Verdict.REJECTED:
            raise ByokKeyRejected(f"{PROVIDERS[provider]} does not accept this key, so it was not stored.")
        sealed = await self._vault.encrypt(key, user.id, provider)
        params = {
            "p_id": time_ordered_id(),
            "p_user_id": user.id,
            "p_provider": provider,
            **{f"p_{name}": value for name, value in sealed.to_row().items()},
            "p_hint": key.hint,
            "p_is_valid": verdict is Verdict.VALID,
        }
        row: dict[str, Any] = await self._database.call("put_api_key", params, idempotent=True)
        return row

    async def validate(self, user: User, provider: str) -> dict[str, Any]:
        """Check the stored key again, and say how it stands. Raises NotFound, ByokKeyRejected."""
        stored = await self._database.call("get_api_key", {"p_user_id": user.id, "p_provider": provider})
        if stored is None:
            raise NotFound
        try:
            key = await self._vault.decrypt(EncryptedKey.from_row(stored), user.id, provider)
        except DecryptionFailed as error:
            self._observer.failure("own key not opened", error, user_id=user.id, provider=provider)
            raise ByokKeyRejected("Your own key can no longer be read. Store it again, or delete it.") from None
        verdict = await check(provider, key, self._settings)
        self._observer.info("key checked", user_id=user.id, provider=provider, outcome=verdict.value)
        noted = None
        if verdict is not Verdict.UNREACHABLE:
            refusal = f"{PROVIDERS[provider]} does not accept this key."
            params = {"p_id": stored["id"], "p_user_id": user.id, "p_is_valid": verdict is Verdict.VALID}
            noted = await self._database.call("note_api_key", {**params, "p_error": refusal}, idempotent=True)
        if noted is None:  # nothing was learnt, or of a key that has been replaced meanwhile
            noted = next((row for row in (await self.list(user))["keys"] if row["provider"] == provider), None)
        if noted is None:
            raise NotFound
        row: dict[str, Any] = noted
        return row

    async def delete(self, user: User, provider: str) -> bool:
        """Delete the key for a provider; says whether there was one."""
        params = {"p_user_id": user.id, "p_provider": provider}
        deleted: bool = await self._database.call("delete_api_key", params, idempotent=True)
        return deleted


def _usable(value: SecretStr) -> SecretStr:
    text = value.get_secret_value().strip()
    if not 16 <= len(text) <= MAX_KEY_LENGTH or not text.isascii() or not text.isprintable() or " " in text:
        raise ValueError(f"must be a provider's API key: 16 to {MAX_KEY_LENGTH} printable characters without spaces")
    return SecretStr(text)


class KeyRequest(BaseModel):
    """The body of PUT /keys/{provider}."""

    api_key: Annotated[SecretStr, AfterValidator(_usable)]


def get_keys(request: Request) -> Keys:
    """The running app's keys."""
    keys: Keys = request.app.state.keys
    return keys


def known_provider(provider: str) -> str:
    """A provider that keys can be for. Raises NotFound."""
    if provider not in PROVIDERS:
        raise NotFound
    return provider


CurrentKeys = Annotated[Keys, Depends(get_keys)]
Provider = Annotated[str, Depends(known_provider)]
KeyBody = Annotated[KeyRequest, Depends(json_body(KeyRequest))]


async def list_keys(user: CurrentUser, keys: CurrentKeys) -> Response:
    """The user's keys."""
    return json_response({"keys": (await keys.list(user))["keys"]})


async def put_key(user: CurrentUser, provider: Provider, body: KeyBody, keys: CurrentKeys) -> Response:
    """Check and store a key."""
    return json_response(await keys.put(user, provider, PlainKey(body.api_key.get_secret_value())))


async def validate_key(user: CurrentUser, provider: Provider, keys: CurrentKeys) -> Response:
    """Check the stored key again."""
    return json_response(await keys.validate(user, provider))


async def delete_key(user: CurrentUser, provider: Provider, keys: CurrentKeys) -> Response:
    """Delete the stored key."""
    return json_response({"deleted": await keys.delete(user, provider)})


def create() -> FastAPI:
    """The function's app, from the environment. Raises SettingsError."""
    environment = read_environment()
    settings, vault = load(KeysSettings, environment), load_vault(environment)
    observer = Observer("keys")
    keys = Keys(Database(settings), vault, settings, observer)
    app = create_lambda_app(observer, keys.close)
    app.state.verifier = Verifier(settings)
    app.state.keys = keys
    app.add_api_route("/keys", list_keys, methods=["GET"])
    app.add_api_route("/keys/{provider}", put_key, methods=["PUT"])
    app.add_api_route("/keys/{provider}", delete_key, methods=["DELETE"])
    app.add_api_route("/keys/{provider}/validate", validate_key, methods=["POST"])
    return app


handler = lambda_handler(create)
