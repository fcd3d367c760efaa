"""The workflows of .github: `make check` lints them with zizmor."""

import re
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
WORKFLOWS = sorted((ROOT / ".github/workflows").glob("*.yml"))
TARGET = re.compile(r"^([a-z-]+):", re.MULTILINE)


@pytest.mark.parametrize("path", WORKFLOWS, ids=lambda path: path.name)
def test_every_action_is_pinned_to_a_commit(path: Path) -> None:
    used = re.findall(r"uses: (.+)", path.read_text())
    assert used
    assert not [action for action in used if not re.fullmatch(r"[\w/-]+@[0-9a-f]{40} # v[\d.]+", action)]


def test_ci_runs_the_targets_of_the_local_ci() -> None:
    (matrix,) = re.findall(r"target: \[(.+)\]", (ROOT / ".github/workflows/ci.yml").read_text())
    assert f"for target in {matrix.replace(',', '')}; do" in (ROOT / ".ci/run").read_text()
    assert set(matrix.split(", ")) <= set(TARGET.findall((ROOT / "Makefile").read_text()))


def test_dependabot_knows_every_lock_file_of_npm() -> None:
    text = (ROOT / ".github/dependabot.yml").read_text()
    (listed,) = re.findall(r"directories: \[(.+)\]", text)
    folders = {path.parent for path in ROOT.glob("*/package-lock.json")}
    folders |= {path.parent for path in ROOT.glob("*/*/package-lock.json")}
    assert set(listed.split(", ")) == {f"/{folder.relative_to(ROOT)}" for folder in folders}


def test_workflows_run_targets_that_exist() -> None:
    run = {target for path in WORKFLOWS for target in re.findall(r"\bmake ([a-z]\S*)", path.read_text())}
    assert run
    assert run <= set(TARGET.findall((ROOT / "Makefile").read_text()))


def test_a_deployment_waits_for_an_approval_and_stores_no_aws_key() -> None:
    """GitHub asks the reviewers of the environment with the stage's name; AWS trusts the environment by OIDC."""
    text = (ROOT / ".github/workflows/deploy.yml").read_text()
    assert "environment: ${{ inputs.stage }}" in text
    triggers = text.split("\non:\n")[1].split("\n\n")[0]
    assert re.findall(r"^  (\w+):$", triggers, re.MULTILINE) == ["workflow_dispatch"]
    assert "id-token: write" in text
    assert "AWS_SECRET_ACCESS_KEY" not in text


def test_a_deployment_passes_every_parameter_that_has_a_variable() -> None:
    """One that it left out would be reset. `NEXT_PUBLIC_…` are second names."""
    text = (ROOT / ".github/workflows/deploy.yml").read_text()
    params = (ROOT / "serverless.yml").read_text().split("\nprovider:")[0]
    variables = {name for name in re.findall(r"env:(\w+)", params) if not name.startswith("NEXT_PUBLIC_")}
    assert {"MCP_ENABLED", "DOMAIN_NAME"} <= variables
    passed = dict(re.findall(r"^          (\w+): \$\{\{ vars\.(\w+) \}\}$", text, re.MULTILINE))
    assert passed == {name: name for name in variables | {"PARAMS"}}


def test_a_deployment_passes_every_option_that_make_takes() -> None:
    text = (ROOT / ".github/workflows/deploy.yml").read_text()
    (line,) = re.findall(r"- run: make deploy (.+)", text)
    assert line.split() == [f'{name}="${name}"' for name in ("STAGE", "PARAMS", "RESET", "WITHOUT_QUESTION")]
    for name in ("DATABASE_URL", "SMOKE_EMAIL", "SMOKE_PASSWORD"):
        assert f"{name}: ${{{{ secrets.{name} }}}}" in text
