"""The route of the webhooks. On Lambda Mangum runs the app; `create` makes it for any other server."""

import time
from typing import Literal

from fastapi import FastAPI, Request, Response
from typing_extensions import TypedDict

from functions.common.billing.events import HANDLED_EVENTS, is_ours, process_event
from functions.common.billing.stripe_client import Account
from functions.common.database import Database
from functions.common.errors import InvalidJson, InvalidSignature, PaymentUnavailable, TooLarge, Unavailable
from functions.common.lambda_http import create_lambda_app, lambda_handler
from functions.common.observe import Observer
from functions.common.operation import Operation
from functions.common.settings import load
from functions.common.web import json_response
from functions.webhooks.settings import WebhooksSettings
from functions.webhooks.signature import verified

BODY_LIMIT = 1024 * 1024  # Stripe's events contain whole objects, such as an invoice with its lines


class Received(TypedDict):
    """What was done with an event. Repeated: it was processed before. Ignored: its type is not used, or it is about
    another account or mode, or about a customer or payment that ours does not have."""

    outcome: Literal["processed", "repeated", "ignored"]


class Webhooks:
    """Verifies and processes events. Holds what the route shares."""

    def __init__(self, settings: WebhooksSettings, observer: Observer) -> None:
        self._secrets = [secret.get_secret_value() for secret in settings.webhook_secrets]
        self._database = Database(settings, observer)
        self._stripe = Account(settings)
        self._observer = observer

    async def close(self) -> None:
        """Close the connections."""
        await self._database.close()
        await self._stripe.close()

    async def receive(self, body: bytes, signature: str | None) -> str:
        """Process an event. Returns `processed`, `repeated` or `ignored` after the effect is committed.

        Raises InvalidSignature, InvalidJson, and what process_event raises.
        """
        event, signer = verified(body, signature, self._secrets, time.time())
        outcome = "ignored"
        if event["type"] in HANDLED_EVENTS and is_ours(event, live=self._stripe.is_live):
            outcome = await process_event(self._database, self._stripe, event, self._report_orphan)
            if outcome == "ignored":
                self._observer.info("stripe does not have what an event is about", event_id=event["id"])
        elif event["type"] in HANDLED_EVENTS:
            self._observer.info("stripe event of another account or mode", event_id=event["id"])
        if event["type"] == "invoice.finalization_failed" and outcome != "ignored":
            self._observer.count(InvoicesNotFinalized=1)  # a retry does not help: an operator has to act
        self._observer.info(
            "stripe event", event_id=event["id"], event_type=event["type"], outcome=outcome, signed_by=signer
        )
        return outcome

    def _report_orphan(self, event_id: str) -> None:
        self._observer.info("stripe has a payment without a user", event_id=event_id)
        self._observer.count(PaymentsWithoutUser=1)  # an operator has to refund it


@Operation(
    Received,
    caller="stripe",
    errors=(InvalidSignature, InvalidJson, TooLarge, PaymentUnavailable, Unavailable),
)
async def receive_event(request: Request) -> Response:
    """Receive an event. Stripe resends it after any status except 2xx."""
    webhooks: Webhooks = request.app.state.webhooks
    outcome = await webhooks.receive(await request.body(), request.headers.get("stripe-signature"))
    return json_response({"outcome": outcome})


def create() -> FastAPI:
    """The function's app, from the environment. Raises SettingsError."""
    settings = load(WebhooksSettings)
    observer = Observer("webhooks")
    webhooks = Webhooks(settings, observer)
    app = create_lambda_app(observer, webhooks.close, BODY_LIMIT)
    app.state.webhooks = webhooks
    app.add_api_route("/webhooks/stripe", receive_event, methods=["POST"])
    return app


handler = lambda_handler(create)
