"""import-lobbying: the registry of lobbyists, from the two zips of the Office of the Commissioner of Lobbying.

A zip is stored and read completely before the first change. Then batches in the order of the keys make the tables equal
to it: rows that differ are written, and rows between two keys of the file that it does not have are deleted. The
position is stored with each batch. A zip that has not changed since the last complete import is not read again.
"""

import asyncio
import shutil
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import closing, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypedDict

from functions.common import results
from functions.common.database import Database
from functions.common.errors import ValueRefused
from functions.maintenance.imports import registry
from functions.maintenance.imports.errors import ImportFailed
from functions.maintenance.imports.fetch import Site, Sleep
from functions.maintenance.imports.registry import Record, SubjectNames
from functions.maintenance.imports.staging import Archive, Staging

VERSION = "2"  # change it where the same file would be read differently
BATCH = 1_000
DELETED_A_CALL = 500  # by one call of the SQL functions
CALL_TIMEOUT_S = 60.0
REST_FACTOR = 0.2  # times the duration of the batch
PROGRESS_EVERY_S = 1.0
SMALLEST_SHARE = 0.9  # of the records of the last import: a smaller file is not believed
FOLDER = "lobbying-import-"
NOT_CURRENT = "another run has begun with another file, so this one has ended."
LEFTOVER_S = 3600.0  # the age of a folder whose import was killed; on Lambda an import has fifteen minutes
MARGIN_S = 30.0  # before the deadline, for the batch that is running


@dataclass(frozen=True, slots=True)
class Dataset:
    """One of the two zips: where it is, how it is read, and the SQL function that stores its records."""

    source: str
    path: str
    function: str
    key: type[int] | type[str]
    stage: Callable[[Archive, Staging], None]
    records: Callable[[Staging, SubjectNames, Any, int], Iterator[list[Record]]]
    total: str  # what SQLite counts

    @property
    def noun(self) -> str:
        """registrations or communications."""
        return self.source.removeprefix("lobbying-")


DATASETS = (
    Dataset(
        "lobbying-registrations",
        "/media/zwcjycef/registrations_enregistrements_ocl_cal.zip",
        "import_registrations",
        str,
        registry.stage_registrations,
        registry.registrations,
        "(select distinct number from primary_rows)",
    ),
    Dataset(
        "lobbying-communications",
        "/media/mqbbmaqk/communications_ocl_cal.zip",
        "import_communications",
        int,
        registry.stage_communications,
        registry.communications,
        "primary_rows",
    ),
)


class LobbyingCounts(TypedDict):
    """Records read, rows written, records deleted, rows of the files that could not be read; files that had not
    changed, and files that the next run continues with."""

    registrations: int
    communications: int
    written: int
    deleted: int
    bad_rows: int
    unchanged: int
    unfinished: int


class LobbyingImport:
    """An import. `deadline`: the time.monotonic() by which it must have ended, None for no such time."""

    def __init__(
        self,
        database: Database,
        site: Site,
        progress: Callable[[str], None],
        *,
        deadline: float | None = None,
        rest: Sleep = asyncio.sleep,
        again: bool = False,
        accept_smaller: bool = False,
    ) -> None:
        self._database, self._site, self._progress, self._rest = database, site, progress, rest
        self._deadline, self._again, self._accept_smaller = deadline, again, accept_smaller
        self._reported = 0.0
        self._counts = LobbyingCounts(
            registrations=0, communications=0, written=0, deleted=0, bad_rows=0, unchanged=0, unfinished=0
        )

    async def run(self) -> LobbyingCounts:
        """Import both zips. Raises Unavailable, and ImportFailed where a zip cannot be read; the other is imported."""
        failures = []
        _remove_leftovers()
        for dataset in DATASETS:
            if self._is_late():
                self._counts["unfinished"] += 1
                continue
            try:
                with tempfile.TemporaryDirectory(prefix=FOLDER) as folder:
                    await self._import(dataset, Path(folder))
            except ImportFailed as error:
                failures.append(f"{dataset.noun}: {error}")
        if failures:
            raise ImportFailed(f"{' '.join(failures)} What was imported before stays.")
        return self._counts

    async def _import(self, dataset: Dataset, folder: Path) -> None:
        states = await self._call("import_states_of", {"p_prefix": dataset.source}, results.record())
        state = states.get(dataset.source)
        is_current = state is not None and state["is_finished"] and state["digest"].startswith(f"{VERSION}-")
        validator = state["validator"] if state is not None and is_current and not self._again else None
        self._progress(f"import-lobbying: reading the {dataset.noun}")
        download = await self._site.download(dataset.path, folder / "file.zip", validator)
        if download is None:
            self._counts["unchanged"] += 1
            return
        digest = f"{VERSION}-{download.digest}"
        if state is not None and is_current and state["digest"] == digest and not self._again:
            self._counts["unchanged"] += 1
            await self._finish(dataset, digest, download.validator, state["records"], state["sizes"], None)
            return
        with (
            closing(Archive(folder / "file.zip", self._site.host)) as archive,
            closing(Staging(folder / "staging.sqlite")) as staging,
        ):
            names = SubjectNames(archive, staging)
            dataset.stage(archive, staging)
            total, sizes = staging.count(dataset.total), staging.sizes()
            if not self._accept_smaller:
                _compare((state["sizes"] or {}) if state is not None else {}, sizes)
            self._counts["bad_rows"] += staging.bad_rows
            is_done, position = await self._store(dataset, digest, staging, names, total)
        if is_done:
            await self._finish(dataset, digest, download.validator, total, sizes, position)

    async def _store(
        self, dataset: Dataset, digest: str, staging: Staging, names: SubjectNames, total: int
    ) -> tuple[bool, Any]:
        """Store the records after the position of an interrupted import.

        Returns whether all are stored, and the new position. False where the time was too short.
        """
        begun = await self._call(
            "start_import",
            {"p_source": dataset.source, "p_digest": digest, "p_again": self._again},
            results.record("position", "is_finished"),
        )
        position = dataset.key(begun["position"]) if begun["position"] is not None else None
        # A file with a row that cannot be read is not known to be complete: it deletes nothing.
        deletes = not staging.bad_rows
        done = 0
        for records in dataset.records(staging, names, position, BATCH):
            started = time.monotonic()
            through = records[-1]["number"] if records else None
            await self._store_batch(dataset, digest, (position, through), records, deletes=deletes)
            position = through if through is not None else position
            done += len(records)
            self._report(dataset, done, total)
            if self._is_late():
                self._counts["unfinished"] += 1
                return False, position
            await self._rest(REST_FACTOR * (time.monotonic() - started))
        await self._store_batch(dataset, digest, (position, None), [], deletes=deletes)
        self._counts["registrations" if dataset.noun == "registrations" else "communications"] += total
        return True, position

    async def _store_batch(
        self, dataset: Dataset, digest: str, span: tuple[Any, Any], records: list[Record], *, deletes: bool
    ) -> None:
        params = {
            "p_digest": digest,
            "p_after": span[0],
            "p_through": span[1],
            "p_rows": records,
            "p_deletes": deletes,
        }
        while True:
            done = await self._call(dataset.function, params, results.record("is_current", "written", "deleted"))
            if not done["is_current"]:
                raise ImportFailed(NOT_CURRENT)
            self._counts["written"] += done["written"]
            self._counts["deleted"] += done["deleted"]
            if done["deleted"] < DELETED_A_CALL:
                return

    async def _finish(
        self,
        dataset: Dataset,
        digest: str,
        validator: str | None,
        total: int,
        sizes: dict[str, int],
        position: Any,
    ) -> None:
        params = {
            "p_source": dataset.source,
            "p_digest": digest,
            "p_validator": validator and validator[:300],
            "p_records": total,
            "p_sizes": sizes,
            "p_position": position if position is None else str(position),
        }
        done = await self._call("finish_import", params, results.record("is_current"))
        if not done["is_current"]:
            raise ImportFailed(NOT_CURRENT)

    async def _call(self, function: str, params: dict[str, Any], parse: Callable[[Any], Any]) -> Any:
        try:
            return await self._database.call(function, params, timeout_s=CALL_TIMEOUT_S, parse=parse)
        except ValueRefused as error:
            raise ImportFailed("the database refuses a value of the file.") from error

    def _is_late(self) -> bool:
        return self._deadline is not None and time.monotonic() > self._deadline - MARGIN_S

    def _report(self, dataset: Dataset, done: int, total: int) -> None:
        if time.monotonic() - self._reported >= PROGRESS_EVERY_S:
            self._reported = time.monotonic()
            self._progress(f"import-lobbying: {done:,} of {total:,} {dataset.noun}")


def _compare(last: dict[str, int], sizes: dict[str, int]) -> None:
    """Raise ImportFailed where a column has far fewer values than in the last import, or a subject has no name now."""
    for column, now in sizes.items():
        before = last.get(column, 0)
        if now < (before if column.startswith("names.") else SMALLEST_SHARE * before):
            raise ImportFailed(
                f"the file has {now:,} records with {column}, and the last import had {before:,}. If that is right, "
                "run the job by hand with --accept-smaller."
            )


def _remove_leftovers() -> None:
    """Remove the files of imports that were killed: on Lambda /tmp outlives them."""
    for folder in Path(tempfile.gettempdir()).glob(f"{FOLDER}*"):
        with suppress(OSError):  # another run removes it
            if time.time() - folder.stat().st_mtime > LEFTOVER_S:
                shutil.rmtree(folder)
