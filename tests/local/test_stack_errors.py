"""Errors of the launcher, and the users it runs as."""

import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from infra.local import stack as launcher
from infra.local.postgres import NAMESPACE, Postgres, unprivileged
from infra.local.processes import Processes, StackError
from infra.local.stack import (
    POSTGRES,
    free_offset,
    locked,
)
from tests.local.launcher_kit import RUN, TIERS, launched, processes_of, refusal, tiers


@pytest.mark.parametrize("offset", ["-1", "x", "11205", "1.5", "²"])
def test_a_malformed_port_offset_is_refused(tmp_path: Path, offset: str) -> None:
    assert refusal(tmp_path / "stack", offset) == f"PORT_OFFSET must be a number from 0 to 11204, not {offset!r}.\n"


def test_an_unusable_stack_folder_is_refused(tmp_path: Path) -> None:
    """STACK_DIR is a file."""
    (tmp_path / "stack").touch()
    assert refusal(tmp_path / "stack").startswith(
        f"{tmp_path}/stack cannot be used as the stack's folder (File exists): set STACK_DIR"
    )


def test_missing_programs_are_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Without Postgres or PostgREST, the error names what to install."""
    error = refusal(tmp_path / "stack", str(free_offset()), POSTGRES_BIN=str(tmp_path))
    assert error.startswith(f"POSTGRES_BIN names {tmp_path}, which holds no Postgres: install PostgreSQL 17")
    monkeypatch.setattr(launcher, "POSTGREST_BINARY", tmp_path / "postgrest")
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(StackError, match=r"install it .*brew install postgrest.*, or set SUPABASE_URL"):
        launcher.postgrest_binary()


def test_a_function_with_a_wrong_setting_names_it(tmp_path: Path) -> None:
    """The error names the setting without its value; the stand-ins, which did start, are stopped."""
    supabase = {"SUPABASE_URL": "http://127.0.0.1:9", "SUPABASE_ANON_KEY": "a", "SUPABASE_SERVICE_ROLE_KEY": "b"}
    wrong = {"ANTHROPIC_API_KEY": "a-key", "ANTHROPIC_BASE_URL": "nonsense"}
    error = refusal(tmp_path / "stack", str(free_offset()), **supabase, **wrong)
    assert error == "functions did not start. ANTHROPIC_BASE_URL must start with https:// or http://.\n"
    assert not processes_of(tmp_path)


@contextmanager
def open_folder(owner: int) -> Iterator[Path]:
    """A folder that every user can enter, unlike pytest's."""
    folder = Path(tempfile.mkdtemp())
    try:
        folder.chmod(0o755)
        os.chown(folder, owner, -1)
        yield folder
    finally:
        shutil.rmtree(folder)


@pytest.mark.skipif(os.geteuid() != 0, reason="the other tests run as a plain user already")
def test_the_stack_runs_as_a_plain_user() -> None:
    """As the user `nobody` if it can run this Python, otherwise as a plain user in a user namespace."""
    nobody = ("setpriv", "--reuid=65534", "--regid=65534", "--clear-groups")
    ways = [(nobody, 65534), (NAMESPACE, 0)]
    prefix, owner = next(
        (prefix, owner)
        for prefix, owner in ways
        if subprocess.run([*prefix, "sh", "-c", f"{RUN[0]} -c ''"], capture_output=True, check=False).returncode == 0
    )
    with (
        open_folder(owner) as folder,
        launched(folder / "stack", free_offset(), {"HOME": str(folder)}, (*prefix, *RUN)) as running,
    ):
        assert tiers(running.ready()) == TIERS
        assert running.end() == 0


@pytest.mark.skipif(os.geteuid() != 0 or sys.platform != "linux", reason="only root on Linux can change its user")
def test_root_without_namespaces_runs_postgres_as_nobody(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """If that user cannot enter a folder, the error names it."""
    (tmp_path / "unshare").symlink_to("/bin/false")
    monkeypatch.setenv("PATH", f"{tmp_path}:{os.environ['PATH']}")
    monkeypatch.setattr("infra.local.postgres.unprivileged", unprivileged.__wrapped__)
    with open_folder(0) as folder, locked(folder) as lock, Processes(folder, lock) as processes:
        child = Postgres(folder / "postgres", POSTGRES + free_offset(), durable=False).start(processes)
        assert Path(f"/proc/{child.process.pid}").stat().st_uid == 65534
        (folder / "closed").mkdir(mode=0o700)
        with pytest.raises(StackError, match=f"the user nobody cannot enter {folder}/closed: run this as another user"):
            Postgres(folder / "closed" / "postgres", 0).start(processes)


def test_settings_come_from_the_environment_file(tmp_path: Path) -> None:
    keys = tmp_path / "keys"
    keys.write_text(f"POSTGRES_BIN={tmp_path}\n")
    error = refusal(tmp_path / "stack", str(free_offset()), ENV_FILE=str(keys))
    assert error.startswith(f"POSTGRES_BIN names {tmp_path}, which holds no Postgres")
