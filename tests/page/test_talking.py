"""What can happen around an answer: it is stopped, replaced, deleted, cut off, or read in two tabs."""

import re
from collections.abc import Callable
from typing import Any

import psycopg
from playwright.sync_api import Page, expect

from tests.api import Api, question
from tests.conftest import Person
from tests.page.kit import Watch, layout_shifts
from tests.page.reader import BRIEFLY, SLOWLY, answer, ask, begun, meter, question_field, ready, stop

PageOf = Callable[..., Page]
NewPerson = Callable[..., Person]
Check = Callable[[Page], None]
Picture = Callable[[Page, str], None]
Db = psycopg.Connection[dict[str, Any]]
STAND_IN = "This is a stand-in answer"  # how every answer without a tool starts


def test_a_stopped_answer_is_kept_and_its_question_edited(
    page_of: PageOf, person: NewPerson, api: Api, axe: Check, picture: Picture
) -> None:
    user = person("basic")
    page = page_of(user)
    ask(page, f"At length {SLOWLY}")
    begun(page)
    listed = page.get_by_role("navigation", name="Conversations").get_by_role("listitem")
    expect(listed).to_have_text(re.compile("At length"))
    expect(listed.get_by_role("button")).to_have_count(0)  # nothing is stored that could be renamed
    picture(page, "streaming")
    stop(page)
    expect(answer(page).locator(".text")).to_contain_text("This is")
    expect(meter(page)).to_contain_text("14 of 15 left today")
    expect(listed.get_by_role("button", name="Options: At length")).to_be_visible()
    axe(page)
    picture(page, "stopped")

    question_field(page).press("ArrowUp")
    expect(question_field(page)).to_have_value(f"At length {SLOWLY}")
    ask(page, "In short")
    ready(page)
    expect(page.get_by_role("main").get_by_text("At length")).to_have_count(0)
    expect(answer(page)).to_contain_text("In short")
    expect(answer(page)).not_to_contain_text("You stopped")
    expect(meter(page)).to_contain_text("13 of 15 left today")
    page.get_by_role("button", name="Answer again").click()
    expect(meter(page)).to_contain_text("12 of 15 left today")
    ready(page)
    chat_id = page.url.rsplit("/", 1)[1]
    stored = api.http.get(f"/chat/{chat_id}/messages", headers=user.headers).json()["messages"]
    assert [message["role"] for message in stored] == ["user", "assistant"]
    assert layout_shifts(page) == []


def test_a_conversation_is_deleted_while_it_is_answered(
    page_of: PageOf, person: NewPerson, stack_db: Db, axe: Check, picture: Picture
) -> None:
    user = person("pro")
    page = page_of(user)
    ask(page, "At length")
    ready(page)
    ask(page, f"And longer {SLOWLY}")
    begun(page)
    row = page.get_by_role("navigation", name="Conversations").get_by_role("listitem").filter(has_text="At length")
    row.get_by_role("button", name="Options").click()
    row.get_by_role("button", name="Delete", exact=True).click()
    expect(page.get_by_role("dialog")).to_be_visible()
    axe(page)
    picture(page, "delete-conversation")
    page.get_by_role("button", name="Delete the conversation").click()
    page.wait_for_url(re.compile(r"/$"))
    expect(row).to_have_count(0)
    expect(page.get_by_role("main").get_by_text("At length")).to_have_count(0)
    ask(page, "And now?")
    ready(page)
    expect(answer(page)).to_contain_text("And now?")
    rows = stack_db.execute("select title from public.conversations where user_id = %s", (user.id,)).fetchall()
    assert len(rows) == 1


def test_a_second_tab_follows_the_first(page_of: PageOf, person: NewPerson) -> None:
    page = page_of(person("pro"))
    ask(page, "First")
    ready(page)
    other = page.context.new_page()
    other.goto(page.url)
    expect(answer(other)).to_contain_text("First")
    ask(page, f"Second {SLOWLY}")
    begun(other)
    expect(answer(other)).to_contain_text("Second")
    stop(other)
    ready(page)
    for tab in (page, other):
        assert tab.locator("[data-role]").evaluate_all("all => all.map(one => one.dataset.role)") == [
            *("user", "assistant", "user", "assistant")
        ]
    assert answer(other).inner_text() == answer(page).inner_text()
    expect(meter(other)).to_have_text(meter(page).inner_text())


def test_an_answer_ended_by_a_newer_question_says_so(page_of: PageOf, person: NewPerson, api: Api) -> None:
    user = person("pro")
    page = page_of(user)
    ask(page, f"At length {SLOWLY}")
    begun(page)
    chat_id = page.url.rsplit("/", 1)[1]
    assert api.chat(user, question("In short", chat_id=chat_id)).status_code == 200
    ready(page)
    expect(answer(page)).to_contain_text("This answer was stopped before its end.")
    page.evaluate("id => new BroadcastChannel('changes').postMessage(id)", chat_id)
    expect(answer(page)).to_contain_text("In short")
    expect(page.locator("[data-role=assistant]").first).to_contain_text("A newer question ended this answer.")


def test_a_conversation_deleted_in_another_tab_ends_its_answer(
    page_of: PageOf, person: NewPerson, watch: Watch, stack_db: Db
) -> None:
    user = person("pro")
    page = page_of(user)
    ask(page, "At length")
    ready(page)
    other = page.context.new_page()
    other.goto(page.url)
    expect(answer(other)).to_contain_text("At length")
    watch.expect("/messages", 404)
    ask(page, f"And longer {SLOWLY}")
    begun(other)
    row = other.get_by_role("navigation", name="Conversations").get_by_role("listitem").filter(has_text="At length")
    row.get_by_role("button", name="Options").click()
    row.get_by_role("button", name="Delete", exact=True).click()
    other.get_by_role("button", name="Delete the conversation").click()
    other.wait_for_url(re.compile(r"/$"))
    expect(page.get_by_text("There is no conversation at this address.")).to_be_visible()
    expect(page.locator("[data-role]")).to_have_count(0)
    rows = stack_db.execute("select from public.conversations where user_id = %s", (user.id,)).fetchall()
    assert rows == []


def test_an_answer_continues_when_the_reader_is_online_again(
    page_of: PageOf, person: NewPerson, watch: Watch, picture: Picture
) -> None:
    page = page_of(person("pro"))
    ask(page, "First")
    ready(page)
    page.context.set_offline(True)
    watch.expect("", None)
    ask(page, f"Second {BRIEFLY}")
    expect(page.get_by_role("status").filter(has_text="You are offline.")).to_be_visible()
    picture(page, "offline")
    page.context.set_offline(False)
    expect(answer(page)).to_contain_text("Second")
    ready(page)
    assert answer(page).inner_text().count(STAND_IN) == 1
    expect(meter(page)).to_contain_text("38 of 40 left today")
