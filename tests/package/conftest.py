"""Two builds of the artifacts in temporary trees, with traps in the sources and secrets in the environment.

The first one is `make deploy` without AWS credentials."""

import os
import random
import shutil
import sys

import pytest

from tests.conftest import once_per_run
from tests.deploy.kit import INSTALLED
from tests.package.kit import NAMES, Packaged, build_in, copy_sources


@pytest.fixture(scope="session")
def packaged(tmp_path_factory: pytest.TempPathFactory) -> Packaged:
    with once_per_run(tmp_path_factory, "packages") as (folder, is_first):
        first, second, output = folder / "a", folder / "b", folder / "output.txt"
        if is_first:
            shutil.copytree(copy_sources(first), second, symlinks=True)
            index = random.randrange(len(NAMES))  # noqa: S311
            build_all = ["make", "--no-print-directory", *INSTALLED, "deploy"]
            code = f"from infra.package import __main__ as p; p.build(p.FUNCTIONS[{index}], p.find_compiler())"
            build_one = [sys.executable, "-c", code]
            again = build_all if os.environ.get("PROVE") else build_one
            output.write_text(build_in({first: build_all, second: again})[0])
    return Packaged(first, second, output.read_text())
