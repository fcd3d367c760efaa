"""What every support command gets, and how it asks before what cannot be undone."""

import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from functions.common import results
from functions.common.database import Database
from functions.common.ids import time_ordered_id

CALL_TIMEOUT_S = 30.0


class SupportError(Exception):
    """The command was not carried out. The message is a sentence for the supporter."""


def read_answer(question: str) -> str:
    """Ask on the standard error, and read a line of the standard input; empty at its end."""
    sys.stderr.write(f"{question} ")
    sys.stderr.flush()
    return sys.stdin.readline().strip()


@dataclass(frozen=True, slots=True)
class Session:
    """One run of a command. `operator` is the name of who runs it, `currency` that of the prices, `subject` the user
    whom it is about."""

    database: Database
    environment: Mapping[str, str]
    progress: Callable[[str], None]
    operator: str
    currency: str
    subject: str = ""

    async def read(self, function: str, *fields: str, **params: Any) -> Mapping[str, Any]:
        """Call a SQL function that returns a JSON object."""
        found: Mapping[str, Any] = await self.database.call(
            function, params, parse=results.record(*fields), timeout_s=CALL_TIMEOUT_S
        )
        return found

    async def change(self, function: str, reason: str, **params: Any) -> Mapping[str, Any]:
        """Call a SQL function that records an action. Returns {before, after}. Raises SupportError if it refuses."""
        action = {"id": time_ordered_id(), "operator": self.operator, "reason": reason}
        done = await self.read(function, **params, p_action=action)
        if "refused" in done:
            raise SupportError(done["refused"])
        return done

    async def find_user(self, who: str) -> tuple[str, str]:
        """The user's id, and how the output names them. `who`: an id or e-mail address, a Stripe customer, or an id of
        something of theirs."""
        users: Sequence[Mapping[str, Any]] = await self.database.call(
            "find_users", {"p_who": who}, parse=results.records("id"), timeout_s=CALL_TIMEOUT_S
        )
        if not users:
            raise SupportError("No user has this e-mail address or id, or a query or message with this id.")
        if len(users) > 1:
            named = "; ".join(_user(one) for one in users)
            raise SupportError(f"{len(users)} users have this e-mail address. Use the id of one: {named}")
        return users[0]["id"], _user(users[0])

    def confirm(self, question: str, expected: str = "yes", *, is_confirmed: bool) -> None:
        """Go on only if the operator answers `expected`. Raises SupportError otherwise."""
        if not is_confirmed and read_answer(f"{self.subject}: {question} Type {expected} to go on:") != expected:
            raise SupportError("Nothing was changed.")


def _user(user: Mapping[str, Any]) -> str:
    state = (", deleted" if user["is_deleted"] else "") + ("" if user["is_confirmed"] else ", not confirmed")
    return f"{user['email'] or 'no e-mail address'}, user {user['id']}{state}"
