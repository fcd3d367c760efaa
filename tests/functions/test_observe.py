"""Logs contain only allowed fields and no exception messages. Metrics use CloudWatch's embedded format."""

import json

import pytest

from functions.common.errors import Unavailable
from functions.common.observe import Observer

CANARY = "sk-canary"


def lines(capsys: pytest.CaptureFixture[str]) -> list[dict[str, object]]:
    return [json.loads(line) for line in capsys.readouterr().out.splitlines()]


def test_only_allowed_fields_are_logged(capsys: pytest.CaptureFixture[str]) -> None:
    Observer("tested").info("query", request_id="1", api_key=CANARY, prompt=CANARY, tokens_input=3)
    (line,) = lines(capsys)
    assert {name: line[name] for name in ("message", "service", "request_id", "tokens_input", "level")} == {
        "message": "query",
        "service": "tested",
        "request_id": "1",
        "tokens_input": 3,
        "level": "INFO",
    }
    assert CANARY not in json.dumps(line)


def test_a_failure_is_logged_by_type_and_place_only(capsys: pytest.CaptureFixture[str]) -> None:
    observer = Observer("failing")
    try:
        raise ValueError(CANARY)
    except ValueError as error:
        observer.failure("turn failed", error, request_id="1")
    (line,) = lines(capsys)
    assert (line["level"], line["error_type"], line["request_id"]) == ("ERROR", "ValueError", "1")
    assert "test_observe.py:" in str(line["error_place"])
    assert CANARY not in json.dumps(line)


def test_a_failure_of_the_database_is_logged_with_its_last_response(capsys: pytest.CaptureFixture[str]) -> None:
    Observer("unavailable").failure("hold left to expire", Unavailable(upstream="544 "))
    (line,) = lines(capsys)
    assert (line["error_type"], line["upstream"]) == ("Unavailable", "544 ")


def test_metrics_are_written_immediately_in_the_embedded_format(capsys: pytest.CaptureFixture[str]) -> None:
    Observer("measured").count(HoldsLeftToExpire=2)
    (line,) = lines(capsys)
    assert line["HoldsLeftToExpire"] == [2.0]
    assert line["service"] == "measured"
    assert line["_aws"]["CloudWatchMetrics"][0]["Metrics"] == [{"Name": "HoldsLeftToExpire", "Unit": "Count"}]  # type: ignore[index]


def test_the_unit_of_a_metric_follows_from_its_name(capsys: pytest.CaptureFixture[str]) -> None:
    """What a metric is about is a field of the line, not a dimension, which would be billed."""
    Observer("units").count({"job": "measure"}, FirstTokenMs=1, CostUsd=2, FreeBudgetPercent=3, Queries=4)
    (line,) = lines(capsys)
    (described,) = line["_aws"]["CloudWatchMetrics"]  # type: ignore[index]
    units = {metric["Name"]: metric["Unit"] for metric in described["Metrics"]}
    assert units == {
        "FirstTokenMs": "Milliseconds",
        "CostUsd": "None",
        "FreeBudgetPercent": "Percent",
        "Queries": "Count",
    }
    assert described["Dimensions"] == [["service"]]
    assert line["job"] == "measure"
