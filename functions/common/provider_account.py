"""Separates a user's own account at a model provider from the account that the environment names."""

from typing import Any

# What Anthropic's and OpenAI's SDKs read from the environment and send beside the key.
FROM_ENVIRONMENT = ("auth_token", "organization", "project")


def drop_environment_account(client: Any) -> None:
    """Make an SDK client send its API key and nothing else that identifies an account."""
    for name in FROM_ENVIRONMENT:
        if hasattr(client, name):
            setattr(client, name, None)
