"""What is checked before a deployment changes anything."""

import json
import os
import re
import subprocess
import sys
from collections.abc import Mapping, Sequence
from typing import Any

import httpx
import jwt
from pydantic import TypeAdapter, ValidationError

from functions.common.settings import Origins
from infra.deploy import counterparts
from infra.deploy.secrets import ENTRIES, JWT_SECRET, SERVICE_KEY, STRIPE, Secrets, problems
from infra.deploy.stage import FUNCTIONS, DeployError, Stage, say
from infra.package.__main__ import ROOT, TEMPLATE

UNRESERVED = 100  # AWS keeps at least these for functions without a reservation
TIMEOUT_S = 10.0
OFF = {"", "off"}  # of a parameter that is not set
ASYMMETRIC = {"ES256", "RS256"}


class Template:
    """The CloudFormation template that `make package` has written."""

    def __init__(self, content: Mapping[str, Any]) -> None:
        self._resources: Mapping[str, Any] = content["Resources"]
        self._parameters: Mapping[str, Any] = content.get("Parameters", {})

    @classmethod
    def read(cls) -> "Template":
        """The template of this checkout."""
        return cls(json.loads(TEMPLATE.read_text(encoding="utf-8")))

    @classmethod
    def running(cls, stage: Stage) -> "Template | None":
        """The template of the stage's stack; None if there is no stack."""
        if stage.outputs() is None:
            return None
        return cls(stage.client("cloudformation").get_template(StackName=stage.stack)["TemplateBody"])

    def _function(self, name: str) -> Mapping[str, Any]:
        properties: Mapping[str, Any] = self._resources[f"{name.capitalize()}LambdaFunction"]["Properties"]
        return properties

    def environment(self, name: str) -> dict[str, str]:
        """A function's variables that are texts, so not the reference to its secret."""
        variables = self._function(name)["Environment"]["Variables"]
        return {key: value for key, value in variables.items() if isinstance(value, str)}

    @property
    def settings(self) -> dict[str, str]:
        """What an operator sets: the functions' variables that are texts, and CloudFormation's parameters, by name."""
        found = {name: str(one.get("Default", "")) for name, one in self._parameters.items()}
        for resource in self._resources.values():
            if resource["Type"] == "AWS::Lambda::Function":
                variables = resource["Properties"].get("Environment", {}).get("Variables", {})
                found |= {name: value for name, value in variables.items() if isinstance(value, str)}
        return found

    @property
    def reserved(self) -> int:
        """The concurrent executions that the functions reserve."""
        values = (self._function(name).get("ReservedConcurrentExecutions") for name in FUNCTIONS)
        return sum(value for value in values if isinstance(value, int))


def find_credentials(stage: Stage) -> str | None:
    """The account of the credentials in the environment; None where there are none. Raises DeployError."""
    from botocore.exceptions import BotoCoreError, ClientError, NoCredentialsError

    try:
        account: str = stage.client("sts").get_caller_identity()["Account"]
    except NoCredentialsError:
        return None
    except (BotoCoreError, ClientError) as error:
        raise DeployError(f"AWS does not accept the credentials ({type(error).__name__}).") from None
    return account


def has_room(stage: Stage, reserved: int, settings: Mapping[str, Any]) -> bool:
    """Whether the account's limit leaves room for the reservations. `settings`: of Lambda's GetAccountSettings."""
    limit = settings["AccountLimit"]
    ours = 0
    for name in FUNCTIONS:
        try:
            found = stage.client("lambda").get_function_concurrency(FunctionName=stage.function(name))
        except stage.client("lambda").exceptions.ResourceNotFoundException:
            continue  # before the first deployment
        ours += found.get("ReservedConcurrentExecutions") or 0
    free = limit["UnreservedConcurrentExecutions"] + ours
    if free - reserved >= UNRESERVED:
        say("ok", f"{reserved} concurrent executions can be reserved: {free} are free, and AWS keeps {UNRESERVED}")
        return True
    say(
        "note",
        f"nothing is reserved: the account's limit of {limit['ConcurrentExecutions']} concurrent executions has no "
        f"room for {reserved} and the {UNRESERVED} that AWS keeps. Ask AWS (Service Quotas) for "
        f"{reserved + UNRESERVED}; until then all functions share the limit",
    )
    return False


def check_parameters(stage: Stage, template: Template) -> None:
    """Refuse empty and insecure parameters in production; elsewhere only print them. Raises DeployError."""
    chat = template.environment("chat")
    required = ("SUPABASE_URL", "SUPABASE_ANON_KEY", "ALLOWED_ORIGINS", "PARLIAMENT_CONTACT")
    empty = [name for name in required if not chat.get(name)]
    if chat.get("ALLOWED_ORIGINS"):
        _require_origins(chat["ALLOWED_ORIGINS"])
    if stage.is_production:
        if empty:
            raise DeployError(f"{', '.join(empty)} must be set: see the table of parameters in docs/deploy.md.")
        if insecure := [one for one in chat["ALLOWED_ORIGINS"].split(",") if not one.startswith("https://")]:
            raise DeployError(f"ALLOWED_ORIGINS has {', '.join(insecure)}: in production every origin is https.")
        if not chat["SUPABASE_URL"].startswith("https://"):
            raise DeployError("SUPABASE_URL must start with https:// in production.")
    if empty:
        say("note", f"empty, which production refuses: {', '.join(empty)}")
    else:
        say("ok", f"the parameters are set: {chat['SUPABASE_URL']} for {chat['ALLOWED_ORIGINS']}")


def _require_origins(text: str) -> None:
    """Function URLs compare the text with the browser's header, so it must be written as browsers do."""
    try:
        accepted = TypeAdapter(Origins).validate_python(text)
    except ValidationError:
        accepted = frozenset()
    if wrong := [one for one in text.split(",") if one not in accepted or "*" in one]:
        raise DeployError(
            f"ALLOWED_ORIGINS has {', '.join(map(repr, wrong))}: write origins as https://example.org, without a slash "
            "at the end, with commas and no spaces between them."
        )


def check_names(parameters: Sequence[str]) -> None:
    """Refuse a parameter that serverless.yml does not have: osls would ignore it. `parameters`: name=value."""
    block = (ROOT / "serverless.yml").read_text(encoding="utf-8").partition("\nparams:\n")[2].partition("\n\n")[0]
    known = re.findall(r"^    (\w+):", block, re.MULTILINE)
    for parameter in parameters:
        name, equals, _ = parameter.partition("=")
        if name not in known:
            raise DeployError(f"There is no parameter {name}. There are {', '.join(known)}.")
        if not equals:
            raise DeployError(f"--param={name} has no value: write --param={name}=value.")


def check_reset(stage: Stage, template: Template, *, may_reset: bool) -> None:
    """Print what differs from the running stack's settings. Raises DeployError if one that is set would be empty."""
    running = Template.running(stage)
    before, after = running.settings if running else {}, template.settings
    changed = [name for name in sorted(before.keys() & after.keys()) if before[name] != after[name]]
    for name in changed:
        say("note", f"{name} changes from `{before[name]}` to `{after[name]}`")
    reset = [name for name in changed if before[name] not in OFF and after[name] in OFF]
    if reset and not may_reset:
        raise DeployError(
            f"The running stack has {', '.join(reset)}, and this deployment would switch it off. Set it as before "
            "(docs/deploy.md, Parameters), or deploy with RESET=yes."
        )


def check_leftovers(stage: Stage) -> None:
    """Refuse a first deployment where a removed stack has left secrets or logs, which it could not create again."""
    if stage.outputs() is not None:
        return
    secrets, logs = stage.client("secretsmanager"), stage.client("logs")
    kept, commands = [], []
    region = f"--region {stage.region}"  # the same names may be a running stage's in another one
    for name in FUNCTIONS:
        try:
            secrets.describe_secret(SecretId=stage.secret(name))
            kept.append(stage.secret(name))
        except secrets.exceptions.ResourceNotFoundException:
            pass
        group = f"/aws/lambda/{stage.function(name)}"
        if logs.describe_log_groups(logGroupNamePrefix=group)["logGroups"]:
            commands.append(f"aws logs delete-log-group {region} --log-group-name {group}")
    if kept:
        saved = f".env.{stage.name}.saved"
        delete = f"aws secretsmanager delete-secret {region} --force-delete-without-recovery --secret-id"
        make = f"make secrets STAGE={stage.name} REGION={stage.region}"
        commands = [f"{make} SAVE={saved}", *(f"{delete} {one}" for one in kept), *commands]
        commands.append(f"{make} FILE={saved}  # after the first deployment")
    if commands:
        raise DeployError("A removed stack has left secrets or logs. Save and delete them:\n  " + "\n  ".join(commands))


def check_secrets(stage: Stage, template: Template, *, needs_jwt_secret: bool) -> bool:
    """Whether every function's secret is filled and well-formed. Prints what is missing."""
    store, is_complete = Secrets(stage), True
    for name in FUNCTIONS:
        entries = store.read(name)
        found = problems(name, entries, template.environment(name))
        if needs_jwt_secret and JWT_SECRET in ENTRIES[name] and not entries.get(JWT_SECRET):
            found = f"{found} {JWT_SECRET} is missing: the project signs with HS256.".strip()
        say("FAIL" if found else "ok", f"secret {stage.secret(name)}: {found or 'complete'}")
        is_complete = is_complete and not found
    return is_complete


def check_supabase(stage: Stage, template: Template) -> bool:
    """Look at the project's keys and at Auth's public settings. Returns whether SUPABASE_JWT_SECRET is needed.

    Raises DeployError if the project cannot be reached.
    """
    chat = template.environment("chat")
    url, headers = chat["SUPABASE_URL"].rstrip("/"), {"apikey": chat["SUPABASE_ANON_KEY"]}
    try:
        published = httpx.get(f"{url}/auth/v1/.well-known/jwks.json", headers=headers, timeout=TIMEOUT_S)
        settings = httpx.get(f"{url}/auth/v1/settings", headers=headers, timeout=TIMEOUT_S)
        keys = published.json().get("keys", []) if published.status_code == 200 else []
        published_by = [key.get("alg") for key in keys]
        auth = settings.json() if settings.status_code == 200 else None
        providers = auth.get("external", {}) if auth is not None else {}
        has_anonymous = bool(providers.get("anonymous_users"))
    except (httpx.HTTPError, httpx.InvalidURL, ValueError, TypeError, AttributeError) as error:
        raise DeployError(f"Supabase at {url} does not answer as a project does ({type(error).__name__}).") from None
    # While a project migrates from HS256, it already publishes the key that it does not use yet.
    token = os.environ.get("SMOKE_TOKEN")
    try:
        found = [jwt.get_unverified_header(token).get("alg")] if token else published_by
    except jwt.InvalidTokenError:
        raise DeployError("SMOKE_TOKEN is no access token.") from None
    is_asymmetric = not ASYMMETRIC.isdisjoint(found)
    signer = "a key that it publishes" if is_asymmetric else f"{JWT_SECRET}, which the secrets must have"
    source = "SMOKE_TOKEN was signed" if token else "Supabase signs access tokens"
    say("ok" if is_asymmetric else "note", f"{source} with {signer}")
    if auth is None:
        raise DeployError(f"Supabase refuses SUPABASE_ANON_KEY (status {settings.status_code}).")
    for is_right, sentence in (
        (not auth.get("mailer_autoconfirm"), "e-mail addresses are confirmed (Auth: Confirm email)"),
        (not has_anonymous, "anonymous sign-ins are off"),
    ):
        say("ok" if is_right else "note", sentence if is_right else f"not as docs/security.md advises: {sentence}")
    return not is_asymmetric


def check_counterparts(stage: Stage, template: Template) -> None:
    """Ask each service whether it accepts its key. Raises DeployError."""
    store, environment = Secrets(stage), {**template.environment("chat"), **_stand_ins()}
    for name in (SERVICE_KEY, STRIPE, "ANTHROPIC_API_KEY", "OPENAI_API_KEY"):
        if value := store.value(name):
            counterparts.ask(name, value, environment)
            say("ok", f"{name} is accepted by its service")


def check_stripe(stage: Stage, template: Template) -> None:
    """Compare the products, prices, portal and webhook events at Stripe. Raises DeployError if they differ."""
    variables = {**os.environ, **template.environment("maintenance"), **Secrets(stage).read("maintenance")}
    command = [sys.executable, "-m", "functions.maintenance", "publish-catalog", "--check"]
    done = subprocess.run(
        command, cwd=ROOT, env=variables, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, check=False
    )
    if done.returncode != 0:
        print(done.stdout.strip())
        raise DeployError("Stripe differs from the tables (above): run publish-catalog, see docs/billing.md.")
    say("ok", "the products, prices, portal and webhook events at Stripe are those of the tables")


def _stand_ins() -> dict[str, str]:
    names = ("ANTHROPIC_BASE_URL", "OPENAI_BASE_URL", "STRIPE_API_BASE")
    return {name: os.environ[name] for name in names if os.environ.get(name)}
