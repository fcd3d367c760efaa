"""The other sites: openparliament.ca's search feed, Represent's postal codes and LEGISinfo's bills."""

import html
import re
from email.utils import format_datetime
from functools import cache
from urllib.parse import urlencode
from xml.etree import ElementTree

from infra.local.parliament.house import Person, Record, both, house, plain
from infra.local.parliament.invented import (
    ELSEWHERE,
    FEED_LIMIT,
    NO_DATE,
    OTTAWA,
    PASSED,
    POSTAL_CODES,
    SESSION,
    SITE,
    STATUSES,
    Json,
)


def found(query: str) -> list[Record]:
    """The newest speeches that have all the words, in either language."""
    words = re.findall(r"\w+", plain(query))
    records = sorted(house().tables["speeches"], key=lambda record: record.by["time"], reverse=True)
    hits = (record for record in records if words and {*words} <= _vocabulary(record.url))
    return [record for record, _ in zip(hits, range(FEED_LIMIT), strict=False)]


@cache
def _vocabulary(url: str) -> frozenset[str]:
    listed = house().at[url].listed
    texts = [*listed["content"].values(), *listed["attribution"].values()]
    return frozenset(re.findall(r"\w+", plain(html.unescape(re.sub(r"<[^>]+>", " ", " ".join(texts))))))


def feed(query: str) -> bytes:
    """RSS 2.0. A description is HTML, escaped once as text of the XML."""
    rss = ElementTree.Element("rss", version="2.0")
    channel = ElementTree.SubElement(rss, "channel")

    def add(parent: ElementTree.Element, **texts: str) -> None:
        for name, text in texts.items():
            ElementTree.SubElement(parent, name).text = text

    address = f"{SITE}/search/?{urlencode({'q': query, 'sort': 'date desc'})}"
    description = f"From openparliament.ca, search results for '{query}'"
    add(channel, title=f'"{query}" | openparliament.ca', link=address, description=description, language="en-ca")
    for record in found(query):
        listed, at = record.listed, SITE + record.url
        topic = (listed.get("h2") or listed.get("h1") or both("House", "Chambre"))["en"]
        item = ElementTree.SubElement(channel, "item")
        published = format_datetime(record.by["time"].replace(tzinfo=OTTAWA))
        add(item, title=f"{topic} / {listed['attribution']['en'].split(' (')[0]}", link=at)
        add(item, description=_excerpt(listed["content"], query), pubDate=published, guid=at)
    return bytes(ElementTree.tostring(rss, encoding="utf-8", xml_declaration=True))


def _excerpt(content: Json, query: str) -> str:
    """300 characters around the first word that is said, as HTML with the words in <em>."""
    words = re.compile("(" + "|".join(map(re.escape, re.findall(r"\w+", query))) + ")", re.IGNORECASE)
    texts = [html.unescape(re.sub(r"<[^>]+>", "", content[language])).replace("\n", " ") for language in ("en", "fr")]
    hits = [(text, hit.start()) for text in texts if (hit := words.search(text))]
    text, start = hits[0] if hits else (texts[0], 0)
    begin = max(start - 60, 0)
    pieces = enumerate(map(html.escape, words.split(text[begin : begin + 300])))
    return "".join(f"<em>{piece}</em>" if at % 2 else piece for at, piece in pieces)


def postal(code: str) -> Json | None:
    """What Represent knows of a postal code. Beside each member stands one of a provincial legislature."""
    if code not in POSTAL_CODES:
        return None
    city, province, centroid, concordance = POSTAL_CODES[code]
    answer: Json = {
        "code": code,
        "city": city,
        "province": province,
        "centroid": {"type": "Point", "coordinates": [-75.7, 45.4]},
        "boundaries_centroid": [],
        "boundaries_concordance": [],
    }
    for source, slugs in (("centroid", centroid), ("concordance", concordance)):
        members = [house().people[slug] for slug in slugs or ()]
        answer[f"boundaries_{source}"] = [_boundary(person) for person in members]
        if slugs is not None:
            answer[f"representatives_{source}"] = [*map(_representative, members), _provincial(province, city)]
    return answer


def _boundary(person: Person) -> Json:
    number, where = 9000 + person.number, "federal-electoral-districts-2023-representation-order"
    assert person.current
    return {
        "url": f"/boundaries/{where}/{number}/",
        "name": person.current.riding,
        "external_id": str(number),
        "boundary_set_name": "Federal electoral district",
        "related": {"boundary_set_url": f"/boundary-sets/{where}/"},
    }


def _representative(person: Person) -> Json:
    assert person.current
    given, family = person.name.split()
    return {
        "name": person.name,
        "first_name": given,
        "last_name": family,
        "elected_office": "MP",
        "party_name": person.current.party,
        "district_name": person.current.riding,
        "representative_set_name": "House of Commons",
        "email": f"{person.slug}@commons.example",
        "url": f"https://commons.example/members/{person.slug}",
        "photo_url": "",
        "personal_url": "",
        "source_url": "https://commons.example/members",
        "gender": person.gender,
        "extra": {},
        "offices": [{"type": "legislature", "tel": "1 613 555-0100", "postal": "House of Commons\nOttawa ON  K1A 0A6"}],
        "related": {
            "boundary_url": _boundary(person)["url"],
            "representative_set_url": "/representative-sets/house-of-commons/",
        },
    }


def _provincial(province: str, city: str) -> Json:
    office = {"ON": "MPP", "QC": "MNA"}.get(province, "MLA")
    return {
        "name": "Prunella Provincial",
        "first_name": "Prunella",
        "last_name": "Provincial",
        "elected_office": office,
        "party_name": "Heron",
        "district_name": f"{city} Provincial",
        "representative_set_name": f"Legislature of {province}",
        "email": "prunella@legislature.example",
        "url": "https://legislature.example/prunella",
        "offices": [],
        "extra": {},
    }


def legisinfo(session: str, number: str) -> Json | None:
    """A bill as LEGISinfo tells it. Its field names drifted: bills of even numbers have the newer ones."""
    record = house().at.get(f"/bills/{session}/{number.upper()}/")
    if record is None:
        return None
    listed, more = record.listed, record.more
    english, french = STATUSES[more["status_code"]]
    sponsor = house().at.get(more["sponsor_politician_url"])
    name = sponsor.listed["name"] if sponsor else "Senator Alder Placeholder"
    senate, private = more["home_chamber"] == "Senate", more["private_member_bill"]
    kind = "Private Member’s Bill" if private else f"{more['home_chamber']} Government Bill"
    days = {"PassedSenateFirstReading" if senate else "PassedHouseFirstReading": listed["introduced"]}
    if session == SESSION:
        days |= ELSEWHERE.get(listed["number"], {})
    for url in more["vote_urls"]:
        vote = house().at[url]
        if vote.listed["result"] == "Passed" and vote.by["kind"] in ("second", "third"):
            days[f"PassedHouse{vote.by['kind'].capitalize()}Reading"] = vote.listed["date"]
    latest = _stamp(max(days.values()))
    answer = {
        "LongTitleEn": listed["name"]["en"],
        "LongTitleFr": listed["name"]["fr"],
        "ShortTitleEn": more["short_title"]["en"],
        "ShortTitleFr": more["short_title"]["fr"],
        "ParliamentNumber": int(session.split("-")[0]),
        "SessionNumber": int(session.split("-")[1]),
        **{f"{passed}DateTime": _stamp(days.get(passed)) for passed in PASSED},
    }
    if int(number.split("-")[1]) % 2:
        return answer | {
            "Id": listed["legisinfo_id"],
            "NumberCode": listed["number"],
            "StatusNameEn": english,
            "StatusNameFr": french,
            "BillDocumentTypeNameEn": kind,
            "OriginatingChamberOrganizationId": 2 if senate else 1,
            "SponsorPersonName": name,
            "LatestBillEventDateTime": latest,
        }
    return answer | {
        "BillId": listed["legisinfo_id"],
        "BillNumberFormatted": listed["number"],
        "CurrentStatusEn": english,
        "CurrentStatusFr": french,
        "BillTypeEn": kind,
        "OriginatingChamberId": 2 if senate else 1,
        "SponsorEn": name,
        "LatestActivityDateTime": latest,
    }


def _stamp(day: str | None) -> str:
    return f"{day}T10:05:12.38-04:00" if day else NO_DATE
