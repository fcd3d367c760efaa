"""A stage of the service on AWS: the names of its parts, and the clients that reach them."""

import re
from dataclasses import dataclass
from functools import cache
from typing import Any

SERVICE = "canadagpt-chat"
FUNCTIONS = ("chat", "keys", "checkout", "account", "webhooks", "maintenance")
WITH_URL = FUNCTIONS[:-1]
ALIAS = "live"  # infra/resources/aliases.yml
REGION = "ca-central-1"
PRODUCTION = "prod"
NAME = re.compile(r"[a-z][a-z0-9-]{0,19}")  # what every resource's name may have; a function's has at most 64


class DeployError(Exception):
    """One sentence that says what is wrong, and what to do. It contains no secret."""


@dataclass(frozen=True, slots=True)
class Stage:
    """The names of a stage's resources, as serverless.yml makes them. Raises DeployError for a wrong name."""

    name: str
    region: str = REGION

    def __post_init__(self) -> None:
        if not NAME.fullmatch(self.name):
            raise DeployError("STAGE has up to 20 lower-case letters, digits and hyphens, and starts with a letter.")
        if self.name in ("prd", "production", "live"):
            raise DeployError(f"STAGE of production is {PRODUCTION}: only there production's checks are made.")

    @property
    def is_production(self) -> bool:
        """Whether parameters must be complete and secure, and the chat gets a canary."""
        return self.name == PRODUCTION

    @property
    def stack(self) -> str:
        """The name of the CloudFormation stack."""
        return f"{SERVICE}-{self.name}"

    def function(self, name: str) -> str:
        """The name of a Lambda function."""
        return f"{SERVICE}-{self.name}-{name}"

    def secret(self, name: str) -> str:
        """The name of a function's secret."""
        return f"{SERVICE}/{self.name}/{name}"

    def outputs(self) -> dict[str, str] | None:
        """The outputs of the stack; None if it does not exist. Raises ClientError for every other refusal."""
        from botocore.exceptions import ClientError

        try:
            (stack,) = self.client("cloudformation").describe_stacks(StackName=self.stack)["Stacks"]
        except ClientError as error:
            # Other requests that are not valid have the same code.
            found = error.response["Error"]
            if found["Code"] == "ValidationError" and "does not exist" in found["Message"]:
                return None
            raise
        return {one["OutputKey"]: one["OutputValue"] for one in stack.get("Outputs", [])}

    def client(self, service: str) -> Any:
        """A client of an AWS service, with the credentials of the environment."""
        return _client(service, self.region)


@cache
def _client(service: str, region: str) -> Any:
    import boto3  # only where AWS is called
    from botocore.config import Config

    # Longer than an answer of the chat. A call that times out is repeated, and its question would be charged twice.
    return boto3.client(service, region_name=region, config=Config(read_timeout=200))


def say(mark: str, line: str) -> None:
    """Print one finding: `ok`, `note`, `skip` or `FAIL`."""
    print(f"  {mark:<5} {line}", flush=True)
