"""What a route declares about its requests and responses, for docs/openapi.json. Nothing reads it at run time."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Literal, TypeVar

from pydantic import BaseModel

from functions.common.errors import AppError

E = TypeVar("E", bound=Callable[..., Any])


@dataclass(frozen=True, slots=True)
class Operation:
    """A decorator of a route's function.

    `returns` is the type of the JSON response, None for a response without a body; `body` is that of the request.
    `caller`: a signed-in user, anyone, or Stripe with its signature. `streams`: the response may be an event stream.
    `may_be_empty`: it may be a 204. `errors`: those besides the ones that follow from the rest.
    """

    returns: object
    body: type[BaseModel] | None = None
    errors: tuple[type[AppError], ...] = ()
    status: int = 200
    caller: Literal["user", "anyone", "stripe"] = "user"
    streams: bool = False
    may_be_empty: bool = False

    def __call__(self, endpoint: E) -> E:
        """Attach the declaration to the function."""
        endpoint.operation = self  # type: ignore[attr-defined]
        return endpoint
