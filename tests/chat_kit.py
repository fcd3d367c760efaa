"""The chat outside of the stack's own functions: its environment, and the chat in the test's process."""

from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager

from functions.chat.chat import Chat
from functions.chat.providers import Providers
from functions.chat.settings import ChatSettings
from functions.chat.sources import Parliament
from functions.common.database import Database
from functions.common.observe import Observer
from functions.common.settings import load, load_vault
from infra.local.stack import Stack
from tests.own_keys import ENCRYPTION


def chat_environment(stack: Stack) -> dict[str, str]:
    """The environment of a chat function in the stack."""
    info = stack.info
    return {
        "SUPABASE_URL": info["supabase_url"],
        "SUPABASE_ANON_KEY": info["publishable_key"],
        "SUPABASE_SERVICE_ROLE_KEY": info["secret_key"],
        **ENCRYPTION,
        "ANTHROPIC_API_KEY": "stand-in",
        "ANTHROPIC_BASE_URL": info["model_url"],
        "OPENAI_API_KEY": "stand-in",
        "OPENAI_BASE_URL": f"{info['model_url']}/v1",
        "PARLIAMENT_API_URL": info["parliament_url"],
        "REPRESENT_API_URL": info["parliament_url"],
        "LEGISINFO_URL": f"{info['parliament_url']}/legisinfo",
        "OURCOMMONS_URL": info["parliament_url"],
    }


@asynccontextmanager
async def running_chat(environment: Mapping[str, str], providers: Providers | None = None) -> AsyncIterator[Chat]:
    """A chat in this process. `providers` replaces those of the environment."""
    settings = load(ChatSettings, environment)
    vault, observer = load_vault(environment), Observer("chat-in-test")
    database = Database(settings, observer)
    parliament = Parliament.at(settings.addresses, settings.contact, database)
    chat = Chat(database, providers or Providers(settings), parliament, vault, observer)
    try:
        yield chat
    finally:
        await chat.close()
