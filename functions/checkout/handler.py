"""The routes of checkout: `/plans`, `/checkout`, `/portal`, `/overage`.

On Lambda Mangum runs the app; `create` makes it for any other server.
"""

from dataclasses import asdict
from decimal import Decimal
from typing import Annotated, Any, Literal
from urllib.parse import urlsplit

from fastapi import Depends, FastAPI, Request, Response
from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, StrictBool, model_validator
from typing_extensions import TypedDict

from functions.checkout.checkout import Checkout, Page, ReturnUrls
from functions.checkout.settings import CheckoutSettings
from functions.common.auth import CurrentUser, Verifier
from functions.common.billing.records import OverageSettings, PriceList
from functions.common.errors import (
    AccountBlocked,
    InvalidRequest,
    NotFound,
    PaymentRequired,
    PaymentUnavailable,
    Unavailable,
)
from functions.common.lambda_http import create_lambda_app, lambda_handler
from functions.common.observe import Observer
from functions.common.operation import Operation
from functions.common.settings import load
from functions.common.validation import field_problem, problem
from functions.common.web import json_body, json_response

PLANS_MAX_AGE_S = 300


class CheckoutRequest(BaseModel):
    """The body of POST /checkout: a plan or a pack."""

    plan: Literal["basic", "pro", "usage_only"] | None = None
    pack: Annotated[str, Field(max_length=64)] | None = None
    success_url: Annotated[str, Field(max_length=2000)]
    cancel_url: Annotated[str, Field(max_length=2000)]

    @model_validator(mode="after")
    def _exactly_one(self) -> "CheckoutRequest":
        if (self.plan is None) == (self.pack is None):
            raise problem("plan_or_pack")
        return self


class PortalRequest(BaseModel):
    """The body of POST /portal."""

    return_url: Annotated[str, Field(max_length=2000)]


def _number(value: Any) -> Any:
    if isinstance(value, str | bool):
        raise problem("number")
    return value


class OverageRequest(BaseModel):
    """The body of PATCH /overage: an absent field stays as it is; a limit of null is the plan's default."""

    model_config = ConfigDict(extra="forbid")

    allow_overages: StrictBool | None = None
    overage_limit_usd: (
        Annotated[Decimal, BeforeValidator(_number), Field(ge=0, le=10000, max_digits=11, decimal_places=6)] | None
    ) = None


class PortalPage(TypedDict):
    """The user's billing portal at Stripe."""

    url: str


async def get_checkout(request: Request) -> Checkout:
    """The app's Checkout."""
    checkout: Checkout = request.app.state.checkout
    return checkout


CurrentCheckout = Annotated[Checkout, Depends(get_checkout)]
CheckoutBody = Annotated[CheckoutRequest, Depends(json_body(CheckoutRequest))]
PortalBody = Annotated[PortalRequest, Depends(json_body(PortalRequest))]
OverageBody = Annotated[OverageRequest, Depends(json_body(OverageRequest))]


def check_origin(checkout: Checkout, **urls: str) -> None:
    """Return URLs must be on an allowed origin. Raises InvalidRequest that names each field that is not."""
    wrong = [name for name, url in urls.items() if not _is_on(url, checkout.allowed_origins)]
    if wrong:
        raise InvalidRequest(*(field_problem(name, "origin") for name in wrong))


def _is_on(url: str, origins: frozenset[str]) -> bool:
    if not url.isascii() or not url.isprintable() or "\\" in url or " " in url:
        return False  # browsers differ in how they read these
    try:
        parts = urlsplit(url)
    except ValueError:
        return False
    return f"{parts.scheme}://{parts.netloc}" in origins


@Operation(PriceList, caller="anyone", errors=(Unavailable,))
async def get_plans(checkout: CurrentCheckout) -> Response:
    """The price list."""
    return json_response(await checkout.plans(), headers={"cache-control": f"public, max-age={PLANS_MAX_AGE_S}"})


@Operation(Page, body=CheckoutRequest, errors=(PaymentRequired, AccountBlocked, NotFound, PaymentUnavailable))
async def post_checkout(user: CurrentUser, body: CheckoutBody, checkout: CurrentCheckout) -> Response:
    """A checkout page at Stripe."""
    check_origin(checkout, success_url=body.success_url, cancel_url=body.cancel_url)
    urls = ReturnUrls(success=body.success_url, cancel=body.cancel_url)
    if body.plan is not None:
        page = await checkout.subscribe(user, body.plan, urls)
    else:
        assert body.pack is not None
        page = await checkout.buy(user, body.pack, urls)
    return json_response(asdict(page))


@Operation(PortalPage, body=PortalRequest, errors=(AccountBlocked, NotFound, PaymentUnavailable))
async def post_portal(user: CurrentUser, body: PortalBody, checkout: CurrentCheckout) -> Response:
    """The user's billing portal at Stripe."""
    check_origin(checkout, return_url=body.return_url)
    return json_response({"url": (await checkout.portal(user, body.return_url)).url})


@Operation(OverageSettings, body=OverageRequest, errors=(AccountBlocked, NotFound))
async def patch_overage(user: CurrentUser, body: OverageBody, checkout: CurrentCheckout) -> Response:
    """Change the user's overage settings."""
    changes = body.model_dump(exclude_unset=True, mode="json")
    return json_response(await checkout.set_overage(user, changes))


def create() -> FastAPI:
    """The function's app, from the environment. Raises SettingsError."""
    settings = load(CheckoutSettings)
    observer = Observer("checkout")
    checkout = Checkout(settings, observer)
    app = create_lambda_app(observer, checkout.close)
    app.state.verifier = Verifier(settings, observer)
    app.state.checkout = checkout
    app.add_api_route("/plans", get_plans, methods=["GET"])
    app.add_api_route("/checkout", post_checkout, methods=["POST"])
    app.add_api_route("/portal", post_portal, methods=["POST"])
    app.add_api_route("/overage", patch_overage, methods=["PATCH"])
    return app


handler = lambda_handler(create)
