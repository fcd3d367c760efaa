"""`token` and `seed`: access tokens and users of the running stack, for scripts.

    curl -H "authorization: Bearer $(python -m infra.local token --tier pro)" http://127.0.0.1:8787/usage
    python -m infra.local seed --tier basic --count 3 --used 15 --credits 100

Both find the stack through stack.json in its folder, and need the local Supabase.
"""

import argparse
import json
import secrets
import urllib.error
import urllib.request
import uuid
from collections.abc import Callable, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import psycopg

from infra.local import billing
from infra.local.auth import access_token, create_user, load_or_create_key
from infra.local.processes import StackError
from infra.local.stack import PASSWORD, STRIPE_KEY, TIERS, TOKEN_S

MAX_USERS, MAX_USED = 100, 1000  # a typing error must not occupy the stack for hours
USERS_AT_ONCE = 4
QUESTIONS = ("How did members vote on C-5?", "What is a riding?", "Who is my MP? My postal code is K1A 0A6.")


@dataclass(frozen=True, slots=True)
class SeededUser:
    """A user that `seed` created, as it prints them."""

    id: str
    email: str
    password: str
    access_token: str


def add_commands(commands: "argparse._SubParsersAction[argparse.ArgumentParser]") -> None:
    """Adds `token` and `seed` to the launcher's commands."""
    token = commands.add_parser("token", help="print a fresh access token of a user, valid for twelve hours")
    who = token.add_mutually_exclusive_group(required=True)
    who.add_argument("--tier", choices=TIERS, help="the seeded user with this tier")
    who.add_argument("--email", help="the user with this address")
    seed = commands.add_parser("seed", help="create users, and print them as JSON with fresh access tokens")
    seed.add_argument("--tier", choices=TIERS, required=True, help="paid tiers get a subscription at Stripe's stand-in")
    seed.add_argument("--count", type=_number(MAX_USERS), default=1, help="how many users (1)")
    seed.add_argument("--used", type=_number(MAX_USED), default=0, help="queries to ask; each is a conversation (0)")
    seed.add_argument("--credits", type=_number(10000), default=0, help="credits; free becomes usage_only (0)")


def _number(limit: int) -> Callable[[str], int]:
    def number(text: str) -> int:
        if not text.isdecimal() or int(text) > limit:
            raise argparse.ArgumentTypeError(f"must be a number from 0 to {limit}, not {text!r}")
        return int(text)

    return number


def token(folder: Path, tier: str | None, email: str | None) -> str:
    """A fresh access token of a user. Raises StackError."""
    info = _info(folder)
    address = info["users"][tier]["email"] if tier else str(email).lower()
    with _database(info) as database:
        found = database.execute("select id::text from auth.users where email = %s", (address,)).fetchone()
    if found is None:
        raise StackError(f"There is no user with the address {address}.")
    return _token(folder, info, found[0], address)


def seed(folder: Path, tier: str, count: int, used: int, granted: int) -> list[SeededUser]:
    """Creates users, their subscriptions, credits and queries. Raises StackError."""
    info = _info(folder)
    if used and info["model_url"] is None:
        raise StackError("A real model provider is configured, and its answers cost money: seed without --used.")
    users = []
    with _database(info) as database:
        for _ in range(count):
            email = f"{tier.replace('_', '-')}-{secrets.token_hex(4)}@example.test"
            user_id = create_user(database, email, PASSWORD)
            database.execute("update public.user_subscriptions set tier = %s where user_id = %s", (tier, user_id))
            if granted:
                action = {"id": str(uuid.uuid4()), "operator": "seed", "reason": "local stack"}
                database.execute(
                    "select public.grant_credits(%s, %s, null, %s)", (user_id, granted, json.dumps(action))
                )
            users.append(SeededUser(user_id, email, PASSWORD, _token(folder, info, user_id, email)))
    if tier != "free" and info["stripe_secret_key"] == STRIPE_KEY:
        _subscribe(info, tier, users)
    with ThreadPoolExecutor(USERS_AT_ONCE) as pool:
        list(pool.map(lambda user: _ask(info["functions_url"], user, used), users))
    return users


def run(arguments: argparse.Namespace, folder: Path) -> str:
    """Runs the command. Returns what it prints. Raises StackError."""
    try:
        if arguments.command == "token":
            return token(folder, arguments.tier, arguments.email)
        users = seed(folder, arguments.tier, arguments.count, arguments.used, arguments.credits)
        return json.dumps([asdict(user) for user in users], indent=2)
    except (psycopg.OperationalError, urllib.error.URLError) as error:
        raise StackError(f"The stack in {folder} does not answer: start it again with `make run`.") from error


def _info(folder: Path) -> dict[str, Any]:
    """The content of stack.json. Raises StackError where no stack runs, or none with users of its own."""
    try:
        info: dict[str, Any] = json.loads((folder / "stack.json").read_text())
    except FileNotFoundError:
        raise StackError(f"No stack runs in {folder}: start it with `make run`, or set STACK_DIR.") from None
    if info["db_url"] is None:
        raise StackError("This stack's users are those of your Supabase project: sign in there.")
    return info


def _database(info: Mapping[str, Any]) -> "psycopg.Connection[tuple[Any, ...]]":
    return psycopg.connect(info["db_url"], connect_timeout=5)


def _token(folder: Path, info: Mapping[str, Any], user_id: str, email: str) -> str:
    key, issuer = load_or_create_key(folder / "signing-key.pem"), f"{info['supabase_url']}/auth/v1"
    return access_token(key, issuer=issuer, user_id=user_id, email=email, seconds=TOKEN_S)


def _subscribe(info: Mapping[str, Any], tier: str, users: list[SeededUser]) -> None:
    """Subscribes the users at Stripe's stand-in, and waits for the webhooks."""
    stand_in = billing.StandIn(info["stripe_url"], info["stripe_secret_key"])
    payers = [billing.Payer(tier, user.id, user.email) for user in users]
    settings = {
        "SUPABASE_URL": info["supabase_url"],
        "SUPABASE_SERVICE_ROLE_KEY": info["secret_key"],
        "STRIPE_WEBHOOK_SECRET": info["stripe_webhook_secret"],
    }
    billing.main({**settings, **billing.environment(stand_in, info["db_url"], payers)})
    stand_in.control("/_settle")


def _ask(functions_url: str, user: SeededUser, times: int) -> None:
    """Asks questions, each in a conversation of its own. Raises StackError with the sentence of a refusal."""
    for number in range(times):
        part = {"type": "text", "text": QUESTIONS[number % len(QUESTIONS)]}
        message = {"id": str(uuid.uuid4()), "role": "user", "parts": [part]}
        headers = {"authorization": f"Bearer {user.access_token}", "accept": "application/json"}
        request = urllib.request.Request(  # noqa: S310 -- loopback
            f"{functions_url}/chat",
            json.dumps({"id": str(uuid.uuid4()), "messages": [message]}).encode(),
            {**headers, "content-type": "application/json"},
        )
        try:
            urllib.request.urlopen(request, timeout=60).close()  # noqa: S310
        except urllib.error.HTTPError as error:
            with error:
                reason = json.load(error)["error"]["message"]
            raise StackError(f"Query {number + 1} of {user.email} was refused: {reason}") from error
