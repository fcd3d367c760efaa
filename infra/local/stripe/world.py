"""Everything that exists, and what every family of objects needs: ids, lookups, lists, expansion, changes, events.

Objects are dicts in the API's shape with ids for what can be expanded. Keys that begin with `_` are the fake's own and
never leave it. `emit` takes a snapshot, so an event tells how things were then, whenever it is delivered.
"""

import copy
import re
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

from infra.local.stripe.clock import Clock
from infra.local.stripe.errors import Json, Refused, missing_object

API_VERSION = "2026-10-28.endive"
MAX_LISTED = 100


@dataclass(frozen=True, slots=True)
class Settings:
    """`start` (seconds since 1970) freezes the clock there. `seed` stands in every id: the same one, the same ids."""

    public_url: str = "http://127.0.0.1:8788"
    api_key: str = "sk_test_local"
    webhook_url: str = ""
    webhook_secret: str = "whsec_local"  # noqa: S105 -- of a stand-in that binds to loopback
    seed: str = ""
    start: int | None = None
    state_path: str = ""
    """A file that keeps the state over a restart; empty: none."""
    hold: bool = False
    """Whether to begin with `hold`, because the shop is not open yet."""


@dataclass(slots=True)
class Call:
    """The API request that is being answered; without an id where the clock or a person on a page acts."""

    id: str | None = None
    idempotency_key: str | None = None


Action = Callable[["World", str], None]
ACTIONS: dict[str, Action] = {}
"""What can fall due, by name."""
INCLUDABLE: dict[tuple[str, str], Callable[["World", Json], Json]] = {}
"""Fields that only `expand` brings: (object, field) and what makes its value."""


def later(name: str) -> Callable[[Action], Action]:
    def register(action: Action) -> Action:
        ACTIONS[name] = action
        return action

    return register


def includable(kind: str, name: str) -> Callable[[Callable[["World", Json], Json]], Callable[["World", Json], Json]]:
    def register(make: Callable[["World", Json], Json]) -> Callable[["World", Json], Json]:
        INCLUDABLE[kind, name] = make
        return make

    return register


def public(thing: Any) -> Any:
    """A copy without the fake's own keys."""
    if isinstance(thing, dict):
        return {key: public(value) for key, value in thing.items() if not key.startswith("_")}
    return [public(value) for value in thing] if isinstance(thing, list) else thing


def born(thing: Json) -> int:
    """When an object was created."""
    at: int = thing["created"] if "created" in thing else thing.get("date", 0)
    return at


def listing(data: list[Json], url: str, has_more: bool = False) -> Json:
    return {"object": "list", "data": data, "has_more": has_more, "url": url}


def differences(before: Json, after: Json) -> Json:
    """What `previous_attributes` says: the old values of what changed, of nested objects only the changed fields."""
    changed: Json = {}
    for key in {**before, **after}:
        old, new = before.get(key), after.get(key)
        if old != new:
            nested = isinstance(old, dict) and isinstance(new, dict)
            changed[key] = differences(old, new) if nested else old  # type: ignore[arg-type]
    return changed


@dataclass
class World:
    """The state. `objects` has everything by its id, oldest first."""

    settings: Settings
    clock: Clock
    objects: dict[str, Json] = field(default_factory=dict)
    call: Call = field(default_factory=Call)
    announce: Callable[[Json], None] = lambda event: None
    """Hears of every event."""
    retry: Callable[[Json], None] = lambda event: None
    """Posts an event once more."""
    changes: int = 0
    """Grows with everything that may have changed something."""
    ids: dict[str, int] = field(default_factory=dict)

    @property
    def now(self) -> int:
        return self.clock.now

    def new_id(self, prefix: str) -> str:
        number = self.ids[prefix] = self.ids.get(prefix, 0) + 1
        return f"{prefix}_{self.settings.seed}{number:08}"

    def add(self, thing: Json) -> Json:
        self.objects[thing["id"]] = thing
        return thing

    def of(self, kind: str) -> Iterator[Json]:
        """The objects of a kind, oldest first, without deleted ones."""
        return (thing for thing in self.objects.values() if thing["object"] == kind and "_deleted" not in thing)

    def get(self, kind: str, object_id: str | None, param: str = "id") -> Json:
        """Raises Refused, 404, where there is none or it has been deleted."""
        thing = self.objects.get(object_id or "")
        if thing is None or thing["object"] != kind or "_deleted" in thing:
            raise missing_object(kind.removeprefix("billing_portal."), object_id or "", param)
        return thing

    @contextmanager
    def changing(self, thing: Json, event: str) -> Iterator[None]:
        """Emit the event with what changed, where something did."""
        before = public(thing)
        yield
        if changed := differences(before, public(thing)):
            self.emit(event, thing, changed)

    def emit(self, kind: str, thing: Json, previous: Json | None = None) -> Json:
        """Record an event with the object as it is now, and announce it."""
        data = {"object": public(thing)}
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
                "request": {"id": self.call.id, "idempotency_key": self.call.idempotency_key},
                "type": kind,
                "_delivery": {"state": "", "attempts": []},
            }
        )
        self.announce(event)
        return event

    def act(self, action: str, object_id: str) -> None:
        """Do what has fallen due; nobody's request."""
        self.call = Call()
        self.changes += 1
        ACTIONS[action](self, object_id)

    def page(self, found: list[Json], params: Json, url: str) -> Json:
        """One page of a list, newest first, of `found` which is oldest first. Filters by `created` too."""
        limit = params.get("limit", 10)
        if not 1 <= limit <= MAX_LISTED:
            raise Refused(f"Invalid integer: limit must be between 1 and {MAX_LISTED}", param="limit", kept=False)
        created = params.get("created", {})
        bounds: dict[str, int] = {"gte": created, "lte": created} if isinstance(created, int) else created
        tests = {"gt": int.__gt__, "gte": int.__ge__, "lt": int.__lt__, "lte": int.__le__}
        newest = [
            thing for thing in reversed(found) if all(tests[name](born(thing), value) for name, value in bounds.items())
        ]
        ids = [thing["id"] for thing in newest]
        for cursor in ("starting_after", "ending_before"):
            if cursor in params and params[cursor] not in ids:
                raise missing_object("object", params[cursor], cursor)
        if "ending_before" in params:
            rest = newest[: ids.index(params["ending_before"])]
            return listing(public(rest[-limit:]), url, len(rest) > limit)
        rest = newest[ids.index(params["starting_after"]) + 1 :] if "starting_after" in params else newest
        return listing(public(rest[:limit]), url, len(rest) > limit)

    def shown(self, thing: Json, expand: list[str]) -> Json:
        """The object as a response carries it: a copy, with the expanded fields."""
        answer: Json = public(thing)
        for path in expand:
            self._expand(answer, path.split("."), path)
        return answer

    def _expand(self, thing: Json, names: list[str], path: str) -> None:
        name, *rest = names
        if len(names) > 4:
            raise Refused("You cannot expand more than 4 levels of a property.", param="expand", kept=False)
        include = INCLUDABLE.get((thing.get("object", ""), name))
        if name not in thing and include:
            thing[name] = include(self, thing)
        if name not in thing and thing.get("object") != "list":
            raise Refused(f"This property cannot be expanded ({path}).", param="expand", kept=False)
        value = thing.get(name)
        if isinstance(value, str) and value in self.objects:
            value = thing[name] = self.reference(value)
        elif isinstance(value, str):
            raise Refused(f"This property cannot be expanded ({path}).", param="expand", kept=False)
        for inner in value if isinstance(value, list) else [value]:
            if rest and isinstance(inner, dict):
                self._expand(inner, rest, path)

    def reference(self, object_id: str) -> Json:
        """What an expanded id becomes: the object, or what is left of a deleted one."""
        thing = self.objects[object_id]
        if "_deleted" in thing:
            return {"id": object_id, "object": thing["object"], "deleted": True}
        return public(thing)  # type: ignore[no-any-return]

    def metadata(self, old: Json, given: Any) -> Json:
        """Metadata after an update: an empty value removes its key, an empty string all of them."""
        return {key: value for key, value in {**old, **given}.items() if value != ""} if given != "" else {}

    def search(self, found: list[Json], query: str) -> list[Json]:
        """Of Stripe's search language: `field:'value'` and `metadata['key']:'value'`, joined by AND."""
        clauses = re.split(r"\s+AND\s+", query.strip(), flags=re.IGNORECASE)
        parsed = [re.fullmatch(r"""(\w+)(?:\[['"](.+?)['"]\])?\s*:\s*(['"])(.*)\3""", clause) for clause in clauses]
        if not all(parsed):
            raise Refused(f"The search query cannot be read here: {query}", param="query", kept=False)

        def fits(thing: Json) -> bool:
            pairs = [
                (thing.get(part[1]) if part[2] is None else (thing[part[1]] or {}).get(part[2]), part[4])
                for part in parsed
                if part
            ]
            return all(str(value).lower() == wanted.lower() for value, wanted in pairs if value is not None) and all(
                value is not None for value, _ in pairs
            )

        return [thing for thing in found if fits(thing)]
