"""The filters of openparliament.ca's lists."""

from typing import Any

import httpx
import pytest

from tests.local.parliament.kit import get, get_all

FILTERS: list[tuple[str, str, Any]] = [
    (
        "/politicians/",
        "name=Théodule Vertegrange",
        lambda record: record["url"] == "/politicians/theodule-vertegrange/",
    ),
    ("/politicians/", "family_name=Quillwater", lambda record: record["name"].endswith(" Quillwater")),
    ("/votes/", "bill=/bills/45-1/C-5/", lambda record: record["bill_url"] == "/bills/45-1/C-5/"),
    ("/votes/", "bill=45-1/C-5", lambda record: record["bill_url"] == "/bills/45-1/C-5/"),
    ("/votes/", "result=Tie", lambda record: record["yea_total"] == record["nay_total"]),
    ("/votes/", "date__gte=2026-09-15", lambda record: record["date"] >= "2026-09-15"),
    ("/votes/", "date__lt=2026-09-15", lambda record: record["date"] < "2026-09-15"),
    ("/votes/", "nay_total__gt=20", lambda record: record["nay_total"] > 20),
    ("/votes/", "number__range=3,5", lambda record: 3 <= record["number"] <= 5),
    (
        "/votes/ballots/",
        "politician=/politicians/fern-quillwater/",
        lambda record: record["politician_url"] == "/politicians/fern-quillwater/",
    ),
    (
        "/votes/ballots/",
        "politician=fern-quillwater",
        lambda record: record["politician_url"] == "/politicians/fern-quillwater/",
    ),
    ("/votes/ballots/", "ballot=Didn't vote", lambda record: record["ballot"] == "Didn't vote"),
    ("/votes/ballots/", "vote=/votes/45-1/7/", lambda record: record["vote_url"] == "/votes/45-1/7/"),
    ("/speeches/", "procedural=True", lambda record: record["procedural"]),
    ("/speeches/", "procedural=false", lambda record: not record["procedural"]),
    ("/speeches/", "time__gte=2026-09-15", lambda record: record["time"] >= "2026-09-15"),
    ("/speeches/", "time__gte=2026-03-10T16:00:00Z", lambda record: record["time"] >= "2026-03-10 12:00:00"),
    (
        "/speeches/",
        "time__range=2026-03-10 10:10,2026-03-10 11:00",
        lambda record: "2026-03-10 10:10" <= record["time"] <= "2026-03-10 11:00:00",
    ),
    ("/speeches/", "document=/debates/2026/9/3/", lambda record: record["document_url"] == "/debates/2026/9/3/"),
    (
        "/speeches/",
        "document=/committees/birds/45-1/1/",
        lambda record: record["url"].startswith("/committees/birds/45-1/1/"),
    ),
    (
        "/speeches/",
        "bill_debated=/bills/45-1/C-6/",
        lambda record: record.get("h2", {}).get("en") == "Public Benches Act",
    ),
    ("/speeches/", "mentioned_bill=45-1/C-6", lambda record: "/bills/45-1/C-6/" in record["content"]["en"]),
    ("/bills/", "session=44-1", lambda record: record["session"] == "44-1"),
    ("/bills/", "introduced__gte=2026-09-01", lambda record: record["introduced"] >= "2026-09-01"),
    ("/bills/", "law=True", lambda record: record["number"] == "C-2"),
    ("/bills/", "private_member_bill=True", lambda record: record["number"] == "C-201"),
    ("/bills/", "status_code=HouseInCommittee", lambda record: record["number"] in ("C-4", "C-8", "C-10", "C-12")),
    ("/bills/", "sponsor_politician=/politicians/fern-quillwater/", lambda record: record["url"] == "/bills/45-1/C-5/"),
    ("/debates/", "date__range=2026-03-01,2026-03-31", lambda record: record["date"].startswith("2026-03")),
    ("/debates/", "number=4", lambda record: record["number"] == "4"),
    ("/committees/meetings/", "committee=birds", lambda record: record["committee_url"] == "/committees/birds/"),
    ("/committees/meetings/", "in_camera=True", lambda record: record["in_camera"]),
]


@pytest.mark.parametrize(("url", "query", "matches"), FILTERS, ids=[f"{url}?{query}" for url, query, _ in FILTERS])
async def test_filter_returns_exactly_the_matching_records(
    client: httpx.AsyncClient, url: str, query: str, matches: Any
) -> None:
    unfiltered, found = await get_all(client, url), await get_all(client, f"{url}?{query}")
    key = (lambda record: str(record["url"])) if "url" in unfiltered[0] else str
    assert sorted(found, key=key) == sorted(filter(matches, unfiltered), key=key)
    assert 0 < len(found) < len(unfiltered)


@pytest.mark.parametrize(
    "url",
    [
        "/politicians/?name=Quillwater",
        "/votes/?session=99-9",
        "/votes/?bill=/bills/45-1/c-5/",
        "/votes/ballots/?politician=unknown-member",
        "/speeches/?document=/debates/2026/9/4/",
        "/speeches/?time__gte=2026-12-01",
        "/committees/meetings/?committee=fish",
    ],
)
async def test_filter_without_a_match_returns_an_empty_list(client: httpx.AsyncClient, url: str) -> None:
    """Names match only in full and with the same case. An unknown record is not an error in a list."""
    assert (await get(client, url))["objects"] == []


@pytest.mark.parametrize(
    "url",
    [
        "/votes/?limit=-1",
        "/votes/?limit=many",
        "/votes/?offset=-1",
        "/votes/?date__gte=yesterday",
        "/votes/?date__range=2026-01-01",
        "/votes/?number=seven",
        "/votes/?number__near=7",
        "/votes/?result=passed",
        "/votes/?bill=C-5",
        "/votes/ballots/?ballot=Maybe",
        "/votes/ballots/?dissent=perhaps",
        "/politicians/?name__icontains=fern",
        "/speeches/?procedural=2",
        "/speeches/?time__gte=soon",
        "/speeches/?document=fern-quillwater",
        "/speeches/?document=/debates/2026/09/03/",
        "/speeches/?document=/committees/birds/45-1/99/",
        "/bills/?law=<b>",
        "/debates/?date__range=a,b",
    ],
)
async def test_invalid_filter_value_is_a_plain_text_400(client: httpx.AsyncClient, url: str) -> None:
    answer = await client.get(url)
    assert (answer.status_code, answer.headers["content-type"]) == (400, "text/plain; charset=utf-8")
    assert answer.text
    assert "<" not in answer.text


@pytest.mark.parametrize(
    ("url", "unknown"),
    [
        ("/politicians/", "riding=Upper+Exemplar"),
        ("/politicians/", "party=Heron"),
        ("/votes/", "politician=fern-quillwater"),
        ("/speeches/", "q=ferries"),
        ("/speeches/", "bill=/bills/45-1/C-5/"),
    ],
)
async def test_unknown_parameter_is_ignored(client: httpx.AsyncClient, url: str, unknown: str) -> None:
    assert (await get(client, f"{url}?{unknown}"))["objects"] == (await get(client, url))["objects"]
