"""All objects of the stand-in, and what every kind of object needs: ids, lookup, lists, expansion, changes, events.

Objects are dicts in the API's shape; fields that can be expanded hold ids. Keys that start with `_` are private and
never leave the stand-in. `emit` copies the object, so an event shows it as it was then, however late it is delivered.
"""

import copy
import re
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from itertools import islice
from typing import Any

from infra.local.stripe.clock import Clock
from infra.local.stripe.errors import ApiError, Json, missing_object

API_VERSION = "2026-10-28.endive"
MAX_LIMIT = 100  # objects on one page of a list
MAX_EXPAND_DEPTH = 4


@dataclass(frozen=True, slots=True)
class Settings:
    """`start` (seconds since 1970) freezes the clock there. `seed` is part of every id: the same seed, the same ids."""

    public_url: str = "http://127.0.0.1:8788"
    api_key: str = "sk_test_local"
    webhook_url: str = ""
    webhook_secret: str = "whsec_local"  # noqa: S105 -- of a stand-in that binds to loopback
    seed: str = ""
    start: int | None = None
    state_path: str = ""
    """A file that stores the state across restarts. Empty: none."""
    hold: bool = False
    """Hold events back from the start, because the functions do not run yet."""


@dataclass(slots=True)
class RequestInfo:
    """The API request in progress. Without an id: a scheduled action, or a person on a page."""

    id: str | None = None
    idempotency_key: str | None = None


class Objects(dict[str, Json]):
    """Every object by its id, oldest first, and the same for each kind."""

    def __init__(self) -> None:
        super().__init__()
        self.by_kind: dict[str, dict[str, Json]] = {}

    def __setitem__(self, object_id: str, obj: Json) -> None:
        super().__setitem__(object_id, obj)
        self.by_kind.setdefault(obj["object"], {})[object_id] = obj

    def __delitem__(self, object_id: str) -> None:
        del self.by_kind[self[object_id]["object"]][object_id]
        super().__delitem__(object_id)

    def clear(self) -> None:
        super().clear()
        self.by_kind.clear()


Action = Callable[["State", str], None]
ACTIONS: dict[str, Action] = {}
"""Actions that the clock can run, by name."""
EXPANDABLE: dict[tuple[str, str], Callable[["State", Json], Json]] = {}
"""Fields that only `expand` adds: (object, field) and the function that makes the value."""


def scheduled_action(name: str) -> Callable[[Action], Action]:
    def register(action: Action) -> Action:
        ACTIONS[name] = action
        return action

    return register


def expandable(kind: str, name: str) -> Callable[[Callable[["State", Json], Json]], Callable[["State", Json], Json]]:
    def register(make: Callable[["State", Json], Json]) -> Callable[["State", Json], Json]:
        EXPANDABLE[kind, name] = make
        return make

    return register


def public(value: Any) -> Any:
    """A copy without private keys."""
    if isinstance(value, dict):
        # Most values are neither, and a call for each of them would take most of the stand-in's time.
        return {
            key: public(inner) if isinstance(inner, (dict, list)) else inner
            for key, inner in value.items()
            if not key.startswith("_")
        }
    return [public(inner) for inner in value] if isinstance(value, list) else value


def created_at(obj: Json) -> int:
    at: int = obj["created"] if "created" in obj else obj.get("date", 0)
    return at


def list_object(data: list[Json], url: str, has_more: bool = False) -> Json:
    return {"object": "list", "data": data, "has_more": has_more, "url": url}


def previous_attributes(before: Json, after: Json) -> Json:
    """The old values of the fields that changed; of a nested object only its changed fields."""
    changed: Json = {}
    for key in {**before, **after}:
        old, new = before.get(key), after.get(key)
        if old != new:
            nested = isinstance(old, dict) and isinstance(new, dict)
            changed[key] = previous_attributes(old, new) if nested else old  # type: ignore[arg-type]
    return changed


def _until(objects: Iterator[Json], object_id: str, param: str) -> list[Json]:
    """The objects before that one. Raises ApiError if it is not among them."""
    before: list[Json] = []
    for obj in objects:
        if obj["id"] == object_id:
            return before
        before.append(obj)
    raise missing_object("object", object_id, param)


@dataclass
class State:
    """The state. `objects` holds every object by its id, oldest first."""

    settings: Settings
    clock: Clock
    objects: Objects = field(default_factory=Objects)
    request: RequestInfo = field(default_factory=RequestInfo)
    on_event: Callable[[Json], None] = lambda event: None
    """Called with every new event."""
    resend: Callable[[Json], None] = lambda event: None
    """Delivers an event again."""
    changes: int = 0
    """Counts what may have changed the state."""
    ids: dict[str, int] = field(default_factory=dict)
    is_tax_set_up: bool = True
    """Whether the account has a head office and is registered to collect tax."""

    @property
    def now(self) -> int:
        return self.clock.now

    def new_id(self, prefix: str) -> str:
        number = self.ids[prefix] = self.ids.get(prefix, 0) + 1
        return f"{prefix}_{self.settings.seed}{number:08}"

    def add(self, obj: Json) -> Json:
        self.objects[obj["id"]] = obj
        return obj

    def objects_of(self, kind: str) -> Iterator[Json]:
        """The objects of a kind, oldest first, without deleted ones."""
        return (obj for obj in self.objects.by_kind.get(kind, {}).values() if "_deleted" not in obj)

    def get(self, kind: str, object_id: str | None, param: str = "id") -> Json:
        """The object. Raises ApiError, 404, if it does not exist or was deleted."""
        obj = self.objects.get(object_id or "")
        if obj is None or obj["object"] != kind or "_deleted" in obj:
            raise missing_object(kind.removeprefix("billing_portal."), object_id or "", param)
        return obj

    def get_owned(self, kind: str, object_id: str, customer: Json) -> Json:
        """The object. Raises ApiError if it belongs to another customer."""
        obj = self.get(kind, object_id, kind)
        if obj["customer"] != customer["id"]:
            raise ApiError(f"The {kind} {object_id} does not belong to the customer {customer['id']}.", param=kind)
        return obj

    @contextmanager
    def updating(self, obj: Json, event: str) -> Iterator[None]:
        """Emit the event with the previous attributes, if the block changed the object."""
        before = public(obj)
        yield
        if changed := previous_attributes(before, public(obj)):
            self.emit(event, obj, changed)

    def emit(self, kind: str, obj: Json, previous: Json | None = None) -> Json:
        """Record an event with a copy of the object, and pass it on for delivery."""
        data = {"object": public(obj)}
        if previous is not None:
            data["previous_attributes"] = copy.deepcopy(previous)
        event = self.add(
            {
                "id": self.new_id("evt"),
                "object": "event",
                "api_version": API_VERSION,
                "created": self.now,
                "data": data,
                "livemode": False,
                "pending_webhooks": 0,
                "request": {"id": self.request.id, "idempotency_key": self.request.idempotency_key},
                "type": kind,
                "_delivery": {"state": "", "attempts": []},
            }
        )
        self.on_event(event)
        return event

    def run_action(self, action: str, object_id: str) -> None:
        """Run a scheduled action."""
        self.request = RequestInfo()
        self.changes += 1
        ACTIONS[action](self, object_id)

    def list_page(self, found: list[Json], params: Json, url: str) -> Json:
        """One page of a list, newest first. `found` is oldest first; the `created` parameter filters it.

        `render` copies its objects.
        """
        limit = params.get("limit", 10)
        if not 1 <= limit <= MAX_LIMIT:
            raise ApiError(f"Invalid integer: limit must be between 1 and {MAX_LIMIT}", param="limit", saved=False)
        created = params.get("created", {})
        bounds: dict[str, int] = {"gte": created, "lte": created} if isinstance(created, int) else created
        tests = {"gt": int.__gt__, "gte": int.__ge__, "lt": int.__lt__, "lte": int.__le__}
        newest = (
            obj for obj in reversed(found) if all(tests[name](created_at(obj), value) for name, value in bounds.items())
        )
        if "ending_before" in params:
            rest = _until(newest, params["ending_before"], "ending_before")
            return list_object(rest[-limit:], url, len(rest) > limit)
        if "starting_after" in params:
            _until(newest, params["starting_after"], "starting_after")
        rest = [*islice(newest, limit + 1)]
        return list_object(rest[:limit], url, len(rest) > limit)

    def render(self, obj: Json, expand: list[str]) -> Json:
        """The object as an answer shows it: a copy, with the expanded fields."""
        answer: Json = public(obj)
        for path in expand:
            self._expand(answer, path.split("."), path)
        return answer

    def _expand(self, obj: Json, names: list[str], path: str) -> None:
        name, *rest = names
        if len(names) > MAX_EXPAND_DEPTH:
            raise ApiError("You cannot expand more than 4 levels of a property.", param="expand", saved=False)
        make = EXPANDABLE.get((obj.get("object", ""), name))
        if name not in obj and make:
            obj[name] = public(make(self, obj))
        if name not in obj and obj.get("object") != "list":
            raise ApiError(f"This property cannot be expanded ({path}).", param="expand", saved=False)
        value = obj.get(name)
        if isinstance(value, str) and value in self.objects:
            value = obj[name] = self.render_reference(value)
        elif isinstance(value, str):
            raise ApiError(f"This property cannot be expanded ({path}).", param="expand", saved=False)
        elif isinstance(value, list):
            value = obj[name] = [
                self.render_reference(one) if isinstance(one, str) and one in self.objects else one for one in value
            ]
        for inner in value if isinstance(value, list) else [value]:
            if rest and isinstance(inner, dict):
                self._expand(inner, rest, path)

    def render_reference(self, object_id: str) -> Json:
        """The object of an expanded id; for a deleted object only its id and kind."""
        obj = self.objects[object_id]
        if "_deleted" in obj:
            return {"id": object_id, "object": obj["object"], "deleted": True}
        return public(obj)  # type: ignore[no-any-return]

    def merge_metadata(self, old: Json, update: Any) -> Json:
        """Metadata after an update: an empty value removes its key, an empty string removes all keys."""
        return {key: value for key, value in {**old, **update}.items() if value != ""} if update != "" else {}

    def search(self, found: list[Json], query: str) -> list[Json]:
        """A part of Stripe's search language: `field:'value'` and `metadata['key']:'value'`, joined by AND."""
        clauses = re.split(r"\s+AND\s+", query.strip(), flags=re.IGNORECASE)
        parsed = [re.fullmatch(r"""(\w+)(?:\[['"](.+?)['"]\])?\s*:\s*(['"])(.*)\3""", clause) for clause in clauses]
        if not all(parsed):
            raise ApiError(f"The stand-in cannot parse this search query: {query}", param="query", saved=False)

        def matches(obj: Json) -> bool:
            pairs = [
                (obj.get(part[1]) if part[2] is None else (obj[part[1]] or {}).get(part[2]), part[4])
                for part in parsed
                if part
            ]
            return all(value is not None and str(value).lower() == expected.lower() for value, expected in pairs)

        return [obj for obj in found if matches(obj)]
