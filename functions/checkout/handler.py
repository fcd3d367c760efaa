"""The routes of checkout: `/plans`, `/checkout`, `/portal`, `/overage`.

On Lambda Mangum runs the app; `create` makes it for any other server.
"""

from decimal import Decimal
from typing import Annotated, Literal
from urllib.parse import urlsplit

from fastapi import Depends, FastAPI, Request, Response
from pydantic import BaseModel, ConfigDict, Field, model_validator

from functions.checkout.settings import CheckoutSettings
from functions.checkout.shop import Shop
from functions.common.auth import CurrentUser, Verifier
from functions.common.errors import InvalidRequest
from functions.common.lambda_http import create_lambda_app, lambda_handler
from functions.common.observe import Observer
from functions.common.settings import load
from functions.common.web import json_body, json_response

PLANS_FRESH_S = 300


class CheckoutRequest(BaseModel):
    """The body of POST /checkout: a plan or a pack."""

    plan: Literal["basic", "pro", "usage_only"] | None = None
    pack: Annotated[str, Field(max_length=64)] | None = None
    success_url: Annotated[str, Field(max_length=2000)]
    cancel_url: Annotated[str, Field(max_length=2000)]

    @model_validator(mode="after")
    def _one(self) -> "CheckoutRequest":
        if (self.plan is None) == (self.pack is None):
            raise ValueError("needs a plan or a pack, and not both")
        return self


class PortalRequest(BaseModel):
    """The body of POST /portal."""

    return_url: Annotated[str, Field(max_length=2000)]


class OverageRequest(BaseModel):
    """The body of PATCH /overage: what is not given stays; a limit of null is the plan's again."""

    model_config = ConfigDict(extra="forbid")

    allow_overages: bool | None = None
    overage_limit_usd: Annotated[Decimal, Field(ge=0, le=10000, max_digits=11, decimal_places=6)] | None = None


def get_shop(request: Request) -> Shop:
    """The running app's shop."""
    shop: Shop = request.app.state.shop
    return shop


CurrentShop = Annotated[Shop, Depends(get_shop)]
CheckoutBody = Annotated[CheckoutRequest, Depends(json_body(CheckoutRequest))]
PortalBody = Annotated[PortalRequest, Depends(json_body(PortalRequest))]
OverageBody = Annotated[OverageRequest, Depends(json_body(OverageRequest))]


def check_origin(shop: Shop, **urls: str) -> None:
    """People are sent back to us and to nobody else. Raises InvalidRequest naming each URL that leads elsewhere."""
    wrong = [name for name, url in urls.items() if not _leads_to(url, shop.allowed_origins)]
    if wrong:
        raise InvalidRequest(fields=[{"field": name, "message": "must be on an allowed origin"} for name in wrong])


def _leads_to(url: str, origins: frozenset[str]) -> bool:
    if not url.isascii() or not url.isprintable() or "\\" in url or " " in url:
        return False  # browsers read these in more than one way
    try:
        parts = urlsplit(url)
    except ValueError:
        return False
    return f"{parts.scheme}://{parts.netloc}" in origins


async def get_plans(shop: CurrentShop) -> Response:
    """What is sold."""
    return json_response(await shop.plans(), headers={"cache-control": f"public, max-age={PLANS_FRESH_S}"})


async def post_checkout(user: CurrentUser, body: CheckoutBody, shop: CurrentShop) -> Response:
    """A page at Stripe to pay on."""
    check_origin(shop, success_url=body.success_url, cancel_url=body.cancel_url)
    if body.plan is not None:
        page = await shop.subscribe(user, body.plan, body.success_url, body.cancel_url)
    else:
        assert body.pack is not None
        page = await shop.buy(user, body.pack, body.success_url, body.cancel_url)
    return json_response(page)


async def post_portal(user: CurrentUser, body: PortalBody, shop: CurrentShop) -> Response:
    """The user's billing portal at Stripe."""
    check_origin(shop, return_url=body.return_url)
    return json_response({"url": (await shop.portal(user, body.return_url))["url"]})


async def patch_overage(user: CurrentUser, body: OverageBody, shop: CurrentShop) -> Response:
    """The user's overage settings."""
    given = body.model_dump(exclude_unset=True, mode="json")
    return json_response(await shop.set_overage(user, given))


def create() -> FastAPI:
    """The function's app, from the environment. Raises SettingsError."""
    settings = load(CheckoutSettings)
    observer = Observer("checkout")
    shop = Shop(settings, observer)
    app = create_lambda_app(observer, shop.close)
    app.state.verifier = Verifier(settings)
    app.state.shop = shop
    app.add_api_route("/plans", get_plans, methods=["GET"])
    app.add_api_route("/checkout", post_checkout, methods=["POST"])
    app.add_api_route("/portal", post_portal, methods=["POST"])
    app.add_api_route("/overage", patch_overage, methods=["PATCH"])
    return app


handler = lambda_handler(create)
