"""The stand-in's routes: records as JSON, or as HTML pages for clients that do not request JSON."""

import hashlib
import html
import json
import re
from collections import deque
from collections.abc import Awaitable, Callable

from starlette.applications import Starlette
from starlette.middleware import Middleware
from starlette.requests import Request
from starlette.responses import HTMLResponse, JSONResponse, PlainTextResponse, RedirectResponse, Response
from starlette.routing import Route

from infra.local.parliament.data import API, COMMITTEES, MAX_LOGGED_REQUESTS
from infra.local.parliament.dataset import dataset
from infra.local.parliament.expenses import csv_file, list_page, quarter_page
from infra.local.parliament.lists import BadRequest, NotFound, page
from infra.local.parliament.lobbying import sample_zip
from infra.local.parliament.middleware import Fault, RequestControl, fail, requests
from infra.local.parliament.model import Json, Record
from infra.local.parliament.official import ROUTES
from infra.local.parliament.other_sites import legisinfo_bill, represent_postcode
from infra.local.parliament.pages import vote_page
from infra.local.parliament.search import search_feed


def negotiated(request: Request, answer: Json) -> Response:
    """The answer as JSON where the request asks for JSON, otherwise as the page that browsers get."""
    format_ = request.query_params.get("format")
    accept = request.headers.get("accept", "application/json")
    headers = {"API-Version": "v1"}
    if "origin" in request.headers:
        headers["access-control-allow-origin"] = "*"  # a browser may read the API, but not its errors
    supported = re.search(r"json|\*/\*|text/html|text/\*", format_ or accept)
    if format_ not in (None, "json", "apibrowser") or not supported:
        return PlainTextResponse("This resource is not available in the requested format.", 406)
    if format_ == "json" or (not format_ and "application/json" in accept):
        return JSONResponse(answer, headers=headers)
    text = html.escape(json.dumps(answer, indent=4, ensure_ascii=False))
    return HTMLResponse(f"<!DOCTYPE html><title>API</title><pre>{text}</pre>", headers=headers)


def list_route(table: str) -> Callable[[Request], Awaitable[Response]]:
    async def respond(request: Request) -> Response:
        return negotiated(request, page(table, request.url.path, request.query_params.multi_items()))

    return respond


async def detail(request: Request) -> Response:
    path = request.url.path
    if not path.endswith("/"):
        return RedirectResponse(request.url.replace(path=f"{path}/"), 301)
    if moved := moved_path(path):
        return RedirectResponse(moved, 301)
    record = dataset().by_url.get(path) or record_by_number(path)
    if record is None:
        raise NotFound
    if record in dataset().tables["votes"] and request.headers.get("accept", "").startswith("text/html"):
        return HTMLResponse(vote_page(record))
    return negotiated(request, record.to_json(with_details=True))


def moved_path(path: str) -> str | None:
    """Where a path redirects to: the list of former members, and a committee by its number."""
    if path == "/politicians/former/":
        return "/politicians/?include=former"
    number = re.fullmatch(r"/committees/(\d+)/.*", path, re.ASCII)
    committees = list(COMMITTEES)
    if number is None or not 0 < int(number[1]) <= len(committees):
        return None
    return path.replace(number[1], committees[int(number[1]) - 1], 1)


def record_by_number(path: str) -> Record | None:
    """The record of a politician at the path of the number. Unlike a committee's, this path does not redirect."""
    people = {f"/politicians/{person.number}/": person.url for person in dataset().people.values()}
    return dataset().by_url.get(people.get(path, ""))


async def search(request: Request) -> Response:
    if "q" not in request.query_params:
        raise NotFound
    query = "".join(letter for letter in request.query_params["q"] if letter.isprintable())  # valid in XML
    return Response(search_feed(query), media_type="application/rss+xml")


async def postcode(request: Request) -> Response:
    code = request.path_params["code"]
    if not re.fullmatch(r"[A-Z]\d[A-Z]\d[A-Z]\d", code, re.ASCII):
        return PlainTextResponse("Postal codes must be in the format A1A1A1 (capital letters, no spaces).", 400)
    answer = represent_postcode(code)
    return JSONResponse(answer or {"detail": "Postal code not found."}, 200 if answer else 404)


async def legisinfo(request: Request) -> Response:
    bill = legisinfo_bill(request.path_params["session"], request.path_params["number"])
    if bill is None:
        raise NotFound
    return JSONResponse([bill])


async def expenses(request: Request) -> Response:
    year, quarter = (request.path_params.get(name) for name in ("year", "quarter"))
    page = list_page() if year is None else quarter_page(int(year), int(quarter or 0))
    if page is None:
        raise NotFound
    return HTMLResponse(page)


async def expenses_csv(request: Request) -> Response:
    file = csv_file(request.path_params["identity"])
    if file is None:
        raise NotFound
    return Response(file, media_type="text/csv")


async def lobbying_zip(request: Request) -> Response:
    """A file of the registry, with an ETag that a conditional request compares."""
    body = sample_zip(request.path_params["name"].partition("_")[0])
    headers = {"etag": f'"{hashlib.sha256(body).hexdigest()[:16]}"'}
    if request.headers.get("if-none-match") == headers["etag"]:
        return Response(status_code=304, headers=headers)
    return Response(body, media_type="application/x-zip-compressed", headers=headers)


async def registry_page(request: Request) -> Response:
    """A page of the registry, for people."""
    return HTMLResponse("<!DOCTYPE html><title>Registry of Lobbyists</title>")


async def portrait(request: Request) -> Response:
    """A GIF of one pixel."""
    return Response(b"GIF89a\x01\0\x01\0\0\0\0,\0\0\0\0\x01\0\x01\0\0\x02\0;", media_type="image/gif")


async def error_response(request: Request, error: Exception) -> Response:
    if isinstance(error, BadRequest):
        return PlainTextResponse(html.escape(str(error)), 400)
    return HTMLResponse("<!DOCTYPE html><html><title>Not found</title><h1>Page not found</h1></html>", 404)


def create_app(delay: float = 0.01) -> Starlette:
    """The stand-in. Every answer takes at least `delay` seconds."""
    dataset()
    lists = {"votes/ballots": "ballots", "committees/meetings": "meetings", "politicians/memberships": "memberships"}
    lists |= {name: name for name in API}
    routes = [
        *(Route(f"/{path}/", list_route(table)) for path, table in lists.items()),
        *(Route(f"/{name}/{{rest:path}}", detail) for name in API),
        Route("/search/feed/", search),
        Route("/postcodes/{code}/", postcode),
        *(
            Route(f"/{name}/{{language}}/bill/{{session}}/{{number}}/json", legisinfo)
            for name in ("LegisInfo", "legisinfo")
        ),
        *ROUTES,
        Route("/media/polpics/{name}", portrait),
        Route("/media/{folder}/{name:path}", lobbying_zip),
        Route("/ProactiveDisclosure/en/members", expenses),
        Route("/ProactiveDisclosure/{language}/members/{year:int}/{quarter:int}", expenses),
        Route("/app/secure/ocl/lrs/do/{page}", registry_page),
        Route("/en/", registry_page),
        Route("/fr/", registry_page),
        Route("/ProactiveDisclosure/en/members/{identity}/csv", expenses_csv),
        Route("/_requests", requests, methods=["GET", "DELETE"]),
        Route("/_fail", fail, methods=["POST", "DELETE"]),
    ]
    app = Starlette(
        routes=routes,
        middleware=[Middleware(RequestControl, delay=delay)],
        exception_handlers={BadRequest: error_response, NotFound: error_response, 404: error_response},
    )
    app.state.requests, app.state.faults = deque[Json](maxlen=MAX_LOGGED_REQUESTS), list[Fault]()
    return app
