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
