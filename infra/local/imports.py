"""Imports the sample of members' expenses and of the registry of lobbyists, by the jobs that import the real ones."""

import asyncio
from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor

from functions.common.database import Database
from functions.common.observe import Observer
from functions.common.settings import SupabaseSettings, load
from functions.common.thread_transport import ThreadTransport
from functions.maintenance.imports.expenses import import_expenses
from functions.maintenance.imports.fetch import Site
from functions.maintenance.imports.lobbying import LobbyingImport

IMPORT_S = 20.0  # it takes half a second


def import_sample(variables: Mapping[str, str], parliament_url: str) -> None:
    """Import the sample. Raises ImportFailed, Unavailable, and TimeoutError after IMPORT_S."""
    job = _import(load(SupabaseSettings, variables), parliament_url)
    try:
        asyncio.get_running_loop()
    except RuntimeError:
        asyncio.run(job)  # Ctrl-C cancels it
        return
    with ThreadPoolExecutor(1) as thread:
        thread.submit(asyncio.run, job).result()


async def _import(settings: SupabaseSettings, url: str) -> None:
    database = Database(settings, Observer("maintenance"), ThreadTransport())
    site = Site(url, "the local stack", sleep=_no_pause)
    try:
        async with asyncio.timeout(IMPORT_S):
            await import_expenses(database, site, _no_progress)
            await LobbyingImport(database, site, _no_progress, rest=_no_pause).run()
    finally:
        await database.close()


async def _no_pause(seconds: float) -> None:
    """The sample's site is ours."""


def _no_progress(line: str) -> None:
    """The sample takes a moment."""
