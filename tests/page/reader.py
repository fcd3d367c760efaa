"""What a person does on the page, by the names that a screen reader reads."""

import json
import re
import uuid
from typing import Any

from playwright.sync_api import Locator, Page, expect

from tests.conftest import Person

# An answer of about a minute, so that something can happen in the middle of it on a busy machine too. Tests stop it.
SLOWLY = "[fault:slow 0.1] [fault:long 600]"
# An answer of about two seconds, which ends by itself.
BRIEFLY = "[fault:slow 0.05] [fault:long 40]"


def question_field(page: Page) -> Locator:
    """The field of the composer."""
    return page.get_by_role("textbox", name="Your question")


def ask(page: Page, text: str) -> None:
    """Write a question and send it with Enter."""
    question_field(page).fill(text)
    question_field(page).press("Enter")


def answer(page: Page) -> Locator:
    """The last answer."""
    return page.locator("[data-role=assistant]").last


def begun(page: Page) -> None:
    """Wait until the answer has its first words, and more are to come."""
    expect(answer(page).locator(".text")).to_contain_text(re.compile(r"\w+ \w+"))
    expect(answer(page)).to_have_attribute("aria-busy", "true")


def ready(page: Page) -> None:
    """Wait until the answer has ended, and the next question can be asked."""
    expect(page.get_by_role("button", name="Send", exact=True)).to_be_visible()
    expect(answer(page)).not_to_have_attribute("aria-busy", "true")


def stop(page: Page) -> None:
    """Stop the answer with the button, and wait until it has ended."""
    page.get_by_role("button", name="Stop", exact=True).click()
    ready(page)
    expect(answer(page)).to_contain_text("You stopped this answer.")


def refusal(page: Page) -> Locator:
    """The card that says why the question was refused."""
    return page.get_by_role("region", name="Not answered")


def meter(page: Page) -> Locator:
    """The quota meter in the header."""
    return page.get_by_role("banner").locator(".meter")


def close_dialog(page: Page) -> None:
    """Close the dialog with its button."""
    dialog = page.get_by_role("dialog")
    dialog.get_by_role("button", name="Close", exact=True).click()
    expect(dialog).to_have_count(0)


def sign_up_on(page: Page) -> Person:
    """Create an account on the sign-in page. Returns who the page then is signed in as."""
    email = f"{uuid.uuid4()}@example.test"
    page.get_by_role("button", name="No account yet? Create one").click()
    page.get_by_label("E-mail").fill(email)
    page.get_by_label("Password").fill("a long password")
    page.get_by_role("button", name="Create an account").click()
    expect(question_field(page)).to_be_visible()
    session = session_on(page)
    return Person(session["user"]["id"], email, session["access_token"])


def session_on(page: Page) -> dict[str, Any]:
    """supabase-js's session of the person who is signed in."""
    origins = page.context.storage_state()["origins"]
    stored = {entry["name"]: entry["value"] for origin in origins for entry in origin["localStorage"]}
    (session,) = (json.loads(value) for name, value in stored.items() if name.endswith("-auth-token"))
    return dict(session)
