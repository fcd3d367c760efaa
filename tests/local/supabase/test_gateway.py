"""The gateway, /rest/v1, and the real supabase-js."""

import asyncio
import json
import re
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import httpx
import pytest

from infra.local.auth import access_token, api_key, jwt_key, load_or_create_key
from infra.local.serve import listener
from infra.local.supabase import Config
from tests.local.supabase.kit import (
    CLIENTS,
    NODE,
    Stack,
    bearer,
    dsn,
    grant,
    serve,
    sign_up,
)
from tests.servers import free_port

BROWSER = "Mozilla/5.0 (X11; Linux x86_64) AppleWebKit/537.36 (KHTML, like Gecko) Chrome/150.0.0.0 Safari/537.36"


@pytest.mark.parametrize("path", ["/rest/v1/notes", "/auth/v1/user", "/auth/v1/settings"])
async def test_an_api_key_of_the_project_is_required(stack: Stack, path: str, tmp_path: Path) -> None:
    user = access_token(stack.signing_key, issuer="x", user_id="x", email="x")
    other = load_or_create_key(tmp_path / "other.pem")
    foreign = [make(other, role) for make in (api_key, jwt_key) for role in ("anon", "service_role")]
    async with httpx.AsyncClient(base_url=stack.url) as client:
        for key in (stack.anon_key, stack.secret_key):
            answer = await client.get(path, headers={"authorization": f"Bearer {key}"})
            assert (answer.status_code, answer.json()["message"]) == (401, "No API key found in request")
            assert answer.headers["sb-error-code"] == "UNAUTHORIZED_MISSING_API_KEY"
        for key in ("garbage", user, stack.secret_key[:-1], *foreign):
            answer = await client.get(path, headers={"apikey": key})
            assert (answer.status_code, answer.json()["message"]) == (401, "Invalid API key")
            assert answer.headers["sb-error-code"] == "UNAUTHORIZED_INVALID_API_KEY"
            assert set(answer.json()) == {"message", "hint"}
        for key in (stack.anon_key, stack.publishable_key):
            answer = await client.get(path, params={"apikey": key})
            assert "API key" not in answer.text
        assert (await client.get("/auth/v1/health")).status_code == 200


async def test_a_secret_key_is_refused_from_browsers(stack: Stack) -> None:
    async with httpx.AsyncClient(base_url=stack.url, headers={"user-agent": BROWSER}) as browser:
        answer = await browser.get("/rest/v1/notes", headers={"apikey": stack.secret_key})
        assert answer.json()["message"] == "Forbidden use of secret API key in browser"
        assert (answer.status_code, answer.headers["sb-error-code"]) == (401, "UNAUTHORIZED_INVALID_API_KEY_TYPE")
        assert (await browser.get("/rest/v1/", headers={"apikey": stack.publishable_key})).status_code == 200


async def test_a_secret_key_is_no_token(stack: Stack) -> None:
    async with httpx.AsyncClient(base_url=stack.url) as client:
        for key in (stack.secret_key, stack.publishable_key):
            headers = {"apikey": key, "authorization": f"Bearer {stack.secret_key}"}
            answer = await client.get("/rest/v1/notes", headers=headers)
            assert (answer.status_code, answer.json()["code"]) == (401, "PGRST301")


async def test_keys_and_tokens_select_the_database_role(stack: Stack, client: httpx.AsyncClient) -> None:
    session = await sign_up(client, "roles@example.org")

    async def whoami(**options: Any) -> dict[str, Any]:
        async with httpx.AsyncClient() as keyless:
            return (await keyless.post(f"{stack.url}/rest/v1/rpc/whoami", **options)).json()

    for key in (stack.publishable_key, stack.anon_key):
        for headers in ({"apikey": key}, {"apikey": key, "authorization": f"Bearer {key}"}):  # as supabase-js sends it
            anon = await whoami(headers=headers)
            assert (anon["user"], anon["role"], anon["uid"], anon["seconds"]) == ("anon", "anon", None, "3s")
        assert (await whoami(params={"apikey": key}))["user"] == "anon"
        signed_in = await whoami(headers={"apikey": key, **bearer(session)})
        assert signed_in == {
            "user": "authenticated",
            "role": "authenticated",
            "uid": session["user"]["id"],
            "email": "roles@example.org",
            "aal": "aal1",
            "seconds": "8s",
        }
    for key in (stack.secret_key, stack.service_key):
        service = await whoami(headers={"apikey": key})
        assert (service["user"], service["role"], service["seconds"]) == ("service_role", "service_role", "8s")
        assert (await whoami(headers={"apikey": key, **bearer(session)}))["user"] == "authenticated"
    assert (await whoami(headers=stack.headers(stack.service_key)))["user"] == "service_role"


def test_the_keys_last_as_long_as_the_signing_key(stack: Stack) -> None:
    assert api_key(stack.signing_key, "anon") == stack.publishable_key
    assert re.fullmatch(r"sb_publishable_[\w-]{22}_[\w-]{8}", stack.publishable_key, re.ASCII)
    assert re.fullmatch(r"sb_secret_[\w-]{22}_[\w-]{8}", stack.secret_key, re.ASCII)


async def test_a_user_reads_and_writes_only_own_rows(stack: Stack, client: httpx.AsyncClient) -> None:
    ann, ben = await sign_up(client, "ann@example.org"), await sign_up(client, "ben@example.org")
    for session in (ann, ben):
        answer = await client.post(
            "/rest/v1/notes",
            json={"body": f"of {session['user']['email']}"},
            headers=bearer(session) | {"prefer": "return=representation"},
        )
        assert (answer.status_code, answer.json()[0]["user_id"]) == (201, session["user"]["id"])
    counted = await client.get("/rest/v1/notes?select=body", headers=bearer(ann) | {"prefer": "count=exact"})
    assert counted.json() == [{"body": "of ann@example.org"}]
    assert counted.headers["content-range"] == "0-0/1"
    assert (await client.get("/rest/v1/notes")).json()["code"] == "42501"
    everything = await client.get("/rest/v1/notes?body=like.of*", headers={"apikey": stack.secret_key})
    assert len(everything.json()) == 2
    expired = access_token(stack.signing_key, issuer="x", user_id=ann["user"]["id"], email="x", seconds=-60)
    assert (await client.get("/rest/v1/notes", headers=stack.headers(expired))).status_code == 401


async def test_query_and_body_reach_postgrest_unchanged(stack: Stack, client: httpx.AsyncClient) -> None:
    session = await sign_up(client, "raw@example.org")
    odd = 'a+b&c=d %2B "x,y" (é)'

    async def chunks() -> AsyncIterator[bytes]:
        yield json.dumps([{"body": odd}, {"body": "plain"}]).encode()
        yield b" " * 300_000

    headers = bearer(session) | {"content-type": "application/json"}
    assert (await client.post("/rest/v1/notes", content=chunks(), headers=headers)).status_code == 201
    for query in (
        "body=eq.a%2Bb%26c%3Dd%20%252B%20%22x%2Cy%22%20(%C3%A9)",
        "select=body&body=in.(%22a%2Bb%26c%3Dd%20%252B%20%5C%22x%2Cy%5C%22%20(%C3%A9)%22)&apikey="
        + stack.publishable_key,
    ):
        answer = await client.get(f"{stack.url}/rest/v1/notes?{query}", headers=headers)
        assert [row["body"] for row in answer.json()] == [odd], query
    head = await client.head("/rest/v1/notes", headers=headers | {"prefer": "count=exact"})
    assert (head.status_code, head.headers["content-range"], head.content) == (200, "0-1/2", b"")
    created = await client.post(
        "/rest/v1/notes", json={"body": "x"}, headers=headers | {"prefer": "return=headers-only"}
    )
    assert created.headers["location"].startswith("/notes?id=eq.")
    deleted = await client.delete("/rest/v1/notes?body=eq.x", headers={"apikey": stack.secret_key})
    assert deleted.status_code == 204
    assert (await client.get("/rest/v1/absent%2Ftable")).status_code == 404


async def test_browsers_on_every_origin_are_allowed(client: httpx.AsyncClient) -> None:
    headers = "apikey,authorization,x-client-info,accept-profile,content-profile,prefer,x-supabase-api-version"
    preflight = {"origin": "https://example.org", "access-control-request-headers": headers, "apikey": ""}
    for method, path in (("PATCH", "/rest/v1/notes"), ("POST", "/auth/v1/token?grant_type=password")):
        answer = await client.options(path, headers=preflight | {"access-control-request-method": method})
        assert answer.status_code == 200
        assert answer.headers["access-control-allow-origin"] == "*"
        assert answer.headers["access-control-allow-headers"] == headers
        assert method in answer.headers["access-control-allow-methods"]
    for path, status in (("/rest/v1/", 200), ("/rest/v1/notes", 401), ("/auth/v1/user", 401), ("/x", 404)):
        answer = await client.get(path, headers={"origin": "https://example.org"})
        assert answer.status_code == status
        assert len(answer.headers.get_list("date")) == len(answer.headers.get_list("server")) == 1
        assert answer.headers.get_list("access-control-allow-origin") == ["*"]
        assert "content-range" in answer.headers["access-control-expose-headers"]


async def test_unreachable_postgrest_is_503_and_database_500(stack: Stack, tmp_path: Path) -> None:
    with listener(0) as socket:
        url, closed_port = f"http://127.0.0.1:{socket.getsockname()[1]}", free_port()
        config = Config(url, f"http://127.0.0.1:{closed_port}", dsn(closed_port), tmp_path / "key.pem")
        async with serve(config, socket), httpx.AsyncClient(base_url=url) as client:
            client.headers["apikey"] = api_key(load_or_create_key(config.signing_key_path), "anon")
            answer = await client.post("/rest/v1/notes", json={})
            assert (answer.status_code, answer.json()["message"]) == (503, "PostgREST is out of reach")
            answer = await grant(client, "password", email="x@example.org", password="x")
            assert (answer.status_code, answer.json()["error_code"]) == (500, "unexpected_failure")


SUPABASE_JS = """
import assert from "node:assert/strict";
import { calculateJwkThumbprint } from "jose";
import { createClient } from "@supabase/supabase-js";

const { SUPABASE_URL: url, API_KEY: apiKey, ADDRESS: email } = process.env;
const options = { auth: { persistSession: false, autoRefreshToken: false } };
const supabase = createClient(url, apiKey, options);
const ok = ({ data, error }) => { assert.equal(error, null); return data; };
const credentials = { email, password: "correct horse" };

const signedUp = ok(await supabase.auth.signUp({ ...credentials, options: { data: { city: "Whitehorse" } } }));
assert.equal(signedUp.user.user_metadata.city, "Whitehorse");
assert.ok(signedUp.session.access_token);
const again = await supabase.auth.signUp(credentials);
assert.equal(again.error.code, "user_already_exists");
const weak = await supabase.auth.signUp({ email: `another-${email}`, password: "123" });
assert.equal(weak.error.name, "AuthWeakPasswordError");
assert.deepEqual(weak.error.reasons, ["length"]);
const wrong = await supabase.auth.signInWithPassword({ ...credentials, password: "wrong" });
assert.equal(wrong.error.code, "invalid_credentials");

const { session } = ok(await supabase.auth.signInWithPassword(credentials));
const refreshed = ok(await supabase.auth.refreshSession());
assert.notEqual(refreshed.session.refresh_token, session.refresh_token);
assert.equal(ok(await supabase.auth.getUser()).user.id, signedUp.user.id);
const { claims, header } = ok(await supabase.auth.getClaims());
assert.equal(claims.sub, signedUp.user.id);
assert.equal(claims.iss, `${url}/auth/v1`);
const { keys: [key] } = await (await fetch(`${url}/auth/v1/.well-known/jwks.json`)).json();
assert.equal(header.kid, await calculateJwkThumbprint(key));

ok(await supabase.from("notes").insert({ body: "from js" }));
assert.deepEqual(ok(await supabase.from("notes").select("body")), [{ body: "from js" }]);
assert.equal(ok(await supabase.rpc("whoami")).user, "authenticated");

ok({ data: null, ...(await supabase.auth.signOut()) });
assert.equal(ok(await supabase.auth.getSession()).session, null);
const gone = await createClient(url, apiKey, options).auth.refreshSession(refreshed.session);
assert.equal(gone.error.code, "refresh_token_not_found");
const anonymous = await supabase.from("notes").select("body");
assert.equal(anonymous.error.code, "42501");
console.log("done");
"""


@pytest.mark.parametrize("kind", ["publishable_key", "anon_key"])
async def test_the_real_supabase_js_works(stack: Stack, kind: str) -> None:
    script = await asyncio.create_subprocess_exec(
        NODE,
        "--input-type=module",
        "--eval",
        SUPABASE_JS,
        cwd=CLIENTS,
        env={"SUPABASE_URL": stack.url, "API_KEY": getattr(stack, kind), "ADDRESS": f"{kind}@example.org"},
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.STDOUT,
    )
    output, _ = await script.communicate()
    assert (script.returncode, output.decode().strip()) == (0, "done")
