"""The user's own key that pays for a query (bring your own key)."""

from functions.chat.metering import Hold
from functions.common import results
from functions.common.database import Database
from functions.common.errors import AppError, ByokKeyRejected
from functions.common.observe import Observer
from functions.common.vault import DecryptionFailed, EncryptedKey, PlainKey, Vault


class OwnKeys:
    """Decrypts stored keys and records their rejection."""

    def __init__(self, database: Database, vault: Vault, observer: Observer) -> None:
        self._database = database
        self._vault = vault
        self._observer = observer

    async def decrypt(self, hold: Hold) -> PlainKey | None:
        """The own key that pays; None where the platform's account pays. Raises ByokKeyRejected if it is unreadable."""
        if hold.admission.funding != "byok":
            return None
        query, provider = hold.query, hold.admission.provider
        try:
            return await self._vault.decrypt(EncryptedKey.from_row(hold.admission.key), query.user_id, provider)
        except DecryptionFailed as error:
            self._observer.failure("own key not decrypted", error, **query.identity, provider=provider)
            raise ByokKeyRejected("byok_key_unreadable") from None

    async def reject(self, hold: Hold, error: ByokKeyRejected) -> None:
        """Record that the provider does not accept the key, so that the next query does not use it."""
        query, key = hold.query, hold.admission.key
        if key is None:
            return
        sentence = error.sentence(query.request.language)
        params = {"p_id": key["id"], "p_user_id": query.user_id, "p_is_valid": False, "p_error": sentence}
        try:
            await self._database.call("note_api_key", params, parse=results.record_or_none("hint"))
        except AppError as failure:
            self._observer.failure("rejected key not noted", failure, **query.identity)
