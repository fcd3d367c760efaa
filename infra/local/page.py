"""The page at / of the local stack: what runs where, and commands that try a chat and a checkout."""

import html
import os
from pathlib import Path

from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import HTMLResponse
from starlette.routing import Route

from infra.local.auth import access_token, load_or_create_key

TOKEN_S = 12 * 3600

PAGE = """<!doctype html>
<html lang="en">
<meta charset="utf-8">
<meta name="viewport" content="width=device-width">
<title>CanadaGPT chat: local stack</title>
<style>
  body {{ font: 16px/1.5 system-ui, sans-serif; max-width: 60rem; margin: 2rem auto; padding: 0 1rem; }}
  td {{ padding: .2rem 1.5rem .2rem 0; vertical-align: top; }}
  pre {{ background: #f3f3f0; padding: 1rem; white-space: pre-wrap; word-break: break-all; border-radius: .4rem; }}
</style>
<h1>CanadaGPT chat: local stack</h1>
<table>{rows}</table>
<h2>Try it</h2>
{trial}
</html>
"""

CURL = """curl -N {url}/chat \\
  -H 'content-type: application/json' \\
  -H 'authorization: Bearer {token}' \\
  -d '{{"id":"first-chat","messages":[{{"id":"question-'$RANDOM'","role":"user",\
"parts":[{{"type":"text","text":"How did members vote on C-5?"}}]}}]}}'"""

CHECKOUT = """curl -s {url}/checkout \\
  -H 'content-type: application/json' \\
  -H 'authorization: Bearer {token}' \\
  -d '{{"plan":"basic","success_url":"{url}/","cancel_url":"{url}/"}}'"""


def create_app() -> Starlette:
    """The page's app. Its content comes from environment variables that the launcher sets."""
    return Starlette(routes=[Route("/", show)])


async def show(request: Request) -> HTMLResponse:
    """The page, with new tokens."""
    lines = [line.split("=", 1) for line in os.environ["PAGE_LINES"].splitlines()]
    rows = "".join(f"<tr><td>{html.escape(what)}<td><code>{html.escape(where)}</code>" for what, where in lines)
    if key_path := os.environ.get("SIGNING_KEY"):
        url = str(request.base_url).rstrip("/")
        page = "the stand-in’s page: no money moves" if os.environ.get("STRIPE_STAND_IN") else "Stripe’s page"
        chat = CURL.format(url=url, token=_token(key_path, "BASIC"))
        checkout = CHECKOUT.format(url=url, token=_token(key_path, "FREE"))
        trial = (
            f"<p>Chat as the basic user (the token is valid for twelve hours):</p><pre>{html.escape(chat)}</pre>"
            "<p>Subscribe as the free user: open the <code>url</code> that this command prints, and pay on "
            f"{page}.</p><pre>{html.escape(checkout)}</pre>"
        )
    else:
        trial = "<p>The users are those of the Supabase project: sign in there to get a token.</p>"
    return HTMLResponse(PAGE.format(rows=rows, trial=trial), headers={"cache-control": "no-store"})


def _token(key_path: str, tier: str) -> str:
    """An access token of a seeded user."""
    return access_token(
        load_or_create_key(Path(key_path)),
        issuer=f"{os.environ['SUPABASE_URL']}/auth/v1",
        user_id=os.environ[f"TRIAL_{tier}_USER_ID"],
        email=os.environ[f"TRIAL_{tier}_USER_EMAIL"],
        seconds=TOKEN_S,
    )
