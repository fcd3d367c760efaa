"""A real browser for the tests of the page: its start, its users' sessions, and what a page must never do."""

import json
import os
import subprocess
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import jwt
from playwright.sync_api import Browser, BrowserContext, BrowserType, ConsoleMessage, Page, Request, Response, WebError

from infra.local.postgres import ROOT
from tests.conftest import Person

CLIENTS = ROOT / "tests/clients"
LOOPBACK = ("127.0.0.1", "localhost")
# Every rule of WCAG 2.2, levels A and AA, and axe's best practices.
AXE_TAGS = ("wcag2a", "wcag2aa", "wcag21a", "wcag21aa", "wcag22a", "wcag22aa", "best-practice")
FONTS = """<?xml version="1.0"?>
<fontconfig><dir>{folder}/fonts</dir><cachedir>{folder}/fonts-cache</cachedir></fontconfig>
"""


def unpack_chromium(folder: Path) -> None:
    """Unpack the npm package's Chromium, and settings for its fonts: the package's own name /tmp, whatever TMPDIR is.
    Without a font Chromium lays out no text."""
    folder.mkdir()
    subprocess.run(["node", "chromium.mjs"], cwd=CLIENTS, env={**os.environ, "TMPDIR": str(folder)}, check=True)
    (folder / "fonts.conf").write_text(FONTS.format(folder=folder))


def launch(chromium: BrowserType, folder: Path | None, *arguments: str) -> Browser:
    """Start the Chromium in the folder; without one, that of the variable CHROMIUM."""
    if folder is None:
        return chromium.launch(executable_path=os.environ["CHROMIUM"], args=arguments)
    env: dict[str, str | float | bool] = {
        **os.environ,
        "HOME": str(folder),
        "FONTCONFIG_FILE": str(folder / "fonts.conf"),
        "LD_LIBRARY_PATH": str(folder / "al2023/lib"),  # libraries that the machine may lack
    }
    return chromium.launch(executable_path=folder / "chromium", env=env, args=arguments)


def session_of(person: Person, supabase_url: str) -> tuple[str, str]:
    """The entry of localStorage with which supabase-js knows that the person is signed in: its key and value."""
    claims = jwt.decode(person.token, options={"verify_signature": False})
    user = {name: claims[name] for name in ("aud", "role", "email", "app_metadata", "user_metadata")}
    session = {
        "access_token": person.token,
        "refresh_token": "unused while the token is valid",
        "token_type": "bearer",
        "expires_at": claims["exp"],
        "expires_in": claims["exp"] - claims["iat"],
        "user": {"id": person.id, "created_at": "2026-01-01T00:00:00Z", **user},
    }
    # SupabaseClient.ts: `sb-${baseUrl.hostname.split('.')[0]}-auth-token`
    project = (urlsplit(supabase_url).hostname or "").split(".")[0]
    return f"sb-{project}-auth-token", json.dumps(session)


def storage_of(person: Person | None, supabase_url: str, site: str) -> dict[str, Any]:
    """The storage of a browser in which the person is signed in on the site; without one, of a visitor who signed out.

    The page of a local stack signs in those who never were here.
    """
    key, value = session_of(person, supabase_url) if person else ("signed-out", "1")
    return {"cookies": [], "origins": [{"origin": site, "localStorage": [{"name": key, "value": value}]}]}


@dataclass(slots=True)
class Expected:
    """Failures that a test causes: responses with a status, or, with status None, requests without a response."""

    path: str
    status: int | None
    seen: int = 0


@dataclass  # without slots: Playwright adds an attribute for each listener
class Watch:
    """Collects what must not happen on a page: errors in the console, exceptions, failed requests, other sites.

    Chromium reports violations of the content security policy in the console.
    """

    troubles: list[str] = field(default_factory=list)
    expected: list[Expected] = field(default_factory=list)
    console: list[str] = field(default_factory=lambda: ["Failed to load resource"])  # in lines that are no trouble

    def expect(self, path: str, status: int | None) -> None:
        """Failures of requests whose path ends so are part of the test. It fails if there is none."""
        self.expected.append(Expected(path, status))

    def follow(self, context: BrowserContext) -> None:
        """Watch every page of the context."""
        context.on("console", self._on_console)
        context.on("weberror", self._on_exception)
        context.on("request", self._on_request)
        context.on("response", self._on_response)
        context.on("requestfailed", self._on_failure)

    def verify(self) -> None:
        """Fail if anything happened that the test did not expect, or did not happen though it did."""
        assert not self.troubles, "\n".join(self.troubles)
        unseen = [one for one in self.expected if not one.seen]
        assert not unseen, f"expected, but never happened: {unseen}"

    def _on_console(self, message: ConsoleMessage) -> None:
        # Chromium also writes a line for every failed request; the request's own event says more.
        if message.type in ("error", "assert") and not any(text in message.text for text in self.console):
            self.troubles.append(f"console: {message.text} ({message.location})")

    def _on_exception(self, error: WebError) -> None:
        self.troubles.append(f"exception: {error.error}")

    def _on_request(self, request: Request) -> None:
        address = urlsplit(request.url)
        if address.scheme.startswith("http") and address.hostname not in LOOPBACK:
            self.troubles.append(f"another site: {request.url}")

    def _on_response(self, response: Response) -> None:
        if response.status >= 400:
            self._judge(response.request, response.status, str(response.status))

    def _on_failure(self, request: Request) -> None:
        if request.failure != "net::ERR_ABORTED":  # the page itself ended it, or the reader left
            self._judge(request, None, request.failure or "failed")

    def _judge(self, request: Request, status: int | None, what: str) -> None:
        path = urlsplit(request.url).path
        for one in self.expected:
            if one.status == status and path.endswith(one.path):
                one.seen += 1
                return
        self.troubles.append(f"request: {request.method} {request.url}: {what}")


def axe_findings(page: Page) -> list[str]:
    """What axe-core finds on the page: the rule, and the elements that break it."""
    if not page.evaluate("'axe' in window"):
        page.evaluate((CLIENTS / "node_modules/axe-core/axe.min.js").read_text())
    # Frames are other pages. Results without violations are not worth their time.
    options = {"runOnly": AXE_TAGS, "resultTypes": ["violations"], "iframes": False}
    violations = page.evaluate("async options => (await axe.run(document, options)).violations", options)
    return [f"{one['id']}: {[node['html'] for node in one['nodes']]}" for one in violations]


def layout_shifts(page: Page) -> list[str]:
    """What moved by itself in the conversation (web.dev/articles/cls): how much, and which elements."""
    shifts: list[str] = page.evaluate(
        """() => new Promise(resolve => {
          const shown = ({node, previousRect, currentRect}) =>
            `${node?.outerHTML?.slice(0, 80) ?? node?.data} ${previousRect.y} -> ${currentRect.y}`
          const seen = [], texts = document.querySelector("main .scroll")
          const add = list => {
            for (const one of list) {
              const moved = one.hadRecentInput ? [] : one.sources.filter(({node}) => texts.contains(node))
              if (moved.length) seen.push(`${one.value}: ${moved.map(shown)}`)
            }
          }
          const observer = new PerformanceObserver(list => add(list.getEntries()))
          observer.observe({type: "layout-shift", buffered: true})
          requestAnimationFrame(() => setTimeout(() => {
            add(observer.takeRecords())
            resolve(seen)
          }))
        })"""
    )
    return shifts


def beyond_the_edge(page: Page) -> list[str]:
    """The elements that the window's right edge cuts, without those that scroll within a part of the page."""
    assert page.viewport_size
    cut: list[str] = page.evaluate(
        """width => {
          const isScroller = element => ["auto", "scroll"].includes(getComputedStyle(element).overflowX)
            && element.scrollWidth > element.clientWidth && element.getBoundingClientRect().right <= width + 1
          const scrolls = element => element && (isScroller(element) || scrolls(element.parentElement))
          return [...document.querySelectorAll("body *")]
            .filter(one => one.getBoundingClientRect().right > width + 1 && one.checkVisibility() && !scrolls(one))
            .map(one => one.outerHTML.slice(0, 100))
        }""",
        page.viewport_size["width"],
    )
    return cut


def shown_words(page: Page) -> str:
    """Everything that a person sees or hears: texts and names. Without text in another language, such as an answer's.

    An element's `lang` says that; names of people and bills are data.
    """
    text: str = page.evaluate(
        """() => {
          const language = document.documentElement.lang
          const texts = [document.title]
          const walk = element => {
            if (element.lang && element.lang !== language || ["SCRIPT", "STYLE"].includes(element.tagName)) return
            for (const name of ["aria-label", "aria-description", "title", "placeholder", "alt"])
              texts.push(element.getAttribute(name) ?? "")
            for (const child of element.childNodes)
              if (child.nodeType === Node.TEXT_NODE) texts.push(child.data)
              else if (child.nodeType === Node.ELEMENT_NODE) walk(child)
          }
          walk(document.documentElement)
          return texts.join("\\n")
        }"""
    )
    return text


def context_options(language: str, storage: Mapping[str, Any] | None, site: str) -> dict[str, Any]:
    """The settings of a browser context: a Canadian reader's."""
    return {
        "base_url": site,
        "locale": f"{language}-CA",
        "timezone_id": "America/Toronto",
        "storage_state": storage,
    }
