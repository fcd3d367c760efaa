"""The reader leaves in the middle of an answer and comes back."""

from collections.abc import Callable

import pytest
from playwright.sync_api import Page, expect

from tests.conftest import Person
from tests.page.reader import SLOWLY, answer, ask, begun, stop

PageOf = Callable[..., Page]
NewPerson = Callable[..., Person]


@pytest.mark.parametrize("tier", ["pro", "free"])
def test_a_reload_continues_the_first_answer_of_a_chat(page_of: PageOf, person: NewPerson, tier: str) -> None:
    page = page_of(person(tier))
    ask(page, f"At length {SLOWLY}")
    begun(page)
    page.reload()
    expect(page.get_by_text("At length", exact=False).first).to_be_visible()
    begun(page)
    stop(page)
    assert answer(page).inner_text().count("This is") == 1
