"""The page at / of the local stack: what runs where, and a line to try a chat with."""

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


def create_app() -> Starlette:
    """The page. What it shows comes from the environment that the launcher sets."""
    return Starlette(routes=[Route("/", show)])


async def show(request: Request) -> HTMLResponse:
    """The page, with a token that is fresh."""
    lines = [line.split("=", 1) for line in os.environ["PAGE_LINES"].splitlines()]
    rows = "".join(f"<tr><td>{html.escape(what)}<td><code>{html.escape(where)}</code>" for what, where in lines)
    if key_path := os.environ.get("SIGNING_KEY"):
        token = access_token(
            load_or_create_key(Path(key_path)),
            issuer=f"{os.environ['SUPABASE_URL']}/auth/v1",
            user_id=os.environ["TRIAL_USER_ID"],
            email=os.environ["TRIAL_USER_EMAIL"],
            seconds=TOKEN_S,
        )
        command = CURL.format(url=str(request.base_url).rstrip("/"), token=token)
        trial = f"<p>As the basic user, for twelve hours:</p><pre>{html.escape(command)}</pre>"
    else:
        trial = "<p>Users are those of the Supabase project: sign in there for a token.</p>"
    return HTMLResponse(PAGE.format(rows=rows, trial=trial), headers={"cache-control": "no-store"})
