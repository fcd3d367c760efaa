"""Fixtures that several tests of the functions share."""

import json
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any
from urllib.parse import parse_qs, urlsplit

import pytest

from tests.servers import serve_http

TOKEN = "session-token"


class SecretsExtension:
    """AWS's Parameters and Secrets extension on the wire. Answers `not_ready` requests as it does at a start."""

    def __init__(self) -> None:
        self.secrets: dict[str, str] = {}
        self.not_ready = 0
        self.requests = 0
        extension = self

        class Handler(BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                extension.requests += 1
                url = urlsplit(self.path)
                name = parse_qs(url.query).get("secretId", [""])[0]
                if self.headers["X-Aws-Parameters-Secrets-Token"] != TOKEN:
                    self._answer(401, "unauthorized")
                elif extension.not_ready > 0:
                    extension.not_ready -= 1
                    self._answer(400, "not ready to serve traffic, please wait")
                elif url.path != "/secretsmanager/get" or (found := extension.find(name)) is None:
                    self._answer(400, "an unexpected error occurred while executing request")
                else:
                    self._answer(200, json.dumps(found))

            def _answer(self, status: int, text: str) -> None:
                body = text.encode()
                self.send_response(status)
                self.send_header("content-length", str(len(body)))
                self.end_headers()
                self.wfile.write(body)

            def log_message(self, *args: object) -> None:
                pass

        self.server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.environment = {
            "PARAMETERS_SECRETS_EXTENSION_HTTP_PORT": str(self.server.server_port),
            "AWS_SESSION_TOKEN": TOKEN,
        }

    def find(self, name: str) -> dict[str, Any] | None:
        """Secrets Manager's answer to GetSecretValue, or None where there is no such secret."""
        return {"Name": name, "SecretString": self.secrets[name]} if name in self.secrets else None


@pytest.fixture
def secrets_extension(monkeypatch: pytest.MonkeyPatch) -> Iterator[SecretsExtension]:
    """A running extension without secrets, named by the process's environment."""
    extension = SecretsExtension()
    for name, value in extension.environment.items():
        monkeypatch.setenv(name, value)
    with serve_http(extension.server):
        yield extension
