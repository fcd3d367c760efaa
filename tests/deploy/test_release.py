"""A release: versions are checked before they get requests, the chat's a share first, and a failure moves all back."""

from datetime import UTC, datetime, timedelta

import pytest

from infra.deploy.release import Canary, release
from infra.deploy.stage import FUNCTIONS, DeployError
from infra.deploy.versions import KEPT, Versions
from tests.deploy.kit import Aws

NO_CANARY = Canary(0, 0)
TENTH = Canary(0.1, 5)


@pytest.fixture(autouse=True)
def first_deployment(aws: Aws) -> None:
    aws.create()


def deploy(aws: Aws, name: str, *changed: str, canary: Canary = NO_CANARY) -> None:
    """Upload new code of some functions, and release it."""
    for function in changed:
        aws.upload(function, name)
    release(aws.stage, name, canary, smoke=lambda: None, sleep=lambda _: None)


def same(version: str) -> dict[str, str]:
    return dict.fromkeys(FUNCTIONS, version)


def test_the_first_release_moves_every_alias_to_a_version(aws: Aws) -> None:
    assert aws.places() == same("$LATEST")
    deploy(aws, "release a")
    assert aws.places() == same("1")
    assert set(aws.invoked) == {(name, "1") for name in FUNCTIONS}


def test_uploaded_code_is_not_live_before_its_release(aws: Aws) -> None:
    deploy(aws, "release a")
    aws.upload("chat", "b")
    assert aws.places() == same("1")


def test_a_rollback_moves_only_what_the_release_moved(aws: Aws) -> None:
    deploy(aws, "release a")
    deploy(aws, "release b", *FUNCTIONS)
    deploy(aws, "release c", "chat", "webhooks")
    assert aws.places() == {**same("2"), "chat": "3", "webhooks": "3"}
    assert Versions(aws.stage).rollback() == {"chat": "2", "webhooks": "2"}
    assert aws.places() == same("2")


def test_there_is_nothing_to_roll_back_to_twice_or_at_first(aws: Aws) -> None:
    deploy(aws, "release a")
    with pytest.raises(DeployError, match="nothing can be rolled back"):
        Versions(aws.stage).rollback()
    deploy(aws, "release b", "chat")
    Versions(aws.stage).rollback()
    with pytest.raises(DeployError, match="nothing can be rolled back"):
        Versions(aws.stage).rollback()


def test_a_version_that_does_not_start_gets_no_request(aws: Aws) -> None:
    deploy(aws, "release a")
    aws.upload("account", "broken")
    function = aws.stage.function("account")
    aws.broken.add(aws.lambda_.get_function_configuration(FunctionName=function)["CodeSha256"])
    with pytest.raises(DeployError, match="Version 2 of account does not start"):
        release(aws.stage, "release b", NO_CANARY, smoke=lambda: None)
    assert aws.places() == same("1")


def test_a_canary_has_a_share_until_its_time_is_over(aws: Aws) -> None:
    deploy(aws, "release a")
    aws.upload("chat", "b")
    waits, weights = [], []

    def sleep(seconds: float) -> None:
        waits.append(seconds)
        weights.append(aws.alias("chat"))

    release(aws.stage, "release b", TENTH, smoke=lambda: None, sleep=sleep)
    assert sum(waits) == 300
    assert {alias["FunctionVersion"] for alias in weights} == {"1"}
    assert [alias["RoutingConfig"]["AdditionalVersionWeights"] for alias in weights] == [{"2": 0.1}] * len(waits)
    assert aws.alias("chat")["FunctionVersion"] == "2"
    assert not aws.alias("chat")["RoutingConfig"]["AdditionalVersionWeights"]
    assert Versions(aws.stage).live("chat").before == "1"


def test_a_failing_canary_moves_every_alias_back(aws: Aws) -> None:
    deploy(aws, "release a")
    for function in FUNCTIONS:
        aws.upload(function, "b")
    name = aws.stage.function("chat")

    def fail(_: float) -> None:
        dimensions = [("FunctionName", name), ("Resource", f"{name}:live"), ("ExecutedVersion", "2")]
        aws.stage.client("cloudwatch").put_metric_data(
            Namespace="AWS/Lambda",
            MetricData=[
                {
                    "MetricName": "Errors",
                    "Dimensions": [{"Name": key, "Value": value} for key, value in dimensions],
                    "Timestamp": datetime.now(UTC) - timedelta(seconds=30),
                    "Value": 3,
                }
            ],
        )

    with pytest.raises(DeployError, match=r"Version 2 of chat fails: .*Errors 3"):
        release(aws.stage, "release b", TENTH, smoke=lambda: None, sleep=fail)
    assert aws.places() == same("1")
    assert Versions(aws.stage).live("chat").canary is None


def test_a_failing_smoke_test_moves_every_alias_back(aws: Aws) -> None:
    """The next rollback still goes to where it went before."""
    deploy(aws, "release a")
    deploy(aws, "release b", *FUNCTIONS)
    for function in FUNCTIONS:
        aws.upload(function, "c")

    def fail() -> None:
        assert aws.places() == {**same("3"), "chat": "2"}
        raise DeployError("it does not stream")

    with pytest.raises(DeployError, match="it does not stream"):
        release(aws.stage, "release c", TENTH, smoke=fail)
    assert aws.places() == same("2")
    assert Versions(aws.stage).rollback() == same("1")


def test_a_rollback_ends_a_canary(aws: Aws) -> None:
    deploy(aws, "release a")
    versions = Versions(aws.stage)
    aws.upload("chat", "b")
    versions.move("chat", versions.publish("chat", "release b"), share=0.5)
    assert versions.live("chat").canary == "2"
    versions.rollback()
    assert versions.live("chat").canary is None


def test_old_versions_are_deleted_but_none_in_use(aws: Aws) -> None:
    versions = Versions(aws.stage)
    for number in range(KEPT + 3):
        aws.upload("chat", f"{number}")
        versions.publish("chat", f"release {number}")
    versions.promote("chat", "1", "release 0")
    versions.promote("chat", "8", "release 7")
    assert versions.prune("chat") == ["2", "3"]
    assert versions.prune("keys") == []
