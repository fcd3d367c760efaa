"""Key storage on Lambda: the handler in a process of its own."""

import json
import os
import subprocess
import sys
import uuid
from base64 import b64encode
from typing import Any

from infra.local.postgres import ROOT
from infra.local.stack import GATEWAY, Stack
from tests.api import Api
from tests.functions.keys_kit import (
    People,
    environment,
    list_keys,
    new_key,
)

# The local gateway closes connections that are idle for five seconds; importing the SDKs may take longer.
INVOKE = f"""
import anthropic, json, openai, sys
connected = []
sys.addaudithook(lambda event, args: connected.append(args[1]) if event == "socket.connect" else None)
from functions.keys.handler import handler
answers = []
for event in json.load(sys.stdin):
    connected.clear()
    answer = handler(event, None)
    gateway = [address for address in connected if address[1] == {GATEWAY} + int(sys.argv[1])]
    answers.append({{**answer, "connections": len(gateway)}})
print(json.dumps(answers))
"""


def function_url_event(
    method: str, path: str, headers: dict[str, str], body: str | None = None, *, encoded: bool = False
) -> dict[str, Any]:
    """The event of a request to a function URL, payload version 2.0.

    https://docs.aws.amazon.com/lambda/latest/dg/urls-invocation.html#urls-payloads
    """
    now = "12/Mar/2026:19:03:58 +0000"
    event: dict[str, Any] = {
        "version": "2.0",
        "routeKey": "$default",
        "rawPath": path,
        "rawQueryString": "",
        "headers": {"content-type": "application/json", "host": "abc.lambda-url.ca-central-1.on.aws", **headers},
        "requestContext": {
            "accountId": "anonymous",
            "apiId": "abc",
            "domainName": "abc.lambda-url.ca-central-1.on.aws",
            "domainPrefix": "abc",
            "http": {
                "method": method, "path": path, "protocol": "HTTP/1.1", "sourceIp": "127.0.0.1", "userAgent": "test",
            },
            "requestId": str(uuid.uuid4()),
            "routeKey": "$default",
            "stage": "$default",
            "time": now,
            "timeEpoch": 1773342238000,
        },
        "isBase64Encoded": encoded,
    }  # fmt: skip
    if body is not None:
        event["body"] = b64encode(body.encode()).decode() if encoded else body
    return event


def test_the_lambda_handler_reuses_connections_between_invocations(api: Api, stack: Stack, person: People) -> None:
    """The event loop, and the connections bound to it, survive an invocation."""
    user, key = person("basic"), new_key()
    body, rejected = (json.dumps({"api_key": text}) for text in (key, new_key("invalid-")))
    events = [
        function_url_event("GET", "/keys", user.headers),
        function_url_event("PUT", "/keys/anthropic", user.headers, body),
        function_url_event("PUT", "/keys/openai", user.headers, body, encoded=True),
        function_url_event("GET", "/keys", user.headers),
        function_url_event("POST", "/keys/anthropic/validate", user.headers),
        function_url_event("PUT", "/keys/anthropic", user.headers, rejected),
        function_url_event("PUT", "/keys/anthropic", user.headers),
        function_url_event("GET", "/keys", {}),
        function_url_event("DELETE", "/keys/openai", user.headers),
        function_url_event("GET", "/keys", user.headers),
    ]
    done = subprocess.run(
        [sys.executable, "-c", INVOKE, str(stack.config.offset)],
        cwd=ROOT,
        env={"PATH": os.environ["PATH"], **environment(stack, stack.info["model_url"])},
        input=json.dumps(events),
        capture_output=True,
        text=True,
        check=True,
        timeout=60,
    )
    assert "Traceback" not in done.stderr
    assert key not in done.stderr + done.stdout
    answers = json.loads(done.stdout.splitlines()[-1])
    assert [answer["statusCode"] for answer in answers] == [200, 200, 200, 200, 200, 422, 400, 401, 200, 200]
    assert all(answer["isBase64Encoded"] is False for answer in answers)
    bodies = [json.loads(answer["body"]) for answer in answers]
    assert bodies[0] == {"keys": []}
    assert (bodies[1]["status"], bodies[1]["hint"]) == ("valid", f"…{key[-4:]}")
    assert bodies[3] == {"keys": [bodies[1], bodies[2]]}
    assert bodies[4]["status"] == "valid"
    assert bodies[5]["error"]["code"] == "byok_key_rejected"
    assert bodies[8] == {"deleted": True}
    assert bodies[9] == {"keys": [bodies[4]]} == {"keys": list_keys(api, user)}
    for answer, content in zip(answers, bodies, strict=True):
        assert answer["headers"]["content-type"] == "application/json"
        if "error" in content:
            assert content["error"]["request_id"] == answer["headers"]["x-request-id"]
    first, *later = [answer["connections"] for answer in answers]
    assert first >= 1  # connections are counted
    assert later == [0] * len(later)
