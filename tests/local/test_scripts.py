"""`python -m infra.local token` and `seed`, on the running stack."""

import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import httpx
import psycopg
import pytest

from infra.local.__main__ import examples
from infra.local.stack import Stack
from tests.api import StateOf
from tests.conftest import Person
from tests.local.launcher_kit import ROOT


def run(folder: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    """Runs a command of the stack in the folder."""
    environ = {"STACK_DIR": str(folder), "PYTHONPATH": str(ROOT), "ENV_FILE": "", "PATH": "/usr/bin:/bin"}
    command = [sys.executable, "-m", "infra.local", *arguments]
    return subprocess.run(command, env=environ, capture_output=True, text=True, timeout=60, check=False)


def usage(stack: Stack, token: str) -> httpx.Response:
    return httpx.get(f"{stack.info['functions_url']}/usage", headers={"authorization": f"Bearer {token}"})


def test_token_prints_only_a_valid_token(stack: Stack, person: Callable[..., Person]) -> None:
    """Of the seeded user with a tier, or of any user by address."""
    user = person("usage_only")
    for arguments, tier in {("--tier", "pro"): "pro", ("--email", user.email.upper()): "usage_only"}.items():
        printed = run(stack.config.folder, "token", *arguments)
        assert printed.stderr == ""
        assert usage(stack, printed.stdout.strip()).json()["tier"] == tier


def test_seed_creates_users_with_everything(
    stack: Stack, state_of: StateOf, stack_db: "psycopg.Connection[dict[str, object]]"
) -> None:
    """Queries, conversations, credits, a subscription at Stripe's stand-in, and a password to sign in with."""
    printed = run(stack.config.folder, "seed", "--tier", "basic", "--count", "2", "--used", "2", "--credits", "100")
    assert printed.stderr == ""
    users = json.loads(printed.stdout)
    assert len({user["id"] for user in users}) == 2
    for user in users:
        after = usage(stack, user["access_token"]).json()
        assert (after["tier"], after["credits"]["remaining"]) == ("basic", 100)
        row = stack_db.execute(
            "select s.quota_used, s.stripe_subscription_id is not null as subscribed,"
            " (select count(*) from public.conversations c where c.user_id = s.user_id) as conversations"
            " from public.user_subscriptions s where s.user_id = %s",
            (user["id"],),
        ).fetchone()
        assert row == {"quota_used": 2, "subscribed": True, "conversations": 2}
        signed_in = httpx.post(
            f"{stack.info['supabase_url']}/auth/v1/token?grant_type=password",
            headers={"apikey": stack.info["publishable_key"]},
            json={"email": user["email"], "password": user["password"]},
        )
        assert signed_in.json()["user"]["id"] == user["id"]
    violations = "select * from public.reconcile() where user_id = any(%s::uuid[])"
    assert stack_db.execute(violations, ([user["id"] for user in users],)).fetchall() == []


def test_token_of_an_unknown_address_is_refused(stack: Stack) -> None:
    printed = run(stack.config.folder, "token", "--email", "unknown@example.test")
    assert (printed.returncode, printed.stdout) == (1, "")
    assert printed.stderr == "There is no user with the address unknown@example.test.\n"


def test_seed_reports_a_refused_query(stack: Stack) -> None:
    printed = run(stack.config.folder, "seed", "--tier", "free", "--used", "11")
    assert (printed.returncode, printed.stdout) == (1, "")
    assert printed.stderr.startswith("Query 11 of free-")
    assert printed.stderr.count("\n") == 1


def test_the_printed_examples_work(stack: Stack) -> None:
    """The commands that `make run` prints, pasted into a shell."""
    pasted = examples(stack.config.folder, stack.info["functions_url"]).partition("\n")[2]
    done = subprocess.run(["bash", "-ec", pasted], cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    usage, _, rest = done.stdout.partition("data: ")
    assert json.loads(usage)["tier"] == "pro"
    stream, _, seeded = rest.partition("data: [DONE]\n\n")
    assert '"text-delta"' in stream
    assert set(json.loads(seeded)[0]) == {"id", "email", "password", "access_token"}


@pytest.mark.parametrize("command", [("token", "--tier", "pro"), ("seed", "--tier", "free")])
def test_without_a_stack_the_commands_say_so(stack: Stack, tmp_path: Path, command: tuple[str, ...]) -> None:
    """Also where a killed launcher left stack.json behind."""
    sentence = f"No stack runs in {tmp_path}: start it with `make run`, or set STACK_DIR.\n"
    assert run(tmp_path, *command).stderr == sentence
    info = {**stack.info, "db_url": "postgresql://127.0.0.1:9/postgres"}
    (tmp_path / "stack.json").write_text(json.dumps(info))
    silent = f"The stack in {tmp_path} does not answer: start it again with `make run`.\n"
    assert run(tmp_path, *command).stderr == silent
    (tmp_path / "stack.json").write_text(json.dumps({**info, "db_url": None}))
    theirs = "This stack's users are those of your Supabase project: sign in there.\n"
    assert run(tmp_path, *command).stderr == theirs


@pytest.mark.parametrize(("count", "status"), [("-1", 2), ("101", 2)])
def test_seed_refuses_other_numbers(tmp_path: Path, count: str, status: int) -> None:
    printed = run(tmp_path, "seed", "--tier", "free", "--count", count)
    assert printed.returncode == status
    assert f"must be a number from 0 to 100, not '{count}'" in printed.stderr
