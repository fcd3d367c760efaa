"""The answers of the other sites: openparliament.ca's search feed, Represent's postal codes, LEGISinfo's bills."""

import html
import re
from email.utils import format_datetime
from functools import cache
from itertools import islice
from urllib.parse import urlencode
from xml.etree import ElementTree

from infra.local.parliament.data import (
    EVENTS_WITHOUT_VOTES,
    FEED_LIMIT,
    LEGISINFO_EVENTS,
    NO_DATE,
    OTTAWA,
    POSTAL_CODES,
    SESSION,
    SITE,
    STATUSES,
)
from infra.local.parliament.dataset import dataset
from infra.local.parliament.model import Json, Person, Record, bilingual, fold


def search_feed(query: str) -> bytes:
    """The search results as RSS 2.0. Descriptions are HTML, escaped once as XML text."""
    rss = ElementTree.Element("rss", version="2.0")
    channel = ElementTree.SubElement(rss, "channel")

    def add(parent: ElementTree.Element, **texts: str) -> None:
        for name, text in texts.items():
            ElementTree.SubElement(parent, name).text = text

    address = f"{SITE}/search/?{urlencode({'q': query, 'sort': 'date desc'})}"
    description = f"From openparliament.ca, search results for '{query}'"
    add(channel, title=f'"{query}" | openparliament.ca', link=address, description=description, language="en-ca")
    for record in _search(query):
        listed, url = record.listed, SITE + record.url
        heading = (listed.get("h2") or listed.get("h1") or bilingual("House", "Chambre"))["en"]
        item = ElementTree.SubElement(channel, "item")
        published = format_datetime(record.filter_values["time"].replace(tzinfo=OTTAWA))
        add(item, title=f"{heading} / {listed['attribution']['en'].split(' (')[0]}", link=url)
        add(item, description=_excerpt(listed["content"], query), pubDate=published, guid=url)
    return bytes(ElementTree.tostring(rss, encoding="utf-8", xml_declaration=True))


def _search(query: str) -> list[Record]:
    """The newest speeches that contain all the words. The words may be in either language."""
    words = {*re.findall(r"\w+", fold(query))}
    speeches = sorted(dataset().tables["speeches"], key=lambda record: record.filter_values["time"], reverse=True)
    hits = (record for record in speeches if words and words <= _vocabulary(record.url))
    return list(islice(hits, FEED_LIMIT))


@cache
def _vocabulary(url: str) -> frozenset[str]:
    listed = dataset().by_url[url].listed
    texts = [*listed["content"].values(), *listed["attribution"].values()]
    return frozenset(re.findall(r"\w+", fold(html.unescape(re.sub(r"<[^>]+>", " ", " ".join(texts))))))


def _excerpt(content: Json, query: str) -> str:
    """300 characters around the first match, as HTML with the words in <em>."""
    words = re.compile("(" + "|".join(map(re.escape, re.findall(r"\w+", query))) + ")", re.IGNORECASE)
    texts = [html.unescape(re.sub(r"<[^>]+>", "", content[language])).replace("\n", " ") for language in ("en", "fr")]
    matches = [(text, match.start()) for text in texts if (match := words.search(text))]
    text, position = matches[0] if matches else (texts[0], 0)
    start = max(position - 60, 0)
    # re.split returns the other text and the matches in turn.
    pieces = enumerate(map(html.escape, words.split(text[start : start + 300])))
    return "".join(f"<em>{piece}</em>" if index % 2 else piece for index, piece in pieces)


def represent_postcode(code: str) -> Json | None:
    """Represent's answer for a postal code. Each list includes a member of the provincial legislature."""
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
        members = [dataset().people[slug] for slug in slugs or ()]
        answer[f"boundaries_{source}"] = [_boundary(person) for person in members]
        if slugs is not None:
            provincial = _provincial_member(province, city)
            sitting = [person for person in members if person.current_term]  # a vacant seat has only its boundary
            answer[f"representatives_{source}"] = [*map(_federal_member, sitting), provincial]
    return answer


def _boundary(person: Person) -> Json:
    number, boundary_set = 9000 + person.number, "federal-electoral-districts-2023-representation-order"
    return {
        "url": f"/boundaries/{boundary_set}/{number}/",
        "name": person.terms[0].riding,
        "external_id": str(number),
        "boundary_set_name": "Federal electoral district",
        "related": {"boundary_set_url": f"/boundary-sets/{boundary_set}/"},
    }


def _federal_member(person: Person) -> Json:
    assert person.current_term
    given, family = person.name.split()
    return {
        "name": person.name,
        "first_name": given,
        "last_name": family,
        "elected_office": "MP",
        "party_name": person.current_term.party,
        "district_name": person.current_term.riding,
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


def _provincial_member(province: str, city: str) -> Json:
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


def legisinfo_bill(session: str, number: str) -> Json | None:
    """LEGISinfo's record of a bill. Its field names changed over time: bills of even numbers have the newer names."""
    record = dataset().by_url.get(f"/bills/{session}/{number.upper()}/")
    if record is None:
        return None
    listed, details = record.listed, record.details
    status_en, status_fr = STATUSES[details["status_code"]]
    sponsor_record = dataset().by_url.get(details["sponsor_politician_url"])
    sponsor = sponsor_record.listed["name"] if sponsor_record else "Senator Alder Placeholder"
    from_senate, private = details["home_chamber"] == "Senate", details["private_member_bill"]
    kind = "Private Member’s Bill" if private else f"{details['home_chamber']} Government Bill"
    dates = _event_dates(record)
    latest = _timestamp(max(dates.values()))
    answer = {
        "LongTitleEn": listed["name"]["en"],
        "LongTitleFr": listed["name"]["fr"],
        "ShortTitleEn": details["short_title"]["en"],
        "ShortTitleFr": details["short_title"]["fr"],
        "ParliamentNumber": int(session.split("-")[0]),
        "SessionNumber": int(session.split("-")[1]),
        **{f"{event}DateTime": _timestamp(dates.get(event)) for event in LEGISINFO_EVENTS},
        "BillStages": _stages(dates),
        "Publications": [
            {
                "PublicationTypeNameEn": "First Reading",
                "PublicationTypeNameFr": "Première lecture",
                "PublicationFiles": [
                    {"RelativePath": f"/DocumentViewer/en/{session}/bill/{number.upper()}/first-reading"}
                ],
            }
        ],
    }
    if int(number.split("-")[1]) % 2:
        return answer | {
            "Id": listed["legisinfo_id"],
            "NumberCode": listed["number"],
            "StatusNameEn": status_en,
            "StatusNameFr": status_fr,
            "BillDocumentTypeNameEn": kind,
            "OriginatingChamberOrganizationId": 2 if from_senate else 1,
            "SponsorPersonName": sponsor,
            "LatestBillEventDateTime": latest,
        }
    return answer | {
        "BillId": listed["legisinfo_id"],
        "BillNumberFormatted": listed["number"],
        "CurrentStatusEn": status_en,
        "CurrentStatusFr": status_fr,
        "BillTypeEn": kind,
        "OriginatingChamberId": 2 if from_senate else 1,
        "SponsorEn": sponsor,
        "LatestActivityDateTime": latest,
    }


def _stages(dates: dict[str, str]) -> Json:
    """The stages as the bill's own page nests them."""
    stages: Json = {"RoyalAssent": []}
    for chamber in ("House", "Senate"):
        passed = [
            (f"{name} reading", f"{french} lecture", day)
            for name, french in (("First", "Première"), ("Second", "Deuxième"), ("Third", "Troisième"))
            if (day := dates.get(f"Passed{chamber}{name}Reading"))
        ]
        stages[f"{chamber}BillStages"] = [
            {
                "BillStageNameEn": english,
                "BillStageNameFr": french,
                "StateNameEn": "Completed",
                "StateNameFr": "Terminée",
                "StateAsOfDate": _timestamp(day),
            }
            for english, french, day in passed
        ]
    return stages


def _event_dates(bill: Record) -> dict[str, str]:
    """The dates of the events that the bill has passed."""
    from_senate = bill.details["home_chamber"] == "Senate"
    first_reading = "PassedSenateFirstReading" if from_senate else "PassedHouseFirstReading"
    dates: dict[str, str] = {first_reading: bill.listed["introduced"]}
    if bill.listed["session"] == SESSION:
        dates |= EVENTS_WITHOUT_VOTES.get(bill.listed["number"], {})
    for url in bill.details["vote_urls"]:
        vote = dataset().by_url[url]
        if vote.listed["result"] == "Passed" and vote.filter_values["kind"] in ("second", "third"):
            dates[f"PassedHouse{vote.filter_values['kind'].capitalize()}Reading"] = vote.listed["date"]
    return dates


def _timestamp(day: str | None) -> str:
    return f"{day}T10:05:12.38-04:00" if day else NO_DATE
