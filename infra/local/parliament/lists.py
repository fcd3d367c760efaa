"""openparliament.ca's lists: which filters each has, what they refuse and what they ignore, and paging."""

import re
from collections.abc import Callable
from datetime import date, datetime
from typing import Any
from urllib.parse import urlencode

from infra.local.parliament.house import house
from infra.local.parliament.invented import DEFAULT_LIMIT, MAX_LIMIT, OTTAWA, Json


class BadRequest(Exception):
    """A parameter with a value that it cannot have: 400, as plain text."""


class Missing(Exception):
    """There is nothing at this address: 404, as a page."""


Test = Callable[[Any], bool]
Filter = Callable[[str, str], Test]
"""Of a parameter's lookup (`gte` of `date__gte`) and value: which of the records' values pass."""


def _boolean(text: str) -> bool:
    return {"true": True, "True": True, "false": False, "False": False}[text]


def column(read: Callable[[str], Any] = str, compared: bool = False) -> Filter:
    """A filter for a value as it is, or compared with another."""

    def made(lookup: str, given: str) -> Test:
        kinds: dict[str, Callable[[Any, Any], bool]] = {"": lambda ours, theirs: bool(ours == theirs)}
        kinds["exact"] = kinds[""]
        if compared:
            kinds |= {
                "gt": lambda ours, theirs: bool(ours > theirs),
                "gte": lambda ours, theirs: bool(ours >= theirs),
                "lt": lambda ours, theirs: bool(ours < theirs),
                "lte": lambda ours, theirs: bool(ours <= theirs),
                "range": lambda ours, theirs: bool(theirs[0] <= ours <= theirs[1]),
                "isnull": lambda ours, theirs: (ours is None) is theirs,
            }
        if lookup not in kinds:
            raise BadRequest(f"Invalid filter argument {lookup}")
        try:
            if lookup == "range":
                low, high = given.split(",")
                value: Any = (read(low), read(high))
            else:
                value = _boolean(given) if lookup == "isnull" else read(given)
        except (ValueError, KeyError):
            raise BadRequest(f"[“{given}” is not a valid value.]") from None
        return lambda ours: (ours is not None or lookup == "isnull") and kinds[lookup](ours, value)

    return made


def link(parts: int = 1) -> Filter:
    """A filter for another thing: its address, or the last parts of it. Case counts."""

    def made(lookup: str, given: str) -> Test:
        bits = given.rstrip("/").split("/")
        if len(bits) < parts:
            raise BadRequest(f"Invalid URL {given}")
        return lambda ours: bool(ours == "/".join(bits[-parts:]))

    return made


def choice(*known: str) -> Filter:
    def made(lookup: str, given: str) -> Test:
        if given not in known:
            raise BadRequest("Invalid value for this filter")
        return lambda ours: bool(ours == given)

    return made


def document(lookup: str, given: str) -> Test:
    """The speeches of a debate or of a committee meeting."""
    url = f"/{given.strip('/')}/"
    known = re.fullmatch(r"/debates/\d+(/[1-9]\d?){2}/", url, re.ASCII) or (url in house().at and "committees" in url)
    if not known:
        raise BadRequest("Invalid document URL")
    return lambda ours: bool(ours == url)


def moment(text: str) -> datetime:
    """As the speeches have it: in Ottawa, and not said so."""
    read = datetime.fromisoformat(text)
    return read.astimezone(OTTAWA).replace(tzinfo=None) if read.tzinfo else read


NUMBER, DAY = column(int, compared=True), column(date.fromisoformat, compared=True)
FILTERS: dict[str, dict[str, Filter]] = {
    "politicians": {"name": column(), "given_name": column(), "family_name": column()},
    "memberships": {},
    "votes": {
        **dict.fromkeys(("number", "yea_total", "nay_total", "paired_total"), NUMBER),
        "session": column(),
        "date": DAY,
        "bill": link(2),
        "result": choice("Passed", "Failed", "Tie"),
    },
    "ballots": {
        "vote": link(2),
        "politician": link(),
        "politician_membership": link(),
        "dissent": column(_boolean),
        "ballot": choice("Yes", "No", "Paired", "Didn't vote"),
    },
    "bills": {
        **dict.fromkeys(("session", "number", "status_code"), column()),
        **dict.fromkeys(("law", "private_member_bill"), column(_boolean)),
        **dict.fromkeys(("sponsor_politician", "sponsor_politician_membership"), link()),
        "introduced": DAY,
        "legisinfo_id": column(int),
    },
    "speeches": {
        **dict.fromkeys(("politician", "politician_membership", "mentioned_politician"), link()),
        **dict.fromkeys(("bill_debated", "mentioned_bill"), link(2)),
        "procedural": column(_boolean),
        "time": column(moment, compared=True),
        "document": document,
    },
    "debates": {"session": column(), "date": DAY, "number": column()},
    "committees": {"session": column()},
    "meetings": {
        "session": column(),
        "date": DAY,
        "number": NUMBER,
        "committee": link(),
        "in_camera": column(_boolean),
    },
}


def _count(query: list[tuple[str, str]], name: str, otherwise: int) -> int:
    text = dict(query).get(name, str(otherwise))
    if not re.fullmatch(r"\d+", text, re.ASCII):
        raise BadRequest(f"Invalid {name} '{text}' provided. Please provide a positive integer.")
    return int(text)


def page(table: str, path: str, query: list[tuple[str, str]]) -> Json:
    """One page of a list. What is no filter is ignored, as there."""
    records = house().tables[table]
    if table == "politicians":
        include = dict(query).get("include")
        records = [record for record in records if include == "all" or record.by["sitting"] is (include != "former")]
    elif table == "speeches" and "document" not in dict(query):
        records = sorted(records, key=lambda record: record.by["time"], reverse=True)
    for given, value in query:
        name, _, lookup = given.partition("__")
        if made := FILTERS[table].get(name):
            passes = made(lookup, value)
            records = [record for record in records if passes(record.by[name])]
    usual = 338 if table == "politicians" else DEFAULT_LIMIT
    limit, offset = min(_count(query, "limit", usual) or usual, MAX_LIMIT), _count(query, "offset", 0)
    rest = [(name, value) for name, value in query if name not in ("limit", "offset")]

    def elsewhere(start: int) -> str:
        return f"{path}?{urlencode([*rest, ('limit', limit), ('offset', max(start, 0))])}"

    return {
        "objects": [record.seen() for record in records[offset : offset + limit]],
        "pagination": {
            "offset": offset,
            "limit": limit,
            "next_url": elsewhere(offset + limit) if len(records) > offset + limit else None,
            "previous_url": elsewhere(offset - limit) if offset else None,
        },
    }
