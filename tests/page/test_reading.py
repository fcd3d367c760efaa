"""The page for those who use the keyboard alone, a screen reader, a small window, or little motion."""

import re
from collections.abc import Callable

from playwright.sync_api import Page, expect

from tests.conftest import Person
from tests.page.kit import beyond_the_edge
from tests.page.reader import SLOWLY, answer, ask, begun, question_field, ready

PageOf = Callable[..., Page]
NewPerson = Callable[..., Person]
Check = Callable[[Page], None]
Picture = Callable[[Page, str], None]
FOCUSED = "document.activeElement.getAttribute('aria-label') ?? document.activeElement.innerText.trim()"


def test_a_conversation_with_the_keyboard_alone(page_of: PageOf, person: NewPerson) -> None:
    page = page_of(person("pro"))
    field = question_field(page)
    expect(field).to_be_focused()
    for _ in range(5):  # past the end of the page to its start
        page.keyboard.press("Tab")
        if page.evaluate("document.activeElement.closest('.skip') !== null"):
            break
    assert page.evaluate(FOCUSED) == "Skip to the conversation"
    page.keyboard.press("Enter")
    expect(field).to_be_focused()
    page.keyboard.type("First line")
    page.keyboard.press("Shift+Enter")
    page.keyboard.type("second line " + SLOWLY)
    expect(field).to_have_value(f"First line\nsecond line {SLOWLY}")
    page.keyboard.press("Enter")
    begun(page)
    expect(field).to_be_focused()
    page.keyboard.press("Escape")
    ready(page)
    expect(answer(page)).to_contain_text("You stopped this answer.")
    page.keyboard.press("ArrowUp")
    expect(field).to_have_value(f"First line\nsecond line {SLOWLY}")
    page.keyboard.press("Escape")
    expect(field).to_have_value("")
    page.keyboard.press("Shift+Tab")
    assert page.evaluate(FOCUSED) != ""
    page.keyboard.press("/")
    expect(field).to_be_focused()
    expect(field).to_have_value("")
    page.keyboard.press("Tab")
    for _ in range(60):  # every control has a name and a visible focus, and no one keeps the focus
        name, outline = page.evaluate(f"[{FOCUSED}, getComputedStyle(document.activeElement).outlineStyle]")
        if page.evaluate("document.activeElement === document.body"):
            break
        assert name or page.evaluate("document.activeElement.labels?.length > 0"), page.evaluate(
            "document.activeElement.outerHTML"
        )
        assert outline != "none", page.evaluate("document.activeElement.outerHTML")
        page.keyboard.press("Tab")
    else:
        raise AssertionError("Tab does not leave the page")


def test_a_screen_reader_hears_an_answer_and_its_language(
    page_of: PageOf, person: NewPerson, axe: Check, picture: Picture
) -> None:
    page = page_of(person("pro"))
    axe(page)
    picture(page, "empty")
    ask(page, "Combien de députés faut-il pour un quorum?")
    ready(page)
    expect(answer(page).locator(".text")).to_have_attribute("lang", "fr")
    expect(page.get_by_role("log")).to_contain_text("Réponse factice")
    expect(page.get_by_role("main").get_by_role("heading", level=1)).to_have_count(1)
    expect(page.get_by_role("button", name="Send", exact=True)).to_be_visible()
    axe(page)
    picture(page, "answer-in-french")


def test_a_phone_scrolls_only_down(page_of: PageOf, person: NewPerson, axe: Check, picture: Picture) -> None:
    page = page_of(person("basic"), viewport={"width": 360, "height": 640}, has_touch=True, is_mobile=True)
    picture(page, "empty-360")
    assert not beyond_the_edge(page)
    ask(page, "How did members vote on C-5? " + "[fault:long 400]")
    ready(page)
    assert not beyond_the_edge(page)
    expect(question_field(page)).to_be_in_viewport(ratio=1)
    expect(page.get_by_role("button", name="Send", exact=True)).to_be_in_viewport(ratio=1)
    axe(page)
    picture(page, "answer-360")
    page.get_by_role("button", name="Conversations").click()
    expect(page.get_by_role("button", name="New conversation")).to_be_in_viewport(ratio=1)
    assert not beyond_the_edge(page)
    axe(page)
    picture(page, "drawer-360")
    for dialog in ("plans", "keys", "data"):
        page.goto(f"/#{dialog}")
        expect(page.get_by_role("dialog").get_by_role("heading").nth(1)).to_be_visible()
        assert not beyond_the_edge(page), dialog
        picture(page, f"{dialog}-360")


def test_nothing_moves_for_those_who_want_little_motion(page_of: PageOf, person: NewPerson) -> None:
    page = page_of(person("basic"), reduced_motion="reduce")
    ask(page, f"At length {SLOWLY}")
    begun(page)
    assert page.evaluate("document.getAnimations().length") == 0
    page.get_by_role("button", name=re.compile("left today")).click()
    expect(page.get_by_role("dialog")).to_be_visible()
    assert page.evaluate("document.getAnimations().length") == 0
