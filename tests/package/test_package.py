"""What `python -m infra.package` promises of the artifact and the template that are deployed.

The checkout's functions are built twice, side by side in two temporary trees with traps in them: files that must
not be packaged, and secrets in the environment that must not be written down.
"""

import fcntl
import hmac
import http.client
import json
import os
import random
import re
import shutil
import signal
import socket
import stat
import subprocess
import sys
import time
import zipfile
from base64 import b64encode
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from importlib.metadata import packages_distributions
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest

from functions.common.billing.events import WITHIN_S
from functions.maintenance.handler import JOBS
from infra.package import __main__ as package

# Two builds of every artifact come before the first test, on processors that other tests have as well.
pytestmark = pytest.mark.timeout(600)

ROOT = Path(__file__).resolve().parents[2]
MARKER = "never-to-be-written-down"
NAMES = ("chat", "keys", "checkout", "webhooks", "maintenance")
SECRETS = (
    "SUPABASE_SERVICE_ROLE_KEY",
    "ANTHROPIC_API_KEY",
    "OPENAI_API_KEY",
    "ENCRYPTION_KEY",
    "STRIPE_SECRET_KEY",
    "STRIPE_WEBHOOK_SECRET",
)
ORIGINS = "https://app.example,https://www.example"
TRAPS = (
    "functions/chat/tests/test_trap.py",
    "functions/chat/test_trap.py",
    "functions/chat/__pycache__/trap.cpython-311.pyc",
    "functions/common/.trap",
    "functions/trap/handler.py",
)


@dataclass(frozen=True, slots=True)
class Packaged:
    """Two builds of one set of sources, and what the first one said."""

    first: Path
    second: Path
    output: str

    def artifact(self, name: str = "chat") -> Path:
        return self.first / ".build" / f"{name}.zip"

    @property
    def template(self) -> dict[str, Any]:
        path = self.first / ".serverless" / "cloudformation-template-update-stack.json"
        return json.loads(path.read_text())  # type: ignore[no-any-return]

    def properties(self, kind: str) -> list[dict[str, Any]]:
        """The properties of every resource of one type."""
        return [r["Properties"] for r in self.template["Resources"].values() if r["Type"] == kind]

    def resource(self, logical_id: str) -> dict[str, Any]:
        """The properties of one resource."""
        return self.template["Resources"][logical_id]["Properties"]  # type: ignore[no-any-return]

    def function(self, name: str = "chat") -> dict[str, Any]:
        return self.resource(f"{name.capitalize()}LambdaFunction")

    def environment(self, name: str = "chat") -> dict[str, Any]:
        return self.function(name)["Environment"]["Variables"]  # type: ignore[no-any-return]


def plant(tree: Path) -> Path:
    """A copy of what packaging reads, with the traps, and with a stand-in where the app is not written yet."""
    ignored = shutil.ignore_patterns("node_modules", "__pycache__")
    for folder in ("functions", "requirements", "infra/package", "infra/resources"):
        shutil.copytree(ROOT / folder, tree / folder, ignore=ignored)
    shutil.copy(ROOT / "serverless.yml", tree)
    (tree / "infra/package/node_modules").symlink_to(ROOT / "infra/package/node_modules")
    for trap in TRAPS:
        (tree / trap).parent.mkdir(parents=True, exist_ok=True)
        (tree / trap).write_text("raise SystemExit('packaged by mistake')\n")
    (tree / "functions/common/planted.py").write_text("PLANTED = True\n")
    return tree


def build_in(trees: Mapping[Path, Sequence[str]]) -> list[str]:
    """Packages in each tree with Python's arguments, all at once, with no AWS credentials and every secret in sight."""
    environment = {name: value for name, value in os.environ.items() if not name.startswith(("AWS_", "PYTHONPATH"))}
    environment |= {"ALLOWED_ORIGINS": ORIGINS, **dict.fromkeys(SECRETS, MARKER)}
    builds = [
        subprocess.Popen(
            [sys.executable, *arguments],
            cwd=tree,
            env=environment,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )
        for tree, arguments in trees.items()
    ]
    outputs = [build.communicate(timeout=540)[0] for build in builds]
    for build, output in zip(builds, outputs, strict=True):
        assert build.returncode == 0, output
    return outputs


@pytest.fixture(scope="session")
def packaged(tmp_path_factory: pytest.TempPathFactory) -> Packaged:
    """Built once a test run: workers of pytest-xdist share the parent of their own temporary folder."""
    base = tmp_path_factory.getbasetemp()
    if "PYTEST_XDIST_WORKER" in os.environ:
        base = base.parent
    first, second, said = base / "package-a", base / "package-b", base / "package-output.txt"
    with (base / "package.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if not said.exists():
            shutil.copytree(plant(first), second, symlinks=True)
            any_ = random.randrange(len(NAMES))  # noqa: S311
            one = f"from infra.package.__main__ import *; build(FUNCTIONS[{any_}], find_compiler())"
            again = ["-m", "infra.package"] if os.environ.get("PROVE") else ["-c", one]
            said.write_text(build_in({first: ["-m", "infra.package"], second: again})[0])
    return Packaged(first, second, said.read_text())


# The template


@pytest.mark.parametrize(
    ("name", "mode"), [("chat", "RESPONSE_STREAM"), ("keys", None), ("checkout", None), ("webhooks", None)]
)
def test_the_url_leaves_authentication_to_the_app_and_the_chats_streams(
    packaged: Packaged, name: str, mode: str | None
) -> None:
    """AuthType NONE needs both permissions: without the second, every request is answered 403."""
    logical_id = f"{name.capitalize()}LambdaFunctionUrl"
    url = packaged.resource(logical_id)
    assert url.get("InvokeMode") == mode
    assert url["AuthType"] == "NONE"
    permissions = [
        p for p in packaged.properties("AWS::Lambda::Permission") if p["FunctionName"] == url["TargetFunctionArn"]
    ]
    assert {
        (p["Action"], p["Principal"], p.get("FunctionUrlAuthType"), p.get("InvokedViaFunctionUrl")) for p in permissions
    } == {
        ("lambda:InvokeFunctionUrl", "*", "NONE", None),
        ("lambda:InvokeFunction", "*", None, True),
    }
    assert packaged.template["Outputs"][logical_id]["Value"] == {"Fn::GetAtt": [logical_id, "FunctionUrl"]}


def test_there_is_one_of_each_for_every_function_and_no_more(packaged: Packaged) -> None:
    """The maintenance function has no URL; the one role beyond the functions' is the scheduler's."""
    for kind, count in (
        ("AWS::Lambda::Function", len(NAMES)),
        ("AWS::SecretsManager::Secret", len(NAMES)),
        ("AWS::Lambda::Url", len(NAMES) - 1),
        ("AWS::IAM::Role", len(NAMES) + 1),
    ):
        assert len(packaged.properties(kind)) == count, kind


@pytest.mark.parametrize(
    ("name", "methods"),
    [
        ("chat", {"GET", "POST"}),
        ("keys", {"GET", "POST", "PUT", "DELETE"}),
        ("checkout", {"GET", "POST", "PATCH"}),
    ],
)
def test_the_url_answers_preflights_for_the_allowed_origins_only(
    packaged: Packaged, name: str, methods: set[str]
) -> None:
    cors = packaged.resource(f"{name.capitalize()}LambdaFunctionUrl")["Cors"]
    assert cors["AllowOrigins"] == {"Fn::Split": [",", ORIGINS]}
    assert set(cors["AllowMethods"]) == methods
    assert set(cors["AllowHeaders"]) == {"authorization", "content-type", "accept", "x-client-info"}
    assert set(cors["ExposeHeaders"]) == {"x-request-id", "retry-after", "x-vercel-ai-ui-message-stream"}
    assert 0 < cors["MaxAge"] <= 86_400
    assert "AllowCredentials" not in cors
    assert packaged.environment(name)["ALLOWED_ORIGINS"] == ORIGINS


def test_no_browser_is_let_in_to_the_webhooks(packaged: Packaged) -> None:
    assert "Cors" not in packaged.resource("WebhooksLambdaFunctionUrl")


def test_automatic_tax_is_off_unless_it_is_asked_for(packaged: Packaged) -> None:
    assert packaged.environment("checkout")["STRIPE_AUTOMATIC_TAX"] == ""


def test_the_function_runs_under_the_web_adapter(packaged: Packaged) -> None:
    assert packaged.function()["Layers"] == [
        "arn:aws:lambda:ca-central-1:753240598075:layer:LambdaAdapterLayerArm64:27",
    ]
    assert packaged.function()["Handler"] == "functions/chat/run.sh"
    expected = {
        "AWS_LAMBDA_EXEC_WRAPPER": "/opt/bootstrap",
        "AWS_LWA_INVOKE_MODE": "response_stream",
        "AWS_LWA_READINESS_CHECK_PATH": "/health",
    }
    assert expected.items() <= packaged.environment().items()
    assert packaged.environment()["AWS_LWA_PORT"].isdecimal()


@pytest.mark.parametrize(
    ("name", "seconds"), [("chat", 180), ("keys", 15), ("checkout", 20), ("webhooks", 30), ("maintenance", 900)]
)
def test_what_one_request_and_all_together_can_cost_is_bounded(packaged: Packaged, name: str, seconds: int) -> None:
    function = packaged.function(name)
    assert function["Timeout"] == seconds
    assert 0 < function["ReservedConcurrentExecutions"] <= 1000
    assert function["MemorySize"] <= 2048
    log = packaged.resource(f"{name.capitalize()}LogGroup")
    assert log["LogGroupName"] == f"/aws/lambda/{function['FunctionName']}"
    assert log["RetentionInDays"] > 0


@pytest.mark.parametrize("name", NAMES)
def test_the_role_writes_its_own_log_and_reads_its_own_secret(packaged: Packaged, name: str) -> None:
    """No `*` anywhere, no managed policy, and no second role that osls made up."""
    role = packaged.resource(f"{name.capitalize()}Role")
    assert packaged.function(name)["Role"] == {"Fn::GetAtt": [f"{name.capitalize()}Role", "Arn"]}
    assert "ManagedPolicyArns" not in role
    (policy,) = role["Policies"]
    allowed: dict[str, list[str]] = {}
    for statement in policy["PolicyDocument"]["Statement"]:
        assert statement["Effect"] == "Allow"
        assert set(statement) <= {"Sid", "Effect", "Action", "Resource"}
        actions = statement["Action"] if isinstance(statement["Action"], list) else [statement["Action"]]
        for action in actions:
            allowed.setdefault(json.dumps(statement["Resource"]), []).append(action)
    assert "*" not in json.dumps(allowed)
    assert {resource: sorted(actions) for resource, actions in allowed.items()} == {
        json.dumps({"Fn::GetAtt": [f"{name.capitalize()}LogGroup", "Arn"]}): [
            "logs:CreateLogStream",
            "logs:PutLogEvents",
        ],
        json.dumps(packaged.environment(name)["SECRETS_ID"]): ["secretsmanager:GetSecretValue"],
    }
    assert packaged.environment(name)["SECRETS_ID"] == {"Ref": f"{name.capitalize()}Secrets"}


@pytest.mark.parametrize("name", NAMES)
def test_only_lambda_can_take_a_functions_role(packaged: Packaged, name: str) -> None:
    (statement,) = packaged.resource(f"{name.capitalize()}Role")["AssumeRolePolicyDocument"]["Statement"]
    assert statement["Principal"] == {"Service": "lambda.amazonaws.com"}
    assert statement["Action"] == "sts:AssumeRole"


@pytest.mark.parametrize("name", NAMES)
def test_no_secret_is_written_down(packaged: Packaged, name: str) -> None:
    """Neither a variable that would hold one, nor, though the build saw them all, one's value in any output."""
    suspicious = {v for v in packaged.environment(name) if "KEY" in v or "SECRET" in v or "TOKEN" in v}
    assert suspicious == {"SECRETS_ID", "SUPABASE_ANON_KEY"}
    for path in packaged.first.joinpath(".serverless").iterdir():
        assert MARKER not in path.read_text(), path.name
    with zipfile.ZipFile(packaged.artifact(name)) as archive:
        ours = [entry for entry in archive.namelist() if entry.startswith("functions/")]
        assert not [entry for entry in ours if MARKER.encode() in archive.read(entry)]
    assert MARKER not in packaged.output


def test_the_secrets_outlive_the_stack_and_are_created_empty(packaged: Packaged) -> None:
    """Without the encryption key, the keys that users stored could never be opened again."""
    for name in NAMES:
        secret = packaged.template["Resources"][f"{name.capitalize()}Secrets"]
        assert secret["DeletionPolicy"] == secret["UpdateReplacePolicy"] == "Retain"
        assert "SecretString" not in secret["Properties"]


# The schedules

# When a job runs: the time from one start to the next, or the hour and minute of each day, or of one day of the month.
WHEN: dict[str, timedelta | tuple[int, int] | tuple[int, int, int]] = {
    "release-stale-holds": timedelta(minutes=1),
    "retry-events": timedelta(minutes=15),
    "bill-overages": timedelta(hours=1),
    "expire-credits": (0, 10),
    "cleanup-expired-conversations": (2, 0),
    "purge-events": (3, 0),
    "reconcile": (5, 0),
    "reset-monthly-overages": (1, 0, 0),
    "margin-report": (2, 6, 0),
}
YEAR = datetime(2028, 1, 1, tzinfo=UTC)  # a leap year
DAYS = [YEAR + timedelta(days=n) for n in range(366)]


def expanded(field: str, whole: range) -> set[int]:
    """One field of a cron expression, of `*`, numbers and `first/step` alone."""
    if field == "*":
        return set(whole)
    assert re.fullmatch(r"\d+(/\d+)?", field), field
    first, _, step = field.partition("/")
    assert int(first) in whole
    return set(range(int(first), whole.stop, int(step))) if step else {int(first)}


def starts(expression: str) -> list[datetime]:
    """Every time in YEAR. AWS wants `?` for one of the two days, and a sixth field, the year."""
    fields = re.fullmatch(r"cron\((\S+) (\S+) (\S+) (\S+) \? \*\)", expression)
    assert fields, expression
    wholes = (range(60), range(24), range(1, 32), range(1, 13))
    minutes, hours, days, months = map(expanded, fields.groups(), wholes)
    return [
        day + timedelta(hours=hour, minutes=minute)
        for day in DAYS
        if day.month in months and day.day in days
        for hour in sorted(hours)
        for minute in sorted(minutes)
    ]


def schedules(packaged: Packaged) -> dict[str, dict[str, Any]]:
    """Job: the schedule whose event names it."""
    found = packaged.properties("AWS::Scheduler::Schedule")
    by_job = {json.loads(schedule["Target"]["Input"])["job"]: schedule for schedule in found}
    assert len(by_job) == len(found), "a job has two schedules"
    return by_job


def test_no_job_is_scheduled_but_these(packaged: Packaged) -> None:
    """None that is for a person to run: rotate-keys, which needs the ring, export-user and delete-user."""
    assert schedules(packaged).keys() == WHEN.keys()


def test_the_scheduled_jobs_exist(packaged: Packaged) -> None:
    assert schedules(packaged).keys() - JOBS.keys() == set()


@pytest.mark.parametrize("job", WHEN)
def test_a_job_starts_when_it_should(packaged: Packaged, job: str) -> None:
    when, times = WHEN[job], starts(schedules(packaged)[job]["ScheduleExpression"])
    if isinstance(when, timedelta):
        assert len(times) == timedelta(days=366) / when
        assert {later - earlier for earlier, later in pairwise(times)} == {when}
    else:
        *of_month, hour, minute = when
        days = [day for day in DAYS if not of_month or day.day in of_month]
        assert times == [day.replace(hour=hour, minute=minute) for day in days]


def test_no_more_jobs_start_at_once_than_may_run(packaged: Packaged) -> None:
    at_once = Counter(time for s in schedules(packaged).values() for time in starts(s["ScheduleExpression"]))
    assert max(at_once.values()) <= packaged.function("maintenance")["ReservedConcurrentExecutions"]


@pytest.mark.parametrize("job", WHEN)
def test_a_schedule_sends_the_job_to_the_function_on_time_and_in_utc(packaged: Packaged, job: str) -> None:
    schedule = schedules(packaged)[job]
    assert schedule["Name"] == job
    assert schedule["GroupName"] == {"Ref": "MaintenanceSchedules"}
    assert schedule["ScheduleExpressionTimezone"] == "UTC"
    assert schedule["FlexibleTimeWindow"] == {"Mode": "OFF"}
    assert schedule.get("State", "ENABLED") == "ENABLED"
    target = schedule["Target"]
    assert target["Arn"] == {"Fn::GetAtt": ["MaintenanceLambdaFunction", "Arn"]}
    assert target["RoleArn"] == {"Fn::GetAtt": ["MaintenanceSchedulesRole", "Arn"]}
    assert json.loads(target["Input"]) == {"job": job}


@pytest.mark.parametrize("job", WHEN)
def test_an_event_that_cannot_be_handed_over_is_tried_again_until_the_job_comes_again(
    packaged: Packaged, job: str
) -> None:
    first, second = starts(schedules(packaged)[job]["ScheduleExpression"])[:2]
    retry = schedules(packaged)[job]["Target"]["RetryPolicy"]
    if second - first < timedelta(hours=1):
        assert retry == {"MaximumRetryAttempts": 0}
    else:
        assert retry.get("MaximumRetryAttempts", 185) > 0
        assert timedelta(minutes=15) < timedelta(seconds=retry["MaximumEventAgeInSeconds"]) < second - first


def test_the_scheduler_may_start_the_jobs_and_nothing_else(packaged: Packaged) -> None:
    role = packaged.resource("MaintenanceSchedulesRole")
    assert "ManagedPolicyArns" not in role
    (policy,) = role["Policies"]
    (statement,) = policy["PolicyDocument"]["Statement"]
    assert {name: value for name, value in statement.items() if name != "Sid"} == {
        "Effect": "Allow",
        "Action": "lambda:InvokeFunction",
        "Resource": {"Fn::GetAtt": ["MaintenanceLambdaFunction", "Arn"]},
    }


def test_only_our_own_schedules_can_take_the_schedulers_role(packaged: Packaged) -> None:
    (statement,) = packaged.resource("MaintenanceSchedulesRole")["AssumeRolePolicyDocument"]["Statement"]
    assert statement == {
        "Effect": "Allow",
        "Principal": {"Service": "scheduler.amazonaws.com"},
        "Action": "sts:AssumeRole",
        "Condition": {
            "StringEquals": {
                "aws:SourceAccount": {"Ref": "AWS::AccountId"},
                "aws:SourceArn": {"Fn::GetAtt": ["MaintenanceSchedules", "Arn"]},
            }
        },
    }
    assert len(packaged.properties("AWS::Scheduler::ScheduleGroup")) == 1


def test_nobody_else_is_let_in_to_the_jobs(packaged: Packaged) -> None:
    """No URL, no permission for another service, no rule that would start one."""
    assert "MaintenanceLambdaFunctionUrl" not in packaged.template["Resources"]
    assert "MaintenanceLambdaFunction" not in json.dumps(packaged.properties("AWS::Lambda::Permission"))
    assert not packaged.properties("AWS::Events::Rule")


def test_a_job_that_failed_is_tried_again_while_its_event_lasts(packaged: Packaged) -> None:
    """The scheduler does not hear of it. Lambda waits one minute, then two."""
    (config,) = packaged.properties("AWS::Lambda::EventInvokeConfig")
    assert (config["FunctionName"], config["Qualifier"]) == ({"Ref": "MaintenanceLambdaFunction"}, "$LATEST")
    assert config["MaximumRetryAttempts"] == 2
    assert config["MaximumEventAgeInSeconds"] > 3 * packaged.function("maintenance")["Timeout"] + 3 * 60


# The artifact


@pytest.mark.parametrize(
    ("function", "own"),
    [
        ("chat", {"functions/chat/run.sh", "uvicorn/main.py"}),
        ("keys", {"functions/keys/handler.py", "mangum/adapter.py"}),
        ("checkout", {"functions/checkout/handler.py", "mangum/adapter.py", "stripe/__init__.py"}),
        ("webhooks", {"functions/webhooks/handler.py", "mangum/adapter.py", "stripe/__init__.py"}),
        ("maintenance", {"functions/maintenance/handler.py", "cryptography/__init__.py", "stripe/__init__.py"}),
    ],
)
def test_the_artifact_holds_the_function_and_common_and_no_more_of_this_project(
    packaged: Packaged, function: str, own: set[str]
) -> None:
    with zipfile.ZipFile(packaged.artifact(function)) as archive:
        names = {name for name in archive.namelist() if "__pycache__" not in name}
        assert not [name for name in archive.namelist() if "trap" in name]
    assert own | {"functions/common/planted.py"} <= names
    folders = {name.split("/")[1] for name in names if name.startswith("functions/")}
    assert folders <= {function, "common", "__init__.py"}
    assert not [name for name in names if name.startswith(("tests/", "infra/", "sql/", "bench/", "bin/", "boto"))]


@pytest.mark.parametrize("function", NAMES)
def test_the_artifact_carries_every_locked_package(packaged: Packaged, function: str) -> None:
    """As many as the lock names for Lambda: those that are marked as another platform's stay out."""
    locked = {
        line.split("==")[0].replace("-", "_").lower()
        for line in (ROOT / f"requirements/{function}.txt").read_text().splitlines()
        if "==" in line and "sys_platform == 'emscripten'" not in line
    }
    with zipfile.ZipFile(packaged.artifact(function)) as archive:
        carried = {
            name.split("-")[0].replace(".", "_").lower()
            for name in archive.namelist()
            if name.endswith(".dist-info/METADATA")
        }
    assert carried == locked


def test_the_jobs_carry_no_web_framework(packaged: Packaged) -> None:
    with zipfile.ZipFile(packaged.artifact("maintenance")) as archive:
        carried = {name.split("/")[0] for name in archive.namelist()}
    assert carried.isdisjoint({"fastapi", "starlette", "mangum", "uvicorn", "jwt", "anthropic", "openai"})


def test_the_script_that_lambda_starts_is_executable(packaged: Packaged) -> None:
    with zipfile.ZipFile(packaged.artifact()) as archive:
        assert archive.getinfo("functions/chat/run.sh").external_attr >> 16 == stat.S_IFREG | 0o755
        assert archive.getinfo("functions/common/planted.py").external_attr >> 16 == stat.S_IFREG | 0o644


def test_every_native_library_is_for_lambdas_processor(packaged: Packaged) -> None:
    with zipfile.ZipFile(packaged.artifact()) as archive:
        libraries = [name for name in archive.namelist() if name.endswith(".so")]
        headers = [archive.read(name)[:20] for name in libraries]
    assert len(libraries) > 5  # pydantic-core, cryptography, aiohttp, ...
    assert {(header[:4], int.from_bytes(header[18:20], "little")) for header in headers} == {(b"\x7fELF", 183)}


def test_bytecode_is_for_lambdas_python_and_never_checked_against_dates(packaged: Packaged) -> None:
    """Where this machine has no such Python there is none, and the build says so."""
    with zipfile.ZipFile(packaged.artifact()) as archive:
        compiled = {name: archive.read(name)[:8] for name in archive.namelist() if name.endswith(".pyc")}
    if "bytecode is left out" in packaged.output:
        assert compiled == {}
        return
    assert "functions/common/__pycache__/planted.cpython-313.pyc" in compiled
    magic = (3571).to_bytes(2, "little") + b"\r\n"  # CPython 3.13's, whatever the patch release
    unchecked = (0b01).to_bytes(4, "little")  # PEP 552: hash-based, not checked
    assert set(compiled.values()) == {magic + unchecked}


def test_two_builds_are_the_same_bytes(packaged: Packaged) -> None:
    """Of one function, whichever; PROVE=1: of all."""
    again = sorted((packaged.second / ".build").glob("*.zip"))
    assert len(again) == (len(NAMES) if os.environ.get("PROVE") else 1)
    for archive in again:
        assert packaged.artifact(archive.stem).read_bytes() == archive.read_bytes()


@pytest.mark.parametrize("name", NAMES)
def test_the_artifact_fits(packaged: Packaged, name: str) -> None:
    with zipfile.ZipFile(packaged.artifact(name)) as archive:
        assert sum(entry.file_size for entry in archive.infolist()) < 250_000_000
    assert packaged.artifact(name).stat().st_size < 50_000_000


@pytest.mark.parametrize("name", NAMES)
def test_the_versions_that_are_deployed_are_those_that_are_tested(name: str) -> None:
    tested = (ROOT / "requirements/dev.txt").read_text().splitlines()
    deployed = (ROOT / f"requirements/{name}.txt").read_text().splitlines()
    assert {line for line in deployed if "==" in line} <= set(tested)


# The artifact at work: its own sources, on this machine's builds of the packages that it carries

ALONE = """
import importlib, json, pkgutil, sys

given = json.load(sys.stdin)


class Missing:
    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] in given["missing"]:
            raise ModuleNotFoundError(f"the artifact has no {name}", name=name)


sys.meta_path.insert(0, Missing())
own = importlib.import_module(f"functions.{given['name']}")
for module in pkgutil.walk_packages(own.__path__, f"{own.__name__}."):
    importlib.import_module(module.name)
handler = getattr(sys.modules[f"{own.__name__}.handler"], "handler", None)
print(json.dumps([handler(event, None) for event in given["events"]]))
"""


def run_alone(
    packaged: Packaged, name: str, folder: Path, events: Sequence[dict[str, Any]] = (), **environment: str
) -> list[dict[str, Any]]:
    """Imports every module of one function from what its artifact carries; returns the handler's answers."""
    with zipfile.ZipFile(packaged.artifact(name)) as archive:
        missing = packages_distributions().keys() - {entry.split("/")[0].split(".")[0] for entry in archive.namelist()}
        archive.extractall(folder, [entry for entry in archive.namelist() if entry.startswith("functions/")])
    done = subprocess.run(
        [sys.executable, "-c", ALONE],
        cwd=folder,
        env={"PATH": os.environ["PATH"], **environment},
        input=json.dumps({"name": name, "missing": sorted(missing), "events": events}),
        capture_output=True,
        text=True,
        check=False,
        timeout=60,
    )
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout.splitlines()[-1])  # type: ignore[no-any-return]


def request_event(method: str, path: str, body: str | None = None, *, encoded: bool = False, **headers: str) -> Any:
    """A request as a function URL hands it to Lambda, payload version 2.0."""
    event: dict[str, Any] = {
        "version": "2.0",
        "rawPath": path,
        "rawQueryString": "",
        "headers": {"content-type": "application/json", "host": "abc.lambda-url.ca-central-1.on.aws", **headers},
        "requestContext": {"http": {"method": method, "path": path, "protocol": "HTTP/1.1", "sourceIp": "127.0.0.1"}},
        "isBase64Encoded": encoded,
    }
    if body is not None:
        event["body"] = b64encode(body.encode()).decode() if encoded else body
    return event


NOWHERE = {
    "SUPABASE_URL": "http://127.0.0.1:9",
    "SUPABASE_ANON_KEY": "anon",
    "SUPABASE_SERVICE_ROLE_KEY": "service",
    "STRIPE_SECRET_KEY": "sk_test_x",
    "STRIPE_API_BASE": "http://127.0.0.1:9",
}


@pytest.mark.parametrize("name", NAMES)
def test_a_function_imports_nothing_that_its_artifact_lacks(packaged: Packaged, tmp_path: Path, name: str) -> None:
    assert run_alone(packaged, name, tmp_path) == []


def test_checkout_answers_from_its_artifact(packaged: Packaged, tmp_path: Path) -> None:
    asked = [("POST", "/checkout"), ("POST", "/portal"), ("PATCH", "/overage"), ("POST", "/plans"), ("GET", "/keys")]
    events = [request_event(method, path, "{}") for method, path in asked]
    answers = run_alone(packaged, "checkout", tmp_path, events, **NOWHERE, ALLOWED_ORIGINS="https://example.org")
    assert [(answer["statusCode"], json.loads(answer["body"])["error"]["code"]) for answer in answers] == [
        (401, "unauthenticated"),
        (401, "unauthenticated"),
        (401, "unauthenticated"),
        (405, "method_not_allowed"),
        (404, "not_found"),
    ]


def test_the_webhooks_answer_from_their_artifact(packaged: Packaged, tmp_path: Path) -> None:
    """A function URL may hand over the body in base64; what Stripe signed is what it sent."""
    body = json.dumps({"id": "evt_1", "type": "product.created", "data": {"object": {"name": "Café"}}})
    now = int(time.time())
    signed, forged = (
        f"t={now},v1={hmac.new(secret, f'{now}.{body}'.encode(), 'sha256').hexdigest()}"
        for secret in (b"whsec_x", b"whsec_y")
    )
    events = [
        request_event("POST", "/webhooks/stripe", body, encoded=encoded, **{"stripe-signature": signature})
        for signature in (signed, forged)
        for encoded in (True, False)
    ]
    answers = run_alone(packaged, "webhooks", tmp_path, events, **NOWHERE, STRIPE_WEBHOOK_SECRET="whsec_x")
    assert [answer["statusCode"] for answer in answers] == [200, 200, 400, 400]
    bodies = [json.loads(answer["body"]) for answer in answers]
    assert bodies[:2] == [{"outcome": "ignored"}] * 2
    assert [refused["error"]["code"] for refused in bodies[2:]] == ["invalid_signature"] * 2


def test_the_webhooks_give_up_before_lambda_does(packaged: Packaged) -> None:
    assert packaged.function("webhooks")["Timeout"] >= WITHIN_S + 5


# What makes a build fail

X86_64_LIBRARY = b"\x7fELF" + bytes(14) + (62).to_bytes(2, "little")
ARM64_LIBRARY = b"\x7fELF" + bytes(14) + (183).to_bytes(2, "little")


@pytest.mark.parametrize(
    ("name", "content", "reason"),
    [
        ("a/b.so", X86_64_LIBRARY, "another processor"),
        ("a/program", X86_64_LIBRARY, "another processor"),
        ("a/b.so", b"\xcf\xfa\xed\xfe" + bytes(16), "another system"),
        ("a/b.dylib", b"\xcf\xfa\xed\xfe" + bytes(16), "another system"),
        ("a/b.cpython-312-aarch64-linux-gnu.so", ARM64_LIBRARY, r"another Python than Lambda's 3\.13"),
    ],
)
def test_a_library_that_lambda_could_not_load_stops_the_build(
    tmp_path: Path, name: str, content: bytes, reason: str
) -> None:
    fine = tmp_path / "a" / "fine.cpython-313-aarch64-linux-gnu.so"
    fine.parent.mkdir()
    fine.write_bytes(ARM64_LIBRARY)
    package.check_libraries(tmp_path)
    (tmp_path / name).write_bytes(content)
    with pytest.raises(package.PackageError, match=reason):
        package.check_libraries(tmp_path)


def artifact_of(tmp_path: Path, script_mode: int = 0o755) -> package.Artifact:
    folder = tmp_path / "folder"
    script = folder / "functions/chat/run.sh"
    script.parent.mkdir(parents=True)
    script.write_text("#!/bin/sh\n")
    script.chmod(script_mode)
    archive = tmp_path / "chat.zip"
    return package.Artifact("chat", 1, package.write_zip(folder, archive), archive)


def test_a_script_that_is_not_executable_stops_the_build(tmp_path: Path) -> None:
    with pytest.raises(package.PackageError, match="chmod"):
        package.check_handler("functions/chat/run.sh", artifact_of(tmp_path, 0o644))


@pytest.mark.parametrize("handler", ["functions/chat/start.sh", "functions.chat.handler.lambda_handler"])
def test_a_handler_that_is_not_in_the_artifact_stops_the_build(tmp_path: Path, handler: str) -> None:
    with pytest.raises(package.PackageError, match="not in its artifact"):
        package.check_handler(handler, artifact_of(tmp_path))


@pytest.mark.parametrize(("limit", "kind"), [("UNZIPPED_LIMIT", "unzipped"), ("ZIP_LIMIT", "zipped")])
def test_an_artifact_over_a_limit_stops_the_build(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, limit: str, kind: str
) -> None:
    artifact = artifact_of(tmp_path)
    package.check_size(artifact)
    monkeypatch.setattr(package, limit, 1)
    with pytest.raises(package.PackageError, match=f"MB {kind}"):
        package.check_size(artifact)


def test_a_function_in_one_list_only_stops_the_build(
    packaged: Packaged, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    template = tmp_path / "template.json"
    template.write_text(json.dumps(packaged.template))
    monkeypatch.setattr(package, "TEMPLATE", template)
    built = [package.Artifact(name, 1, 1, packaged.artifact(name)) for name in NAMES]
    package.check_template(built)
    with pytest.raises(package.PackageError, match=r"chat is in serverless\.yml but not in FUNCTIONS"):
        package.check_template(built[1:])
    with pytest.raises(package.PackageError, match=r"trap is in FUNCTIONS but not in serverless\.yml"):
        package.check_template([*built, package.Artifact("trap", 1, 1, packaged.artifact())])


def test_another_runtime_than_the_one_built_for_stops_the_build(
    packaged: Packaged, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    changed = packaged.template
    changed["Resources"]["ChatLambdaFunction"]["Properties"]["Runtime"] = "python3.12"
    template = tmp_path / "template.json"
    template.write_text(json.dumps(changed))
    monkeypatch.setattr(package, "TEMPLATE", template)
    with pytest.raises(package.PackageError, match="another runtime"):
        package.check_template([package.Artifact(name, 1, 1, packaged.artifact(name)) for name in NAMES])


def test_a_warning_of_cfn_lint_stops_the_build(
    packaged: Packaged, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    changed = packaged.template
    changed["Parameters"] = {"Unused": {"Type": "String"}}  # W2001
    template = tmp_path / "template.json"
    template.write_text(json.dumps(changed))
    monkeypatch.setattr(package, "TEMPLATE", template)
    with pytest.raises(package.PackageError, match="cfn-lint found fault"):
        package.lint()


def test_a_failed_build_leaves_no_older_artifact_behind(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(package, "ROOT", tmp_path)
    monkeypatch.setattr(package, "BUILD", tmp_path / ".build")
    (tmp_path / ".build").mkdir()
    (tmp_path / ".build/chat.zip").write_text("yesterday's")
    with pytest.raises(package.PackageError, match="make lock"):
        package.build(package.FUNCTIONS[0], None)
    assert not (tmp_path / ".build/chat.zip").exists()


# The script

STUB = """
async def app(scope, receive, send):
    if scope["type"] == "lifespan":
        while True:
            message = await receive()
            print(message["type"])
            await send({"type": message["type"] + ".complete"})
            if message["type"] == "lifespan.shutdown":
                return
    print("answered", scope["path"])
    await send({"type": "http.response.start", "status": 200, "headers": [(b"content-length", b"2")]})
    await send({"type": "http.response.body", "body": b"ok"})


def create():
    return app
"""


@pytest.fixture
def task_root(tmp_path: Path) -> Path:
    """What Lambda would unpack, with a stand-in for the app: these tests are about the script."""
    folder = tmp_path / "functions/chat"
    folder.mkdir(parents=True)
    shutil.copy2(ROOT / "functions/chat/run.sh", folder)
    (folder / "handler.py").write_text(STUB)
    return tmp_path


@contextmanager
def started(task_root: Path, port: int) -> Iterator[subprocess.Popen[bytes]]:
    """run.sh as the adapter's wrapper executes it: by its path, with the task root and the port in the environment."""
    environment = {
        "PATH": f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}",
        "LAMBDA_TASK_ROOT": str(task_root),
        "LAMBDA_RUNTIME_DIR": "/var/runtime",
        "AWS_LWA_PORT": str(port),
    }
    script = str(task_root / "functions/chat/run.sh")
    with (
        (task_root / "log").open("wb") as log,
        subprocess.Popen(
            [script], cwd="/", env=environment, stdout=log, stderr=subprocess.STDOUT, start_new_session=True
        ) as process,
    ):
        try:
            yield process
        finally:
            with suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGKILL)  # the group: a script that forgot `exec` leaves uvicorn behind


def healthy(port: int) -> bool:
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=5)
    try:
        connection.request("GET", "/health")
        return connection.getresponse().read() == b"ok"
    except ConnectionRefusedError:
        return False
    finally:
        connection.close()


def free_port() -> int:
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        return int(listener.getsockname()[1])


def test_run_sh_serves_the_app_logs_at_once_and_stops_on_sigterm(task_root: Path) -> None:
    """Lambda freezes the process after an answer: what it printed must be out by then. SIGTERM reaches the app."""
    port = free_port()
    with started(task_root, port) as process:
        deadline = time.monotonic() + 30
        while not healthy(port):
            assert process.poll() is None, (task_root / "log").read_text()
            assert time.monotonic() < deadline, "run.sh did not answer /health"
            time.sleep(0.02)
        assert (task_root / "log").read_text() == "lifespan.startup\nanswered /health\n"
        process.send_signal(signal.SIGTERM)
        assert process.wait(timeout=10) in {0, -signal.SIGTERM}
        assert (task_root / "log").read_text().endswith("lifespan.shutdown\n")
    assert not healthy(port)


def test_run_sh_fails_where_the_app_cannot_start(task_root: Path) -> None:
    """Its end is what tells the adapter, and the log, that this environment will never be ready."""
    (task_root / "functions/chat/handler.py").write_text("raise RuntimeError('SUPABASE_URL is missing')\n")
    with started(task_root, free_port()) as process:
        assert process.wait(timeout=30) > 0
    assert "SUPABASE_URL is missing" in (task_root / "log").read_text()


def test_run_sh_names_the_loop_and_the_parser_that_are_packaged() -> None:
    """Once uvloop or httptools is in the lock, run.sh should name it instead."""
    locked = (ROOT / "requirements/chat.txt").read_text()
    assert "\nh11==" in locked
    assert "uvloop==" not in locked
    assert "httptools==" not in locked
