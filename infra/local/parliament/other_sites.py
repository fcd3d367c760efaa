"""The answers of the other sites: Represent's postal codes, LEGISinfo's bills."""

import re

from infra.local.parliament.data import (
    EVENTS_WITHOUT_VOTES,
    LEGISINFO_EVENTS,
    NO_DATE,
    POSTAL_CODES,
    SESSION,
    STATUSES,
)
from infra.local.parliament.dataset import dataset
from infra.local.parliament.model import Json, Person, Record


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
    if int(re.sub(r"\D", "", number)) % 2:
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
