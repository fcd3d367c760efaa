"""The stand-in's routes: records as JSON or, as the real site does without being asked for JSON, as pages."""

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

from infra.local.parliament.desk import Desk, Fault, fail, journal
from infra.local.parliament.house import house
from infra.local.parliament.invented import API, MAX_ENTRIES, Json
from infra.local.parliament.lists import BadRequest, Missing, page
from infra.local.parliament.sites import feed, legisinfo, postal


def shown(request: Request, answer: Json) -> Response:
    """As JSON where that is asked for, else as the page that browsers get, which is not JSON."""
    asked = request.query_params.get("format")
    accept = request.headers.get("accept", "application/json")
    headers = {"API-Version": "v1"}
    if asked not in (None, "json", "apibrowser") or not re.search(r"json|\*/\*|text/html|text/\*", asked or accept):
        return PlainTextResponse("This resource is not available in the requested format.", 406)
    if asked == "json" or (not asked and "application/json" in accept):
        return JSONResponse(answer, headers=headers)
    text = html.escape(json.dumps(answer, indent=4, ensure_ascii=False))
    return HTMLResponse(f"<!DOCTYPE html><title>API</title><pre>{text}</pre>", headers=headers)


def listing(table: str) -> Callable[[Request], Awaitable[Response]]:
    async def shows(request: Request) -> Response:
        return shown(request, page(table, request.url.path, request.query_params.multi_items()))

    return shows


async def detail(request: Request) -> Response:
    path = request.url.path
    if not path.endswith("/"):
        return RedirectResponse(request.url.replace(path=f"{path}/"), 301)
    record = house().at.get(path)
    if record is None:
        raise Missing
    return shown(request, record.seen(whole=True))


async def search_feed(request: Request) -> Response:
    if "q" not in request.query_params:
        raise Missing
    query = "".join(letter for letter in request.query_params["q"] if letter.isprintable())  # XML has no others
    return Response(feed(query), media_type="application/rss+xml")


async def postcode(request: Request) -> Response:
    code = request.path_params["code"]
    if not re.fullmatch(r"[A-Z]\d[A-Z]\d[A-Z]\d", code, re.ASCII):
        return PlainTextResponse("Postal codes must be in the format A1A1A1 (capital letters, no spaces).", 400)
    answer = postal(code)
    return JSONResponse(answer or {"detail": "Postal code not found."}, 200 if answer else 404)


async def legisinfo_bill(request: Request) -> Response:
    bill = legisinfo(request.path_params["session"], request.path_params["number"])
    if bill is None:
        raise Missing
    return JSONResponse([bill])


async def portrait(request: Request) -> Response:
    """The smallest picture there is."""
    return Response(b"GIF89a\x01\0\x01\0\0\0\0,\0\0\0\0\x01\0\x01\0\0\x02\0;", media_type="image/gif")


async def refuse(request: Request, error: Exception) -> Response:
    if isinstance(error, BadRequest):
        return PlainTextResponse(html.escape(str(error)), 400)
    return HTMLResponse("<!DOCTYPE html><html><title>Not found</title><h1>Page not found</h1></html>", 404)


def create_app(delay: float = 0.01) -> Starlette:
    """The stand-in, with at least `delay` seconds for every answer."""
    house()
    lists = {"votes/ballots": "ballots", "committees/meetings": "meetings", "politicians/memberships": "memberships"}
    lists |= {name: name for name in API}
    routes = [
        *(Route(f"/{path}/", listing(table)) for path, table in lists.items()),
        *(Route(f"/{name}/{{rest:path}}", detail) for name in API),
        Route("/search/feed/", search_feed),
        Route("/postcodes/{code}/", postcode),
        *(
            Route(f"/{name}/{{language}}/bill/{{session}}/{{number}}/json", legisinfo_bill)
            for name in ("LegisInfo", "legisinfo")
        ),
        Route("/media/polpics/{name}", portrait),
        Route("/_requests", journal, methods=["GET", "DELETE"]),
        Route("/_fail", fail, methods=["POST", "DELETE"]),
    ]
    app = Starlette(
        routes=routes,
        middleware=[Middleware(Desk, delay=delay)],
        exception_handlers={BadRequest: refuse, Missing: refuse, 404: refuse},
    )
    app.state.entries, app.state.faults = deque[Json](maxlen=MAX_ENTRIES), list[Fault]()
    return app
