"""Logs and metrics of a function: one JSON line per request, and metrics in CloudWatch's embedded metric format.

Only fields in an allow-list are written, so a key, a token or a user's text cannot reach a log by accident. Exceptions
are logged by type and place, never by message, which may contain their input.
"""

import logging
import os
import traceback
from collections.abc import Mapping
from typing import Any

from aws_lambda_powertools import Logger, Metrics
from aws_lambda_powertools.logging.formatter import LambdaPowertoolsFormatter
from aws_lambda_powertools.metrics import MetricUnit

NAMESPACE = os.environ.get("METRICS_NAMESPACE") or "CanadaGPTChat"  # on AWS with the stage

ALLOWED = frozenset(
    {
        # of every line
        "level", "message", "timestamp", "service", "cold_start", "function_name", "function_request_id",
        # of a request
        "request_id", "aws_request_id", "method", "route", "status", "code", "reason_code", "duration_ms", "user_id",
        # of a query
        "hold_id", "message_id", "tier", "funding", "provider", "model", "outcome", "tokens_input", "tokens_output",
        "cache_read_tokens", "cache_write_tokens", "cost_usd", "charged_usd", "finish_reason", "first_token_ms",
        "steps",
        # of a failure
        "error_type", "error_place", "upstream", "upstream_status", "upstream_request_id", "attempt", "function",
        "tool",
        # of an event from Stripe
        "event_id", "event_type", "signed_by",
        # of a job
        "job", "counts",
    }
)  # fmt: skip

# The unit of a metric follows from the end of its name. Every other metric is a count.
UNITS = {"Ms": MetricUnit.Milliseconds, "Usd": MetricUnit.NoUnit, "Percent": MetricUnit.Percent}


# A line that cannot be written is lost. Python would otherwise print to stderr why, with the traceback of the exception
# that is being handled.
logging.raiseExceptions = False


class AllowListFormatter(LambdaPowertoolsFormatter):
    """Powertools' formatter without the fields that are not in ALLOWED."""

    def serialize(self, log: Any) -> str:
        return str(super().serialize({name: value for name, value in log.items() if name in ALLOWED}))


class Observer:
    """The logger and the metrics of one function. `service` is the function's name."""

    def __init__(self, service: str) -> None:
        self._service = service
        self._logger = Logger(service=service, logger_formatter=AllowListFormatter(), level="INFO")

    def info(self, message: str, **fields: Any) -> None:
        """Write one line. Fields that are not in ALLOWED are dropped."""
        self._logger.info(message, extra=fields)

    def failure(self, message: str, error: BaseException, **fields: Any) -> None:
        """Write one line at level ERROR with the type and the place of `error`, without its message."""
        frames = traceback.extract_tb(error.__traceback__)
        place = f"{frames[-1].filename}:{frames[-1].lineno}" if frames else None
        described = {"error_type": type(error).__name__, "error_place": place}
        if upstream := getattr(error, "upstream", None):
            described["upstream"] = upstream
        self._logger.error(message, extra={**described, **fields})

    def count(self, about: Mapping[str, str] | None = None, /, **metrics: float) -> None:
        """Write metrics immediately, as one line. The only dimension is the service's name.

        `about`: fields that one can search the line for. As dimensions, each of their values would be one more metric,
        which CloudWatch bills by the month, and an alarm could not add them up.
        """
        emitter = Metrics(namespace=NAMESPACE, service=self._service)
        for name, text in (about or {}).items():
            emitter.add_metadata(name, text)
        for name, value in metrics.items():
            unit = next((unit for end, unit in UNITS.items() if name.endswith(end)), MetricUnit.Count)
            emitter.add_metric(name=name, unit=unit, value=value)
        emitter.flush_metrics()
