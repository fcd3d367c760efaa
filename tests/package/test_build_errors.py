"""Mistakes that stop a build."""

import json
from pathlib import Path

import pytest

from infra.package import __main__ as package
from tests.package.kit import NAMES, Packaged

# Before the first test, the fixture builds every artifact, on a machine that runs other tests too.
pytestmark = pytest.mark.timeout(600)


X86_64_LIBRARY = b"\x7fELF" + bytes(14) + (62).to_bytes(2, "little")
ARM64_LIBRARY = b"\x7fELF" + bytes(14) + (183).to_bytes(2, "little")


@pytest.mark.parametrize(
    ("name", "content", "reason"),
    [
        ("a/b.so", X86_64_LIBRARY, "another processor"),
        ("a/program", X86_64_LIBRARY, "another processor"),
        ("a/b.so", b"\xcf\xfa\xed\xfe" + bytes(16), "another system"),
        ("a/b.dylib", b"\xcf\xfa\xed\xfe" + bytes(16), "another system"),
        ("a/b.cpython-312-aarch64-linux-gnu.so", ARM64_LIBRARY, r"another Python than Lambda's 3\.13"),
    ],
)
def test_a_library_for_another_platform_stops_the_build(tmp_path: Path, name: str, content: bytes, reason: str) -> None:
    valid = tmp_path / "a" / "valid.cpython-313-aarch64-linux-gnu.so"
    valid.parent.mkdir()
    valid.write_bytes(ARM64_LIBRARY)
    package.check_libraries(tmp_path)
    (tmp_path / name).write_bytes(content)
    with pytest.raises(package.PackageError, match=reason):
        package.check_libraries(tmp_path)


def make_artifact(tmp_path: Path, script_mode: int = 0o755) -> package.Artifact:
    folder = tmp_path / "folder"
    script = folder / "functions/chat/run.sh"
    script.parent.mkdir(parents=True)
    script.write_text("#!/bin/sh\n")
    script.chmod(script_mode)
    archive = tmp_path / "chat.zip"
    return package.Artifact("chat", 1, package.write_zip(folder, archive), archive)


def test_a_script_that_is_not_executable_stops_the_build(tmp_path: Path) -> None:
    with pytest.raises(package.PackageError, match="chmod"):
        package.check_handler("functions/chat/run.sh", make_artifact(tmp_path, 0o644))


@pytest.mark.parametrize("handler", ["functions/chat/start.sh", "functions.chat.handler.lambda_handler"])
def test_a_handler_missing_from_the_artifact_stops_the_build(tmp_path: Path, handler: str) -> None:
    with pytest.raises(package.PackageError, match="not in its artifact"):
        package.check_handler(handler, make_artifact(tmp_path))


@pytest.mark.parametrize(("limit", "kind"), [("UNZIPPED_LIMIT", "unzipped"), ("ZIP_LIMIT", "zipped")])
def test_an_artifact_over_a_limit_stops_the_build(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, limit: str, kind: str
) -> None:
    artifact = make_artifact(tmp_path)
    package.check_size(artifact)
    monkeypatch.setattr(package, limit, 1)
    with pytest.raises(package.PackageError, match=f"MB {kind}"):
        package.check_size(artifact)


def test_a_function_in_only_one_list_stops_the_build(
    packaged: Packaged, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    template = tmp_path / "template.json"
    template.write_text(json.dumps(packaged.template))
    monkeypatch.setattr(package, "TEMPLATE", template)
    built = [package.Artifact(name, 1, 1, packaged.artifact(name)) for name in NAMES]
    package.check_template(built)
    with pytest.raises(package.PackageError, match=r"chat is in serverless\.yml but not in FUNCTIONS"):
        package.check_template(built[1:])
    with pytest.raises(package.PackageError, match=r"trap is in FUNCTIONS but not in serverless\.yml"):
        package.check_template([*built, package.Artifact("trap", 1, 1, packaged.artifact())])


def test_a_template_with_another_runtime_stops_the_build(
    packaged: Packaged, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    changed = packaged.template
    changed["Resources"]["ChatLambdaFunction"]["Properties"]["Runtime"] = "python3.12"
    template = tmp_path / "template.json"
    template.write_text(json.dumps(changed))
    monkeypatch.setattr(package, "TEMPLATE", template)
    with pytest.raises(package.PackageError, match="another runtime"):
        package.check_template([package.Artifact(name, 1, 1, packaged.artifact(name)) for name in NAMES])


def test_a_warning_of_cfn_lint_stops_the_build(
    packaged: Packaged, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    changed = packaged.template
    changed["Parameters"] = {"Unused": {"Type": "String"}}  # W2001
    template = tmp_path / "template.json"
    template.write_text(json.dumps(changed))
    monkeypatch.setattr(package, "TEMPLATE", template)
    with pytest.raises(package.PackageError, match="cfn-lint found errors"):
        package.lint()


def test_no_python_for_the_bytecode_stops_the_build(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.delenv(package.WITHOUT_BYTECODE, raising=False)
    monkeypatch.setattr(package, "find_compiler", lambda: None)
    assert package.main([]) == 1
    assert capsys.readouterr().err.startswith("make package: Python 3.13 is needed")


def test_a_failed_build_leaves_no_old_artifact(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(package, "ROOT", tmp_path)
    monkeypatch.setattr(package, "BUILD", tmp_path / ".build")
    (tmp_path / ".build").mkdir()
    (tmp_path / ".build/chat.zip").write_text("old")
    with pytest.raises(package.PackageError, match="make lock"):
        package.build(package.FUNCTIONS[0], None)
    assert not (tmp_path / ".build/chat.zip").exists()
