"""Helpers for tests of own keys of users."""

import uuid
from base64 import b64encode
from collections.abc import Callable
from typing import Any

from tests.conftest import Connect
from tests.sql.metering import Db, counters, value

PROVIDERS = ("anthropic", "openai")
# The columns of a canceled subscription after the end of its period.
LAPSED = {"status": "canceled", "current_period_start": "2020-01-01Z", "current_period_end": "2020-02-01Z"}


def base64(text: str) -> str:
    """Bytes as the SQL functions take them."""
    return b64encode(text.encode()).decode()


def put_key(
    db: Db, user: str, provider: str = "openai", key_id: str | None = None, *,
    nonce: str = "000000000001", ring_key: str = "1", hint: str = "…1234", valid: bool = True,
) -> dict[str, Any]:  # fmt: skip
    """Calls put_api_key. The nonce has twelve characters and is also part of the ciphertext and the tag."""
    metadata: dict[str, Any] = value(
        db, "select public.put_api_key(%s, %s, %s, %s, %s, %s, %s, %s, %s)", key_id or str(uuid.uuid4()), user,
        provider, base64(f"key {nonce}"), base64(nonce), base64(f"tag {nonce}"), ring_key, hint, valid,
    )  # fmt: skip
    return metadata


def note_key(db: Db, key_id: str, user: str, *, valid: bool, error: str = "Not accepted.") -> dict[str, Any] | None:
    """Calls note_api_key."""
    metadata: dict[str, Any] | None = value(
        db, "select public.note_api_key(%s, %s, %s, %s)", key_id, user, valid, error
    )
    return metadata


def get_key(db: Db, user: str, provider: str = "openai") -> dict[str, str] | None:
    """Calls get_api_key."""
    encrypted: dict[str, str] | None = value(db, "select public.get_api_key(%s, %s)", user, provider)
    return encrypted


def key_id_of(db: Db, user: str, provider: str = "openai") -> str:
    """The id of a stored key."""
    encrypted = get_key(db, user, provider)
    assert encrypted is not None
    return encrypted["id"]


def delete_key(db: Db, user: str, provider: str = "openai") -> bool:
    """Calls delete_api_key."""
    deleted: bool = value(db, "select public.delete_api_key(%s, %s)", user, provider)
    return deleted


def stored_keys(db: Db, user: str) -> list[dict[str, Any]]:
    """The user_api_keys rows of a user, ordered by provider."""
    return db.execute("select * from public.user_api_keys where user_id = %s order by provider", (user,)).fetchall()


def uses_byo_key(db: Db, user: str) -> bool:
    """The column uses_byo_key of a user."""
    uses: bool = counters(db, user)["uses_byo_key"]
    return uses


def list_keys(connect: Connect, user: str) -> dict[str, Any]:
    """Calls list_api_keys as the user."""
    answer: dict[str, Any] = value(connect("authenticated", user), "select public.list_api_keys()")
    return answer


Change = Callable[[Db, str, str], Any]
CHANGES: dict[str, Change] = {
    "delete": delete_key,
    "reject": lambda db, user, provider: note_key(db, key_id_of(db, user, provider), user, valid=False),
    "put": put_key,
}
