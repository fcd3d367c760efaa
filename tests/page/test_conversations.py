"""The list of conversations, sharing one, and what is said about an answer."""

import uuid
from collections.abc import Callable
from typing import Any

import psycopg
from playwright.sync_api import Page, expect

from tests.api import Api, question
from tests.conftest import Person
from tests.page.kit import Watch
from tests.page.reader import close_dialog

PageOf = Callable[..., Page]
NewPerson = Callable[..., Person]
Check = Callable[[Page], None]
Picture = Callable[[Page, str], None]
Db = psycopg.Connection[dict[str, Any]]


def test_conversations_are_found_renamed_pinned_and_deleted_by_keyboard(
    page_of: PageOf, person: NewPerson, stack_db: Db, axe: Check, picture: Picture
) -> None:
    user = person("basic")
    stack_db.execute(
        "insert into public.conversations (user_id, title, last_message_at, expires_at)"
        " select %s::uuid, title, now() - make_interval(hours => hours), now() + interval '1 day'"
        " from (select 'Number ' || n, n from generate_series(1, 40) n union all values ('100%% of_them', 99))"
        " as c (title, hours)",
        [user.id],
    )
    page = page_of(user)
    listed = page.get_by_role("navigation", name="Conversations")
    expect(listed.get_by_role("link")).to_have_count(30)
    listed.get_by_role("button", name="Show more").click()
    expect(listed.get_by_role("link")).to_have_count(41)
    listed.get_by_role("searchbox").fill("0% of_")
    expect(listed.get_by_role("link")).to_have_text(["100% of_them"])
    listed.get_by_role("searchbox").fill("%%")
    expect(listed.get_by_role("status")).to_have_text("No title contains this.")
    listed.get_by_role("searchbox").fill("them")

    def choose(title: str, command: str) -> None:
        listed.get_by_role("button", name=f"Options: {title}").press("Enter")
        listed.get_by_role("button", name=command, exact=True).press("Enter")

    choose("100% of_them", "Rename")
    page.keyboard.type("All of them")
    page.keyboard.press("Enter")
    expect(listed.get_by_role("link", name="All of them")).to_be_focused()
    choose("All of them", "Pin")
    expect(listed.get_by_role("list", name="Pinned").get_by_role("link")).to_be_focused()
    axe(page)
    picture(page, "conversations")
    choose("All of them", "Delete")
    axe(page)
    page.keyboard.press("Escape")
    expect(listed.get_by_role("button", name="Options: All of them")).to_be_focused()
    choose("All of them", "Delete")
    page.get_by_role("button", name="Delete the conversation").press("Enter")
    expect(listed.get_by_role("button", name="New conversation")).to_be_focused()
    expect(listed.get_by_role("link", name="All of them")).to_have_count(0)
    assert stack_db.execute(
        "select count(*) from public.conversations where user_id = %s and title = 'All of them'", [user.id]
    ).fetchone() == {"count": 0}


def test_a_shared_conversation_is_read_without_an_account_until_it_ends(
    page_of: PageOf, person: NewPerson, api: Api, watch: Watch, axe: Check, picture: Picture
) -> None:
    user = person("basic")
    chat = str(uuid.uuid4())
    assert api.chat(user, question("What is Bill C-5?", chat_id=chat)).status_code == 200
    page = page_of(user, f"/c/{chat}")
    listed = page.get_by_role("navigation", name="Conversations")
    listed.get_by_role("button", name="Options: What is Bill C-5?").click()
    listed.get_by_role("button", name="Share", exact=True).click()
    page.get_by_role("button", name="Create a link").click()
    link = page.get_by_label("Link", exact=True).input_value()
    axe(page)
    picture(page, "share")

    visitor = page_of(path=link, language="fr", viewport={"width": 360, "height": 740})
    expect(visitor.get_by_role("heading", name="What is Bill C-5?")).to_be_visible()
    expect(visitor.get_by_role("list", name="Sources").get_by_role("link").first).to_be_visible()
    expect(visitor.get_by_text("Copie partagée le")).to_be_visible()
    axe(visitor)
    picture(visitor, "shared-360")

    page.route("**/share", lambda route: route.abort())
    watch.expect("/share", None)
    page.get_by_role("button", name="Stop sharing").click()
    again = page.get_by_role("dialog").get_by_role("button", name="Try again")
    expect(again).to_be_visible()
    page.unroute("**/share")
    again.click()
    expect(page.get_by_text("The link no longer works.")).to_be_visible()
    watch.expect(f"/shared/{link.rsplit('/')[-1]}", 404)
    visitor.reload()
    expect(visitor.get_by_role("alert")).to_contain_text("n’est pas partagée")


def test_an_answer_is_rated_and_says_what_paid_for_it(
    page_of: PageOf, person: NewPerson, api: Api, stack_db: Db, axe: Check, picture: Picture
) -> None:
    user = person("basic")
    chat = str(uuid.uuid4())
    answer = api.chat(user, question("What is Bill C-5?", chat_id=chat)).json()
    page = page_of(user, f"/c/{chat}")
    page.get_by_role("button", name="Not helpful").click()
    page.get_by_label("What was good or wrong?").fill("Too short")
    left = [
        one.evaluate("one => one.getBoundingClientRect().left")
        for one in (page.get_by_label("What was good or wrong?"), page.get_by_role("main").locator(".text").first)
    ]
    assert left[0] == left[1]
    picture(page, "feedback")
    page.get_by_role("button", name="Send the comment").click()
    expect(page.get_by_role("button", name="Not helpful")).to_be_focused()
    page.reload()
    expect(page.get_by_role("button", name="Not helpful")).to_have_attribute("aria-pressed", "true")
    assert stack_db.execute(
        "select rating, comment from public.message_feedback where query_id = %s", [answer["message"]["id"]]
    ).fetchone() == {"rating": "down", "comment": "Too short"}

    page.get_by_role("button", name="Why?").click()
    why = page.get_by_role("dialog", name="What this answer used")
    expect(why).to_contain_text("Your plan paid: this was one of its included questions.")
    expect(why).to_contain_text("14 of 15 left today")
    expect(why).to_contain_text(answer["metadata"]["request_id"])
    axe(page)
    close_dialog(page)
    expect(page.get_by_role("button", name="Why?")).to_be_focused()
