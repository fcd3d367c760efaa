"""An AWS account in memory."""

from collections.abc import Iterator
from contextlib import contextmanager

import pytest

from infra.deploy import stage
from tests.deploy.kit import Aws

CREDENTIALS = {"AWS_ACCESS_KEY_ID": "test", "AWS_SECRET_ACCESS_KEY": "test", "AWS_DEFAULT_REGION": "ca-central-1"}


@contextmanager
def account(monkeypatch: pytest.MonkeyPatch) -> Iterator[Aws]:
    """An account without a stack. Its functions only pretend to run."""
    from moto import mock_aws  # not while tests are collected: it takes half a second

    for name, value in CREDENTIALS.items():
        monkeypatch.setenv(name, value)
    stage._client.cache_clear()
    with mock_aws(config={"lambda": {"use_docker": False}}):
        aws = Aws({"SUPABASE_URL": "https://project.supabase.co", "SUPABASE_ANON_KEY": "anon"})
        aws.runs_functions = False
        yield aws
        aws.close()
    stage._client.cache_clear()


@pytest.fixture
def aws(monkeypatch: pytest.MonkeyPatch) -> Iterator[Aws]:
    """An account without a stack."""
    with account(monkeypatch) as made:
        yield made
