"""The developer's panel in a real browser: users, faults, clocks, the log of requests and curl."""

import json
import re
import shlex
from collections.abc import Callable

import httpx
import pytest
from playwright.sync_api import Locator, Page, Route, expect

from infra.local.stack import Stack
from tests.conftest import Person
from tests.page.kit import Watch, beyond_the_edge, shown_words
from tests.page.words import english_words, words_of

AxeCheck = Callable[[Page], None]
Picture = Callable[[Page, str], None]
PHONE = {"viewport": {"width": 360, "height": 740}, "has_touch": True}


def opened(page: Page, tab: str = "Developer") -> Locator:
    """The panel, after a click on its tab."""
    page.get_by_role("button", name=tab, exact=True).click()
    return page.get_by_role("complementary").filter(has=page.get_by_role("button", name=tab, exact=True))


def test_requests_appear_and_the_last_one_can_be_repeated(
    page_of: Callable[..., Page], person: Callable[..., Person], axe: AxeCheck, picture: Picture
) -> None:
    user = person("pro")
    page = page_of(user)
    panel = opened(page)
    asked = page.evaluate(
        """async () => {
          const key = Object.keys(localStorage).find(name => name.endsWith("-auth-token"))
          const token = JSON.parse(localStorage[key]).access_token
          const response = await fetch("/keys", {headers: {authorization: `Bearer ${token}`}})
          return response.headers.get("x-request-id")
        }"""
    )
    row = panel.get_by_role("row").filter(has_text=asked)
    expect(row).to_contain_text("GET /keys")
    expect(row).to_contain_text("200")
    expect(panel.locator("pre")).to_contain_text("/keys'")
    command = shlex.split(panel.locator("pre").inner_text().replace("\\\n", ""))
    assert command[:4] == ["curl", "-N", "-X", "GET"]
    header = command[command.index("-H") + 1].split(": ", 1)
    assert httpx.get(command[4], headers=[(header[0], header[1])]).json() == {"keys": []}
    axe(page)
    picture(page, "developer")
    page.keyboard.press("Escape")
    expect(panel.get_by_role("table")).to_be_hidden()
    expect(page.get_by_role("button", name="Developer", exact=True)).to_be_focused()


def test_a_click_signs_in_as_another_user(page_of: Callable[..., Page], person: Callable[..., Person]) -> None:
    page = page_of(person("basic"))
    panel = opened(page)
    panel.get_by_role("button", name="Pay per question", exact=True).click()
    expect(panel.get_by_role("button", name="Pay per question", exact=True)).to_have_attribute("aria-pressed", "true")
    page.keyboard.press("Escape")
    page.get_by_role("button", name="Account").click()
    expect(page.locator("body")).to_contain_text("usage-only@example.test")


def test_a_fault_is_chosen_and_used_once(
    page_of: Callable[..., Page], person: Callable[..., Person], watch: Watch, stack: Stack
) -> None:
    user = person("pro")
    page = page_of(user)
    panel = opened(page)
    fault = panel.get_by_label("How the model stand-in answers")
    fault.select_option("No provider has capacity")
    expect(panel).to_contain_text("Only the next answer is affected.")
    page.get_by_role("button", name="Developer", exact=True).click()
    watch.expect("/chat", 503)
    page.get_by_role("textbox", name="Your question").fill("What is a writ?")
    page.keyboard.press("Enter")
    expect(page.locator("body")).to_contain_text("overloaded")
    opened(page)
    expect(fault).to_have_value("")


def test_a_day_passes(page_of: Callable[..., Page], person: Callable[..., Person], watch: Watch, stack: Stack) -> None:
    """The request and what is shown; the clocks of the shared stack stay. tests/local/test_clock.py moves real ones."""
    page = page_of(person("basic"))
    about = httpx.get(f"{stack.info['functions_url']}/_stack").json()
    clock = {**about["clock"], "offset_s": 86_400}
    sent: list[object] = []

    def move(route: Route) -> None:
        sent.append(json.loads(route.request.post_data or ""))
        route.fulfill(json={"clock": clock, "jobs": {"expire-credits": {"packs": 2, "unfinished": 0}}})

    page.route("**/_stack/clock", move)
    panel = opened(page)
    expect(panel.get_by_role("link", name="The Stripe stand-in and its clock")).to_have_attribute(
        "href", stack.info["stripe_url"]
    )
    page.route(re.compile(r"/_stack(\?|$)"), lambda route: route.fulfill(json={**about, "clock": clock}))
    panel.get_by_role("button", name="A day passes").click()
    expect(panel).to_contain_text("expire-credits: 2 packs")
    expect(panel).to_contain_text("1 day ahead.")
    assert sent == [{"days": 1}]
    page.unroute("**/_stack/clock")
    failure = "The clocks moved 3 of 31 days. Then bill-overages failed: TimeoutError"
    page.route("**/_stack/clock", lambda route: route.fulfill(status=500, json={"error": {"message": failure}}))
    watch.expect("/_stack/clock", 500)
    panel.get_by_role("button", name="A month passes").click()
    expect(panel.get_by_role("alert").filter(has_text=failure)).to_be_visible()
    expect(panel.get_by_role("button", name="A month passes")).to_be_enabled()


@pytest.mark.parametrize("language", ["en", "fr"])
def test_the_panel_fits_a_phone_in_both_languages(
    page_of: Callable[..., Page],
    person: Callable[..., Person],
    axe: AxeCheck,
    picture: Picture,
    language: str,
) -> None:
    user = person("basic")
    page = page_of(user, language=language, **PHONE)
    panel = opened(page, {"en": "Developer", "fr": "Développement"}[language])
    expect(panel.get_by_role("table")).to_be_visible()
    expect(panel.locator("pre")).to_be_visible()
    axe(page)
    assert not beyond_the_edge(page)
    picture(page, f"developer-360-{language}")
    if language == "fr":
        assert not words_of(shown_words(page).replace(user.email, "")) & english_words()
