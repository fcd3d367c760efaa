"""The signing key, tokens and /auth/v1."""

import asyncio
import json
import stat
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import httpx
import jwt
import pytest
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import rsa
from supabase_auth import AsyncGoTrueAdminAPI
from supabase_auth.errors import AuthApiError

from functions.common.database import request_headers
from infra.local.auth import access_token, load_or_create_key
from tests.local.supabase.kit import (
    Stack,
    bearer,
    grant,
    run_sql,
    sign_up,
)


def test_concurrent_callers_create_one_signing_key(tmp_path: Path) -> None:
    path = tmp_path / "new" / "key.pem"
    with ThreadPoolExecutor(8) as threads:
        keys = list(threads.map(load_or_create_key, [path] * 8))
    assert len({json.dumps(key.jwks()) for key in keys}) == 1
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert list(path.parent.iterdir()) == [path]
    assert "private_key" not in repr(keys[0])


def test_a_file_with_another_key_type_is_refused(tmp_path: Path) -> None:
    key = tmp_path / "key.pem"
    pem, pkcs8 = serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8
    key.write_bytes(rsa.generate_private_key(65537, 2048).private_bytes(pem, pkcs8, serialization.NoEncryption()))
    with pytest.raises(ValueError, match=r"key\.pem holds no P-256 private key"):
        load_or_create_key(key)


async def test_the_jwks_verify_a_users_token(stack: Stack, client: httpx.AsyncClient) -> None:
    session = await sign_up(client, "jwks@example.org", data={"city": "Gatineau"})
    answer = await client.get("/auth/v1/.well-known/jwks.json", headers={"apikey": ""})
    assert answer.headers["cache-control"] == "public, max-age=600"
    (key,) = answer.json()["keys"]
    assert "d" not in key
    token = session["access_token"]
    assert jwt.get_unverified_header(token) == {"alg": "ES256", "kid": key["kid"], "typ": "JWT"}
    issuer = f"{stack.url}/auth/v1"
    claims = jwt.decode(token, jwt.PyJWK(key), algorithms=["ES256"], audience="authenticated", issuer=issuer)
    assert claims["exp"] - claims["iat"] == 3600
    expected = {"role": "authenticated", "aal": "aal1", "phone": "", "is_anonymous": False, "email": "jwks@example.org"}
    assert claims | expected == claims
    assert claims["sub"] == session["user"]["id"]
    assert claims["app_metadata"] == {"provider": "email", "providers": ["email"]}
    assert claims["user_metadata"]["city"] == "Gatineau"
    assert claims["amr"][0]["method"] == "password"
    assert run_sql(stack.port, f"select user_id::text from auth.sessions where id = '{claims['session_id']}'") == [
        (claims["sub"],)
    ]


async def test_signup_signs_in_and_runs_the_projects_trigger(stack: Stack, client: httpx.AsyncClient) -> None:
    session = await sign_up(client, "Ada@Example.org", data={"city": "Iqaluit"})
    assert session.keys() == {"access_token", "token_type", "expires_in", "expires_at", "refresh_token", "user"}
    assert (session["token_type"], session["expires_in"]) == ("bearer", 3600)
    user = session["user"]
    assert (user["email"], user["aud"], user["role"]) == ("ada@example.org", "authenticated", "authenticated")
    assert user["email_confirmed_at"] == user["confirmed_at"] == user["last_sign_in_at"]
    assert user["identities"][0]["provider"] == "email"
    assert user["user_metadata"] == {
        "city": "Iqaluit",
        "email": "ada@example.org",
        "email_verified": True,
        "phone_verified": False,
        "sub": user["id"],
    }
    assert "encrypted_password" not in json.dumps(session)
    assert run_sql(stack.port, f"select city from public.profiles where user_id = '{user['id']}'") == [("Iqaluit",)]
    stored = run_sql(stack.port, f"select encrypted_password from auth.users where id = '{user['id']}'")
    assert "correct horse" not in stored[0][0]


async def test_a_failing_trigger_leaves_no_user(stack: Stack, client: httpx.AsyncClient) -> None:
    answer = await client.post("/auth/v1/signup", json={"email": "refused@example.org", "password": "correct horse"})
    assert answer.status_code == 500
    assert answer.json() == {"code": 500, "error_code": "unexpected_failure", "msg": "Database error saving new user"}
    assert run_sql(stack.port, "select count(*) from auth.users where email like 'refused%'") == [(0,)]


@pytest.mark.parametrize(
    ("body", "status", "code"),
    [
        ({"email": "taken@example.org", "password": "other horse"}, 422, "user_already_exists"),
        ({"email": "TAKEN@example.org", "password": "other horse"}, 422, "user_already_exists"),
        ({"email": "weak@example.org", "password": "12345"}, 422, "weak_password"),
        ({"email": "none@example.org"}, 400, "validation_failed"),
        ({"email": "long@example.org", "password": "é" * 37}, 400, "validation_failed"),
        ({"email": "no-at-sign", "password": "correct horse"}, 400, "validation_failed"),
        ({"email": "two@@example.org", "password": "correct horse"}, 400, "validation_failed"),
        ({"email": "line@example.org\n", "password": "correct horse"}, 400, "validation_failed"),
        ({"email": f"{'x' * 250}@example.org", "password": "correct horse"}, 400, "validation_failed"),
        ({"password": "correct horse"}, 422, "anonymous_provider_disabled"),
        ({"email": 7, "password": "correct horse"}, 400, "bad_json"),
        ({"email": "data@example.org", "password": "correct horse", "data": "x"}, 400, "bad_json"),
        ({"email": "nul@example.org", "password": "correct horse", "data": {"a": "\0"}}, 500, "unexpected_failure"),
        (["not", "an", "object"], 400, "bad_json"),
    ],
)
async def test_signup_refuses_invalid_requests(client: httpx.AsyncClient, body: Any, status: int, code: str) -> None:
    if code == "user_already_exists":
        await client.post("/auth/v1/signup", json={"email": "taken@example.org", "password": "correct horse"})
    answer = await client.post("/auth/v1/signup", json=body)
    assert (answer.status_code, answer.json()["code"], answer.json()["error_code"]) == (status, status, code)
    assert isinstance(answer.json()["msg"], str)
    if code == "weak_password":
        assert answer.json()["weak_password"] == {"reasons": ["length"]}


@pytest.mark.parametrize("body", ["{", "", "[" * 60_000, b"\xff"])
async def test_a_body_that_is_not_json_is_refused(client: httpx.AsyncClient, body: str | bytes) -> None:
    answer = await client.post("/auth/v1/signup", content=body)
    assert (answer.status_code, answer.json()["error_code"]) == (400, "bad_json")


async def test_a_large_body_is_refused(client: httpx.AsyncClient) -> None:
    assert (await client.post("/auth/v1/signup", content=b" " * 70_000)).status_code == 413


async def test_concurrent_signups_create_one_user(client: httpx.AsyncClient) -> None:
    body = {"email": "race@example.org", "password": "correct horse"}
    answers = await asyncio.gather(*(client.post("/auth/v1/signup", json=body) for _ in range(4)))
    assert sorted(answer.status_code for answer in answers) == [200, 422, 422, 422]


async def test_the_password_grant_starts_another_session(client: httpx.AsyncClient) -> None:
    first = await sign_up(client, "password@example.org")
    answer = await grant(client, "password", email="Password@example.org", password="correct horse")
    assert answer.status_code == 200
    assert answer.json()["user"]["id"] == first["user"]["id"]
    assert answer.json()["refresh_token"] != first["refresh_token"]


@pytest.mark.parametrize(
    ("kind", "body", "code"),
    [
        ("password", {"email": "grants@example.org", "password": "wrong"}, "invalid_credentials"),
        ("password", {"email": "unknown@example.org", "password": "correct horse"}, "invalid_credentials"),
        ("password", {}, "invalid_credentials"),
        ("pkce", {"auth_code": "x"}, "invalid_credentials"),
        ("refresh_token", {"refresh_token": "unknown"}, "refresh_token_not_found"),
        ("refresh_token", {}, "refresh_token_not_found"),
    ],
)
async def test_the_token_endpoint_refuses_wrong_credentials(
    client: httpx.AsyncClient, kind: str, body: dict[str, str], code: str
) -> None:
    await client.post("/auth/v1/signup", json={"email": "grants@example.org", "password": "correct horse"})
    answer = await grant(client, kind, **body)
    assert (answer.status_code, answer.json()["code"], answer.json()["error_code"]) == (400, 400, code)


async def test_a_user_without_a_password_cannot_sign_in(stack: Stack, client: httpx.AsyncClient) -> None:
    for index, encrypted in enumerate(["null", "''", "'$2a$10$elsewhere'", "'scrypt$$'"]):
        email = f"bare{index}@example.org"
        run_sql(
            stack.port,
            "insert into auth.users (id, email, encrypted_password)"
            f" values (gen_random_uuid(), '{email}', {encrypted})",
        )
        answer = await grant(client, "password", email=email, password="")
        assert answer.json()["error_code"] == "invalid_credentials"


async def test_refresh_rotates_and_a_used_token_is_refused(client: httpx.AsyncClient) -> None:
    first = await sign_up(client, "rotate@example.org")
    second = (await grant(client, "refresh_token", refresh_token=first["refresh_token"])).json()
    assert second["refresh_token"] != first["refresh_token"]
    claims = [jwt.decode(s["access_token"], options={"verify_signature": False}) for s in (first, second)]
    assert claims[0]["session_id"] == claims[1]["session_id"]
    assert claims[0]["amr"] == claims[1]["amr"]

    used = await grant(client, "refresh_token", refresh_token=first["refresh_token"])
    assert (used.status_code, used.json()["error_code"]) == (400, "refresh_token_already_used")
    assert (await grant(client, "refresh_token", refresh_token=second["refresh_token"])).status_code == 200


async def test_one_of_concurrent_refreshes_succeeds(client: httpx.AsyncClient) -> None:
    token = (await sign_up(client, "refresh-race@example.org"))["refresh_token"]
    answers = await asyncio.gather(*(grant(client, "refresh_token", refresh_token=token) for _ in range(4)))
    assert sorted(answer.status_code for answer in answers) == [200, 400, 400, 400]
    (winner,) = [answer.json() for answer in answers if answer.status_code == 200]
    assert (await grant(client, "refresh_token", refresh_token=winner["refresh_token"])).status_code == 200


async def test_the_user_endpoint_returns_the_tokens_user(stack: Stack, client: httpx.AsyncClient) -> None:
    session = await sign_up(client, "me@example.org")
    answer = await client.get("/auth/v1/user", headers=bearer(session))
    assert answer.json() == session["user"]
    issuer, user_id = f"{stack.url}/auth/v1", session["user"]["id"]
    minted = access_token(stack.signing_key, issuer=issuer, user_id=user_id, email="me@example.org")
    assert (await client.get("/auth/v1/user", headers=stack.headers(minted))).json() == session["user"]


async def test_the_user_endpoint_refuses_other_tokens(stack: Stack, client: httpx.AsyncClient, tmp_path: Path) -> None:
    unknown_user = {"issuer": "x", "user_id": "5f3c3b1e-0000-4000-8000-000000000000", "email": "x@example.org"}
    refused = {
        "no_authorization": [None],
        "bad_jwt": [
            "garbage",
            stack.anon_key,
            stack.service_key,
            stack.publishable_key,
            stack.secret_key,
            access_token(stack.signing_key, **unknown_user, seconds=-1),
            access_token(load_or_create_key(tmp_path / "other.pem"), **unknown_user),
            access_token(stack.signing_key, **unknown_user | {"user_id": "no uuid"}),
        ],
        "user_not_found": [access_token(stack.signing_key, **unknown_user)],
    }
    for code, tokens in refused.items():
        for token in tokens:
            answer = await client.get("/auth/v1/user", headers=stack.headers(token))
            assert answer.json()["error_code"] == code
            assert answer.status_code == (401 if code == "no_authorization" else 403)


@pytest.mark.parametrize(("scope", "ended"), [("", "both"), ("global", "both"), ("local", "mine"), ("others", "other")])
async def test_logout_ends_the_sessions_of_its_scope(client: httpx.AsyncClient, scope: str, ended: str) -> None:
    email = f"logout{scope}@example.org"
    mine = await sign_up(client, email)
    other = (await grant(client, "password", email=email, password="correct horse")).json()
    answer = await client.post("/auth/v1/logout", params={"scope": scope} if scope else {}, headers=bearer(mine))
    assert (answer.status_code, answer.content) == (204, b"")
    for name, session in (("mine", mine), ("other", other)):
        expected = 400 if ended in {name, "both"} else 200
        user = await client.get("/auth/v1/user", headers=bearer(session))
        assert user.json().get("error_code") == ("session_not_found" if expected == 400 else None), name
        refreshed = await grant(client, "refresh_token", refresh_token=session["refresh_token"])
        assert refreshed.status_code == expected, name


async def test_logout_refuses_an_unknown_scope(client: httpx.AsyncClient) -> None:
    answer = await client.post("/auth/v1/logout?scope=moon", headers=bearer(await sign_up(client, "moon@example.org")))
    assert (answer.status_code, answer.json()["error_code"]) == (400, "validation_failed")


@pytest.mark.parametrize("kind", ["secret_key", "service_key"])
async def test_the_real_admin_client_deletes_a_user(stack: Stack, client: httpx.AsyncClient, kind: str) -> None:
    email = f"deleted-{kind}@example.org".replace("_", "-")
    session = await sign_up(client, email)
    user_id, key = session["user"]["id"], getattr(stack, kind)
    async with AsyncGoTrueAdminAPI(url=f"{stack.url}/auth/v1", headers=request_headers(key)) as admin:
        await admin.delete_user(user_id)
        with pytest.raises(AuthApiError) as caught:
            await admin.delete_user(user_id)
    assert (caught.value.status, caught.value.code) == (404, "user_not_found")
    assert (await client.get("/auth/v1/user", headers=bearer(session))).json()["error_code"] == "user_not_found"
    logged = f"select payload ->> 'action' from auth.audit_log_entries where payload::text like '%{email}%' order by 1"
    assert [row[0] for row in run_sql(stack.port, logged)] == ["user_deleted", "user_signedup"]


async def test_only_the_service_role_deletes_users(stack: Stack, client: httpx.AsyncClient) -> None:
    session = await sign_up(client, "kept@example.org")
    path = f"/auth/v1/admin/users/{session['user']['id']}"
    answers = {
        "not_admin": [await client.delete(path), await client.delete(path, headers=bearer(session))],
        "bad_jwt": [await client.delete(path, headers={"authorization": "Bearer x"})],
        "validation_failed": [await client.delete("/auth/v1/admin/users/me", headers={"apikey": stack.secret_key})],
    }
    for code, refused in answers.items():
        assert {answer.json()["error_code"] for answer in refused} == {code}
    assert (await client.get("/auth/v1/user", headers=bearer(session))).status_code == 200


async def test_health_and_settings(client: httpx.AsyncClient) -> None:
    assert (await client.get("/auth/v1/health")).json()["name"] == "GoTrue"
    assert (await client.get("/auth/v1/settings")).json()["mailer_autoconfirm"] is True


@pytest.mark.parametrize(
    ("method", "path"),
    [("POST", "/auth/v1/otp"), ("GET", "/auth/v1/signup"), ("PUT", "/auth/v1/user"), ("GET", "/storage/v1/bucket")],
)
async def test_unknown_paths_and_methods_are_404(client: httpx.AsyncClient, method: str, path: str) -> None:
    answer = await client.request(method, path)
    assert answer.status_code == 404
    assert isinstance(answer.json(), dict)
