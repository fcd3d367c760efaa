"""Fixtures that several tests of the functions share."""

from collections.abc import Iterator
from typing import Any

import boto3
import moto
import pytest


@pytest.fixture
def secrets_manager(monkeypatch: pytest.MonkeyPatch) -> Iterator[Any]:
    """A client of AWS Secrets Manager, imitated by moto."""
    monkeypatch.setenv("AWS_DEFAULT_REGION", "ca-central-1")
    with moto.mock_aws():
        yield boto3.client("secretsmanager")
