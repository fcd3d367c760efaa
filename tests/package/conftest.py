"""Two builds of the artifacts in temporary trees, with traps in the sources and secrets in the environment."""

import fcntl
import os
import random
import shutil

import pytest

from tests.package.kit import NAMES, Packaged, build_in, copy_sources


@pytest.fixture(scope="session")
def packaged(tmp_path_factory: pytest.TempPathFactory) -> Packaged:
    """Built once per test run: workers of pytest-xdist share the parent of their temporary folders."""
    base = tmp_path_factory.getbasetemp()
    if "PYTEST_XDIST_WORKER" in os.environ:
        base = base.parent
    first, second, output = base / "package-a", base / "package-b", base / "package-output.txt"
    with (base / "package.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if not output.exists():
            shutil.copytree(copy_sources(first), second, symlinks=True)
            index = random.randrange(len(NAMES))  # noqa: S311
            build_one = f"from infra.package.__main__ import *; build(FUNCTIONS[{index}], find_compiler())"
            again = ["-m", "infra.package"] if os.environ.get("PROVE") else ["-c", build_one]
            output.write_text(build_in({first: ["-m", "infra.package"], second: again})[0])
    return Packaged(first, second, output.read_text())
