"""What `make deploy` checks in the account before it changes anything."""

import pytest
from botocore.exceptions import ClientError

from infra.deploy import __main__ as command
from infra.deploy import preflight
from infra.deploy.secrets import Secrets
from infra.deploy.stage import FUNCTIONS, DeployError
from tests.deploy.kit import Aws

REFUSALS = [
    ("AccessDenied", "User is not authorized to perform: cloudformation:DescribeStacks"),
    ("Throttling", "Rate exceeded"),
    ("ExpiredToken", "The security token included in the request is expired"),
    ("ValidationError", "1 validation error detected: Value at 'stackName' failed to satisfy constraint"),
]


@pytest.fixture
def live(aws: Aws) -> Aws:
    aws.create()
    Secrets(aws.stage).write({"ENCRYPTION_KEYS": f"1:{'0' * 64}"}, replace=False)
    return aws


@pytest.mark.parametrize("refusal", REFUSALS, ids=[code for code, _ in REFUSALS])
def test_only_a_missing_stack_counts_as_missing(live: Aws, refusal: tuple[str, str]) -> None:
    """Otherwise the commands would be printed that delete the secrets of a running stage."""
    live.refusal = refusal
    with pytest.raises(ClientError, match=refusal[0]):
        preflight.check_leftovers(live.stage)
    with pytest.raises(ClientError, match=refusal[0]):
        command._urls(live.stage)


def test_a_running_stack_leaves_nothing(live: Aws) -> None:
    preflight.check_leftovers(live.stage)


def test_secrets_of_a_removed_stack_are_saved_before_they_are_deleted(live: Aws) -> None:
    live.outputs.clear()
    with pytest.raises(DeployError) as caught:
        preflight.check_leftovers(live.stage)
    save, *delete, fill = [line.strip() for line in str(caught.value).splitlines()[1:]]
    assert save == "make secrets STAGE=prod REGION=ca-central-1 SAVE=.env.prod.saved"
    assert {live.stage.secret(name) for name in FUNCTIONS} <= {line.split()[-1] for line in delete}
    assert all("--region ca-central-1" in line for line in delete)
    assert fill.startswith("make secrets STAGE=prod REGION=ca-central-1 FILE=.env.prod.saved")
