"""Copies of the sources with traps in them, and readers of a finished build."""

import json
import os
import shutil
import subprocess
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[2]
MARKER = "secret-that-must-not-appear"
NAMES = ("chat", "keys", "checkout", "account", "webhooks", "maintenance")
SECRETS = (
    "SUPABASE_SERVICE_ROLE_KEY",
    "ANTHROPIC_API_KEY",
    "OPENAI_API_KEY",
    "ENCRYPTION_KEY",
    "STRIPE_SECRET_KEY",
    "STRIPE_WEBHOOK_SECRET",
)
ORIGINS = "https://app.example,https://www.example"
TRAPS = (
    "functions/chat/tests/test_trap.py",
    "functions/chat/test_trap.py",
    "functions/chat/__pycache__/trap.cpython-311.pyc",
    "functions/common/.trap",
    "functions/trap/handler.py",
)


@dataclass(frozen=True, slots=True)
class Packaged:
    """Two builds of the same sources, and the output of the first one."""

    first: Path
    second: Path
    output: str

    def artifact(self, name: str = "chat") -> Path:
        return self.first / ".build" / f"{name}.zip"

    @property
    def template(self) -> dict[str, Any]:
        path = self.first / ".serverless" / "cloudformation-template-update-stack.json"
        return json.loads(path.read_text())  # type: ignore[no-any-return]

    def properties(self, kind: str) -> list[dict[str, Any]]:
        """The properties of every resource of one type."""
        return [r["Properties"] for r in self.template["Resources"].values() if r["Type"] == kind]

    def resource(self, logical_id: str) -> dict[str, Any]:
        """The properties of one resource."""
        return self.template["Resources"][logical_id]["Properties"]  # type: ignore[no-any-return]

    def function(self, name: str = "chat") -> dict[str, Any]:
        return self.resource(f"{name.capitalize()}LambdaFunction")

    def environment(self, name: str = "chat") -> dict[str, Any]:
        return self.function(name)["Environment"]["Variables"]  # type: ignore[no-any-return]


def copy_sources(tree: Path) -> Path:
    """Copies the sources that packaging reads, and adds the traps."""
    ignored = shutil.ignore_patterns("node_modules", "__pycache__")
    for folder in ("functions", "requirements", "infra"):
        shutil.copytree(ROOT / folder, tree / folder, ignore=ignored)
    for file in ("serverless.yml", "Makefile"):
        shutil.copy(ROOT / file, tree)
    (tree / ".venv").symlink_to(sys.prefix)
    for folder in ("frontend/src", "frontend/lib"):  # whose files make lists
        (tree / folder).mkdir(parents=True)
    (tree / "docs").mkdir()
    shutil.copy(ROOT / "docs" / "openapi.json", tree / "docs")
    (tree / "infra/package/node_modules").symlink_to(ROOT / "infra/package/node_modules")
    for trap in TRAPS:
        (tree / trap).parent.mkdir(parents=True, exist_ok=True)
        (tree / trap).write_text("raise SystemExit('packaged by mistake')\n")
    (tree / "functions/common/planted.py").write_text("PLANTED = True\n")
    return tree


def build_in(trees: Mapping[Path, Sequence[str]]) -> list[str]:
    """Runs a command in each tree, in parallel, without AWS credentials and with every secret set."""
    environment = {name: value for name, value in os.environ.items() if not name.startswith(("AWS_", "PYTHONPATH"))}
    environment |= {"PACKAGE_WITHOUT_BYTECODE": "1", "PACKAGE_COMPRESSION": "1", "AWS_EC2_METADATA_DISABLED": "true"}
    environment |= dict.fromkeys(("AWS_SHARED_CREDENTIALS_FILE", "AWS_CONFIG_FILE"), "/nowhere")
    environment |= {"CI": "true", "ALLOWED_ORIGINS": ORIGINS, **dict.fromkeys(SECRETS, MARKER)}
    builds = [
        subprocess.Popen(
            command,
            cwd=tree,
            env=environment,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )
        for tree, command in trees.items()
    ]
    outputs = [build.communicate(timeout=540)[0] for build in builds]
    for build, output in zip(builds, outputs, strict=True):
        assert build.returncode == 0, output
    return outputs


def unpack_stub(root: Path, app: str) -> Path:
    """The artifact of the chat in `root`, with a small app in place of the chat. Returns `root`."""
    folder = root / "functions/chat"
    folder.mkdir(parents=True)
    shutil.copy2(ROOT / "functions/chat/run.sh", folder)
    (folder / "handler.py").write_text(app)
    return root
