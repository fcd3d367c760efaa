"""Debian's Postgres with extensions that no wheel has, unpacked into the checkout without root or installation.

Postgres finds its libraries and its share folder relative to its programs, so it runs from any folder.
"""

import fcntl
import os
import re
import shutil
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from infra.local.postgres import ROOT

FOLDER = ROOT / ".venv" / "debian"
EXTENSIONS = ("cron", "plpgsql-check")
# Not loaded by Postgres's programs or the extensions: the JIT compiler, and the requirements of scripts.
UNNEEDED = re.compile(r"libllvm.*|libz3.*|libperl.*|.*-perl|.*-dev|libpq5")


def programs(version: str | None = None) -> Path:
    """The folder of Postgres's programs. Skips where apt has no packages for the version; fails where the download
    fails."""
    FOLDER.mkdir(parents=True, exist_ok=True)
    with (FOLDER / "lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)  # several test processes may call this at the same time
        if not (FOLDER / "root").exists():
            _unpack()
    (found,) = (FOLDER / "root" / "usr" / "lib" / "postgresql").iterdir()
    if version not in (None, found.name):
        pytest.skip(f"apt has the extensions for Postgres {found.name}, not {version}")
    return found / "bin"


@contextmanager
def libraries() -> Iterator[None]:
    """Sets LD_LIBRARY_PATH while the programs start: the machine may lack some of the libraries."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("LD_LIBRARY_PATH", _folders())
        yield


def _folders() -> str:
    unpacked = {str(path.parent) for path in (FOLDER / "root").glob("**/*-linux-gnu*/*.so.*")}
    return os.pathsep.join([*sorted(unpacked), *filter(None, [os.environ.get("LD_LIBRARY_PATH")])])


def _unpack() -> None:
    """Downloads the packages and the libraries that the machine lacks, and unpacks them atomically."""
    if not shutil.which("apt-get") or not shutil.which("dpkg-deb"):
        pytest.skip("no wheel has pg_cron; Debian's package needs apt-get and dpkg-deb")
    # The machine's package lists may be missing or out of date.
    _apt("apt-get", "update")
    packaged = re.findall(r"^postgresql-(\d+)-cron$", _apt("apt-cache", "pkgnames", "postgresql-"), re.MULTILINE)
    versions = sorted((int(version) for version in packaged if int(version) >= 15), reverse=True)
    if not versions:
        pytest.skip("apt has no postgresql-*-cron for Postgres 15 or newer")
    # libpq5 is always downloaded: it must be as new as the client.
    names = ["libpq5", f"postgresql-{versions[0]}", f"postgresql-client-{versions[0]}"]
    names += [f"postgresql-{versions[0]}-{extension}" for extension in EXTENSIONS]
    # "Inst name (version ..." is not installed; "Inst name [version] (..." would be upgraded.
    missing = re.findall(r"^Inst (lib\S+) \(", _apt("apt-get", "--simulate", "install", *names), re.MULTILINE)
    downloads, unfinished = FOLDER / "packages", FOLDER / "unfinished"
    for folder in (downloads, unfinished):
        shutil.rmtree(folder, ignore_errors=True)
        folder.mkdir()
    _apt("apt-get", "download", *names, *(name for name in missing if not UNNEEDED.fullmatch(name)), cwd=downloads)
    for package in downloads.glob("*.deb"):
        _run("dpkg-deb", "--extract", str(package), str(unfinished))
    for compiler in unfinished.glob("usr/lib/postgresql/*/lib/llvmjit.so"):
        compiler.unlink()
    unfinished.rename(FOLDER / "root")
    for folder in (downloads, FOLDER / "lists", FOLDER / "cache"):
        shutil.rmtree(folder)


def _apt(program: str, *arguments: str, cwd: Path = FOLDER) -> str:
    for folder in ("lists/partial", "cache/archives/partial"):
        (FOLDER / folder).mkdir(parents=True, exist_ok=True)
    options = {
        "Dir::State::Lists": FOLDER / "lists",
        "Dir::Cache": FOLDER / "cache",
        "Acquire::Languages": "none",
        "Acquire::http::Timeout": 20,
        "APT::Update::Error-Mode": "any",  # otherwise apt ignores failed downloads
        "APT::Sandbox::User": "",  # as root, apt would switch to a user without write permission
        "APT::Install-Recommends": "false",
    }
    settings = [argument for name, value in options.items() for argument in ("-o", f"{name}={value}")]
    return _run(program, "--quiet", *settings, *arguments, cwd=cwd)


def _run(*command: str, cwd: Path = FOLDER) -> str:
    environment = {**os.environ, "LC_ALL": "C"}
    done = subprocess.run(command, capture_output=True, text=True, check=False, cwd=cwd, env=environment)
    if done.returncode != 0:
        pytest.fail(f"Debian's packages cannot be downloaded: {command[0]}: {done.stderr.strip()[-400:]}")
    return done.stdout
