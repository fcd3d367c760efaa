"""One cluster with a real PostgREST behind the gateway."""

import asyncio
import json
import os
import time
from collections.abc import AsyncIterator

import httpx
import pytest

from infra.local.auth import api_key, jwt_key, load_or_create_key
from infra.local.serve import listener
from infra.local.supabase import Config
from tests.local.supabase.kit import (
    PLATFORM,
    POSTGRES,
    POSTGREST,
    PROJECT,
    Stack,
    cluster,
    dsn,
    process,
    run_sql,
    serve,
)
from tests.servers import free_port


@pytest.fixture(scope="session")
async def stack(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Stack]:
    directory = tmp_path_factory.mktemp("supabase")
    with (
        cluster(POSTGRES[0], directory) as port,
        listener(0) as socket,
    ):
        run_sql(port, PLATFORM, "supabase_admin")
        run_sql(port, PROJECT)
        url, rest_port = f"http://127.0.0.1:{socket.getsockname()[1]}", free_port()
        config = Config(url, f"http://127.0.0.1:{rest_port}", dsn(port, "supabase_auth_admin"), directory / "key.pem")
        signing_key = load_or_create_key(config.signing_key_path)
        (directory / "jwks.json").write_text(json.dumps(signing_key.jwks()))
        environment = {
            "PATH": os.environ["PATH"],
            "PGRST_DB_URI": f"postgresql://authenticator:postgres@127.0.0.1:{port}/postgres",
            "PGRST_DB_SCHEMAS": "public",
            "PGRST_DB_ANON_ROLE": "anon",
            "PGRST_DB_EXTRA_SEARCH_PATH": "public, extensions",
            "PGRST_JWT_SECRET": f"@{directory / 'jwks.json'}",
            "PGRST_JWT_AUD": "authenticated",
            "PGRST_SERVER_HOST": "127.0.0.1",
            "PGRST_SERVER_PORT": str(rest_port),
        }
        keys = [make(signing_key, role) for make in (api_key, jwt_key) for role in ("anon", "service_role")]
        stack = Stack(url, port, signing_key, *keys)
        with process([POSTGREST], directory / "postgrest.log", env=environment):
            async with serve(config, socket), httpx.AsyncClient() as client:
                deadline = time.monotonic() + 10
                while (await client.get(f"{url}/rest/v1/", headers=stack.headers())).status_code != 200:
                    assert time.monotonic() < deadline, (directory / "postgrest.log").read_text()
                    await asyncio.sleep(0.02)
                yield stack


@pytest.fixture
async def client(stack: Stack) -> AsyncIterator[httpx.AsyncClient]:
    async with httpx.AsyncClient(base_url=stack.url, headers=stack.headers()) as client:
        yield client
