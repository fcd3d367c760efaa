"""The page in French has no English word, from the sign-up to the deletion of the account."""

import re
import uuid
from collections.abc import Callable
from typing import Any

import psycopg
from playwright.sync_api import Locator, Page, expect

from tests.page.kit import Watch, shown_words
from tests.page.reader import session_on
from tests.page.words import english_words, words_of

Db = psycopg.Connection[dict[str, Any]]


def test_no_english_word_on_the_french_page(
    page_of: Callable[..., Page], watch: Watch, stack_db: Db, picture: Callable[[Page, str], None]
) -> None:
    english = english_words()
    email = f"{uuid.uuid4().hex}@example.test"

    def check(name: str) -> None:
        picture(page, f"fr-{name}")
        shown = re.sub(r"\[fault:[^\]\n]*\]?", "", shown_words(page).replace(email, ""))
        lines = shown.replace("$\u00a0US", "$").split("\n")
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
    expect(question_in_french(page)).to_be_focused()
    check("empty")
    page.get_by_role("button", name="Choisir le sujet").click()
    expect(page.get_by_role("dialog").get_by_text("correspondances")).to_be_visible()
    check("context")
    page.keyboard.press("Escape")
    expect(page.get_by_role("dialog")).to_have_count(0)

    watch.expect("/chat", 402)
    stack_db.execute(
        "update public.user_subscriptions set lifetime_used = 10 where user_id = %s", (session_on(page)["user"]["id"],)
    )
    ask_in_french(page, "Combien de députés faut-il pour un quorum?")
    page.get_by_role("button", name="Pourquoi?").click()
    expect(page.get_by_role("dialog", name="Pourquoi ce refus")).to_be_visible()
    check("refusal")
    close_in_french(page)
    page.get_by_role("region", name="Sans réponse").get_by_role("button", name="Voir les forfaits").click()
    expect(page.get_by_role("heading", name="Crédits", exact=True)).to_be_visible()
    check("plans")
    close_in_french(page)

    stack_db.execute(
        "update public.user_subscriptions set tier = 'pro' where user_id = %s", (session_on(page)["user"]["id"],)
    )
    page.goto("/")
    ask_in_french(page, "Comment les députés ont-ils voté sur C-5?")
    expect(page.get_by_role("button", name="Répondre de nouveau")).to_be_visible()
    folds = (
        page.get_by_role("main")
        .locator("details:not([open]) > summary, button[aria-expanded=false]")
        .filter(visible=True)
    )
    while folds.count():
        folds.first.click()
    check("answer")
    page.get_by_role("button", name="Pourquoi?").click()
    expect(page.get_by_role("dialog", name="Ce que cette réponse a utilisé")).to_be_visible()
    check("why")
    close_in_french(page)
    for directive, ending in ENDINGS.items():
        ask_in_french(page, f"Combien de députés pour un quorum? [fault:{directive}]")
        expect(page.get_by_role("main")).to_contain_text(ending)
        check(directive)
    page.context.set_offline(True)
    watch.expect("", None)
    ask_in_french(page, "Et maintenant?")
    expect(page.get_by_role("status").filter(has_text="Vous êtes hors ligne.")).to_be_visible()
    check("offline")
    page.context.set_offline(False)
    expect(page.locator("[data-role=assistant]").last).to_contain_text("Et maintenant?")

    page.get_by_role("button", name="Options").first.click()
    check("options")
    for button, dialog in (("Partager", "Partager cette conversation"), ("Supprimer", "Supprimer cette conversation?")):
        page.get_by_role("navigation").get_by_role("button", name=button, exact=True).click()
        expect(page.get_by_role("dialog", name=dialog)).to_be_visible()
        if button == "Partager":
            page.get_by_role("button", name="Créer un lien").click()
            link = page.get_by_label("Lien", exact=True).input_value()
        check(button)
        close_in_french(page)
        page.get_by_role("button", name="Options").first.click()
    page.keyboard.press("Escape")

    watch.expect("/keys/anthropic", 422)
    page.goto("/#keys")
    page.get_by_label("Votre clé Anthropic").fill("sk-invalid")
    page.keyboard.press("Enter")
    expect(page.get_by_role("dialog").get_by_role("alert")).to_be_visible()
    check("keys")
    page.goto("/#data")
    expect(page.get_by_role("button", name="Supprimer mon compte")).to_be_visible()
    check("data")
    page.goto(link)
    expect(page.get_by_text("Copie partagée")).to_be_visible()
    page.get_by_role("button", name="Développement").click()
    expect(page.get_by_role("heading", name="Les dernières requêtes")).to_be_visible()
    check("shared")
    watch.expect("/messages", 404)
    page.goto("/c/nulle-part")
    expect(page.get_by_text("aucune conversation à cette adresse")).to_be_visible()
    check("nowhere")
    page.goto("/#data")
    page.get_by_label("Tapez votre adresse courriel").fill(email)
    page.keyboard.press("Enter")
    expect(page.get_by_role("heading", name="Connexion", level=1)).to_be_visible()
    check("farewell")


# How an answer can end otherwise, by the fault of the model stand-in.
ENDINGS = {
    "max-tokens": "La réponse a atteint sa longueur maximale",
    "refusal": "Le modèle a refusé",
    "drop": "La réponse a échoué ici.",
}


def question_in_french(page: Page) -> Locator:
    """The field of the composer."""
    return page.get_by_role("textbox", name="Votre question")


def ask_in_french(page: Page, text: str) -> None:
    """Send a question, once the last answer has ended."""
    question_in_french(page).fill(text)
    expect(page.get_by_role("button", name="Envoyer", exact=True)).to_be_enabled()
    question_in_french(page).press("Enter")


def close_in_french(page: Page) -> None:
    """Close the dialog."""
    page.get_by_role("dialog").get_by_role("button", name="Fermer", exact=True).click()
    expect(page.get_by_role("dialog")).to_have_count(0)
