"""The page built with the AI SDK 6, on the port of Vite's development server: stream, stop, edit, history, resume."""

from collections.abc import Callable
from pathlib import Path

from playwright.sync_api import Browser, Page, expect

from infra.local.stack import Stack
from tests.conftest import Person
from tests.page.kit import Watch
from tests.page.reader import SLOWLY, answer, ask, begun, question_field, ready, refusal, stop
from tests.page.sites import VITE, build_with_ai_sdk_6, served_as_by_vite


def test_the_page_works_with_the_ai_sdk_6(
    chromium: Browser,
    chromium_folder: Path | None,
    stack: Stack,
    page_of: Callable[..., Page],
    person: Callable[..., Person],
    watch: Watch,
    tmp_path: Path,
) -> None:
    build_with_ai_sdk_6(tmp_path / "page")
    with served_as_by_vite(chromium, chromium_folder, stack, tmp_path / "page") as browser:
        page = page_of(person("pro"), site=VITE, browser=browser)
        ask(page, "How did members vote on C-5?")
        ready(page)
        expect(answer(page).get_by_role("link").first).to_be_visible()
        ask(page, f"At length {SLOWLY}")
        begun(page)
        page.reload()
        begun(page)
        stop(page)
        question_field(page).press("ArrowUp")
        ask(page, "In short")
        ready(page)
        expect(answer(page)).to_contain_text("In short")
        page.get_by_role("button", name="Answer again").click()
        ready(page)
        watch.expect("/chat", 502)
        ask(page, "With a model that fails [fault:too-long]")
        expect(refusal(page)).to_be_visible()
        refusal(page).get_by_role("button", name="Close").click()
        expect(page.locator("[data-role]")).to_have_count(4)
        page.reload()
        expect(page.locator("[data-role]")).to_have_count(4)
