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


class Killed(BaseException):
    """The end of the process."""


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
    aws.broken.add(aws.digest("account"))
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


def request(number: int, status: int = 200) -> dict[str, object]:
    return {"message": "request", "request_id": f"r{number}", "status": status}


def query(number: int, outcome: str) -> dict[str, object]:
    return {"message": "query", "request_id": f"r{number}", "outcome": outcome}


@pytest.mark.parametrize(
    ("before", "canary"),
    [
        ([request(1), request(2)], [request(3), request(4, 500)]),
        ([request(1), query(1, "answered")], [request(2), query(2, "failed"), request(3)]),
        ([], [request(1), query(1, "lost")]),
        ([request(1)], [request(2), {"message": "turn failed", "request_id": "r2"}]),
        ([request(n) for n in range(100)] + [query(1, "failed")], [request(101, 503)]),
    ],
    ids=["a 500", "an answer that failed", "an answer that was lost", "an end that failed", "more than before"],
)
def test_a_canary_whose_requests_fail_moves_back(
    aws: Aws, before: list[dict[str, object]], canary: list[dict[str, object]]
) -> None:
    """Lambda counts none of them among its errors."""
    deploy(aws, "release a")
    aws.upload("chat", "b")

    def serve(_: float) -> None:
        aws.log("1", *before)
        aws.log("2", *canary)

    with pytest.raises(DeployError, match=r"Version 2 of chat fails: .* requests failed"):
        release(aws.stage, "release b", TENTH, smoke=lambda: None, sleep=serve)
    assert aws.places() == same("1")


@pytest.mark.parametrize(
    ("before", "canary"),
    [
        ([request(1)], [request(2, 401), query(3, "stopped"), request(3)]),
        ([request(1, 503), request(2)], [request(3, 503), request(4)]),
        ([], []),
    ],
    ids=["refusals and stops", "a provider fails everywhere", "no request"],
)
def test_a_canary_that_is_no_worse_becomes_live(
    aws: Aws, before: list[dict[str, object]], canary: list[dict[str, object]]
) -> None:
    deploy(aws, "release a")
    aws.upload("chat", "b")

    def serve(_: float) -> None:
        aws.log("1", *before)
        aws.log("2", *canary)

    release(aws.stage, "release b", TENTH, smoke=lambda: None, sleep=serve)
    assert aws.alias("chat")["FunctionVersion"] == "2"


def test_a_chat_that_cannot_answer_gets_no_request(aws: Aws) -> None:
    """It starts, and refuses a request without a token. Only a question shows it."""
    deploy(aws, "release a")
    aws.upload("chat", "b")
    aws.failing.add(aws.digest("chat"))
    with pytest.raises(DeployError, match="Version 2 of chat does not answer a question"):
        release(aws.stage, "release b", TENTH, smoke=lambda: None, token="token")
    assert aws.places() == same("1")


def test_the_smoke_test_also_looks_at_the_promoted_chat(aws: Aws) -> None:
    deploy(aws, "release a")
    aws.upload("chat", "b")
    looked = []

    def smoke() -> None:
        looked.append(aws.alias("chat")["FunctionVersion"])
        if looked[-1] == "2":
            raise DeployError("it does not stream")

    with pytest.raises(DeployError, match="it does not stream"):
        release(aws.stage, "release b", TENTH, smoke=smoke, sleep=lambda _: None)
    assert looked == ["1", "2"]
    assert aws.places() == same("1")


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


def test_a_rollback_ends_a_canary_and_its_deployment(aws: Aws) -> None:
    """It only takes the canary's share away from the chat. The other functions return."""
    deploy(aws, "release a")
    deploy(aws, "release b", *FUNCTIONS)
    for function in FUNCTIONS:
        aws.upload(function, "c")

    def roll_back(_: float) -> None:
        Versions(aws.stage).rollback()
        assert aws.places() == same("2")
        assert Versions(aws.stage).live("chat").canary is None

    with pytest.raises(DeployError, match="was moved meanwhile"):
        release(aws.stage, "release c", TENTH, smoke=lambda: None, sleep=roll_back)
    assert aws.places() == same("2")
    assert Versions(aws.stage).live("keys").before is None  # as the rollback left it


def test_a_release_without_changes_keeps_the_way_back(aws: Aws) -> None:
    deploy(aws, "release a")
    deploy(aws, "release b", *FUNCTIONS)
    deploy(aws, "release b again")
    assert Versions(aws.stage).rollback() == same("1")


def test_a_release_goes_on_where_a_killed_one_stopped(aws: Aws, monkeypatch: pytest.MonkeyPatch) -> None:
    """It was killed in its canary: the others have moved."""
    deploy(aws, "release a")
    for function in FUNCTIONS:
        aws.upload(function, "b")

    def kill(_: float) -> None:
        raise Killed

    monkeypatch.setattr(Versions, "put_back", lambda *_: None)
    with pytest.raises(Killed):
        release(aws.stage, "release b", TENTH, smoke=lambda: None, sleep=kill)
    assert aws.places() == {**same("2"), "chat": "1"}
    deploy(aws, "release b again", canary=TENTH)
    assert aws.places() == same("2")
    assert Versions(aws.stage).rollback() == same("1")


def test_old_versions_are_deleted_but_none_in_use(aws: Aws) -> None:
    versions = Versions(aws.stage)
    for number in range(KEPT + 3):
        aws.upload("chat", f"{number}")
        versions.publish("chat", f"release {number}")
    versions.promote("chat", "1", "release 0", "$LATEST")
    versions.promote("chat", "8", "release 7", "1")
    assert versions.prune("chat") == ["2", "3"]
    assert versions.prune("keys") == []
