"""openparliament.ca's lists: the filters of each, the values they reject, the parameters they ignore, and paging."""

import re
from collections.abc import Callable
from datetime import date, datetime
from typing import Any
from urllib.parse import urlencode

from infra.local.parliament.data import DEFAULT_LIMIT, MAX_LIMIT, OTTAWA
from infra.local.parliament.dataset import dataset
from infra.local.parliament.model import Json, Record

DEFAULT_POLITICIANS_LIMIT = 338


class BadRequest(Exception):
    """A parameter has an invalid value: 400, as plain text."""


class NotFound(Exception):
    """Nothing exists at this URL: 404, as a page."""


Test = Callable[[Any], bool]
Filter = Callable[[str, str], Test]
"""Takes a parameter's lookup (`gte` of `date__gte`) and its value. Returns the test of a record's value."""


def _boolean(text: str) -> bool:
    return {"true": True, "True": True, "false": False, "False": False}[text]


def column(parse: Callable[[str], Any] = str, ordered: bool = False) -> Filter:
    """A filter that compares a record's value, by order too where `ordered`."""

    def make_test(lookup: str, text: str) -> Test:
        comparisons: dict[str, Callable[[Any, Any], bool]] = {"": lambda actual, value: bool(actual == value)}
        comparisons["exact"] = comparisons[""]
        if ordered:
            comparisons |= {
                "gt": lambda actual, value: bool(actual > value),
                "gte": lambda actual, value: bool(actual >= value),
                "lt": lambda actual, value: bool(actual < value),
                "lte": lambda actual, value: bool(actual <= value),
                "range": lambda actual, value: bool(value[0] <= actual <= value[1]),
                "isnull": lambda actual, value: (actual is None) is value,
            }
        if lookup not in comparisons:
            raise BadRequest(f"Invalid filter argument {lookup}")
        if text in ("none", "None", "null") and lookup in ("", "exact"):
            return lambda actual: actual is None
        try:
            if lookup == "range":
                low, high = text.split(",")
                value: Any = (parse(low), parse(high))
            else:
                value = _boolean(text) if lookup == "isnull" else parse(text)
        except (ValueError, KeyError):
            raise BadRequest(f"[“{text}” is not a valid value.]") from None
        return lambda actual: (actual is not None or lookup == "isnull") and comparisons[lookup](actual, value)

    return make_test


def link(segments: int = 1) -> Filter:
    """A filter by another record: its URL, or the last `segments` of it. Case-sensitive."""

    def make_test(lookup: str, text: str) -> Test:
        parts = text.rstrip("/").split("/")
        if len(parts) < segments:
            raise BadRequest(f"Invalid URL {text}")
        return lambda actual: bool(actual == "/".join(parts[-segments:]))

    return make_test


def politician(lookup: str, text: str) -> Test:
    """Tests for the records of a politician, by URL, slug or number."""
    last = text.rstrip("/").rpartition("/")[2]
    person = next((each for each in dataset().people.values() if str(each.number) == last), None)
    identifier = person.identifier if person else last
    return lambda actual: bool(actual == identifier)


def choice(*choices: str) -> Filter:
    def make_test(lookup: str, text: str) -> Test:
        if text not in choices:
            raise BadRequest("Invalid value for this filter")
        return lambda actual: bool(actual == text)

    return make_test


def document(lookup: str, text: str) -> Test:
    """Tests for the speeches of a debate or of a committee meeting."""
    url = f"/{text.strip('/')}/"
    is_debate = re.fullmatch(r"/debates/\d+(/[1-9]\d?){2}/", url, re.ASCII)
    if not is_debate and not (url in dataset().by_url and "committees" in url):
        raise BadRequest("Invalid document URL")
    return lambda actual: bool(actual == url)


def ottawa_time(text: str) -> datetime:
    """The time in the speeches' format: Ottawa time without a zone."""
    time = datetime.fromisoformat(text)
    return time.astimezone(OTTAWA).replace(tzinfo=None) if time.tzinfo else time


NUMBER, DAY = column(int, ordered=True), column(date.fromisoformat, ordered=True)
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
        "politician": politician,
        "politician_membership": link(),
        "dissent": column(_boolean),
        "ballot": choice("Yes", "No", "Paired", "Didn't vote"),
    },
    "bills": {
        **dict.fromkeys(("session", "number", "status_code"), column()),
        **dict.fromkeys(("law", "private_member_bill"), column(_boolean)),
        "sponsor_politician": politician,
        "sponsor_politician_membership": link(),
        "introduced": DAY,
        "legisinfo_id": column(int),
    },
    "speeches": {
        **dict.fromkeys(("politician", "mentioned_politician"), politician),
        "politician_membership": link(),
        **dict.fromkeys(("bill_debated", "mentioned_bill"), link(2)),
        "procedural": column(_boolean),
        "time": column(ottawa_time, ordered=True),
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


def _integer(query: list[tuple[str, str]], name: str, default: int) -> int:
    text = dict(query).get(name, str(default))
    if not re.fullmatch(r"\d+", text, re.ASCII):
        raise BadRequest(f"Invalid {name} '{text}' provided. Please provide a positive integer.")
    return int(text)


def page(table: str, path: str, query: list[tuple[str, str]]) -> Json:
    """One page of a list. Ignores unknown parameters, as the real API does."""
    records = dataset().tables[table]
    include = dict(query).get("include") if table == "politicians" else None
    if table == "politicians" and include != "all":
        records = [record for record in records if bool(record.filter_values["sitting"]) is (include != "former")]
    elif table == "committees":
        records = [record for record in records if not record.listed["parent_url"]]
    elif table == "speeches" and "document" not in dict(query):
        records = sorted(records, key=lambda record: record.filter_values["time"], reverse=True)
    for parameter, text in query:
        name, _, lookup = parameter.partition("__")
        if make_test := FILTERS[table].get(name):
            test = make_test(lookup, text)
            records = [record for record in records if test(record.filter_values[name])]
    default = DEFAULT_POLITICIANS_LIMIT if table == "politicians" else DEFAULT_LIMIT
    limit, offset = min(_integer(query, "limit", default) or default, MAX_LIMIT), _integer(query, "offset", 0)
    other_parameters = [(name, value) for name, value in query if name not in ("limit", "offset")]

    def page_url(start: int) -> str:
        return f"{path}?{urlencode([*other_parameters, ('limit', limit), ('offset', max(start, 0))])}"

    def listed(record: Record) -> Json:
        sitting = table == "politicians" and include not in ("all", "former")
        return {**record.listed, **(record.filter_values["sitting"] if sitting else {}), **record.to_json()}

    return {
        "objects": [listed(record) for record in records[offset : offset + limit]],
        "pagination": {
            "offset": offset,
            "limit": limit,
            "next_url": page_url(offset + limit) if len(records) > offset + limit else None,
            "previous_url": page_url(offset - limit) if offset else None,
        },
    }
