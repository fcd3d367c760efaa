"""import-lobbying: complete, repeated, killed, late, and with files that are damaged."""

import asyncio
import csv
import io
import os
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from functions.maintenance.__main__ import main
from functions.maintenance.imports.errors import ImportFailed
from infra.local.parliament.lobbying import COMMUNICATION_FILES as FILES
from infra.local.parliament.lobbying import Registry, sample_zip
from infra.local.postgres import ROOT
from infra.local.stack import Stack
from tests.functions.maintenance.imports_kit import (
    COMMUNICATIONS,
    REGISTRATIONS,
    Db,
    digest,
    edited,
    import_lobbying,
    no_pause,
    serve_zips,
    zips,
)
from tests.functions.tools.kit import ScriptedServer
from tests.servers import serve_http

FULL = bool(os.environ.get("PROVE"))
# Runs a command, and writes the memory of its largest process, in KiB, as the last line of the standard error.
MEASURED = (
    "import resource, subprocess, sys\n"
    "subprocess.run(sys.argv[1:], check=True)\n"
    "print(resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss, file=sys.stderr)\n"
)
REPORTS, VERSIONS = 1_000, 300  # three batches of reports
OFFICIALS, PRIMARY = "Communication_DpohExport.csv", "Communication_PrimaryExport.csv"
TEXTS, CODES = "Communication_SubjectMatterDetailsExport.csv", "Codes_SubjectMatterTypesExport.csv"


@pytest.fixture(scope="module", autouse=True)
def sample_again(stack: Stack) -> Iterator[None]:
    """Other tests of this process read the sample that the stack has imported."""
    yield
    server = ScriptedServer()
    with serve_http(server.http):
        serve_zips(server, sample_zip("registrations"), sample_zip("communications"))
        import_lobbying(stack, server.url, accept_smaller=True, again=True)


@pytest.fixture(scope="module")
def small() -> tuple[bytes, bytes]:
    """The zips of REPORTS and VERSIONS."""
    return zips(REPORTS, VERSIONS)


@pytest.fixture(autouse=True)
def small_batches(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("functions.maintenance.imports.lobbying.BATCH", 400)


@pytest.fixture
def server() -> Iterator[ScriptedServer]:
    server = ScriptedServer()
    with serve_http(server.http):
        yield server


@pytest.fixture
def stored(stack: Stack, server: ScriptedServer, stack_db: Db, small: tuple[bytes, bytes]) -> dict[str, Any]:
    """The digest of `small`, which is stored completely."""
    serve_zips(server, *small)
    import_lobbying(stack, server.url, accept_smaller=True)
    return digest(stack_db)


def test_a_second_import_changes_nothing(
    stack: Stack, server: ScriptedServer, stack_db: Db, small: tuple[bytes, bytes]
) -> None:
    """The same file is not stored again, and a forced import writes no row. A known file is not even sent."""
    serve_zips(server, *small)
    counts = import_lobbying(stack, server.url, accept_smaller=True)
    assert (counts["registrations"], counts["communications"], counts["bad_rows"]) == (VERSIONS // 6, REPORTS, 0)
    before = digest(stack_db)
    versions = stack_db.execute("select sum(versions) as versions from public.lobbying_registrations").fetchone()
    assert versions == {"versions": VERSIONS}
    rows = "select ctid, xmin::text from public.lobbying_communications order by number"
    unchanged = stack_db.execute(rows).fetchall()
    assert import_lobbying(stack, server.url) == {
        **dict.fromkeys(counts, 0),
        "unchanged": 2,
    }
    again = import_lobbying(stack, server.url, again=True)
    assert (again["communications"], again["written"], again["deleted"]) == (REPORTS, 0, 0)
    assert digest(stack_db) == before
    assert stack_db.execute(rows).fetchall() == unchanged

    named = (200, {"etag": '"one"'}, small[0]), (200, {"etag": '"two"'}, small[1])
    serve_zips(server, *named)
    import_lobbying(stack, server.url, again=True)
    serve_zips(server, (304, {}, b""), (304, {}, b""))
    assert import_lobbying(stack, server.url)["unchanged"] == 2


def test_a_killed_import_continues_after_its_last_batch(
    stack: Stack, server: ScriptedServer, stack_db: Db, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It also removes old files of a process that was killed."""
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    for name, age in (("lobbying-import-old", 7200), ("lobbying-import-new", 60)):
        (tmp_path / name).mkdir()
        os.utime(tmp_path / name, (time.time() - age,) * 2)
    serve_zips(server, *zips(1_100, VERSIONS))
    lines: list[str] = []

    async def die(seconds: float) -> None:
        lines.append("a batch")
        if len(lines) == 3:  # one of registrations, two of reports
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        import_lobbying(stack, server.url, rest=die, accept_smaller=True, again=True)
    state = "select position, finished_at from public.import_states where source = 'lobbying-communications'"
    assert stack_db.execute(state).fetchone() == {"position": "800", "finished_at": None}
    lines.clear()

    async def count(seconds: float) -> None:
        lines.append("a batch")

    assert import_lobbying(stack, server.url, rest=count)["unchanged"] == 1  # the registrations are done
    assert len(lines) == 1
    assert [path.name for path in tmp_path.iterdir()] == ["lobbying-import-new"]
    complete = digest(stack_db)
    assert complete["lobbying_communications"][0] == 1_100
    import_lobbying(stack, server.url, again=True)
    assert digest(stack_db) == complete


def test_an_import_ends_before_the_deadline_and_continues(
    stack: Stack, server: ScriptedServer, stack_db: Db, small: tuple[bytes, bytes]
) -> None:
    """One batch is stored, as the deadline is near."""
    serve_zips(server, *small)
    import_lobbying(stack, server.url, accept_smaller=True)
    complete = digest(stack_db)
    serve_zips(server, *zips(1_050, VERSIONS))
    deadline = time.monotonic() + 31
    late = []

    async def wait_until_late(seconds: float) -> None:
        late.append(seconds)
        while time.monotonic() < deadline - 29.5:  # the job stops thirty seconds before it
            await no_pause(0)

    counts = import_lobbying(stack, server.url, deadline=deadline, rest=wait_until_late, again=True)
    assert counts["unfinished"] >= 1
    assert len(late) == 1
    import_lobbying(stack, server.url)
    assert digest(stack_db)["lobbying_communications"][0] == complete["lobbying_communications"][0] + 50


CHALLENGE = (403, {"cf-mitigated": "challenge", "content-type": "text/html"}, b"<html>Just a moment...</html>")


def damage(file: bytes) -> bytes:
    """The zip with zeros in the middle of the officials."""
    position = file.find(OFFICIALS.encode()) + 500
    return file[:position] + bytes(64) + file[position + 64 :]


def encrypted(file: bytes) -> bytes:
    """The zip with the mark of an encrypted file."""
    changed = bytearray(file)
    for signature, flags in ((b"PK\x03\x04", 6), (b"PK\x01\x02", 8)):
        position = -1
        while (position := file.find(signature, position + 1)) >= 0:
            changed[position + flags] |= 1
    return bytes(changed)


def some(share: float) -> Callable[[bytes], bytes]:
    """A file's first rows."""

    def cut(text: bytes) -> bytes:
        rows = text.split(b"\r\n")
        return b"\r\n".join(rows[: 1 + int(share * (len(rows) - 2))]) + b"\r\n"

    return cut


def emptied(column: int) -> Callable[[bytes], bytes]:
    """A file without the values of a column."""

    def empty(text: bytes) -> bytes:
        header, *rows = csv.reader(io.StringIO(text.decode("cp1252"), newline=""))
        file = io.StringIO()
        writer = csv.writer(file, quoting=csv.QUOTE_ALL, lineterminator="\r\n")
        writer.writerow(header)
        writer.writerows([*row[:column], "null", *row[column + 1 :]] for row in rows)
        return file.getvalue().encode("cp1252")

    return empty


@pytest.mark.parametrize(
    ("answer", "sentence"),
    [
        *((lambda file, name=name: edited(file, name, some(0)), f"{name} in the zip has no rows") for name in FILES),
        *(
            (lambda file, name=name: edited(file, name, some(0.5)), "--accept-smaller")
            for name in (OFFICIALS, TEXTS, CODES)
        ),
        (lambda file: edited(file, OFFICIALS, emptied(3)), "0 records with officials.title, and the last import had"),
        (lambda file: edited(file, PRIMARY, emptied(3)), "0 records with primary_rows.fr"),
        (lambda file: edited(file, CODES, emptied(2)), "0 records with names.fr"),
        (encrypted, "damaged or encrypted"),
        (lambda file: CHALLENGE, "has to allow-list our user agent"),
        (lambda file: b"<html>Down for maintenance</html>", "no complete zip"),
        (lambda file: file[: len(file) // 2], "no complete zip"),
        (lambda file: (200, {"content-length": str(len(file) + 9)}, file), "transfer was cut"),
        (lambda file: (500, {}, b""), "status 500"),
        (lambda file: None, "cannot be reached"),
        (lambda file: edited(file, PRIMARY, lambda text: text.replace(b"COMM_DATE", b"DATE")), "no column COMM_DATE"),
        (lambda file: edited(file, PRIMARY, lambda text: text[: len(text) // 2]), "the last import had 1,000"),
        (lambda file: edited(file, PRIMARY, lambda text: text.replace(b'"20', b'"X0')), "cannot be read"),
        (damage, "is damaged"),
    ],
)
def test_a_damaged_file_changes_nothing(
    stack: Stack,
    server: ScriptedServer,
    stack_db: Db,
    small: tuple[bytes, bytes],
    stored: dict[str, Any],
    answer: Callable[[bytes], Any],
    sentence: str,
) -> None:
    serve_zips(server, small[0], answer(small[1]))
    with pytest.raises(ImportFailed, match=sentence):
        import_lobbying(stack, server.url)
    assert digest(stack_db) == stored


@pytest.mark.parametrize("value", [b"9" * 19, b"9" * 5_000, b"\xb2"])
def test_an_id_out_of_range_is_a_bad_row(
    stack: Stack,
    server: ScriptedServer,
    stack_db: Db,
    small: tuple[bytes, bytes],
    stored: dict[str, Any],
    value: bytes,
) -> None:
    """As the id of a report, of the report before, of an official, and of a registration."""

    def first(text: bytes) -> bytes:
        header, row, rest = text.split(b"\r\n", 2)
        return b"\r\n".join([header, b'"' + value + b'"' + row[row.index(b'",') + 1 :], rest])

    def last(text: bytes) -> bytes:
        header, one, row, rest = text.split(b"\r\n", 3)
        return b"\r\n".join([header, one, row[: row.rindex(b',"')] + b',"' + value + b'"', rest])

    changed = edited(edited(small[1], PRIMARY, lambda text: last(first(text))), OFFICIALS, first)
    serve_zips(server, edited(small[0], "Registration_PrimaryExport.csv", first), changed)
    assert import_lobbying(stack, server.url)["bad_rows"] == 4
    assert digest(stack_db) == stored


def test_a_subject_that_cannot_be_read_keeps_its_name(
    stack: Stack, server: ScriptedServer, stack_db: Db, small: tuple[bytes, bytes], stored: dict[str, Any]
) -> None:
    """A new subject with a bad row changes nothing either."""
    for edit in (
        lambda text: text.replace(b'"SMT-39","Transportation",', b'"SMT-39",'),
        lambda text: text + b'"SMT-99","x"\r\n',
    ):
        serve_zips(server, *(edited(file, CODES, edit) for file in small))
        assert import_lobbying(stack, server.url)["bad_rows"] == 2
        assert digest(stack_db) == stored


def test_an_encoding_is_found_and_repeated_rows_are_stored_once(
    stack: Stack, server: ScriptedServer, stack_db: Db, small: tuple[bytes, bytes], stored: dict[str, Any]
) -> None:
    """UTF-8 without a byte order mark; bytes that are not in Windows-1252 make a bad row; all files are doubled."""
    utf8 = small[1]
    for name in FILES:
        utf8 = edited(utf8, name, lambda text: text.decode("cp1252").encode())
    serve_zips(server, small[0], utf8)
    assert import_lobbying(stack, server.url)["written"] == 0
    wrong = edited(small[1], PRIMARY, lambda text: text.replace("Éloïse".encode("cp1252"), b"\x81lo\x8dse", 5))
    serve_zips(server, small[0], wrong)
    counts = import_lobbying(stack, server.url)
    assert (counts["written"], counts["bad_rows"]) == (0, 5)
    doubled = small[1]
    for name in FILES:
        doubled = edited(doubled, name, lambda text: text + text.split(b"\r\n", 1)[1])
    serve_zips(server, small[0], doubled)
    counts = import_lobbying(stack, server.url)
    assert (counts["written"], counts["bad_rows"]) == (0, 0)
    serve_zips(server, *small)
    import_lobbying(stack, server.url)
    assert digest(stack_db) == stored


@pytest.mark.parametrize("is_known_again", [False, True])
def test_an_older_run_ends_when_another_file_begins(
    stack: Stack,
    server: ScriptedServer,
    stack_db: Db,
    small: tuple[bytes, bytes],
    stored: dict[str, Any],
    is_known_again: bool,
) -> None:
    """The older run has stored two batches. Where its own file then begins again, it does not move the position."""
    older = edited(small[1], PRIMARY, lambda text: text.replace("ltée".encode("cp1252"), b"inc."))
    serve_zips(server, small[0], older)
    batches: list[float] = []

    async def die(seconds: float) -> None:
        raise KeyboardInterrupt

    def run_others() -> None:
        serve_zips(server, *small)
        import_lobbying(stack, server.url)
        if is_known_again:
            serve_zips(server, small[0], older)
            with pytest.raises(KeyboardInterrupt):
                import_lobbying(stack, server.url, rest=die)

    async def overlap(seconds: float) -> None:
        batches.append(seconds)
        if len(batches) == 2:
            await asyncio.to_thread(run_others)

    sentence = "communications: another run has begun with another file, so this one has ended"
    with pytest.raises(ImportFailed, match=sentence):
        import_lobbying(stack, server.url, rest=overlap)
    if is_known_again:
        state = "select position, finished_at from public.import_states where source = 'lobbying-communications'"
        assert stack_db.execute(state).fetchone() == {"position": "400", "finished_at": None}
    serve_zips(server, *small)
    assert import_lobbying(stack, server.url)["unchanged"] == (1 if is_known_again else 2)
    assert digest(stack_db) == stored


def test_a_row_that_cannot_be_read_loses_nothing(
    stack: Stack, server: ScriptedServer, stack_db: Db, small: tuple[bytes, bytes], stored: dict[str, Any]
) -> None:
    """Two rows of reports and one of an official are broken; another report has changed, and one is missing."""

    def break_rows(text: bytes) -> bytes:
        rows = text.split(b"\r\n")
        found = {row.split(b",")[0]: number for number, row in enumerate(rows)}
        rows[found[b'"30"']] = b'"30","only two"'
        rows[found[b'"31"']] = rows[found[b'"31"']].replace(b'"20', b'"29-99-')
        rows[found[b'"40"']] = rows[found[b'"40"']].replace(b"Lobeur", b"Lobbyist")
        del rows[found[b'"41"']]
        return b"\r\n".join(rows)

    broken = edited(small[1], PRIMARY, break_rows)
    broken = edited(broken, OFFICIALS, lambda text: text.replace(b'"50",', b'"50";', 1))
    serve_zips(server, small[0], broken)
    counts = import_lobbying(stack, server.url)
    assert (counts["bad_rows"], counts["written"], counts["deleted"]) == (3, 1, 0)
    after = digest(stack_db)
    assert after["lobbying_communications"][0] == stored["lobbying_communications"][0]
    serve_zips(server, *small)
    import_lobbying(stack, server.url)
    assert digest(stack_db) == stored


def test_rows_that_the_file_no_longer_has_are_deleted(
    stack: Stack, server: ScriptedServer, stack_db: Db, small: tuple[bytes, bytes], stored: dict[str, Any]
) -> None:
    serve_zips(server, *zips(950, 282))
    counts = import_lobbying(stack, server.url)
    assert counts["deleted"] == 50 + 3
    assert {table: count for table, (count, _) in digest(stack_db).items()}["lobbying_communications"] == 950


def test_the_command_prints_the_progress_and_the_sentence(
    stack: Stack,
    server: ScriptedServer,
    small: tuple[bytes, bytes],
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.setattr("functions.maintenance.imports.fetch.PAUSE_S", 0.0)
    for name, text in environment(stack, server).items():
        monkeypatch.setenv(name, text)
    serve_zips(server, small[0], CHALLENGE)
    assert main(["import-lobbying", "--accept-smaller"]) == 1
    errors = capsys.readouterr().err
    assert "import-lobbying: reading the communications" in errors
    assert "communications: 127.0.0.1 refuses this program (403): it demands a browser's challenge." in errors
    assert "Traceback" not in errors


def environment(stack: Stack, server: ScriptedServer) -> dict[str, str]:
    """The environment of the job."""
    return {
        "SUPABASE_URL": stack.info["supabase_url"],
        "SUPABASE_ANON_KEY": stack.info["publishable_key"],
        "SUPABASE_SERVICE_ROLE_KEY": stack.info["secret_key"],
        "LOBBYING_URL": server.url,
    }


@pytest.mark.prove
def test_the_whole_registry_is_imported_in_bounded_memory(
    stack: Stack, stack_db: Db, server: ScriptedServer, tmp_path: Path
) -> None:
    """The size of the real one under PROVE: 344,000 reports and 163,000 versions, under 300 MB, twice the same.

    The time is printed: five minutes are enough for the first import.
    """
    communications, versions = (344_000, 163_000) if FULL else (2_000, 900)
    registry = Registry(communications, versions)
    for path, write in ((REGISTRATIONS, registry.registrations_zip), (COMMUNICATIONS, registry.communications_zip)):
        with (tmp_path / "file").open("wb") as file:
            write(file)
        server.answer(path, (tmp_path / "file").read_bytes())
    digests = []
    for options in (["--accept-smaller"], ["--again"]):
        done = subprocess.run(
            [
                sys.executable,
                "-c",
                MEASURED,
                sys.executable,
                "-m",
                "functions.maintenance",
                "import-lobbying",
                *options,
            ],
            env={**os.environ, **environment(stack, server)},
            cwd=ROOT,
            capture_output=True,
            text=True,
            timeout=3000,
            check=True,
        )
        assert "import-lobbying: reading the communications" in done.stderr
        sys.stdout.write(f"{options} {done.stdout.strip()} {done.stderr.splitlines()[-2]}\n")
        assert int(done.stderr.splitlines()[-1]) < 300 * 1024
        digests.append(digest(stack_db))
    assert digests[0] == digests[1]
    assert digests[0]["lobbying_communications"][0] == communications
    found = stack_db.execute("select sum(versions) as versions from public.lobbying_registrations").fetchone()
    assert found == {"versions": versions}
