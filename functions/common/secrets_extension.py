"""Reads secrets of AWS Secrets Manager through AWS's Parameters and Secrets extension, without an AWS SDK.

The extension is a process beside the function that listens on loopback. It serves secrets only while the function
processes an event, not while the function starts.
https://docs.aws.amazon.com/systems-manager/latest/userguide/ps-integration-lambda-extensions.html
"""

import http.client
import json
import time
from collections.abc import Mapping
from urllib.parse import urlencode

PORT = 2773
TIMEOUT_S = 4.0  # for one request, which may wait for Secrets Manager
# At the first event the extension may be a moment behind the function.
READY_WITHIN_S = 2.0
PAUSE_S = 0.02


class SecretError(Exception):
    """The secret cannot be read. The text says why and contains nothing of the secret."""


def read_secret(secret_id: str, environ: Mapping[str, str]) -> str:
    """The text of a secret, by name or ARN. `environ` is the function's environment. Raises SecretError."""
    ready_until = time.monotonic() + READY_WITHIN_S
    while True:
        try:
            status, content = _get(secret_id, environ)
        except ConnectionRefusedError:
            is_ready, reason = False, "the extension does not listen"
        except (OSError, ValueError, http.client.HTTPException) as error:
            raise SecretError(type(error).__name__) from None
        else:
            if status == 200:
                return _text(content)
            is_ready, reason = b"not ready" not in content, f"the extension answered {status}"
        if is_ready or time.monotonic() > ready_until:
            raise SecretError(reason)
        time.sleep(PAUSE_S)


def _get(secret_id: str, environ: Mapping[str, str]) -> tuple[int, bytes]:
    port = int(environ.get("PARAMETERS_SECRETS_EXTENSION_HTTP_PORT", PORT))
    # The token proves to the extension that the request comes from within the function.
    headers = {"X-Aws-Parameters-Secrets-Token": environ.get("AWS_SESSION_TOKEN", "")}
    connection = http.client.HTTPConnection("localhost", port, timeout=TIMEOUT_S)
    try:
        connection.request("GET", f"/secretsmanager/get?{urlencode({'secretId': secret_id})}", headers=headers)
        response = connection.getresponse()
        return response.status, response.read()
    finally:
        connection.close()


def _text(content: bytes) -> str:
    """The SecretString of a response. The extension returns the JSON of Secrets Manager's GetSecretValue."""
    try:
        text = json.loads(content)["SecretString"]
    except (ValueError, KeyError, TypeError):
        text = None
    if not isinstance(text, str):
        raise SecretError("it has no text")
    return text
