"""A stand-in for each module of tests, reset for each test."""

from collections.abc import Iterator

import pytest

from tests.local.stripe.kit import Fake, running


@pytest.fixture(scope="module")
def module_fake() -> Iterator[Fake]:
    with running() as fake:
        yield fake


@pytest.fixture
def fake(module_fake: Fake) -> Fake:
    """An empty stand-in at START. Its webhooks go nowhere until `register_webhook`."""
    module_fake.reset()
    return module_fake
