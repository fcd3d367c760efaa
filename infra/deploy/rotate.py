"""Rotates one secret without a failed request: `make rotate STAGE=prod SECRET=STRIPE_SECRET_KEY`.

Most secrets are keys of an account that accepts the old and the new one meanwhile. The new one is checked with its
service, written into the secret of every function that has it, and read by new versions of them, which answer before
they get requests. Only then the operator deletes the old one.

Three secrets are lists, because it is us who accept them: the key ring, Stripe's signing secrets and Supabase's JWT
secret. The new one is added in front; FINISH=yes leaves only that one.

What is left to do is read from AWS, so a command that was killed is run again with the same value and continues.
"""

import os
import re
import secrets as random
import subprocess
import sys
from collections.abc import Callable, Mapping, Sequence
from datetime import UTC, datetime, timedelta

from functions.common.vault import REFRESH_S
from infra.deploy import counterparts
from infra.deploy.secrets import (
    JWT_SECRET,
    LISTS,
    NAMES,
    RING,
    SERVICE_KEY,
    SIGNING,
    STRIPE,
    Secrets,
    entries_of,
    merged,
    problems,
    users_of,
)
from infra.deploy.stage import FUNCTIONS, DeployError, Stage, say
from infra.deploy.versions import Versions

WHERE_TO_DELETE = {
    SERVICE_KEY: "Supabase (Project Settings, API Keys)",
    "ANTHROPIC_API_KEY": "Anthropic's console",
    "OPENAI_API_KEY": "OpenAI's platform",
    STRIPE: "Stripe (Developers, API keys)",
}
RING_SETTLES = timedelta(seconds=REFRESH_S)  # after which no process encrypts with an older ring
# The lines of events that the first of the signing secrets signed, without those of the smoke test.
SIGNED_BY_FIRST = '{ $.message = "stripe event" && $.signed_by = 0 && $.event_id != "evt_smoke_*" }'
FIRST = re.compile(r'"signed_by": ?0\b')


def rotate(stage: Stage, name: str, ask_for: Callable[[str], str], environment: Mapping[str, str]) -> None:
    """Put a new value in the place of a secret. `ask_for` gets a prompt and returns the new value.

    Raises DeployError, with the secrets and aliases as they were.
    """
    store, versions = Secrets(stage), Versions(stage)
    _require_known(name)
    _require_live(versions, name)
    before = {function: store.read(function) for function in users_of(name)}
    present = [entries.get(name) for entries in before.values()]
    is_complete = len(set(present)) == 1 and all(versions.has_read(function) for function in before)
    if name == RING and present[0] and not is_complete:
        value = merged(present)
        say("note", "this completes what was interrupted, and makes no key. For a new key, run it again")
    else:
        value = new_value(name, present, ask_for, datetime.now(UTC))
    if is_complete and value == present[0]:
        say("ok", f"{name} has this value already, and what is live has read it: nothing was changed")
        return
    environment = {**_environment(stage), **environment}
    for function, entries in before.items():
        if wrong := problems(function, {**entries, name: value}, environment):
            raise DeployError(f"{function} could not start with the new value: {wrong} Nothing was changed.")
    if name in LISTS:
        say("note", f"{name} gets a new first entry; the others stay valid")
    else:
        counterparts.ask(name, value, environment)
        say("ok", f"the new {name} is accepted by its service")
    _install(store, versions, name, value, before)
    for line in next_steps(stage, name):
        print(line)


def finish(stage: Stage, name: str, environment: Mapping[str, str], token: str | None, now: datetime) -> None:
    """Leave only the first entry of a secret that is a list, if it is known to be in use.

    Raises DeployError, with everything as it was.
    """
    store, versions = Secrets(stage), Versions(stage)
    _require_known(name)
    if name not in LISTS:
        raise DeployError(f"{name} has one value: there is nothing to finish. Delete the old key at its service.")
    _require_live(versions, name)
    before = {function: store.read(function) for function in users_of(name)}
    lists = {function: entries_of(entries.get(name)) for function, entries in before.items()}
    unread = [function for function in lists if not versions.has_read(function)]
    firsts = {"".join(entries[:1]) for entries in lists.values()}
    if len(firsts) > 1 or any(len(lists[function]) > 1 for function in unread):
        raise DeployError(f"The rotation of {name} is not complete: run it again without FINISH, then this.")
    if all(len(entries) < 2 for entries in lists.values()) and not (unread and firsts != {""}):
        raise DeployError(f"{name} has one entry: there is nothing to finish.")
    first = firsts.pop()
    environment = {**_environment(stage), **environment}
    if name == RING:
        written = [store.written_at(function) for function, entries in lists.items() if len(entries) > 1]
        if left := [at for at in written if at and now - at < RING_SETTLES]:
            raise DeployError(f"Some processes may have the old ring until {max(left) + RING_SETTLES:%H:%M:%S} UTC.")
        _encrypt_again(store, environment)
    if name == SIGNING and len(lists["webhooks"]) > 1 and not _has_arrived(stage, store, versions):
        raise DeployError(
            "No event of Stripe signed with the new secret has reached the live version of webhooks: resend one in "
            "Stripe (Developers, Webhooks), or compare the secret with the endpoint's. Nothing was changed."
        )
    if name == JWT_SECRET and not (token and counterparts.signs(first, token)):
        raise DeployError(
            "Set SMOKE_TOKEN to an access token that Supabase signed with the new secret: until there is one, "
            "the old secret may still be in use. Nothing was changed."
        )
    _install(store, versions, name, first, before)


def new_value(name: str, present: Sequence[str | None], ask_for: Callable[[str], str], now: datetime) -> str:
    """The value that is written: for a list the new entry before those of any function. Raises DeployError."""
    old = merged(present) if name in LISTS else ""
    if name == RING:
        key_id = f"{now:%Y-%m-%d}"
        if key_id in {entry.partition(":")[0] for entry in entries_of(old)}:
            key_id = f"{now:%Y-%m-%d-%H%M%S}"
        added = f"{key_id}:{random.token_hex(32)}"
    else:
        added = ask_for(f"The new {name}: ").strip()
    if not added:
        raise DeployError(f"No new value for {name}: type it, or set NEW.")
    if name == STRIPE and any(one and ("_live_" in one) != ("_live_" in added) for one in present):
        raise DeployError(f"{name}: one key is live and the other is for tests. Nothing was changed.")
    return ",".join(dict.fromkeys([*entries_of(added), *entries_of(old)])) if name in LISTS else added


def next_steps(stage: Stage, name: str) -> list[str]:
    """What the operator does after a rotation."""
    again = f"make rotate STAGE={stage.name} SECRET={name} FINISH=yes"
    if name == RING:
        return [f"Next: wait five minutes, then {again}. It encrypts the stored keys again and drops the old key."]
    if name == SIGNING:
        return [f"Next: when Stripe has stopped signing with the old secret (its roll takes up to a day), {again}."]
    if name == JWT_SECRET:
        return [f"Next: make the new key current in Supabase, wait until old tokens have expired, then {again}."]
    return [f"Next: delete the old key in {WHERE_TO_DELETE[name]}. Do not roll back to before this rotation after it."]


def _install(
    store: Secrets, versions: Versions, name: str, value: str, before: Mapping[str, Mapping[str, str]]
) -> None:
    """Write the value, and move the aliases to versions that have read it. Undoes the writing if a version fails."""
    description = f"{name} set {datetime.now(UTC):%Y-%m-%d %H:%M:%S}"
    try:
        store.write({name: value}, replace=True)
        say("ok", f"written into the secrets of {', '.join(before)}")
        started = {function: versions.publish(function, description) for function in before}
        for function, version in started.items():
            versions.check(function, version)
            say("ok", f"version {version} of {function} answers with it")
    except BaseException:
        store.restore(before)
        say("note", "the secrets are as they were, and no alias has moved. Processes that started meanwhile may have")
        say("note", "read the new value: keep it valid until the next deployment or rotation, which starts new ones")
        raise
    for function, version in started.items():
        versions.move(function, version)
    say("ok", "every alias has moved")


def _has_arrived(stage: Stage, store: Secrets, versions: Versions) -> bool:
    """Whether a process that has the list now has received an event that its first secret signed."""
    version, written_at = versions.live("webhooks").version, store.written_at("webhooks")
    pages = (
        stage.client("logs")
        .get_paginator("filter_log_events")
        .paginate(
            logGroupName=f"/aws/lambda/{stage.function('webhooks')}",
            startTime=int(written_at.timestamp() * 1000) if written_at else 0,
            filterPattern=SIGNED_BY_FIRST,
        )
    )
    return any(
        f"[{version}]" in event["logStreamName"]
        and FIRST.search(event["message"])
        and '"evt_smoke_' not in event["message"]
        for page in pages
        for event in page["events"]
    )


def _encrypt_again(store: Secrets, environment: Mapping[str, str]) -> None:
    """Run the job rotate-keys until it leaves nothing. Raises DeployError."""
    variables = {**os.environ, **environment, **store.read("keys")}
    command = [sys.executable, "-m", "functions.maintenance", "rotate-keys"]
    for _ in range(3):
        done = subprocess.run(command, env=variables, stdout=subprocess.PIPE, text=True, check=False)
        if done.returncode != 0:
            raise DeployError("rotate-keys failed or found unreadable rows (above): the old keys stay in the ring.")
        if '"rotated": 0, "left": 0' in done.stdout:
            say("ok", "every stored key is encrypted with the newest key of the ring")
            return
    raise DeployError("Keys are still stored with an old key of the ring: some process has an old ring. Try again.")


def _environment(stage: Stage) -> dict[str, str]:
    """The variables of the deployed functions, such as SUPABASE_URL."""
    variables: dict[str, str] = {}
    for function in FUNCTIONS:
        found = stage.client("lambda").get_function_configuration(FunctionName=stage.function(function))
        variables |= (found.get("Environment") or {}).get("Variables") or {}
    return {name: value for name, value in variables.items() if name != "SECRETS_ID" and not name.startswith("AWS_")}


def _require_known(name: str) -> None:
    if name not in NAMES:
        raise DeployError(f"SECRET is one of {', '.join(NAMES)}.")


def _require_live(versions: Versions, name: str) -> None:
    if canaries := [name for name in FUNCTIONS if versions.live(name).canary]:
        raise DeployError(f"A canary of {', '.join(canaries)} runs: wait for its end, or roll it back.")
    for function in users_of(name):
        versions.require_live(function)
