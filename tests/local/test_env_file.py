"""`.env.local`: which lines it may hold, and that the process environment takes precedence."""

from pathlib import Path

import pytest

from infra.local.env_file import ROOT, environment, read
from infra.local.processes import StackError


@pytest.mark.parametrize(
    ("line", "value"),
    [
        ("KEY=sk-1", "sk-1"),
        ("  KEY = sk-1  ", "sk-1"),
        ("export KEY=sk-1", "sk-1"),
        ("KEY=", ""),
        ("KEY= # a comment", ""),
        ("KEY=a b # a comment", "a b"),
        ("KEY=a#b", "a#b"),
        ("KEY=a=b", "a=b"),
        ('KEY="a # b"  # a comment', "a # b"),
        ("KEY='a \"b\"'", 'a "b"'),
        ("KEY=$HOME", "$HOME"),
    ],
)
def test_a_line_sets_its_variable(tmp_path: Path, line: str, value: str) -> None:
    path = tmp_path / ".env.local"
    path.write_text(f"# keys\n\n{line}\nOTHER=1\n")
    assert read(path) == {"KEY": value, "OTHER": "1"}


@pytest.mark.parametrize("line", ["sk-secret", 'KEY="sk-secret', 'KEY="sk-secret"x', "1KEY=sk-secret", "=sk-secret"])
def test_a_malformed_line_is_named_without_its_text(tmp_path: Path, line: str) -> None:
    path = tmp_path / ".env.local"
    path.write_text(f"# keys\n{line}\n")
    with pytest.raises(StackError, match="line 2: expected KEY=value") as raised:
        read(path)
    assert "sk-secret" not in str(raised.value)


def test_the_process_environment_wins(tmp_path: Path) -> None:
    """Even with an empty variable, which means not set."""
    path = tmp_path / "keys"
    path.write_text("A=file\nB=file\nC=file\n")
    named = {"ENV_FILE": str(path)}
    assert environment({**named, "A": "process", "B": ""}) == {**named, "A": "process", "B": "", "C": "file"}


def test_the_file_is_optional_unless_it_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("infra.local.env_file.ROOT", tmp_path)
    assert environment({"A": "1"}) == {"A": "1"}
    (tmp_path / ".env.local").write_text("B=2\n")
    assert environment({"A": "1"}) == {"A": "1", "B": "2"}
    assert environment({"ENV_FILE": ""}) == {"ENV_FILE": ""}
    with pytest.raises(StackError, match=r"missing cannot be read \(No such file or directory\)"):
        environment({"ENV_FILE": str(tmp_path / "missing")})


def test_a_copy_of_env_example_sets_nothing() -> None:
    assert environment({"ENV_FILE": str(ROOT / ".env.example")}) == {"ENV_FILE": str(ROOT / ".env.example")}
