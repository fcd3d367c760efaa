"""The table of API endpoints: each family adds its own, `api.py` serves them.

An endpoint is a plain function that runs without a pause, so no two requests are ever interleaved in it: it takes the
world, the checked parameters and the ids of the path, and returns the object to answer with.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from infra.local.stripe.errors import Json

LISTING = "limit starting_after ending_before created"

Run = Callable[..., Json]


@dataclass(frozen=True, slots=True)
class Endpoint:
    """`kind` is stripe-python's type of the parameters; of those `uses` are known here."""

    method: str
    path: str
    kind: Any
    uses: frozenset[str]
    run: Run


ENDPOINTS: list[Endpoint] = []


def endpoint(method: str, path: str, kind: Any, uses: str = "") -> Callable[[Run], Run]:
    def register(run: Run) -> Run:
        ENDPOINTS.append(Endpoint(method, path, kind, frozenset(["expand", *uses.split()]), run))
        return run

    return register
