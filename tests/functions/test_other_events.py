"""Events that invoke a function with a URL and are not HTTP requests: a test in AWS's console, or a wrong rule."""

import asyncio
import json
from collections.abc import Iterator
from typing import Any
from unittest import mock

import pytest

from functions.checkout import handler as checkout
from functions.common.errors import NotAnHttpRequest
from functions.keys import handler as keys
from functions.webhooks import handler as webhooks
from infra.local.stack import Stack
from tests.api import Api
from tests.billing_kit import BillingStack, environment
from tests.functions.test_keys_lambda import function_url_event
from tests.own_keys import ENCRYPTION

# https://docs.aws.amazon.com/lambda/latest/dg/testing-functions.html and
# https://docs.aws.amazon.com/eventbridge/latest/userguide/eb-events-structure.html
EVENTS: dict[str, Any] = {
    "the console's test": {"key1": "value1", "key2": "value2", "key3": "value3"},
    "an empty object": {},
    "a list": [1, {"a": []}],
    "a text": "test",
    "null": None,
    "EventBridge's event": {
        "version": "0",
        "id": "6a7e8feb-b491-4cf7-a9f1-bf3703467718",
        "detail-type": "Scheduled Event",
        "source": "aws.events",
        "account": "111122223333",
        "time": "2026-11-29T05:00:00Z",
        "region": "ca-central-1",
        "resources": [],
        "detail": {},
    },
    "a job": {"job": "reconcile"},
    "a message of SQS": {"Records": [{"eventSource": "aws:sqs", "body": "{}"}]},
    "an event of CloudFront": {"Records": [{"cf": {"request": {}}}]},
    "a strange context": {"version": "2.0", "requestContext": "x", "headers": {}, "rawPath": "/"},
}
HANDLERS = {"keys": keys, "checkout": checkout, "webhooks": webhooks}


@pytest.fixture
def settings(billing: BillingStack) -> Iterator[None]:
    """The functions' environment."""
    with mock.patch.dict("os.environ", {**environment(billing.stack, billing.fake.url), **ENCRYPTION}):
        yield


@pytest.fixture
def event_loop() -> Iterator[None]:
    """The loop that Mangum takes. It would leave its own open."""
    with asyncio.Runner() as runner:
        asyncio.set_event_loop(runner.get_loop())
        yield
        asyncio.set_event_loop(None)


@pytest.mark.usefixtures("settings", "event_loop")
@pytest.mark.parametrize("name", HANDLERS)
def test_another_event_gets_a_sentence(name: str, capfd: pytest.CaptureFixture[str]) -> None:
    handler = HANDLERS[name].lambda_handler(HANDLERS[name].create)
    for event in EVENTS.values():
        response = handler(event, None)
        error = json.loads(response["body"])["error"]
        assert (response["statusCode"], error["code"]) == (400, "not_an_http_request")
        assert error["message"] == NotAnHttpRequest().sentence("en")
    assert handler(function_url_event("GET", "/unknown", {}), None)["statusCode"] == 404
    assert "Traceback" not in "".join(capfd.readouterr())


def test_another_event_gets_a_sentence_from_the_chat(api: Api, stack: Stack) -> None:
    """The Web Adapter posts it to /events."""
    for event in EVENTS.values():
        response = api.http.post("/events", json=event)
        assert (response.status_code, response.json()["error"]["message"]) == (400, NotAnHttpRequest().sentence("en"))
