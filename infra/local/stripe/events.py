"""Events, as the API lists them. `State.emit` records them, `webhooks.py` delivers them."""

from fnmatch import fnmatchcase

from stripe import params as param_types

from infra.local.stripe.endpoints import LIST_PARAMS, endpoint
from infra.local.stripe.errors import ApiError, Json
from infra.local.stripe.state import State

TYPES_LIMIT = 20  # https://docs.stripe.com/api/events/list#list_events-types


@endpoint("GET", "/v1/events", param_types.EventListParams, f"{LIST_PARAMS} delivery_success type types")
def list_events(state: State, params: Json) -> Json:
    if len(params.get("types", [])) > TYPES_LIMIT:
        raise ApiError(f"You may pass at most {TYPES_LIMIT} types.", param="types")
    patterns = params.get("types", [params["type"]] if "type" in params else None)
    delivered = params.get("delivery_success")
    found = [
        event
        for event in state.objects_of("event")
        if (patterns is None or any(fnmatchcase(event["type"], pattern) for pattern in patterns))
        and (delivered is None or delivered == (event["_delivery"]["state"] in ("", "delivered")))
    ]
    return state.list_page(found, params, "/v1/events")


@endpoint("GET", "/v1/events/{id}", param_types.EventRetrieveParams)
def retrieve_event(state: State, params: Json, id: str) -> Json:  # noqa: A002 -- named in the path
    return state.get("event", id)
