"""What each function imports, in a new process: imports make up most of a cold start."""

import json
import subprocess
import sys

import pytest

from infra.local.postgres import ROOT

# Modules that must not be imported before they are needed, by function. stripe imports httpx where it is installed; the
# artifacts of checkout and webhooks do not have it.
HEAVY = {
    "functions.chat.handler": {
        "anthropic",
        "openai",
        "genai_prices",
        "supabase",
        "stripe",
        "boto3",
        "postgrest",
        "httpx",
        "httpx2",
    },
    "functions.keys.handler": {
        "anthropic",
        "openai",
        "genai_prices",
        "supabase",
        "stripe",
        "aiohttp",
        "boto3",
        "httpx",
        "httpx2",
    },
    "functions.checkout.handler": {
        "anthropic",
        "openai",
        "genai_prices",
        "supabase",
        "boto3",
        "httpx2",
    },
    "functions.account.handler": {
        "anthropic",
        "openai",
        "genai_prices",
        "supabase",
        "supabase_auth",
        "stripe",
        "aiohttp",
        "boto3",
        "httpx",
        "httpx2",
    },
    "functions.webhooks.handler": {
        "anthropic",
        "openai",
        "genai_prices",
        "supabase",
        "boto3",
        "httpx2",
        "jwt",
    },
    "functions.maintenance.handler": {
        "fastapi",
        "starlette",
        "uvicorn",
        "mangum",
        "jwt",
        "anthropic",
        "openai",
        "genai_prices",
        "supabase",
        "supabase_auth",
        "stripe",
        "cryptography",
        "aiohttp",
        "boto3",
        "httpx",
        "httpx2",
    },
    "functions.common.database": {"fastapi", "starlette", "aiohttp"},
    "functions.common.settings": {"fastapi", "starlette", "httpx", "jwt"},
}


@pytest.mark.parametrize("module", HEAVY)
def test_a_function_does_not_import_heavy_modules_early(module: str) -> None:
    code = f"import {module}, json, sys; print(json.dumps(sorted({{name.partition('.')[0] for name in sys.modules}})))"
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True, timeout=60
    )
    assert HEAVY[module].isdisjoint(json.loads(done.stdout))


READY = """
import asyncio, json, sys

from functions.chat.handler import create


async def main():
    app, sent = create(), []
    scope = {"type": "http", "method": "GET", "path": "/health", "query_string": b"", "headers": []}

    async def receive():
        return {"type": "http.request", "body": b""}

    async def send(message):
        sent.append(message)

    async with app.router.lifespan_context(app):
        await app(scope, receive, send)
        await asyncio.get_running_loop().shutdown_default_executor()  # the price list is loaded there
    print(json.dumps([sent[0]["status"], sorted(name.partition(".")[0] for name in sys.modules)]))


asyncio.run(main())
"""


def test_the_chat_is_ready_without_a_providers_sdk() -> None:
    """Lambda's adapter waits for /health. The package of the prices is no SDK."""
    environment = {
        "SUPABASE_URL": "http://127.0.0.1:9",
        "SUPABASE_ANON_KEY": "anon",
        "SUPABASE_SERVICE_ROLE_KEY": "service",
        "ANTHROPIC_API_KEY": "x",
        "ENCRYPTION_KEY": "0" * 64,
    }
    done = subprocess.run(
        [sys.executable, "-c", READY],
        cwd=ROOT,
        env=environment,
        capture_output=True,
        text=True,
        check=False,
        timeout=60,
    )
    assert done.returncode == 0, done.stderr
    status, modules = json.loads(done.stdout.splitlines()[-1])
    assert status == 200
    assert "genai_prices" in modules
    assert {"anthropic", "openai"}.isdisjoint(modules)


# Stripe's classes have hundreds of types each, which the price list does not need.
def test_checkout_starts_without_stripes_resource_classes() -> None:
    code = "import functions.checkout.handler, sys; print([name for name in sys.modules if name.startswith('stripe.')])"
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True, timeout=60
    )
    for module in ("stripe._invoice", "stripe._charge", "stripe._customer", "stripe.checkout._session"):
        assert f"'{module}'" not in done.stdout
