"""What a person sees where something fails: code that does not load, a model that is gone, an answer that breaks."""

from collections.abc import Callable

from playwright.sync_api import Page, expect

from tests.conftest import Person
from tests.page.kit import Watch
from tests.page.reader import answer, ask, question_field, ready, refusal

PageOf = Callable[..., Page]
NewPerson = Callable[..., Person]
Check = Callable[[Page], None]
Picture = Callable[[Page, str], None]


def test_a_missing_part_of_the_code_has_a_sentence_and_reload(
    page_of: PageOf, person: NewPerson, watch: Watch, axe: Check, picture: Picture
) -> None:
    page = page_of(person("pro"), language="fr")
    page.route("**/assets/*List-*.js", lambda route: route.abort())
    watch.expect(".js", None)
    watch.console.append("Failed to fetch dynamically imported module")
    page.get_by_role("textbox", name="Votre question").fill("Combien de députés pour un quorum?")
    page.keyboard.press("Enter")
    expect(page.get_by_role("main").get_by_role("alert")).to_contain_text("Cette partie n’a pas pu être chargée.")
    picture(page, "missing-part-fr")
    axe(page)
    page.unroute("**/assets/*List-*.js")
    page.get_by_role("main").get_by_role("button", name="Recharger").click()
    expect(page.locator("[data-role=assistant]")).to_contain_text("quorum")


def test_a_page_without_its_code_can_be_reloaded(page_of: PageOf, watch: Watch, axe: Check, picture: Picture) -> None:
    page = page_of()
    page.route("**/assets/*.js", lambda route: route.fulfill(status=404))
    watch.expect(".js", 404)
    page.reload()
    sentence = page.get_by_text("The page could not be loaded yet.")
    expect(sentence).to_be_hidden()
    page.evaluate("document.getAnimations().forEach(one => one.finish())")
    expect(sentence).to_be_visible()
    expect(page.get_by_text("La page n’a pas encore pu être chargée.")).to_be_visible()
    axe(page)
    picture(page, "unloaded")
    page.unroute("**/assets/*.js")
    page.get_by_role("link", name="Reload").click()
    expect(page.get_by_role("heading", name="Sign in", exact=True)).to_be_visible()


def test_a_first_question_without_an_answer_is_back_after_a_reload(
    page_of: PageOf, person: NewPerson, watch: Watch, axe: Check, picture: Picture
) -> None:
    page = page_of(person("basic"))
    text = "What is a writ? [fault:first-only drop]"
    ask(page, text)
    expect(refusal(page)).to_be_visible()
    watch.expect("/messages", 404)
    page.reload()
    note = page.get_by_role("status").filter(has_text="Your last question has no answer here.")
    expect(note).to_be_visible()
    expect(question_field(page)).to_have_value(text)
    expect(page.get_by_text("There is no conversation at this address.")).to_have_count(0)
    axe(page)
    picture(page, "unanswered")
    question_field(page).press("Enter")
    ready(page)
    expect(note).to_have_count(0)
    page.reload()
    expect(answer(page)).to_contain_text("writ")
    expect(question_field(page)).to_have_value("")


def test_a_failed_answer_says_once_that_it_is_not_charged(
    page_of: PageOf, person: NewPerson, watch: Watch, picture: Picture
) -> None:
    page = page_of(person("basic"))
    ask(page, "What is a writ? [fault:drop]")
    expect(refusal(page)).to_contain_text("Nothing was charged")
    expect(answer(page)).to_contain_text("The answer failed here.")
    expect(answer(page)).not_to_contain_text("charged")
    picture(page, "failed")
    watch.expect("/chat", 422)
    ask(page, "What is a writ? [fault:model-gone]")
    expect(refusal(page).locator(".primary")).to_have_text("Ask with the default model")
    picture(page, "model-gone")
    with page.expect_request("**/chat"):
        refusal(page).locator(".primary").click()
