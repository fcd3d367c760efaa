"""Versions of the functions, and the alias `live` through which they are called.

A version is a copy of a function's code and configuration that never changes. New code gets requests when the alias is
moved to its version. The alias's description names the version before the deployment, to which a rollback returns.

A process reads its secret once, when it starts. So a version's description names the secret as it was when the version
was published: all its processes have read that or a newer one, and a changed secret makes a new version.
https://docs.aws.amazon.com/lambda/latest/dg/configuring-alias-routing.html
"""

import json
import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from infra.deploy.secrets import Secrets
from infra.deploy.stage import ALIAS, FUNCTIONS, DeployError, Stage

KEPT = 5  # versions of each function; older ones only use the account's code storage
BEFORE = re.compile(r"; before it (\d+)$")
READ = re.compile(r"; secret [\w-]+$")
# What a deployment can change of a function, without the description.
CONFIGURED = (
    "CodeSha256",
    "Runtime",
    "Handler",
    "Role",
    "Environment",
    "Layers",
    "MemorySize",
    "Timeout",
    "EphemeralStorage",
    "TracingConfig",
    "LoggingConfig",
    "VpcConfig",
    "DeadLetterConfig",
    "KMSKeyArn",
)

# A request whose answer shows that the function has started with its secrets. Without a token or a signature each
# refuses it. Maintenance runs the job that runs every minute anyway.
HARMLESS = {
    "chat": ("POST", "/chat", 401),
    "keys": ("GET", "/keys", 401),
    "checkout": ("POST", "/portal", 401),
    "account": ("GET", "/usage", 401),
    "webhooks": ("POST", "/webhooks/stripe", 400),
}


@dataclass(frozen=True, slots=True)
class Live:
    """Where the alias points. `canary`: the version with a share of the requests, if one has."""

    version: str
    before: str | None
    canary: str | None


class Versions:
    """The versions of a stage's functions."""

    def __init__(self, stage: Stage) -> None:
        self._stage = stage
        self._lambda = stage.client("lambda")
        self._secrets = Secrets(stage)

    def live(self, name: str) -> Live:
        """Where a function's alias points."""
        function = self._stage.function(name)
        try:
            alias = self._lambda.get_alias(FunctionName=function, Name=ALIAS)
        except self._lambda.exceptions.ResourceNotFoundException:
            raise DeployError(f"{function}, or its alias, does not exist in {self._stage.region}: deploy it.") from None
        weights = (alias.get("RoutingConfig") or {}).get("AdditionalVersionWeights") or {}
        before = BEFORE.search(alias.get("Description") or "")
        return Live(alias["FunctionVersion"], before and before[1], next(iter(weights), None))

    def publish(self, name: str, description: str) -> str:
        """Publish the newest code and configuration, whose processes read the secret as it is now. Returns the version:
        the last one, if nothing has changed."""
        function, read = self._stage.function(name), self._read(name)
        updated = self._lambda.get_waiter("function_updated_v2")
        updated.wait(FunctionName=function)
        newest = self._lambda.get_function_configuration(FunctionName=function).get("Description", "")
        if not newest.endswith(read):
            self._lambda.update_function_configuration(FunctionName=function, Description=READ.sub("", newest) + read)
            updated.wait(FunctionName=function)
        published = self._lambda.publish_version(FunctionName=function, Description=description + read)
        version: str = published["Version"]
        self._lambda.get_waiter("published_version_active").wait(FunctionName=function, Qualifier=version)
        return version

    def has_read(self, name: str) -> bool:
        """Whether every process that is live has read the secret as it is now."""
        function, version = self._stage.function(name), self.live(name).version
        found = self._lambda.get_function_configuration(FunctionName=function, Qualifier=version)
        return version != "$LATEST" and found.get("Description", "").endswith(self._read(name))

    def _read(self, name: str) -> str:
        """The end of the description of a version that has read the secret as it is now."""
        return f"; secret {self._secrets.version(name) or 'none'}"

    def require_live(self, name: str) -> None:
        """Raise DeployError unless what was deployed last is live, but for the secret."""
        function, live = self._stage.function(name), self.live(name)
        newest = self._lambda.get_function_configuration(FunctionName=function)
        served = self._lambda.get_function_configuration(FunctionName=function, Qualifier=live.version)
        if any(newest.get(key) != served.get(key) for key in CONFIGURED):
            raise DeployError(
                f"The newest code or configuration of {name} is not live: deploy what should be, then rotate. "
                "Nothing was changed."
            )

    def check(self, name: str, version: str) -> None:
        """Call a version that has no traffic yet. Raises DeployError if it does not answer as it should."""
        method, path, status = HARMLESS.get(name, ("", "", 0))
        event = http_event(method, path) if method else {"job": "release-stale-holds"}
        answer = self._lambda.invoke(
            FunctionName=self._stage.function(name), Qualifier=version, Payload=json.dumps(event).encode()
        )
        content: bytes = answer["Payload"].read()
        # The chat streams: its answer is the status and the headers as JSON, eight zero bytes, and the body.
        is_right = re.search(rb'"statusCode":\s*%d\b' % status, content) if method else b'"error"' not in content
        if answer.get("FunctionError") or not is_right:
            log = f"/aws/lambda/{self._stage.function(name)}"
            raise DeployError(f"Version {version} of {name} does not start: its log group {log} has the reason.")

    def ask(self, name: str, version: str, question: Mapping[str, Any], token: str) -> None:
        """Ask a version of the chat a question. It is charged. Raises DeployError if the answer fails."""
        event = http_event("POST", "/chat")
        event["headers"]["authorization"] = f"Bearer {token}"
        answer = self._lambda.invoke(
            FunctionName=self._stage.function(name),
            Qualifier=version,
            Payload=json.dumps({**event, "body": json.dumps(question)}).encode(),
        )
        content: bytes = answer["Payload"].read().replace(b"\\", b"")
        if answer.get("FunctionError") or b'"type":"finish"' not in content:
            log = f"/aws/lambda/{self._stage.function(name)}"
            raise DeployError(
                f"Version {version} of {name} does not answer a question of the smoke test's user: its log group {log} "
                "has the reason. No other request went to it."
            )

    def move(self, name: str, version: str, *, share: float | None = None, description: str | None = None) -> None:
        """Send all requests to a version, or a `share` between 0 and 1 and the others to the present one."""
        changes: dict[str, Any] = {"RoutingConfig": {"AdditionalVersionWeights": {version: share} if share else {}}}
        if not share:
            changes["FunctionVersion"] = version
        if description is not None:
            changes["Description"] = description
        self._lambda.update_alias(FunctionName=self._stage.function(name), Name=ALIAS, **changes)

    def promote(self, name: str, version: str, release: str, before: str) -> None:
        """Send all requests to a version, and write down which one was before."""
        kept = f"; before it {before}" if before not in ("$LATEST", version) else ""
        self.move(name, version, description=f"{release}{kept}")

    def put_back(self, name: str, place: Live, release: str) -> None:
        """Send all requests where they went before a release that failed, and keep where a rollback leads."""
        kept = f"; before it {place.before}" if place.before else ""
        self.move(name, place.version, description=f"before {release}{kept}")

    def prune(self, name: str) -> list[str]:
        """Delete all but the newest versions and those of the alias. Returns the deleted ones."""
        function, live = self._stage.function(name), self.live(name)
        pages = self._lambda.get_paginator("list_versions_by_function").paginate(FunctionName=function)
        numbers = sorted(int(v["Version"]) for page in pages for v in page["Versions"] if v["Version"] != "$LATEST")
        in_use = {live.version, live.before, live.canary}
        old = [str(number) for number in numbers[:-KEPT] if str(number) not in in_use]
        for version in old:
            self._lambda.delete_function(FunctionName=function, Qualifier=version)
        return old

    def rollback(self) -> Mapping[str, str]:
        """Move the aliases back to the versions before the last deployment. Returns the version of each function that
        moved. Raises DeployError where there is nothing to return to."""
        places = {name: self.live(name) for name in FUNCTIONS}
        # A canary has not moved the alias yet: only its share ends.
        moved = {name: place.before for name, place in places.items() if place.before and not place.canary}
        canaries = [name for name, place in places.items() if place.canary]
        if not moved and not canaries:
            raise DeployError("No alias names a version before its own: nothing can be rolled back. Deploy older code.")
        for name in canaries:
            self.move(name, places[name].version)
        for name, version in moved.items():
            self.move(name, version, description=f"rolled back from {places[name].version}")
        return moved


def http_event(method: str, path: str) -> dict[str, Any]:
    """A request as a function URL passes it, payload version 2.0."""
    return {
        "version": "2.0",
        "routeKey": "$default",
        "rawPath": path,
        "rawQueryString": "",
        "headers": {"content-type": "application/json", "host": "deploy.invalid"},
        "requestContext": {
            "http": {"method": method, "path": path, "protocol": "HTTP/1.1", "sourceIp": "127.0.0.1"},
            "domainName": "deploy.invalid",
            "stage": "$default",
        },
        "body": "{}",
        "isBase64Encoded": False,
    }
