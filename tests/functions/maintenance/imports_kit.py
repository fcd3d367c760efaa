"""Shared by the tests of the imports: a site with files, damaged files, and digests of what is stored."""

import asyncio
import io
import zipfile
from collections.abc import Callable
from typing import Any

import psycopg

from functions.common.database import Database
from functions.maintenance.imports.fetch import Site
from functions.maintenance.imports.lobbying import DATASETS, LobbyingImport
from infra.local.parliament.lobbying import Registry
from infra.local.stack import Stack
from tests.functions.tools.kit import ScriptedServer
from tests.sources import database_of

REGISTRATIONS, COMMUNICATIONS = (dataset.path for dataset in DATASETS)
Db = psycopg.Connection[dict[str, Any]]


async def no_pause(seconds: float) -> None:
    """The site is ours."""


def no_progress(line: str) -> None:
    """Drop a line of progress."""


def with_database(stack: Stack, run: Callable[[Database], Any]) -> Any:
    """What a coroutine of a job returns."""

    async def call() -> Any:
        database = database_of(stack)
        try:
            return await run(database)
        finally:
            await database.close()

    return asyncio.run(call())


def import_lobbying(stack: Stack, url: str, **options: Any) -> Any:
    """Run import-lobbying. Returns its counts."""
    site = Site(url, "tests", no_pause)
    progress = options.pop("progress", no_progress)
    rest = options.pop("rest", no_pause)
    return with_database(stack, lambda database: LobbyingImport(database, site, progress, rest=rest, **options).run())


def zips(communications: int, registrations: int) -> tuple[bytes, bytes]:
    """The zips of the registrations and of the communications."""
    registry, files = Registry(communications, registrations), (io.BytesIO(), io.BytesIO())
    registry.registrations_zip(files[0])
    registry.communications_zip(files[1])
    return files[0].getvalue(), files[1].getvalue()


def serve_zips(server: ScriptedServer, registrations: Any, communications: Any) -> None:
    """Answer with these files, or answers."""
    server.answer(REGISTRATIONS, registrations)
    server.answer(COMMUNICATIONS, communications)


def edited(file: bytes, member: str, edit: Callable[[bytes], bytes]) -> bytes:
    """The zip with one of its files changed."""
    changed = io.BytesIO()
    with zipfile.ZipFile(io.BytesIO(file)) as old, zipfile.ZipFile(changed, "w", zipfile.ZIP_DEFLATED) as new:
        for name in old.namelist():
            content = old.read(name)
            new.writestr(name, edit(content) if name == member else content)
    return changed.getvalue()


def digest(db: Db) -> dict[str, Any]:
    """What is stored of the registry, without ids and times of import."""
    rows = {}
    for table, columns in {
        "lobbying_registrations": "number, newest_id, versions, organization_en, ends_on, institutions",
        "lobbying_subjects": "(select g.number from public.lobbying_registrations g where g.id = registration_id),"
        " description, subjects_en, subjects_fr, starts_on, ends_on, words",
        "lobbying_communications": "number, communicated_on, organization_fr, is_superseded, officials, official_keys,"
        " description, subjects_en, words",
    }.items():
        found = db.execute(
            f"select count(*) as count, md5(string_agg(row({columns})::text, '' order by row({columns})::text)) as md5"
            f" from public.{table}".encode()
        ).fetchone()
        assert found is not None
        rows[table] = (found["count"], found["md5"])
    return rows
