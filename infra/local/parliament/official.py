"""The official sites: LEGISinfo's list of bills, and the House's lists of offices and committee members."""

import html
from xml.etree import ElementTree

from starlette.requests import Request
from starlette.responses import HTMLResponse, JSONResponse, Response
from starlette.routing import Route

from infra.local.parliament.data import COMMITTEES, OFFICES, SESSION
from infra.local.parliament.dataset import dataset
from infra.local.parliament.model import Json
from infra.local.parliament.other_sites import legisinfo_bill

NIL = "{http://www.w3.org/2001/XMLSchema-instance}nil"
NOT_FOUND = "<!DOCTYPE html><html><title>Not found</title></html>"
LISTS = {
    "ministries": ("ArrayOfMinister", "Minister"),
    "parliamentary-secretaries": ("ArrayOfParliamentarySecretary", "ParliamentarySecretary"),
}
ROLES = {"en": ("Chair", "Vice-Chairs", "Members"), "fr": ("Président(e)", "Vice-président(e)s", "Membres")}


def office_list(name: str, language: str) -> bytes:
    """The XML of a list of offices. Former ministers have an end."""
    root_name, tag = LISTS[name]
    root = ElementTree.Element(root_name)
    for number, office in enumerate(office for office in OFFICES if office.kind == name):
        person = dataset().people[office.person]
        given, family = person.name.split()
        texts: Json = {
            "PersonId": str(990000 + person.number),
            "PersonShortHonorific": "Hon." if language == "en" else "L’hon.",
            "PersonOfficialFirstName": given,
            "PersonOfficialLastName": family,
            "Title": office.title_fr if language == "fr" else office.title_en,
            "FromDateTime": f"{office.since}T00:00:00",
            "ToDateTime": f"{office.until}T00:00:00" if office.until else None,
        }
        if name == "ministries":
            texts["OrderOfPrecedence"] = str(number + 1)
        else:
            texts |= {"ConstituencyName": person.terms[-1].riding, "CaucusShortName": person.terms[-1].party}
        entry = ElementTree.SubElement(root, tag)
        for field, text in texts.items():
            child = ElementTree.SubElement(entry, field)
            child.text = text
            if text is None:
                child.set(NIL, "true")
    return bytes(ElementTree.tostring(root, encoding="utf-8", xml_declaration=True))


def members_page(acronym: str, language: str) -> str | None:
    """The page with a committee's members; None for an unknown acronym."""
    slug = next((slug for slug, committee in COMMITTEES.items() if committee[2] == acronym.upper()), None)
    if slug is None:
        return None
    index = list(COMMITTEES).index(slug)
    people = [person for person in dataset().people.values() if person.current_term][index : index + 9]
    sections = []
    for role, members in zip(ROLES[language], (people[:1], people[1:3], people[3:]), strict=True):
        tiles = "".join(
            f'<a class="tile" href="//www.ourcommons.ca/Members/{language}/{person.slug}({990000 + person.number})">'
            f"<span>{html.escape(person.name)}</span></a><div>{html.escape(person.terms[-1].party)}</div>"
            for person in members
        )
        sections.append(f"<h2>{role}</h2>{tiles}")
    return f"<!DOCTYPE html><html><title>{acronym}</title><h1>{acronym}</h1>{''.join(sections)}</html>"


async def offices(request: Request) -> Response:
    language, name = request.path_params["language"].lower(), request.path_params["name"].lower()
    if name not in LISTS or language not in ROLES:
        return HTMLResponse(NOT_FOUND, 404)
    return Response(office_list(name, language), media_type="application/xml")


async def committee_members(request: Request) -> Response:
    language = request.path_params["language"].lower()
    page = members_page(request.path_params["acronym"], language) if language in ROLES else None
    return HTMLResponse(page or NOT_FOUND, 200 if page else 404)


async def legisinfo_list(request: Request) -> Response:
    """The bills of a session, with the names of fields that this page has."""
    session = request.query_params.get("parlsession", SESSION)
    bills = [record for record in dataset().tables["bills"] if record.listed["session"] == session]
    return JSONResponse([_listed(session, record.listed["number"]) for record in bills])


def _listed(session: str, number: str) -> Json:
    """The bill as the list has it: other names of fields than on the bill's own page, and no stages."""
    renamed = {
        "Id": "BillId",
        "NumberCode": "BillNumberFormatted",
        "StatusNameEn": "CurrentStatusEn",
        "StatusNameFr": "CurrentStatusFr",
        "BillDocumentTypeNameEn": "BillTypeEn",
        "OriginatingChamberOrganizationId": "OriginatingChamberId",
        "SponsorPersonName": "SponsorEn",
        "LatestBillEventDateTime": "LatestActivityDateTime",
    }
    bill = legisinfo_bill(session, number) or {}
    own_page = {"BillStages", "Publications"}
    return {renamed.get(name, name): value for name, value in bill.items() if name not in own_page}


async def page(request: Request) -> Response:
    """The page for people: of a bill, or of a list of offices."""
    return HTMLResponse(f"<!DOCTYPE html><html><title>{html.escape(request.url.path)}</title></html>")


ROUTES = [
    Route("/legisinfo/{language}/bills/json", legisinfo_list),
    Route("/legisinfo/{language}/bill/{session}/{number}", page),
    Route("/Members/{language}/{name}", page),
    Route("/Members/{language}/{name}/xml", offices),
    Route("/Committees/{language}/{acronym}/Members", committee_members),
]
