"""A person takes their data with them and deletes their account."""

import json
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import psycopg
from playwright.sync_api import Page, expect

from infra.local.auth import access_token, load_or_create_key
from infra.local.stack import PASSWORD, Stack
from tests.conftest import Person
from tests.page.kit import Watch
from tests.page.reader import answer, ask, ready

Db = psycopg.Connection[dict[str, Any]]


def test_export_then_deletion_with_a_fresh_sign_in(
    page_of: Callable[..., Page],
    sign_up: Callable[[str], Person],
    stack: Stack,
    stack_db: Db,
    watch: Watch,
    axe: Callable[[Page], None],
    picture: Callable[[Page, str], None],
    tmp_path: Path,
) -> None:
    user = signed_in_long_ago(stack, sign_up("pro"))
    page = page_of(user)
    ask(page, "What is Bill C-5?")
    ready(page)
    expect(answer(page)).to_contain_text("Bill C-5")

    page.get_by_role("button", name="Account").click()
    page.get_by_role("button", name="Your data").click()
    axe(page)
    picture(page, "data")
    with page.expect_download() as download:
        page.get_by_role("button", name="Download my data").click()
    download.value.save_as(tmp_path / "account.json")
    exported = json.loads((tmp_path / "account.json").read_text())
    assert "What is Bill C-5?" in json.dumps(exported["conversations"])

    watch.expect("/account", 403)
    page.get_by_label("Type your e-mail address to confirm").fill(user.email)
    page.get_by_role("button", name="Delete my account").click()
    expect(page.get_by_role("alert").filter(has_text="over five minutes ago")).to_be_visible()
    axe(page)
    watch.expect("/token", 400)
    page.get_by_label("Password").fill("not the password")
    page.keyboard.press("Enter")
    expect(page.get_by_role("alert").filter(has_text="The password is wrong.")).to_be_visible()
    page.get_by_label("Password").fill(PASSWORD)
    page.keyboard.press("Enter")
    expect(page.get_by_role("heading", name="Sign in", exact=True)).to_be_visible()
    expect(page.get_by_role("status")).to_contain_text("deleted")
    axe(page)
    picture(page, "deleted")
    assert stack_db.execute("select from auth.users where id = %s", (user.id,)).fetchone() is None


def signed_in_long_ago(stack: Stack, user: Person) -> Person:
    """The user with a token of a sign-in an hour ago."""
    token = access_token(
        load_or_create_key(stack.config.folder / "signing-key.pem"),
        issuer=f"{stack.info['supabase_url']}/auth/v1",
        user_id=user.id,
        email=user.email,
        amr=[{"method": "password", "timestamp": int(time.time()) - 3600}],
    )
    return replace(user, token=token)
