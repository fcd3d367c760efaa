"""Fixtures of the page's tests: one Chromium for each file, one browser context for each person of a test."""

import os
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from playwright.sync_api import Browser, BrowserContext, Page, expect, sync_playwright

from infra.local.stack import Stack
from tests.conftest import Person, once_per_run
from tests.page.kit import Watch, axe_findings, context_options, launch, storage_of, unpack_chromium

TIMEOUT_MS = 20_000  # for everything that the page is about to do
SCREENSHOTS = os.environ.get("SCREENSHOTS")
expect.set_options(TIMEOUT_MS)


@pytest.fixture(scope="session")
def chromium_folder(tmp_path_factory: pytest.TempPathFactory) -> Path | None:
    """The folder of the unpacked Chromium, one for all test processes. None where CHROMIUM names another."""
    if os.environ.get("CHROMIUM"):
        return None
    with once_per_run(tmp_path_factory, "chromium") as (folder, is_first):
        if is_first:
            unpack_chromium(folder)
    return folder


@pytest.fixture(scope="module")
def chromium(chromium_folder: Path | None) -> Iterator[Browser]:
    """A running Chromium. Not for the whole session: while Playwright runs, no test of the process can be async."""
    with sync_playwright() as playwright, launch(playwright.chromium, chromium_folder) as browser:
        yield browser


@pytest.fixture
def watch() -> Iterator[Watch]:
    """Fails the test if a page had an error that it did not expect."""
    watch = Watch()
    yield watch
    watch.verify()


@pytest.fixture
def page_of(
    chromium: Browser, stack: Stack, watch: Watch, tmp_path: Path, request: pytest.FixtureRequest
) -> Iterator[Callable[..., Page]]:
    """Opens the page for a person who is signed in, or for a visitor: `page_of(person, "/#plans", language="fr")`.

    It is frontend/dist, which the stack serves; `site` is another origin of the page. Further arguments are
    Playwright's for a context. `page.context.new_page()` is another tab. If the test fails, its folder has a picture of
    every tab.
    """
    contexts: list[BrowserContext] = []

    def open_page(
        person: Person | None = None,
        path: str = "/",
        *,
        language: str = "en",
        site: str | None = None,
        browser: Browser = chromium,
        **options: Any,
    ) -> Page:
        site = site or stack.info["functions_url"]
        storage = storage_of(person, stack.info["supabase_url"], site)
        context = browser.new_context(**{**context_options(language, storage, site), **options})
        context.set_default_timeout(TIMEOUT_MS)
        contexts.append(context)
        watch.follow(context)
        page = context.new_page()
        page.goto(path)
        return page

    failed_before = request.session.testsfailed
    yield open_page
    failed = request.session.testsfailed > failed_before
    for number, page in enumerate([page for context in contexts for page in context.pages], 1):
        if failed:
            page.screenshot(path=tmp_path / f"failed-{number}.png", full_page=True)
    for context in contexts:
        context.close()


@pytest.fixture
def axe() -> Callable[[Page], None]:
    """Fails if axe-core finds something on the page."""

    def check(page: Page) -> None:
        findings = axe_findings(page)
        assert not findings, "\n".join(findings)

    return check


@pytest.fixture
def picture() -> Callable[[Page, str], None]:
    """Takes a picture of the page if SCREENSHOTS names a folder: `picture(page, "refusal-360-dark")`."""

    def take(page: Page, name: str) -> None:
        if SCREENSHOTS:
            page.screenshot(path=Path(SCREENSHOTS) / f"{name}.png", animations="disabled")

    return take
