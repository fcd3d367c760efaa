"""The route of the webhooks. On Lambda Mangum runs the app; `create` makes it for any other server."""

import time

from fastapi import FastAPI, Request, Response

from functions.common.billing.events import USED, deal_with
from functions.common.billing.stripe_client import Account
from functions.common.database import Database
from functions.common.lambda_http import create_lambda_app, lambda_handler
from functions.common.observe import Observer
from functions.common.settings import load
from functions.common.web import json_response
from functions.webhooks.settings import WebhooksSettings
from functions.webhooks.signature import verified


class Webhooks:
    """Verifies events and deals with them. Holds what the route shares."""

    def __init__(self, settings: WebhooksSettings, observer: Observer) -> None:
        self._secrets = [secret.get_secret_value() for secret in settings.webhook_secrets]
        self._database = Database(settings)
        self._stripe = Account(settings)
        self._observer = observer

    async def close(self) -> None:
        """Close the connections."""
        await self._database.close()
        await self._stripe.close()

    async def receive(self, body: bytes, signature: str | None) -> str:
        """Deal with an event: `processed`, `repeated` or `ignored`, once that is committed.

        Raises InvalidSignature, InvalidJson, and what deal_with raises.
        """
        event = verified(body, signature, self._secrets, time.time())
        outcome = "ignored"
        if event["type"] in USED:
            outcome = "processed" if await deal_with(self._database, self._stripe, event) else "repeated"
        if event["type"] == "invoice.finalization_failed":
            self._observer.count(InvoicesNotFinalized=1)  # no other attempt would mend it: a person has to look
        self._observer.info("stripe event", event_id=event["id"], event_type=event["type"], outcome=outcome)
        return outcome


async def receive_event(request: Request) -> Response:
    """An event. Anything but 2xx makes Stripe send it again."""
    webhooks: Webhooks = request.app.state.webhooks
    outcome = await webhooks.receive(await request.body(), request.headers.get("stripe-signature"))
    return json_response({"outcome": outcome})


def create() -> FastAPI:
    """The function's app, from the environment. Raises SettingsError."""
    settings = load(WebhooksSettings)
    observer = Observer("webhooks")
    webhooks = Webhooks(settings, observer)
    app = create_lambda_app(observer, webhooks.close)
    app.state.webhooks = webhooks
    app.add_api_route("/webhooks/stripe", receive_event, methods=["POST"])
    return app


handler = lambda_handler(create)
