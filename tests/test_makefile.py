"""The Makefile: its errors, and a checkout whose path has a space and an accent."""

import re
import shutil
import signal
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

import httpx
import pytest

from infra.local.stack import free_offset
from tests.conftest import copy_stack
from tests.local.launcher_kit import RUN, TIERS, launched, refusal, tiers

ROOT = Path(__file__).resolve().parents[1]
INSTALLED = (".venv", "infra/local/node_modules", "frontend/node_modules")
MARKS = (".venv/.ready", "infra/local/node_modules/.ready", "frontend/dist/index.html")
MAKE = ("make", "--no-print-directory")
READ_ONLY = 'mount --bind "$0" "$0" && mount -o remount,ro,bind "$0" && exec "$@"'
NOWHERE = "http://127.0.0.1:9"


def read_only(folder: Path, command: Sequence[str]) -> tuple[str, ...]:
    """The command, with a folder that is read-only for it."""
    return ("unshare", "--user", "--map-root-user", "--mount", "sh", "-c", READ_ONLY, str(folder), *command)


@pytest.fixture
def checkout(tmp_path: Path) -> Path:
    """A copy of the sources, with nothing installed."""
    folder = tmp_path / "mon dossier été"
    for name in ("functions", "infra", "sql", "frontend", "requirements"):
        ignored = shutil.ignore_patterns("node_modules", "__pycache__", "dist")
        shutil.copytree(ROOT / name, folder / name, ignore=ignored)
    (folder / "tests/clients").mkdir(parents=True)
    for file in ("Makefile", "tests/clients/package-lock.json"):
        shutil.copy(ROOT / file, folder / file)
    return folder


def test_a_path_with_spaces_and_accents_works(checkout: Path, stopped_stack: Path) -> None:
    """`make run` starts everything there. The commands of the other targets have no absolute path to be quoted."""
    for name in INSTALLED:
        (checkout / name).symlink_to(ROOT / name)
    (checkout / "frontend/dist").mkdir()
    (checkout / "frontend/dist/index.html").write_text("<title>Copied</title>")
    marks = [argument for mark in MARKS for argument in ("-o", mark)]
    folder = copy_stack(stopped_stack, checkout / ".local")
    with launched(folder, free_offset(), command=(*MAKE, "-C", str(checkout), *marks, "run")) as running:
        info = running.ready()
        assert tiers(info) == TIERS
        assert "Copied" in httpx.get(info["functions_url"], headers={"accept": "text/html"}).text
        running.end(signal.SIGTERM)  # make leaves SIGINT to the terminal, which sends it to everything
    for target in ("test", "check", "package"):
        shown = subprocess.run([*MAKE, "-n", target], cwd=checkout, capture_output=True, text=True, check=True)
        assert str(checkout) not in shown.stdout


def fake_python(folder: Path, body: str) -> str:
    """A program with a shell script as its body. Returns its path."""
    program = folder / "a python"
    program.write_text(f"#!/bin/sh\n{body}\n")
    program.chmod(0o755)
    return str(program)


def make_refusal(command: Sequence[str], checkout: Path) -> str:
    """The first line of a failing make after its steps, which has no other line than make's own."""
    done = subprocess.run(
        command, cwd=checkout, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, check=False
    )
    assert done.returncode == 2, done.stdout
    first, *others = [line for line in done.stdout.splitlines() if not line.startswith("making ")]
    assert all(re.match(r"make(\[\d+\])?: ", line) for line in others), done.stdout
    return first


@pytest.mark.parametrize(
    ("body", "expected"),
    [
        ("", "There is no {python}. Install Python 3.11 or newer, or choose another: make PYTHON=python3.13"),
        ("exit 1", "Python 3.11 or newer is needed; {python} is older. Choose another: make PYTHON=python3.13"),
        (
            'test "$1" = -c || { echo Traceback; exit 1; }',
            "{python} cannot make a virtual environment; on Debian and Ubuntu: apt-get install python3-venv",
        ),
    ],
    ids=["absent", "old", "without venv"],
)
def test_an_unusable_python_is_refused(checkout: Path, tmp_path: Path, body: str, expected: str) -> None:
    python = fake_python(tmp_path, body) if body else str(tmp_path / "a python")
    assert make_refusal([*MAKE, f"PYTHON={python}", "run"], checkout) == expected.format(python=python)


@pytest.mark.skipif(sys.platform != "linux", reason="mounts in a namespace")
def test_a_read_only_checkout_is_refused(checkout: Path) -> None:
    assert make_refusal(read_only(checkout, (*MAKE, "-C", str(checkout), "run")), checkout) == (
        f"{checkout} is read-only, and packages are installed into it: copy it elsewhere."
    )


@pytest.mark.skipif(sys.platform != "linux", reason="mounts in a namespace")
def test_a_read_only_stack_folder_is_refused(tmp_path: Path) -> None:
    (tmp_path / "stack").mkdir()
    assert refusal(tmp_path / "stack", command=read_only(tmp_path / "stack", RUN)) == (
        f"{tmp_path}/stack cannot be used as the stack's folder (Read-only file system): set STACK_DIR.\n"
    )


@pytest.mark.skipif(sys.platform != "linux", reason="mounts in a namespace")
@pytest.mark.parametrize("size", ["4k", "1m"], ids=["for the first process", "for Postgres"])
def test_a_full_disk_is_named(tmp_path: Path, size: str) -> None:
    (tmp_path / "stack").mkdir()
    mount = f'mount -t tmpfs -o size={size} none "$0" && exec "$@"'
    command = ("unshare", "--user", "--map-root-user", "--mount", "sh", "-c", mount, str(tmp_path / "stack"), *RUN)
    assert refusal(tmp_path / "stack", str(free_offset()), command=command) == (
        "The disk of the stack's folder is full: free some space, or set STACK_DIR.\n"
    )


def install(what: str, *command: str, **environ: str) -> subprocess.CompletedProcess[str]:
    """Runs one step of the installation."""
    program = [sys.executable, str(ROOT / "infra/install.py"), what, *command]
    path = f"{Path(sys.executable).parent}:/usr/bin:/bin"
    return subprocess.run(program, env={"PATH": path, **environ}, capture_output=True, text=True, check=False)


def test_each_package_manager_names_an_unreachable_registry(tmp_path: Path) -> None:
    """The sentences of real failures of pip, uv and npm."""
    shutil.copy(ROOT / "infra/local/package.json", tmp_path)
    shutil.copy(ROOT / "infra/local/package-lock.json", tmp_path)
    pip = (str(Path(sys.executable).with_name("pip")), "--retries", "1", "--no-cache-dir", "install")
    target, uv, npm = ("--target", str(tmp_path / "to")), ("uv", "pip", "install", "--no-cache"), ("npm", "ci")
    nowhere = {"UV_HTTP_RETRIES": "0", "npm_config_fetch_retries": "0", "HOME": str(tmp_path)}
    for tool, command in {
        "pip": (*pip, *target, "--index-url", NOWHERE, "wheel"),
        "uv": (*uv, *target, "--index-url", NOWHERE, "wheel"),
        "npm": (*npm, "--prefix", str(tmp_path), "--registry", NOWHERE),
    }.items():
        done = install("something", *command, **nowhere)
        assert done.returncode != 0
        assert done.stderr == (
            f"something could not be installed by {tool}: its package registry cannot be reached. Check the network, "
            "then run the command again: what is installed already stays.\n"
        )


def test_downloads_are_printed_with_their_sizes() -> None:
    lines = (
        "Collecting uv==0.13.9",
        "  Downloading https://files.example/uv-0.13.9-py3-none-any.whl (17.6 MB)",
        "Downloading playwright (51.0MiB)",
        " + playwright==1.0",
        "added 51 packages in 4s",
    )
    done = install("three things", sys.executable, "-c", f"print({chr(10).join(lines)!r})")
    assert done.stdout.splitlines() == [
        "installing three things", "  uv (17.6 MB)", "  playwright (51.0 MB)", "  51 packages in 4s",
    ]  # fmt: skip


def test_another_failure_shows_the_last_line() -> None:
    for error, cause in {
        "ENOSPC: no space left on device": "installed by sh: the disk is full. Free some space, then run",
        "Hash mismatch": "installed: sh failed (Hash mismatch). To retry, run",
    }.items():
        done = install("it", "sh", "-c", f"echo first; echo {error}; exit 3")
        assert (done.returncode, done.stderr) == (
            3, f"it could not be {cause} the command again: what is installed already stays.\n",
        )  # fmt: skip
