"""A running stack: what it starts, prints and configures, and which services replace its stand-ins."""

import re
import socket
import stat
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import cast

import httpx
import pytest

from infra.local import stack as launcher
from infra.local.__main__ import examples
from infra.local.processes import Processes
from infra.local.stack import (
    FUNCTIONS,
    GATEWAY,
    MODEL,
    PARLIAMENT,
    POSTGRES,
    POSTGREST,
    STRIPE,
    Config,
    Stack,
    free_offset,
)
from tests.local.launcher_kit import (
    DEADLINE_S,
    RUN,
    TIERS,
    Launcher,
    launched,
    paying_users,
    processes_of,
    refusal,
    rows,
    tiers,
)

KEYS = """supabase_url anon_key service_role_key db_url functions_url stripe_url model_url parliament_url
stripe_webhook_secret stripe_secret_key publishable_key secret_key users page_url function_urls"""


@pytest.fixture(scope="module")
def live(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Launcher]:
    """A running stack for the tests that do not change it."""
    with launched(tmp_path_factory.mktemp("live") / "stack", free_offset()) as running:
        running.ready()
        yield running


def test_start_prints_the_addresses_and_writes_stack_json(live: Launcher) -> None:
    """stack.json is private and has every key and four users with valid tokens."""
    info, path = live.ready(), live.folder / "stack.json"
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert list(info) == KEYS.split()
    assert all(set(user) == {"id", "email", "password", "access_token"} for user in info["users"].values())
    assert tiers(info) == TIERS
    assert all(info[place] in live.printed for place in ("supabase_url", "db_url", "functions_url", "stripe_url"))
    assert all(info[place] in live.printed for place in ("model_url", "parliament_url"))
    assert info["stripe_webhook_secret"] == "whsec_local"
    assert f"{examples(live.folder, info['functions_url'])}\nready in" in live.printed
    assert f"open {info['functions_url']}; Ctrl-C stops it" in live.printed
    drafts = {path.name for path in live.folder.glob("*.new")}
    assert drafts <= {"stripe.new"}  # written again after every change at Stripe


@pytest.mark.skipif(sys.platform != "linux", reason="reads sockets in /proc")
def test_everything_listens_on_loopback_only(live: Launcher) -> None:
    """The processes listen on the seven ports on 127.0.0.1, and nowhere else."""
    offset = int(live.ready()["functions_url"].rpartition(":")[2]) - FUNCTIONS
    sockets = set()
    for process in processes_of(live.folder):
        for link in Path(f"/proc/{process}/fd").glob("*"):
            try:
                sockets.add(link.readlink().name)
            except OSError:
                continue  # it has been closed
    listening = set()
    for table in ("tcp", "tcp6"):
        for row in Path(f"/proc/net/{table}").read_text().splitlines()[1:]:
            _, local, _, state, *_, inode = row.split()[:10]
            if state == "0A" and f"socket:[{inode}]" in sockets:
                address, _, port = local.partition(":")
                listening.add((address, int(port, 16) - offset))
    loopback = socket.inet_aton("127.0.0.1")[:: -1 if sys.byteorder == "little" else 1].hex().upper()
    ports = (GATEWAY, POSTGRES, POSTGREST, FUNCTIONS, STRIPE, MODEL, PARLIAMENT)
    assert listening == {(loopback, port) for port in ports}


def functions_environment(folder: Path) -> dict[str, str]:
    """The environment of the process that serves the functions."""
    (functions,) = (pid for pid, line in processes_of(folder).items() if "serve functions" in line)
    return dict(line.split("=", 1) for line in Path(f"/proc/{functions}/environ").read_text().split("\0") if line)


@pytest.mark.skipif(sys.platform != "linux", reason="reads the environment in /proc")
def test_the_functions_use_the_stripe_stand_in_and_local_origins(live: Launcher) -> None:
    """Stripe may redirect to the page, or to a frontend on port 3000 or 5173, Vite's."""
    info, environ = live.ready(), functions_environment(live.folder)
    names = ("STRIPE_API_BASE", "STRIPE_SECRET_KEY", "STRIPE_WEBHOOK_SECRET")
    assert [environ[name] for name in names] == [info["stripe_url"], "sk_test_local", info["stripe_webhook_secret"]]
    port = info["functions_url"].rpartition(":")[2]
    hosts = [f"{host}:{number}" for host in ("127.0.0.1", "localhost") for number in (port, 3000, 5173)]
    assert set(environ["ALLOWED_ORIGINS"].split(",")) == {f"http://{host}" for host in hosts}
    assert "Stripe, a stand-in" in httpx.get(info["stripe_url"]).text


def test_webhooks_of_the_seeding_are_delivered(live: Launcher) -> None:
    """The events of the seeding are delivered before the stack is ready."""
    info = live.ready()
    webhooks = httpx.get(f"{info['stripe_url']}/_webhooks").json()
    assert (webhooks["url"], webhooks["hold"]) == (f"{info['functions_url']}/webhooks/stripe", False)
    events = [one for one in httpx.get(f"{info['stripe_url']}/_events").json() if "subscription" in one["type"]]
    assert len(events) >= 3
    assert {one["delivery"]["state"] for one in events} == {"delivered"}


def test_seeded_paying_users_have_active_subscriptions(live: Launcher) -> None:
    assert set(paying_users(live.ready())) == {"basic", "pro", "usage_only"}


@pytest.mark.skipif(sys.platform != "linux", reason="reads the environment in /proc")
def test_the_functions_use_the_sample_data(live: Launcher) -> None:
    """For the parliamentary data and for postal codes."""
    url, environ = live.ready()["parliament_url"], functions_environment(live.folder)
    assert (environ["PARLIAMENT_API_URL"], environ["REPRESENT_API_URL"]) == (url, url)
    assert httpx.get(f"{url}/votes/", headers={"accept": "application/json"}).json()["objects"]
    assert httpx.get(f"{url}/postcodes/K1A0A6/").status_code == 200


@pytest.mark.parametrize("command", ["run", "reset"])
def test_a_folder_in_use_is_refused(live: Launcher, command: str) -> None:
    """A second run and a reset fail; the running stack continues."""
    assert refusal(live.folder, command=(*RUN[:-1], command)) == (
        f"A stack runs in {live.folder} (process {live.process.pid}): stop it, or set STACK_DIR and PORT_OFFSET.\n"
    )
    assert tiers(live.ready()) == TIERS


def test_a_port_in_use_is_named(live: Launcher, tmp_path: Path) -> None:
    """The error names the port, and no process remains."""
    offset = int(live.ready()["functions_url"].rpartition(":")[2]) - FUNCTIONS
    error = refusal(tmp_path / "other", str(offset))
    assert re.fullmatch(rf"Port {FUNCTIONS + offset} is in use .*: free it, or set PORT_OFFSET\.\n", error)
    assert not processes_of(tmp_path)


def test_a_port_of_a_stand_in_in_use_is_named(tmp_path: Path) -> None:
    """Before any process starts."""
    offset = free_offset()
    with socket.create_server(("127.0.0.1", STRIPE + offset)):
        assert refusal(tmp_path / "other", str(offset)).startswith(f"Port {STRIPE + offset} is in use ")


def test_configured_services_replace_the_stand_ins(live: Launcher, tmp_path: Path) -> None:
    """With everything configured, only the functions run, and they accept the configured project's tokens."""
    theirs = live.ready()
    environ = {
        "NEXT_PUBLIC_SUPABASE_URL": theirs["supabase_url"],
        "SUPABASE_ANON_KEY": theirs["publishable_key"],
        "SUPABASE_SERVICE_ROLE_KEY": theirs["secret_key"],
        "ANTHROPIC_API_KEY": "a-key",
        "ANTHROPIC_BASE_URL": theirs["model_url"],
        "OPENAI_API_KEY": "a-key",
        "OPENAI_BASE_URL": f"{theirs['model_url']}/v1",
        "PARLIAMENT_API_URL": theirs["parliament_url"],
        "STRIPE_SECRET_KEY": "sk_test_local",
        "STRIPE_API_BASE": theirs["stripe_url"],
        "STRIPE_WEBHOOK_SECRET": "whsec_mine",
        "ALLOWED_ORIGINS": "https://canadagpt.example",
    }
    with launched(tmp_path / "stack", free_offset(), environ) as running:
        info = running.ready()
        assert (info["supabase_url"], info["db_url"], info["model_url"]) == (theirs["supabase_url"], None, None)
        assert info["parliament_url"] == theirs["parliament_url"]
        assert (info["stripe_url"], info["stripe_webhook_secret"]) == (theirs["stripe_url"], "whsec_mine")
        assert all(theirs[place] in running.printed for place in ("supabase_url", "parliament_url", "stripe_url"))
        commands = " ".join(processes_of(running.folder).values())
        assert "serve functions" in commands
        assert not re.search("postgres|postgrest|serve standins", commands)
        their_environ = functions_environment(running.folder) if sys.platform == "linux" else environ
        origins = their_environ.pop("ALLOWED_ORIGINS").split(",")  # the page's own stay beside the configured one
        assert {environ.pop("ALLOWED_ORIGINS"), info["page_url"]} <= set(origins)
        assert environ.items() <= their_environ.items()
        answer = httpx.post(
            f"{info['functions_url']}/chat",
            headers={
                "authorization": f"Bearer {theirs['users']['pro']['access_token']}",
                "accept": "application/json",
            },
            json={
                "id": "elsewhere",
                "messages": [{"id": "1", "role": "user", "parts": [{"type": "text", "text": "What is a riding?"}]}],
            },
            timeout=DEADLINE_S,
        )
        assert answer.status_code == 200
        assert running.end() == 0


@pytest.mark.parametrize("name", ["STRIPE_SECRET_KEY", "STRIPE_API_BASE"])
def test_either_stripe_variable_replaces_the_stand_in(tmp_path: Path, name: str) -> None:
    """The printed address is the configured one, or Stripe's where only the key is set."""
    value, processes = "https://stripe.example", cast("Processes", None)
    where = {"STRIPE_SECRET_KEY": "https://api.stripe.com", "STRIPE_API_BASE": value}[name]
    theirs = {place.name: place.url for place in Stack(Config(tmp_path, environ={name: value}), processes).places()}
    assert theirs["Stripe (yours)"] == where
    ours = {place.name: place.url for place in Stack(Config(tmp_path, environ={name: ""}), processes).places()}
    assert ours["Stripe, a stand-in"] == f"http://127.0.0.1:{STRIPE}"


def test_with_a_real_stripe_seeded_users_have_no_stripe_ids(tmp_path: Path) -> None:
    """The stand-in does not run. When it runs on the next start, the users subscribe there."""
    folder, offset = tmp_path / "stack", free_offset()
    real = {"STRIPE_SECRET_KEY": "sk_test_mine", "STRIPE_WEBHOOK_SECRET": "whsec_mine"}
    with launched(folder, offset, real) as running:
        info = running.ready()
        assert (info["stripe_url"], info["stripe_webhook_secret"]) == (None, "whsec_mine")
        assert rows(info) == {tier: (tier, None, None, None, None) for tier in TIERS}
        launcher.require_free(STRIPE + offset)
        assert not (folder / "stripe.json").exists()
        assert running.end() == 0
    with launched(folder, offset, {"STRIPE_WEBHOOK_SECRET": "whsec_mine"}) as running:
        info = running.ready()
        assert info["stripe_webhook_secret"] == "whsec_mine"
        assert len(paying_users(info)) == 3
