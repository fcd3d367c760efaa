"""The migrations of a deployment: what a database lacks, and in which order it runs."""

from pathlib import Path

import psycopg
import pytest

from infra.deploy import __main__ as command
from infra.deploy import database
from infra.deploy.stage import DeployError


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    (tmp_path / "20250104000000_ai_chat_system.sql").write_text("select 1 / 0;")  # has run, so it must not run again
    (tmp_path / "29990101000000_expand.sql").write_text("create table public.added (id int);")
    (tmp_path / "29990102000000_contract.sql").write_text("-- contract\ndrop table public.added;")
    return tmp_path


def names(migrations: list[database.Migration]) -> list[str]:
    return [migration.path.stem.partition("_")[2] for migration in migrations]


def test_a_migrated_database_lacks_nothing(database_url: str) -> None:
    with database.connect(database_url) as connection:
        assert database.pending(connection) == database.Pending([], [], [], [])


def test_an_empty_database_lacks_every_migration(database_url: str) -> None:
    with database.connect(database_url) as connection:
        connection.execute("drop schema supabase_migrations cascade")
        assert names(database.pending(connection).expand) == ["ai_chat_system"]


def test_a_contraction_waits_for_the_next_release(
    database_url: str, folder: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(database.pending, "__defaults__", (folder,))
    command.migrate(database_url, with_contract=False)
    assert "29990101000000_expand.sql has run" in capsys.readouterr().out
    with database.connect(database_url) as connection:
        found = database.pending(connection)
        assert (names(found.expand), names(found.contract)) == ([], ["contract"])
        assert connection.execute("select to_regclass('public.added') is not null").fetchone() == (True,)
    command.migrate(database_url, with_contract=True)
    with database.connect(database_url) as connection:
        assert connection.execute("select to_regclass('public.added') is null").fetchone() == (True,)


def test_a_failed_migration_changes_and_records_nothing(database_url: str, tmp_path: Path) -> None:
    path = tmp_path / "29990101000000_half.sql"
    path.write_text("create table public.half (id int); select 1 / 0;")
    with database.connect(database_url) as connection:
        with pytest.raises(DeployError, match=r"half\.sql failed and changed nothing: division by zero"):
            database.apply(connection, database.Migration(path))
        assert connection.execute("select to_regclass('public.half') is null").fetchone() == (True,)
        assert names(database.pending(connection, tmp_path).expand) == ["half"]


def test_an_older_checkout_bears_only_what_newer_code_added(
    database_url: str, folder: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """So older code can be deployed until a contraction has run."""
    older = folder / "older"
    older.mkdir()
    (older / "20250104000000_ai_chat_system.sql").write_text("select 1 / 0;")

    def migrate(files: Path, *, with_contract: bool) -> None:
        monkeypatch.setattr(database.pending, "__defaults__", (files,))
        command.migrate(database_url, with_contract=with_contract)

    migrate(folder, with_contract=False)
    migrate(older, with_contract=False)
    assert "migrations of newer code, which only added: 29990101000000\n" in capsys.readouterr().out
    migrate(folder, with_contract=True)
    with pytest.raises(DeployError, match=r"took away what it may use: 29990102000000\."):
        migrate(older, with_contract=False)


@pytest.mark.parametrize(
    ("url", "sentence"),
    [
        ("postgresql://postgres:canary@pooler.example.com:6543/postgres", "session pooler"),
        ("postgresql://postgres:canary@127.0.0.1:9/postgres", "cannot be reached"),
        ("postgresql://postgres:canary@127.0.0.1:port/postgres", "cannot be reached"),
        (None, "DATABASE_URL is not set"),
    ],
)
def test_a_useless_url_is_explained_without_its_password(url: str | None, sentence: str) -> None:
    with pytest.raises(DeployError, match=sentence) as caught:
        command.migrate(url, with_contract=False)
    assert "canary" not in str(caught.value)
    assert caught.value.__cause__ is None


def test_what_was_applied_is_recorded_as_the_supabase_cli_does(database_url: str, folder: Path) -> None:
    with database.connect(database_url) as connection:
        (migration,) = database.pending(connection, folder).expand
        database.apply(connection, migration)
    with psycopg.connect(database_url) as connection:
        recorded = connection.execute(
            "select name, statements from supabase_migrations.schema_migrations where version = '29990101000000'"
        ).fetchall()
    assert recorded == [("expand", ["create table public.added (id int);"])]
