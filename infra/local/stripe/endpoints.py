"""The table of API endpoints. Each module of objects registers its own; `api.py` serves them.

An endpoint is a plain function that never awaits, so two requests cannot interleave in it. It takes the state, the
validated parameters and the ids of the path, and returns the object of the answer.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from infra.local.stripe.errors import Json

LIST_PARAMS = "limit starting_after ending_before created"

Run = Callable[..., Json]


@dataclass(frozen=True, slots=True)
class Endpoint:
    """`param_type` is stripe-python's type of the parameters; the stand-in supports those named in `supported`."""

    method: str
    path: str
    param_type: Any
    supported: frozenset[str]
    run: Run


ENDPOINTS: list[Endpoint] = []


def endpoint(method: str, path: str, param_type: Any, supported: str = "") -> Callable[[Run], Run]:
    """Register an endpoint. `supported` lists parameters, separated by spaces."""

    def register(run: Run) -> Run:
        ENDPOINTS.append(Endpoint(method, path, param_type, frozenset(["expand", *supported.split()]), run))
        return run

    return register
