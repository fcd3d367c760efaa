"""`python -m infra.deploy <command>`: deploy, smoke, rollback, secrets, rotate. The Makefile has a target for each."""

import argparse
import getpass
import os
import re
import signal
import subprocess
import sys
from collections.abc import Mapping
from datetime import UTC, datetime
from pathlib import Path

from infra.deploy import database, preflight, rotate, smoke
from infra.deploy.release import Canary, release
from infra.deploy.secrets import NAMES, RING_OF_ONE, SERVICE_KEY, SIGNING, Secrets, with_one_ring
from infra.deploy.stage import FUNCTIONS, REGION, WITH_URL, DeployError, Stage, say
from infra.deploy.versions import Versions
from infra.local import env_file
from infra.local.processes import StackError
from infra.package import __main__ as package

CREDENTIALS = "Set AWS_PROFILE, or AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY: docs/deploy.md."


def main(arguments: list[str]) -> int:
    """The exit status: 1 after a failure, which is printed as a sentence."""
    options = parser().parse_args(arguments)
    own = dict(os.environ)
    try:
        Stage(options.stage, options.region)  # whose name is in the file's
        for name in [name for name, value in os.environ.items() if not value]:
            del os.environ[name]  # a workflow passes a variable that is not set as an empty one
        for name, value in _file_variables(options).items():
            os.environ.setdefault(name, value)
        options.run(options)
    except (DeployError, StackError) as error:
        print(f"{options.command}: {error}", file=sys.stderr)
        return 1
    except Exception as error:
        if not (sentence := _refused_by_aws(error)):
            raise
        print(f"{options.command}: {sentence}", file=sys.stderr)
        return 1
    finally:
        os.environ.clear()
        os.environ.update(own)
    return 0


def _refused_by_aws(error: Exception) -> str:
    """Why a call of AWS failed, as a sentence; empty for every other error."""
    from botocore.exceptions import BotoCoreError, ClientError, NoCredentialsError

    if isinstance(error, NoCredentialsError):
        return f"there are no AWS credentials. {CREDENTIALS}"
    return f"AWS: {error}" if isinstance(error, (BotoCoreError, ClientError)) else ""


def parser() -> argparse.ArgumentParser:
    """The commands and their options."""
    described = argparse.ArgumentParser(prog="python -m infra.deploy", description=__doc__, allow_abbrev=False)
    commands = described.add_subparsers(dest="command", required=True)
    for name, run in (
        ("deploy", deploy),
        ("smoke", look),
        ("rollback", rollback),
        ("secrets", fill_secrets),
        ("rotate", rotate_secret),
    ):
        command = commands.add_parser(name, allow_abbrev=False)
        command.set_defaults(run=run)
        command.add_argument("--stage", default="dev")
        command.add_argument("--region", default=REGION)
        command.add_argument("--file", type=Path, help="KEY=value lines; default: .env.<stage>, if there is one")
        if name == "deploy":
            command.add_argument("--param", action="append", default=[], help='name="value", as for osls')
            command.add_argument("--canary", type=_percent, default=None, help="percent of the chat's requests")
            command.add_argument("--minutes", type=float, default=5, help="how long the canary runs")
            command.add_argument("--reset", action="store_true", help="may switch off what the running stack has set")
            command.add_argument("--contract", action="store_true", help="also run migrations marked -- contract")
        if name in ("deploy", "smoke"):
            command.add_argument("--without-question", action="store_true", help="no user asks a question in prod")
        if name == "smoke":
            command.add_argument("--url", help="where every function is; otherwise the stage's own URLs are used")
        elif name == "secrets":
            command.add_argument("--replace", action="store_true", help="also entries that have another value")
            command.add_argument("--save", type=Path, help="write the present values into a new file")
        elif name == "rotate":
            command.add_argument("--secret", required=True, choices=NAMES)
            command.add_argument("--finish", action="store_true", help="leave only the first entry of a list")
    return described


def _percent(text: str) -> float:
    percent = float(text)
    if not 0 <= percent < 100:
        raise argparse.ArgumentTypeError("from 0 (none) to less than 100")
    return percent


def _file_variables(options: argparse.Namespace) -> dict[str, str]:
    """The variables of the stage's file, which the environment completes. Raises StackError."""
    path = options.file or package.ROOT / f".env.{options.stage}"
    if not options.file and not path.exists():
        return {}
    return {name: value for name, value in env_file.read(path).items() if value}


def _stage(options: argparse.Namespace) -> Stage:
    return Stage(options.stage, options.region)


# make deploy


def deploy(options: argparse.Namespace) -> None:
    """Check, migrate, upload, make live and look. Without AWS credentials it ends after the template, in CI as done."""
    stage = _stage(options)
    preflight.check_names(options.param)
    print(f"1. Preflight of {stage.stack} in {stage.region}")
    account = preflight.find_credentials(stage)
    osls = ["--stage", stage.name, "--region", stage.region, *(f"--param={one}" for one in options.param)]
    if package.main(osls) != 0:
        raise DeployError("The artifacts or the template could not be built.")
    template = preflight.Template.read()
    preflight.check_parameters(stage, template)
    if account is None:
        stopped = "there are no AWS credentials: it stops here, with the artifacts and the template finished"
        if not os.environ.get("CI"):
            raise DeployError(f"{stopped}. {CREDENTIALS}")
        say("note", stopped)
        return
    say("ok", f"AWS account {account}")
    if not preflight.has_room(stage, template.reserved, stage.client("lambda").get_account_settings()):
        osls.append("--param=reserveConcurrency=false")
    preflight.check_leftovers(stage)
    preflight.check_reset(stage, template, may_reset=options.reset)
    is_first = not _urls(stage)
    variables = dict(os.environ)
    if not is_first:
        variables |= _variables_of(stage, template)
        if token := _user(options, variables):
            os.environ["SMOKE_TOKEN"] = token
    needs_jwt_secret = preflight.check_supabase(stage, template)
    if is_first:
        say("note", "this is the first deployment: it creates the secrets, which you fill after it")
    elif not preflight.check_secrets(stage, template, needs_jwt_secret=needs_jwt_secret):
        raise DeployError(f"Complete the secrets (make secrets STAGE={stage.name}), then deploy again.")
    else:
        preflight.check_counterparts(stage, template)
        preflight.check_stripe(stage, template)
    print("2. Migrations")
    migrate(os.environ.get("DATABASE_URL"), with_contract=options.contract)
    print("3. Upload")
    _upload(osls)
    urls = _urls(stage)
    if is_first:
        print("The functions have URLs, and no secrets yet:")
        _print_urls(urls)
        print("Next: create Stripe's endpoint at the URL of webhooks with /webhooks/stripe (docs/billing.md), then")
        print(f"make secrets STAGE={stage.name}, then this command again.")
        return
    print("4. Versions, canary and smoke test")
    percent = options.canary if options.canary is not None else (10 if stage.is_production else 0)
    canary = Canary(percent / 100, options.minutes)

    def smoke_test() -> None:  # signs in again, because a canary can last longer than an access token
        smoke.run(smoke.Targets.of(urls, variables, on_lambda=True))

    release(stage, release_name(), canary, smoke_test, token=smoke.sign_in(variables))
    print("Live:")
    _print_urls(urls)
    print(f"Next: make rollback STAGE={stage.name} returns to the versions before. docs/runbook.md has the alarms.")


def _variables_of(stage: Stage, template: preflight.Template) -> dict[str, str]:
    """What the smoke test needs of the stage: where users sign in, the origins, and two secrets."""
    chat, secrets = template.environment("chat"), Secrets(stage)
    names = ("SUPABASE_URL", "SUPABASE_ANON_KEY", "ALLOWED_ORIGINS")
    found = {name: chat[name] for name in names if name in chat}
    return found | {name: secrets.value(name) or "" for name in (SIGNING, SERVICE_KEY)}


def _user(options: argparse.Namespace, variables: Mapping[str, str]) -> str | None:
    """The access token of the user who asks the question. Raises DeployError if production has none."""
    token = smoke.sign_in(variables)
    if _stage(options).is_production and not token and not options.without_question:
        raise DeployError(
            "No user asks a question: set SMOKE_EMAIL and SMOKE_PASSWORD, or SMOKE_TOKEN (docs/deploy.md), or "
            "WITHOUT_QUESTION=yes."
        )
    return token


def migrate(url: str | None, *, with_contract: bool) -> None:
    """Run what the database lacks. Raises DeployError."""
    if not url:
        raise DeployError(
            "DATABASE_URL is not set: the migrations need the direct connection or the session pooler (port 5432)."
        )
    with database.connect(url) as connection:
        found = database.pending(connection)
        if found.contracted:
            raise DeployError(
                f"The database has migrations that this checkout does not, and that took away what it may use: "
                f"{', '.join(found.contracted)}. The checkout is too old."
            )
        if found.newer:
            say("note", f"the database has migrations of newer code, which only added: {', '.join(found.newer)}")
        for migration in found.expand + (found.contract if with_contract else []):
            database.apply(connection, migration)
            say("ok", f"{migration.path.name} has run")
        if not found.expand:
            say("ok", "the database has every migration that the code needs")
        if found.contract and not with_contract:
            names = ", ".join(one.path.name for one in found.contract)
            say("note", f"left for the next release, with CONTRACT=yes: {names}")


def release_name() -> str:
    """What the versions of this deployment are called: its commit, and when."""
    found = subprocess.run(
        ["git", "describe", "--always", "--dirty"], cwd=package.ROOT, capture_output=True, text=True, check=False
    )
    return f"release {found.stdout.strip() or 'unknown'} {datetime.now(UTC):%Y-%m-%d %H:%M}"


def _upload(osls: list[str]) -> None:
    environment = {**os.environ, "PATH": f"{package.TOOLS}{os.pathsep}{os.environ.get('PATH', os.defpath)}"}
    done = subprocess.run([str(package.OSLS), "deploy", *osls], cwd=package.ROOT, env=environment, check=False)
    if done.returncode != 0:
        raise DeployError("osls could not deploy the stack (above). The aliases and so the live code are as before.")


def _urls(stage: Stage) -> dict[str, str]:
    """The functions' URLs by function; none before the first deployment."""
    outputs = stage.outputs() or {}
    found = {name: outputs.get(f"{name.capitalize()}LambdaFunctionUrl") for name in WITH_URL}
    return {name: url.rstrip("/") for name, url in found.items() if url}


def _print_urls(urls: Mapping[str, str]) -> None:
    for name, url in urls.items():
        print(f"  {name:<9} {url}")


# The other commands


def look(options: argparse.Namespace) -> None:
    """The smoke test alone."""
    if options.url:
        smoke.run(smoke.Targets.at(options.url, os.environ))
        return
    stage = _stage(options)
    urls, variables = _urls(stage), dict(os.environ)
    if not urls:
        raise DeployError(f"{stage.stack} does not exist in {options.region}: give a URL, or deploy it.")
    if "SMOKE_EMAIL" in variables:
        variables[SERVICE_KEY] = Secrets(stage).value(SERVICE_KEY) or ""
    _user(options, variables)
    smoke.run(smoke.Targets.of(urls, variables, on_lambda=True))


def rollback(options: argparse.Namespace) -> None:
    """Move the aliases to the versions before the last deployment."""
    versions = Versions(_stage(options))
    moved = versions.rollback()
    for name in FUNCTIONS:
        say("ok" if name in moved else "note", f"{name}: version {versions.live(name).version}")
    if unread := [name for name in moved if not versions.has_read(name)]:
        say("note", f"their secrets have changed since, and running processes have the old ones: {', '.join(unread)}")
    print(f"Next: make smoke STAGE={options.stage}. The database keeps its migrations, which older code can bear.")


def fill_secrets(options: argparse.Namespace) -> None:
    """Write the secrets of all functions from one file, or save them into one."""
    store = Secrets(_stage(options))
    if options.save:
        _save(store, options.stage, options.save)
        return
    given = with_one_ring({name: os.environ[name] for name in (*NAMES, RING_OF_ONE) if os.environ.get(name)})
    if not given:
        raise DeployError(f".env.{options.stage} has no value for {', '.join(NAMES)}: add them (docs/deploy.md).")
    if unknown := sorted(_file_variables(options).keys() - _known_variables()):
        say("note", f"not used: {', '.join(unknown)}")
    changed = store.write(given, replace=options.replace)
    for function in FUNCTIONS:
        names = changed.get(function)
        say("ok" if names else "note", f"{function}: {', '.join(names) if names else 'unchanged'}")
    if different := [name for name, value in given.items() if store.differs(name, value)]:
        say("note", f"kept, because it has another value: {', '.join(different)}. Change it with `make rotate`")
    print(f"Running functions keep what they read at their start: make deploy STAGE={options.stage} starts new ones.")


def _save(store: Secrets, stage: str, path: Path) -> None:
    """Write every value into a new file. One that differs between functions has a comment with each other value."""
    lines = []
    for name, values in store.all().items():
        lines += [f"{'# ' if number else ''}{name}={_quoted(name, value)}" for number, value in enumerate(values)]
        if len(values) > 1:
            say("note", f"{name} differs between functions: the file has the others as comments")
    if not lines:
        raise DeployError(f"no secret of {stage} has a value: nothing was saved.")
    try:
        descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    except OSError as error:
        raise DeployError(f"{path} cannot be written: {error.strerror}. Nothing was saved.") from None
    with os.fdopen(descriptor, "w", encoding="utf-8") as file:
        file.writelines(f"{line}\n" for line in lines)
    say("ok", f"saved into {path}, which only you can read")


def _quoted(name: str, value: str) -> str:
    """The value as a line of the file has it. Raises DeployError."""
    for text in (value, f"'{value}'", f'"{value}"'):
        if len(value.splitlines()) == 1 and env_file.value_of(text) == value:
            return text
    raise DeployError(f"{name} cannot be written as a line: copy it from Secrets Manager by hand. Nothing was saved.")


def _known_variables() -> set[str]:
    """The variables that a stage's file may have."""
    texts = [(package.ROOT / name).read_text(encoding="utf-8") for name in (".env.example", "serverless.yml")]
    found = {name for text in texts for name in re.findall(r"^([A-Z_]+)=|env:([A-Z_]+)", text, re.MULTILINE)}
    return {one for pair in found for one in pair if one} | {"DATABASE_URL", "SMOKE_TOKEN"}


def rotate_secret(options: argparse.Namespace) -> None:
    """Rotate one secret."""
    stage = _stage(options)
    stand_ins = {name: os.environ[name] for name in STAND_INS if os.environ.get(name)}
    if options.finish:
        rotate.finish(stage, options.secret, stand_ins, os.environ.get("SMOKE_TOKEN"), datetime.now(UTC))
    else:
        rotate.rotate(stage, options.secret, _ask_for, stand_ins)


STAND_INS = ("SUPABASE_URL", "SUPABASE_ANON_KEY", "ANTHROPIC_BASE_URL", "OPENAI_BASE_URL", "STRIPE_API_BASE")


def _ask_for(prompt: str) -> str:
    """The variable NEW, or what the operator types. It is never an argument: other users of a machine see those."""
    try:
        return os.environ.get("NEW") or getpass.getpass(prompt)
    except EOFError:
        raise DeployError("There is no terminal to ask for the new value: set NEW.") from None


def _interrupt(*_: object) -> None:
    """A cancelled workflow sends SIGTERM: what is half done is put back, as after Ctrl-C."""
    raise KeyboardInterrupt


if __name__ == "__main__":
    signal.signal(signal.SIGTERM, _interrupt)
    try:
        sys.exit(main(sys.argv[1:]))
    except KeyboardInterrupt:
        sys.exit(130)
