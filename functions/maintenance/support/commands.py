"""The command line of the support commands. Each command has its options here and its work in another module."""

import argparse
import asyncio
import getpass
import os
import sys
import uuid
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import replace
from datetime import UTC, datetime
from decimal import Decimal, InvalidOperation
from functools import partial
from pathlib import Path
from typing import Any

from functions.common import results
from functions.common.database import Database
from functions.common.observe import Observer
from functions.common.settings import SupabaseSettings, load, read_environment
from functions.common.thread_transport import ThreadTransport
from functions.maintenance.command_line import Parser, expected, print_progress
from functions.maintenance.support import operations
from functions.maintenance.support import user_actions as actions
from functions.maintenance.support.session import Session, SupportError
from functions.maintenance.support.show import show
from functions.maintenance.support.why import why

REASON_CHARACTERS = 500  # the limit of operator_actions and announcements
OPERATOR_CHARACTERS = 200  # the limit of operator_actions
TIERS = ("free", "basic", "pro", "usage_only")
PROVIDERS = ("anthropic", "openai")

Options = argparse.Namespace
Run = Callable[[Session, Options], Awaitable[list[str]]]


def parser() -> Parser:
    """The commands with their options."""
    described = Parser(prog="python -m functions.maintenance", description=__doc__, allow_abbrev=False)
    names = described.add_subparsers(dest="name", required=True)
    _add_user(names.add_parser("user", help="one user: show, why, block, grant, …", allow_abbrev=False))
    add = partial(_command, names)

    costliest = add(
        "costliest", lambda s, o: operations.costliest(s, o.days, o.limit), "the users who have cost us most"
    )
    costliest.add_argument("--days", type=_count, default=7)
    costliest.add_argument("--limit", type=_count, default=20)

    announce = add("announce", _announce, "show users a notice; without options: list what is shown and paused")
    _add_sentence(announce, required=False)
    announce.add_argument("--from", dest="starts", type=_moment, help="ISO 8601, UTC; default: now")
    announce.add_argument("--until", dest="ends", type=_moment, help="ISO 8601, UTC; default: until --end")
    announce.add_argument("--end", type=_uuid, help="the id of the announcement to end")
    announce.add_argument("--reason", type=_sentence)

    pause = add(
        "pause",
        lambda s, o: operations.pause(s, o.what, _provider(o), o.en, o.fr, o.reason),
        "pause the chat, sign-ups or a provider, and show users why",
    )
    _add_paused(pause)
    _add_sentence(pause, required=True)
    _add_reason(pause)
    resume = add("resume", lambda s, o: operations.resume(s, o.what, _provider(o), o.reason), "end a pause")
    _add_paused(resume)
    _add_reason(resume)

    models = add("models", _models, "the models of the plans; with --set: change them")
    models.add_argument("--tier", choices=TIERS)
    models.add_argument("--provider", choices=PROVIDERS)
    models.add_argument("--own-key", action="store_true", help="the further models for own keys")
    models.add_argument("--set", dest="models", type=_names, help="names with commas, the default first")
    models.add_argument("--reason", type=_sentence)
    return described


def _add_user(user: argparse.ArgumentParser) -> None:
    user.add_argument("who", help="an e-mail address, or the id of a user, request, query or message")
    add = partial(_command, user.add_subparsers(dest="command", required=True))

    add("show", lambda s, o: show(s, o.user), "plan, what pays next and why, packs, bills, keys, queries, refusals")
    explain = add("why", lambda s, o: why(s, o.user, o.id), "what happened to a query")
    explain.add_argument("id", help="the id of the request, the query or the message")
    _add_reason(add("block", lambda s, o: actions.block(s, o.user, o.reason), "refuse everything until unblock"))
    _add_reason(add("unblock", lambda s, o: actions.unblock(s, o.user, o.reason), "end the block"))

    grant = add(
        "grant",
        lambda s, o: actions.grant(s, o.user, o.credits, o.expires, o.reason, is_confirmed=o.yes),
        "give credits",
    )
    grant.add_argument("credits", type=_count)
    grant.add_argument("--expires", type=_moment, help="ISO 8601, UTC; default: never")
    _add_reason(grant)
    _add_yes(grant)

    limit = add("limit", lambda s, o: actions.limit(s, o.user, _limits(o), o.reason), "set limits of this user")
    for flag, (name, parse, what) in LIMITS.items():
        limit.add_argument(flag, dest=name, type=parse, default=argparse.SUPPRESS, help=f"{what}; plan: as the plan")
    _add_reason(limit)

    credit_back = add(
        "credit-back",
        lambda s, o: actions.credit_back(s, o.query, o.user, o.reason, is_confirmed=o.yes),
        "give the charge of a query back",
    )
    credit_back.add_argument("query", help="the id of the request, the query or the message")
    _add_reason(credit_back)
    _add_yes(credit_back)

    resend = add(
        "resend",
        lambda s, o: actions.resend(s, o.user, o.what, o.reason),
        "send the confirmation e-mail, or read the plan and payments at Stripe, again",
    )
    resend.add_argument("what", choices=("confirmation", "payments"))
    _add_reason(resend)

    export = add(
        "export", lambda s, o: actions.export(s, o.user, o.to, o.reason), "write everything that is stored to a file"
    )
    export.add_argument("--to", type=Path, required=True)
    _add_reason(export)

    delete = add(
        "delete",
        lambda s, o: actions.delete(s, o.user, o.reason, write_off=o.write_off, is_confirmed=o.yes),
        "delete the user with all their data",
    )
    delete.add_argument("--write-off", action="store_true", help="do not bill the overage that the user owes")
    _add_reason(delete)
    _add_yes(delete)


def _command(parent: Any, name: str, run: Run, description: str) -> argparse.ArgumentParser:
    command: argparse.ArgumentParser = parent.add_parser(
        name, help=description, description=description, allow_abbrev=False
    )
    command.set_defaults(run=run)
    return command


def _add_reason(command: argparse.ArgumentParser) -> None:
    command.add_argument("--reason", type=_sentence, required=True, help="why; it is recorded in operator_actions")


def _add_yes(command: argparse.ArgumentParser) -> None:
    command.add_argument("--yes", action="store_true", help="do not ask")


def _add_paused(command: argparse.ArgumentParser) -> None:
    command.add_argument("what", choices=tuple(operations.PAUSES))
    command.add_argument("provider", choices=PROVIDERS, nargs="?")


def _add_sentence(command: argparse.ArgumentParser, *, required: bool) -> None:
    command.add_argument("--en", type=_sentence, required=required, help="the sentence for users in English")
    command.add_argument("--fr", type=_sentence, required=required, help="the sentence for users in French")


# Values. The texts of the errors reach the terminal unchanged.


def _count(text: str) -> int:
    if not text.isdecimal() or not 1 <= int(text) <= 10_000:
        raise argparse.ArgumentTypeError("A number here is 1 to 10000.")
    return int(text)


def _quota(text: str) -> int | None:
    if text == "plan":
        return None
    if not text.isdecimal() or int(text) > 10_000:
        raise argparse.ArgumentTypeError("A quota is 0 to 10000, or plan.")
    return int(text)


def _amount(text: str) -> Decimal | None:
    if text == "plan":
        return None
    try:
        amount = Decimal(text)
    except InvalidOperation:
        amount = Decimal(-1)
    if not (amount.is_finite() and 0 <= amount <= 10_000):
        raise argparse.ArgumentTypeError("An amount is 0 to 10000, or plan.")
    return amount


LIMITS: Mapping[str, tuple[str, Callable[[str], Any], str]] = {
    "--daily": ("daily_quota", _quota, "included queries a day"),
    "--lifetime": ("lifetime_quota", _quota, "included queries in total"),
    "--overage": ("overage_limit_usd", _amount, "overage of a period; the user may change it"),
    "--ceiling": ("overage_ceiling_usd", _amount, "the most that the user may set as overage limit"),
}


def _limits(options: Options) -> Mapping[str, Any]:
    return {name: getattr(options, name) for name, _, _ in LIMITS.values() if hasattr(options, name)}


def _sentence(text: str) -> str:
    if not 1 <= len(text.strip()) <= REASON_CHARACTERS:
        raise argparse.ArgumentTypeError(f"A reason or a sentence has 1 to {REASON_CHARACTERS} characters.")
    return text.strip()


def _moment(text: str) -> str:
    try:
        moment = datetime.fromisoformat(text)
    except ValueError:
        raise argparse.ArgumentTypeError("A time is written like 2026-12-31 or 2026-12-31T18:00.") from None
    return (moment if moment.tzinfo else moment.replace(tzinfo=UTC)).isoformat()


def _uuid(text: str) -> str:
    try:
        return str(uuid.UUID(text))
    except ValueError:
        raise argparse.ArgumentTypeError("An id is a UUID.") from None


def _names(text: str) -> Sequence[str]:
    return [name.strip() for name in text.split(",") if name.strip()]


def main(arguments: list[str]) -> int:
    """Run a command and print its lines. The exit status: 0 when it is done, 1 when it is not."""
    options = parser().parse_args(arguments)
    try:
        lines = asyncio.run(_run(options))
    except Exception as error:
        if not isinstance(error, SupportError) and not expected(error):
            raise
        print_progress(f"{options.name}: {error}")
        return 1
    try:
        sys.stdout.writelines(f"{line}\n" for line in lines)
        sys.stdout.flush()
    except BrokenPipeError:
        # The reader has seen enough, as `head` does. Python writes the rest at its end.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
    return 0


async def _run(options: Options) -> list[str]:
    environment = read_environment()
    database = Database(load(SupabaseSettings, environment), Observer("maintenance"), ThreadTransport())
    try:
        operator = (environment.get("OPERATOR") or getpass.getuser()).strip()
        if not 1 <= len(operator) <= OPERATOR_CHARACTERS:
            raise SupportError(f"OPERATOR is your name, of 1 to {OPERATOR_CHARACTERS} characters.")
        plans = await database.call("list_plans", parse=results.record("plans"))
        session = Session(database, environment, print_progress, operator, plans["plans"][0]["currency"])
        if options.name == "user":
            options.user, subject = await session.find_user(options.who)
            session = replace(session, subject=subject)
        lines: list[str] = await options.run(session, options)
        # What changed is printed with the user whom it hit.
        return [session.subject, *lines] if options.name == "user" and "reason" in options else lines
    finally:
        await database.close()


async def _announce(session: Session, options: Options) -> list[str]:
    if options.end is None and options.en is None and options.fr is None:
        return await operations.list_announcements(session)
    if options.reason is None:
        raise SupportError("Give a --reason.")
    if options.end is not None:
        return await operations.end_announcement(session, options.end, options.reason)
    if options.en is None or options.fr is None:
        raise SupportError("Give the sentence in both languages: --en and --fr.")
    return await operations.announce(session, options.en, options.fr, options.starts, options.ends, options.reason)


async def _models(session: Session, options: Options) -> list[str]:
    if options.models is None:
        return await operations.list_models(session)
    if None in (options.tier, options.provider, options.reason):
        raise SupportError("Give --tier, --provider and --reason.")
    return await operations.set_models(
        session, options.tier, options.provider, options.models, options.reason, is_own_key=options.own_key
    )


def _provider(options: Options) -> str | None:
    """The provider to pause. Raises SupportError if it is missing, or nothing has one."""
    if (options.what == "provider") != (options.provider is not None):
        raise SupportError("Name the provider: provider anthropic, or provider openai.")
    provider: str | None = options.provider
    return provider
