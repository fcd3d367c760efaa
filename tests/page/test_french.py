"""The page in French has no English word, from the sign-up to the deletion of the account."""

import uuid
from collections.abc import Callable
from typing import Any

import psycopg
from playwright.sync_api import Page, expect

from tests.page.kit import Watch, shown_words
from tests.page.words import english_words, words_of

Db = psycopg.Connection[dict[str, Any]]


def test_no_english_word_on_the_french_page(
    page_of: Callable[..., Page], watch: Watch, stack_db: Db, picture: Callable[[Page, str], None]
) -> None:
    english = english_words()
    email = f"{uuid.uuid4().hex}@example.test"

    def check(name: str) -> None:
        picture(page, f"fr-{name}")
        lines = shown_words(page).replace(email, "").replace("$\u00a0US", "$").split("\n")
        found = {line.strip(): words for line in lines if (words := words_of(line) & english)}
        assert not found, f"{name}: {found}"

    page = page_of(language="fr")
    page.get_by_role("button", name="Pas encore de compte").click()
    page.get_by_label("Courriel").fill(email)
    page.get_by_label("Mot de passe").fill("court")
    watch.expect("/signup", 422)
    page.get_by_role("button", name="Créer un compte").click()
    expect(page.get_by_role("alert")).to_contain_text("trop court")
    check("sign-up")
    page.get_by_label("Mot de passe").fill("un long mot de passe")
    page.get_by_role("button", name="Créer un compte").click()
    question = page.get_by_role("textbox", name="Votre question")
    expect(question).to_be_visible()
    check("empty")
    page.get_by_role("button", name="Compte").click()
    page.get_by_role("button", name="Forfait et paiements").click()
    expect(page.get_by_role("heading", name="Forfaits")).to_be_visible()
    check("plans")
