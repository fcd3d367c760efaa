"""docs/frontend.md has the code of frontend/example, which works in a browser from sign-in to a payment."""

import os
import re
import subprocess
import uuid
from collections.abc import Callable
from html import escape
from pathlib import Path
from urllib.parse import urlsplit

import pytest
from playwright.sync_api import Page, Route, expect

from infra.local.postgres import ROOT
from infra.local.stack import PASSWORD, Stack
from tests.conftest import Person
from tests.page.kit import Watch
from tests.sql.metering import Db

EXAMPLE = ROOT / "frontend/example/src"
GUIDE = (ROOT / "docs/frontend.md").read_text(encoding="utf-8")
SITE = "http://localhost:5173"  # answered by the test: nothing listens there
COPIED = {"words.ts"}  # the guide does not print it


def test_the_guide_prints_the_example() -> None:
    blocks = re.findall(r"^```tsx?\n(.*?)^```", GUIDE, re.MULTILINE | re.DOTALL)
    files = {path.name: path.read_text(encoding="utf-8") for path in EXAMPLE.glob("*.ts*")}
    assert sorted(blocks) == sorted(text for name, text in files.items() if name not in COPIED)
    for name, text in files.items():
        assert text.startswith(f"// src/{name.replace('AppFirst', 'App')}"), name


@pytest.fixture(scope="module")
def built(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Path]:
    """Builds the example with a version of the AI SDK."""

    def build(sdk: str) -> Path:
        folder = tmp_path_factory.mktemp("example")
        command = [
            "node_modules/.bin/vite",
            "build",
            "example",
            "--outDir",
            str(folder),
            "--emptyOutDir",
            "-l",
            "error",
        ]
        command += ["--config", "vite.config.ts"] if sdk == "6" else []
        subprocess.run(command, cwd=ROOT / "frontend", env={**os.environ, "AI_SDK": sdk}, check=True)
        return folder

    return build


@pytest.fixture
def example(built: Callable[[str], Path], stack: Stack, page_of: Callable[..., Page]) -> Callable[..., Page]:
    """Opens the example for a visitor: `example("fr", sdk="6")`."""
    functions = dict.fromkeys(("chat", "keys", "checkout", "account"), stack.info["functions_url"])
    config = {"functions": functions, **{name: stack.info[name] for name in ("supabase_url", "publishable_key")}}

    def follow(route: Route) -> None:
        """Playwright does not let a test answer the target of a redirect, such as the return from a payment."""
        response = route.fetch(max_redirects=0)
        if location := response.headers.get("location"):
            route.fulfill(content_type="text/html", body=f"<meta http-equiv=refresh content='0;{escape(location)}'>")
        else:
            route.fulfill(response=response)

    def open_example(language: str, sdk: str) -> Page:
        files = built(sdk)

        def answer(route: Route) -> None:
            path = urlsplit(route.request.url).path
            if path == "/config.json":
                route.fulfill(json=config)
            else:
                route.fulfill(path=files / (path.lstrip("/") or "index.html"))

        permissions = ["local-network-access"]  # the test is not on the loopback address for Chromium
        page = page_of(None, "about:blank", site=SITE, language=language, permissions=permissions)
        page.context.route(f"{SITE}/**", answer)
        page.context.route(f"{stack.info['stripe_url']}/**", follow)
        page.goto("/")
        return page

    return open_example


def sign_in(page: Page, person: Person, email: str, password: str, button: str) -> None:
    """Sign in with the form, whose words are given."""
    page.get_by_label(email).fill(person.email)
    page.get_by_label(password).fill(PASSWORD)
    page.get_by_role("button", name=button).click()


def ask(page: Page, text: str) -> None:
    """Ask a question."""
    page.get_by_label("Your question").fill(text)
    page.get_by_role("button", name="Send").click()


def test_a_refused_user_pays_and_continues(
    example: Callable[..., Page],
    sign_up: Callable[[str], Person],
    stack_db: Db,
    watch: Watch,
) -> None:
    free = sign_up("free")
    stack_db.execute("update public.user_subscriptions set lifetime_quota = 1 where user_id = %s", (free.id,))
    page = example("en", sdk="7")
    sign_in(page, free, "E-mail", "Password", "Sign in")
    ask(page, '[tool:get_bill {"number": "C-5"}] What is it about?')
    answers = page.locator("article[data-role=assistant]")
    expect(answers.get_by_role("list", name="Sources").get_by_role("link").first).to_be_visible()
    expect(page.locator("main")).to_contain_text("0 left of 1")

    watch.expect("/chat", 402)
    ask(page, "And who voted for it?")
    card = page.get_by_role("alert").filter(has_text="You have used all your free queries")
    expect(card.get_by_role("link", name="See the plans")).to_have_attribute("href", "#plans")
    watch.expect("/messages", 404)  # the free plan kept nothing
    page.get_by_role("button", name="Choose Basic").click()
    page.get_by_role("button", name="Pay with a good card", exact=True).click()
    expect(page.locator("main")).to_contain_text("15 left of 15")
    assert "paid=" not in page.url

    # The plan now keeps history: an answer is resumed after a reload, and stored.
    ask(page, "At length [fault:slow 0.05] [fault:long 60]")
    expect(answers).to_contain_text("stand-in")
    page.reload()
    expect(page.get_by_role("button", name="Stop")).to_be_visible()
    page.get_by_role("button", name="Stop").click()
    expect(answers).to_contain_text("Stopped.")
    expect(page.get_by_role("navigation").get_by_role("link")).to_have_count(2)
    page.reload()
    expect(answers).to_contain_text("Stopped.")


def test_the_next_user_of_the_page_has_a_conversation_of_their_own(
    example: Callable[..., Page], sign_up: Callable[[str], Person], watch: Watch
) -> None:
    page = example("en", sdk="7")
    asked: list[str] = []
    for tier in ("pro", "basic"):
        sign_in(page, sign_up(tier), "E-mail", "Password", "Sign in")
        ask(page, "Is it mine?")
        expect(page.locator("article[data-role=assistant]")).to_contain_text("stand-in")
        asked.append(page.url)
        if tier == "pro":
            watch.expect("/keys/anthropic", 422)
            page.locator("input[name=key]").fill("sk-ant-wrong")
            page.get_by_role("button", name="Check and save").click()
            expect(page.get_by_role("alert").filter(has_text="api_key:")).to_be_visible()
        page.get_by_role("button", name="Sign out").click()
        expect(page.get_by_label("E-mail")).to_be_visible()
    assert asked[0] != asked[1]

    # A bookmark of another user's conversation.
    watch.expect("/messages", 404)
    page.goto(asked[0])
    sign_in(page, sign_up("pro"), "E-mail", "Password", "Sign in")
    watch.expect("/chat", 404)
    ask(page, "And this one?")
    card = page.get_by_role("alert").filter(has_text="There is no such conversation.")
    expect(card.get_by_role("link", name="New conversation")).to_have_attribute("href", "?")


def test_a_failed_answer_is_asked_again_with_an_own_key_in_french(
    example: Callable[..., Page], sign_up: Callable[[str], Person], watch: Watch
) -> None:
    page = example("fr", sdk="6")
    sign_in(page, sign_up("pro"), "Courriel", "Mot de passe", "Se connecter")
    page.locator("input[name=key]").fill(f"sk-own-{uuid.uuid4().hex}")
    page.get_by_role("button", name="Vérifier et enregistrer").click()
    expect(page.locator("main")).to_contain_text("Votre propre clé paie la prochaine requête.")
    page.get_by_label("Votre question").fill(f"Une fois {uuid.uuid4()} [fault:first-only drop]")
    page.get_by_role("button", name="Envoyer").click()
    page.get_by_role("button", name="Réessayer").click()
    expect(page.get_by_role("alert").filter(has_text="facturé")).to_have_count(0)
    expect(page.locator("article[data-role=assistant]")).to_contain_text("Une fois")
    expect(page.locator("#plans")).to_contain_text("Gratuit")
    expect(page.locator("#plans")).to_contain_text("100 crédits")
    page.get_by_role("button", name="English").click()
    expect(page.get_by_role("button", name="Sign out")).to_be_visible()
