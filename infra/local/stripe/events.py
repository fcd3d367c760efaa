"""Events as the API lists them. `world.emit` makes them, `deliver.py` posts them."""

from fnmatch import fnmatchcase

from stripe import params as kinds

from infra.local.stripe.endpoints import LISTING, endpoint
from infra.local.stripe.errors import Json
from infra.local.stripe.world import World


@endpoint("GET", "/v1/events", kinds.EventListParams, f"{LISTING} delivery_success type types")
def list_events(world: World, params: Json) -> Json:
    patterns = params.get("types", [params["type"]] if "type" in params else ["*"])
    done = params.get("delivery_success")
    found = [
        one
        for one in world.of("event")
        if any(fnmatchcase(one["type"], pattern) for pattern in patterns)
        and done in (None, one["_delivery"]["state"] in ("", "delivered"))
    ]
    return world.page(found, params, "/v1/events")


@endpoint("GET", "/v1/events/{id}", kinds.EventRetrieveParams)
def retrieve_event(world: World, params: Json, id: str) -> Json:  # noqa: A002 -- the path says so
    return world.get("event", id)
