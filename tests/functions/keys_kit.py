"""Helpers for the tests of key storage: requests, stored rows, and a provider that a test controls."""

import uuid
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

import httpx
import psycopg
from psycopg.rows import dict_row

from functions.common.vault import EncryptedKey, Vault
from infra.local.stack import Stack
from tests.api import Api
from tests.conftest import Person
from tests.own_keys import ENCRYPTION, store_key
from tests.servers import serve_http

People = Callable[..., Person]
PROVIDERS = {"anthropic": "Anthropic", "openai": "OpenAI"}
CANARY = "canary"
UNAVAILABLE = (503, "unavailable")


def new_key(mark: str = "") -> str:
    """A key that the stand-in accepts, unless `mark` makes it invalid."""
    return f"sk-{mark}{uuid.uuid4().hex}"


def put(api: Api, person: Person, key: str, provider: str = "anthropic") -> httpx.Response:
    """PUT /keys/{provider}."""
    return api.http.put(f"/keys/{provider}", json={"api_key": key}, headers=person.headers)


def validate(api: Api, person: Person, provider: str = "anthropic") -> httpx.Response:
    """POST /keys/{provider}/validate."""
    return api.http.post(f"/keys/{provider}/validate", headers=person.headers)


def delete(api: Api, person: Person, provider: str = "anthropic") -> httpx.Response:
    """DELETE /keys/{provider}."""
    return api.http.delete(f"/keys/{provider}", headers=person.headers)


def list_keys(api: Api, person: Person) -> list[dict[str, Any]]:
    """GET /keys."""
    response = api.http.get("/keys", headers=person.headers)
    assert response.status_code == 200
    body = response.json()
    assert set(body) == {"keys"}
    keys: list[dict[str, Any]] = body["keys"]
    return keys


def error_of(response: httpx.Response) -> tuple[int, str]:
    """The status and the code of an error response."""
    error = response.json()["error"]
    assert error["request_id"] == response.headers["x-request-id"]
    return response.status_code, error["code"]


def provider_requests(api: Api) -> list[dict[str, Any]]:
    """The requests to the stand-in since the journal was cleared."""
    return list(httpx.get(f"{api.model_url}/_requests").json())


def clear_journal(api: Api) -> None:
    """Delete the stand-in's list of requests."""
    assert httpx.delete(f"{api.model_url}/_requests").status_code == 204


def rows(stack: Stack, person: Person) -> list[dict[str, Any]]:
    """The stored keys of a person, ordered by provider."""
    with psycopg.connect(stack.postgres.url(), row_factory=dict_row) as db:
        return db.execute(
            "select * from public.user_api_keys where user_id = %s order by provider", (person.id,)
        ).fetchall()


def update_rows(stack: Stack, person: Person, assignments: str, table: str = "user_api_keys") -> None:
    """Change a person's rows directly in the database."""
    with psycopg.connect(stack.postgres.url(), autocommit=True) as db:
        db.execute(f"update public.{table} set {assignments} where user_id = %s".encode(), (person.id,))


def uses_own_key(stack: Stack, person: Person) -> bool:
    """The column uses_byo_key of a person's subscription."""
    with psycopg.connect(stack.postgres.url()) as db:
        row = db.execute(
            "select uses_byo_key from public.user_subscriptions where user_id = %s", (person.id,)
        ).fetchone()
    assert row is not None
    return bool(row[0])


def decrypted(person: Person, row: dict[str, Any]) -> str:
    """The key in a stored row."""
    encrypted = EncryptedKey(
        row["encryption_key_id"], row["encryption_iv"], row["encrypted_key"], row["encryption_tag"]
    )
    vault = Vault(ENCRYPTION, dict)
    return vault.decrypt_without_refresh(encrypted, person.id, row["provider"]).reveal()


def store(stack: Stack, person: Person, key: str, provider: str = "anthropic") -> None:
    """Store a key as valid without asking the provider."""
    store_key(stack, person, key, provider)


Reply = tuple[int, str, bytes] | None


class Provider:
    """Replies with what the test sets: status, content type and body, or None to close the connection."""

    def __init__(self) -> None:
        self.reply: Callable[[], Reply] = lambda: (200, "application/json", b'{"data": [], "has_more": false}')
        self.requests = 0
        provider = self

        class Handler(BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                provider.requests += 1
                reply = provider.reply()
                self.close_connection = True
                if reply is not None:
                    status, content_type, body = reply
                    self.send_response(status)
                    self.send_header("content-type", content_type)
                    self.send_header("content-length", str(len(body)))
                    self.send_header("connection", "close")
                    self.end_headers()
                    self.wfile.write(body)

            def log_message(self, *args: object) -> None:
                pass

        self.server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self.server.server_port}"


@contextmanager
def running_provider() -> Iterator[Provider]:
    """A provider on a port of its own."""
    provider = Provider()
    with serve_http(provider.server):
        yield provider


def environment(stack: Stack, provider_url: str) -> dict[str, str]:
    """The environment of the function, with the stack's Supabase and another provider."""
    return {
        **ENCRYPTION,
        "SUPABASE_URL": stack.info["supabase_url"],
        "SUPABASE_ANON_KEY": stack.info["publishable_key"],
        "SUPABASE_SERVICE_ROLE_KEY": stack.info["secret_key"],
        "ANTHROPIC_BASE_URL": provider_url,
        "OPENAI_BASE_URL": f"{provider_url}/v1",
    }
