"""Released migrations never change, and the code of the last release runs on the newest schema."""

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from infra.local import migrations
from infra.local.migrations import Release
from infra.local.postgres import MIGRATIONS, ROOT

RELEASES = migrations.releases()


def problems(releases: list[Release], folder: Path) -> list[str]:
    """What is wrong with the released migrations in a folder."""
    found = []
    names = [name for release in releases for name in release.migrations]
    files = sorted(path.name for path in folder.glob("*.sql"))
    for release in releases:
        if not re.fullmatch(r"[0-9a-f]{40}", release.commit):
            found.append(f"{release.version}: {release.commit} is not a commit")
        for name, checksum in release.migrations.items():
            path = folder / name
            if not path.exists():
                found.append(f"{release.version}: {name} was deleted")
            elif migrations.checksum(path) != checksum:
                found.append(f"{release.version}: {name} changed after its release")
    if names != sorted(names) or names != files[: len(names)]:
        found.append("a migration is older than a released one")
    return found


def test_released_migrations_are_unchanged() -> None:
    assert problems(RELEASES, MIGRATIONS) == []


def test_a_change_of_a_released_migration_is_found(tmp_path: Path) -> None:
    for name in ("1_a.sql", "2_b.sql"):
        (tmp_path / name).write_text("select 1;", encoding="utf-8")
    checksums = {name: migrations.checksum(tmp_path / name) for name in ("1_a.sql", "2_b.sql")}
    released = [Release("0.1.0", "a" * 40, checksums)]
    assert problems(released, tmp_path) == []

    (tmp_path / "1_a.sql").write_text("select 2;", encoding="utf-8")
    assert problems(released, tmp_path) == ["0.1.0: 1_a.sql changed after its release"]
    (tmp_path / "1_a.sql").unlink()
    assert "0.1.0: 1_a.sql was deleted" in problems(released, tmp_path)
    assert problems([Release("0.1.0", "main", {})], tmp_path) == ["0.1.0: main is not a commit"]
    (tmp_path / "1_a.sql").write_text("select 1;", encoding="utf-8")
    (tmp_path / "1_z.sql").write_text("select 1;", encoding="utf-8")
    assert problems(released, tmp_path) == ["a migration is older than a released one"]


@pytest.mark.prove
@pytest.mark.skipif(not RELEASES and not os.environ.get("PROVE"), reason="nothing was released yet")
def test_the_last_release_runs_on_the_newest_schema(tmp_path: Path) -> None:
    """The code of the last release and its own journey of a user, on the newest migrations. Before the first release:
    the code of HEAD, and only with PROVE=1."""
    checkout = tmp_path / "released"
    commit = RELEASES[-1].commit if RELEASES else "HEAD"
    git = ("git", "-c", "safe.directory=*")
    subprocess.run([*git, "clone", "--quiet", "--no-checkout", str(ROOT), str(checkout)], check=True)
    subprocess.run([*git, "checkout", "--quiet", commit], cwd=checkout, check=True)
    shutil.rmtree(checkout / "sql" / "migrations")
    shutil.copytree(MIGRATIONS, checkout / "sql" / "migrations")
    for folder in ("infra/local", "tests/clients"):
        (checkout / folder / "node_modules").symlink_to(ROOT / folder / "node_modules")

    done = subprocess.run(
        [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", "tests/journeys/test_basic_user.py"],
        cwd=checkout,
        env={**os.environ, "PYTHONPATH": str(checkout)},
        capture_output=True,
        text=True,
        check=False,
    )

    assert done.returncode == 0, done.stdout
