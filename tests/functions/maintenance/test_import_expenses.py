"""import-expenses: quarters, corrections, and files that are damaged; and the command check-sources."""

from collections.abc import Iterator
from typing import Any

import pytest

from functions.maintenance.imports.check_sources import check_sources
from functions.maintenance.imports.errors import ImportFailed
from functions.maintenance.imports.expenses import CSV_LINK, LIST, import_expenses, parse_expenses
from functions.maintenance.imports.fetch import Site
from functions.maintenance.imports.settings import SourceSettings
from infra.local.parliament.expenses import csv_file, quarter_page
from infra.local.stack import Stack
from tests.functions.maintenance.imports_kit import Db, no_pause, no_progress, with_database
from tests.functions.tools.kit import ScriptedServer
from tests.servers import serve_http

HEADER = "Name,Constituency,Caucus,Salaries,Travel,Hospitality,Contracts"
# A quarter of years ago, so that the sample's quarters stay the newest.
ROWS = [
    "Vacant,Empty Exemplar,Heron,4262.5,0,0,3809.95",
    '"Wren,  Ada",North,Heron,100,50.5,0,1',
    '"Wren,  Ada",North,Lantern,10,0,-2.5,0',
    '"Dipper, Right Hon. Bo",South,Fleuve,"$1,000.10",(20.00),3,4',
    '"O’Kite,  Cy",West,Heron,5,5,5,5',
]


MANY = [f"Member {number},North,Heron,{number},1,1,1" for number in range(2, 42)]


@pytest.fixture
def server(stack_db: Db) -> Iterator[ScriptedServer]:
    """A site with two quarters of 2010."""
    server = ScriptedServer()
    links = "".join(f'<a href="{LIST}/2010/{number}?summaryId=ab-{number}">Q{number}</a>' for number in (1, 2))
    server.answer(LIST, links.encode())
    for number in (1, 2):
        server.answer(f"{LIST}/2010/{number}", f'<a class="csv" href="{LIST}/c{number}/csv">CSV</a>'.encode())
        serve_csv(server, ROWS, number)
    with serve_http(server.http):
        yield server
    stack_db.execute("delete from public.member_expenses where fiscal_year = 2010")
    stack_db.execute("delete from public.import_states where source like 'expenses-2010-%'")


def table(rows: list[str], encoding: str = "utf-8-sig") -> bytes:
    """A file; by default with a byte order mark."""
    return "\r\n".join([HEADER, *rows]).encode(encoding, "replace")


def serve_csv(server: ScriptedServer, rows: list[str], quarter: int = 1) -> None:
    """The file of a quarter."""
    server.answer(f"{LIST}/c{quarter}/csv", table(rows))


def run(stack: Stack, server: ScriptedServer, **options: Any) -> Any:
    site = Site(server.url, "tests", no_pause)
    return with_database(stack, lambda database: import_expenses(database, site, no_progress, **options))


def stored(db: Db) -> list[dict[str, Any]]:
    return db.execute(
        "select xmin::text, quarter, name, caucus, occurrence, member_key, salaries, hospitality"
        " from public.member_expenses where fiscal_year = 2010 order by quarter, name, caucus, occurrence"
    ).fetchall()


def test_quarters_are_imported_once(stack: Stack, server: ScriptedServer, stack_db: Db) -> None:
    """Names become keys; a member with two rows is one member; a vacant office has no rank; a refund counts."""
    assert run(stack, server) == {
        "quarters": 2, "unchanged": 0, "refused": 0, "written": 10, "deleted": 0, "bad_rows": 0
    }  # fmt: skip
    before = stored(stack_db)
    assert [row["member_key"] for row in before[:5]] == ["bo dipper", "cy okite", None, "ada wren", "ada wren"]
    assert run(stack, server, everything=True)["unchanged"] == 2
    assert stored(stack_db) == before
    (newest, _) = stack_db.execute("select public.expenses_of_member('Ada Wren') as found").fetchone()["found"]  # type: ignore[index]
    assert (newest["total"], newest["hospitality"], newest["caucus"]) == ("159.00", "-2.50", "Heron, Lantern")
    assert (newest["rank"], newest["members"], newest["median"]) == (2, 3, "159.00")
    largest = stack_db.execute("select public.largest_expenses('travel', 2010, 1) as found").fetchone()["found"]  # type: ignore[index]
    assert [(one["name"], one["amount"]) for one in largest["items"]] == [
        ("Wren, Ada", "50.50"),
        ("O’Kite, Cy", "5.00"),
        ("Dipper, Right Hon. Bo", "-20.00"),
    ]


@pytest.mark.parametrize(
    "answer",
    [
        b"<!DOCTYPE html><title>Please verify that you are human</title>",
        f"\ufeff{HEADER}\r\n{ROWS[0]}\r\n".encode(),
        b"",
        (500, {}, b""),
        table(ROWS[:4], encoding="cp1252").replace(b"Wren", b"Wr\xe9n"),
        table(ROWS, encoding="utf-16"),
        table(MANY * 2),
        table([*MANY, *(row.replace(",1,1,1", ",1,1,2") for row in MANY)]),
        table([row.replace(",1,1,1", ',"2,5",1,1') for row in MANY]),
        table([row.replace(",1,1,1", ",,1,1") for row in MANY]),
        table([f"Member {number},North,Heron,1,1,1,1" for number in range(2_001)]),
        (200, {"content-length": "9000"}, table(ROWS)),
        (200, {"content-length": ""}, table(ROWS)[:-2]),
        (200, {"content-length": "0", "transfer-encoding": "chunked"}, b"40\r\n" + table(ROWS[:5])[:64]),
    ],
    ids=[
        *("page", "cut", "empty", "error", "cp1252", "utf-16", "doubled", "two files", "French", "no travel"),
        *("large", "transfer", "no length", "chunks"),
    ],
)
def test_a_damaged_quarter_stays_as_it_was(stack: Stack, server: ScriptedServer, stack_db: Db, answer: Any) -> None:
    """The other quarter is imported."""
    run(stack, server)
    before = [row for row in stored(stack_db) if row["quarter"] == 1]
    server.answer(f"{LIST}/c1/csv", answer)
    serve_csv(server, [*ROWS[:4], '"O’Kite,  Cy",West,Heron,6,5,5,5'], 2)
    with pytest.raises(ImportFailed, match=r"1 quarters could not be read.* 2010/1: "):
        run(stack, server)
    after = stored(stack_db)
    assert [row for row in after if row["quarter"] == 1] == before
    assert [str(row["salaries"]) for row in after if row["quarter"] == 2 and row["name"] == "O’Kite, Cy"] == ["6.00"]


def test_a_row_that_cannot_be_read_loses_nothing(stack: Stack, server: ScriptedServer, stack_db: Db) -> None:
    """A correct file then deletes what it does not have."""
    run(stack, server)
    serve_csv(server, [*ROWS[:3], '"Dipper, Right Hon. Bo",South,Fleuve,much,20,3,4', '"O’Kite,  Cy",West'])
    assert run(stack, server)["bad_rows"] == 2
    assert len([row for row in stored(stack_db) if row["quarter"] == 1]) == 5
    serve_csv(server, [*ROWS[:4], '"New,  Dee",West,Heron,1,1,1,1'])
    assert run(stack, server)["deleted"] == 1


def test_rows_of_the_real_shape_are_read() -> None:
    """A member has a second row; the same row again is bad."""
    found = parse_expenses(table([*ROWS, ROWS[1].replace("100", "7"), ROWS[0]], "utf-8"))
    assert found.bad == 1
    assert [row["occurrence"] for row in found.rows] == [1, 1, 1, 1, 1, 2]
    assert found.rows[3]["salaries"] == "1000.10"


def test_a_smaller_correct_file_is_accepted_by_hand(stack: Stack, server: ScriptedServer, stack_db: Db) -> None:
    run(stack, server)
    serve_csv(server, ROWS[:3])
    with pytest.raises(ImportFailed, match=r"has 3 rows, and the last import had 5\. .* --accept-smaller"):
        run(stack, server)
    assert run(stack, server, accept_smaller=True)["deleted"] == 2


def test_a_second_row_does_not_take_the_place_of_a_bad_one(stack: Stack, server: ScriptedServer, stack_db: Db) -> None:
    """Nor does it where the bad row's member is unknown."""
    serve_csv(server, [*ROWS, '"Wren,  Ada",North,Heron,7,7,7,7'])
    run(stack, server)
    before = stored(stack_db)
    for broken in ('"Wren,  Ada",North,Heron,much,50.5,0,1', '"Wren,  Ada"'):
        serve_csv(server, [ROWS[0], broken, *ROWS[2:], '"Wren,  Ada",North,Heron,7,7,7,7'])
        assert run(stack, server)["bad_rows"] == 1
        assert stored(stack_db) == before


def test_an_older_run_does_not_store_over_a_newer_one(stack: Stack, server: ScriptedServer, stack_db: Db) -> None:
    """The newer run reads and stores its file between the older one's."""
    run(stack, server)
    older, newer = ([*ROWS[:4], f'"O’Kite,  Cy",West,Heron,{amount},5,5,5'] for amount in (6, 7))
    serve_csv(server, older)

    def run_another() -> None:
        if server.requests[-1] == f"{LIST}/c1/csv":
            server.before_answer = lambda: None
            content = server.answers[f"{LIST}/c1/csv"]
            serve_csv(server, newer)
            run(stack, server)
            server.answers[f"{LIST}/c1/csv"] = content

    server.before_answer = run_another
    with pytest.raises(ImportFailed, match="2010/1: another run has stored a file of this quarter"):
        run(stack, server)
    assert [str(row["salaries"]) for row in stored(stack_db) if row["name"] == "O’Kite, Cy"] == ["7.00", "5.00"]


def test_check_sources_compares_each_source(stack: Stack) -> None:
    """All stand-ins have the shape that the code reads. A changed source is named with what is missing."""
    url = stack.info["parliament_url"]
    addresses = dict.fromkeys(("PARLIAMENT_API_URL", "REPRESENT_API_URL", "OURCOMMONS_URL", "LOBBYING_URL"), url)
    settings = SourceSettings.model_validate({**addresses, "LEGISINFO_URL": f"{url}/legisinfo"})
    counts = with_database(stack, lambda database: check_sources(settings, no_progress, no_pause))
    assert [line for line in counts["report"] if not line.startswith("as expected")] == []
    assert (counts["differences"], counts["sources"]) == (0, len(counts["report"]))
    assert counts["sources"] >= 14

    server = ScriptedServer()
    with serve_http(server.http):
        server.answer("/votes/", {"objects": [{"number": 1, "url": "/votes/1/"}]})
        broken = settings.model_copy(update={"parliament_url": server.url})
        counts = with_database(stack, lambda database: check_sources(broken, no_progress, no_pause))
    (votes,) = [line for line in counts["report"] if line.startswith("DIFFERENT    openparliament.ca votes:")]
    assert "a record has no session, date, description, result" in votes
    assert counts["differences"] == 10


def test_check_sources_reads_the_pages_of_html(stack: Stack) -> None:
    """A page without its ballots, without headings, or without its links differs."""
    server = ScriptedServer()
    names = ("PARLIAMENT_API_URL", "REPRESENT_API_URL", "OURCOMMONS_URL", "LOBBYING_URL", "LEGISINFO_URL")
    settings = SourceSettings.model_validate(dict.fromkeys(names, server.url))
    vote, committee = {"url": "/votes/45-1/9/", "yea_total": 2, "nay_total": 1}, "/Committees/en/WHRF/Members"
    server.answer("/votes/", {"objects": [vote]})
    server.answer("/committees/", {"objects": [{"name": "Wharves", "slug": "wharves", "url": "/committees/wharves/"}]})
    server.answer("/committees/wharves/", {"sessions": [{"acronym": None}, {"acronym": "WHRF"}]})
    ballot = '<span class="tag voteresult_Y">Yes</span> <a href="/politicians/ada-wren/">Ada Wren</a>'
    member = '<a class="tile" href="//www.ourcommons.ca/Members/en/ada-wren(9)">Ada Wren</a>'

    def differences() -> list[str]:
        counts = with_database(stack, lambda database: check_sources(settings, no_progress, no_pause))
        pages = ("page of a vote: ", "committee's members: ")
        return [line.partition(name)[2] for line in counts["report"] for name in pages if name in line]

    with serve_http(server.http):
        for vote_page, members_page, found in (
            (f"<h2>Heron</h2>{ballot * 2}<h2>Fleuve</h2>{ballot}", f"<h2>Chair</h2>{member * 3}", []),
            (
                f"<h2>Heron</h2>{ballot}".replace("h2", "h3"),
                "<h2>Chair</h2>",
                [
                    "the page has 1 ballots that can be read, of 3.",
                    "the page has 0 members that can be read, or no headings.",
                ],
            ),
            (
                f"<h2>Vote topic</h2>{ballot * 3}",
                member * 3,
                ["the page has no headings of parties.", "the page has 3 members that can be read, or no headings."],
            ),
        ):
            server.answer(vote["url"], vote_page.encode())
            server.answer(committee, members_page.encode())
            assert differences() == found


def test_sample_members_have_expenses_while_they_have_a_seat() -> None:
    """One left in May 2026, and her successor was elected in June."""
    found = {}
    for quarter in ((2026, 4), (2027, 1), (2027, 2)):
        link = CSV_LINK.search(quarter_page(*quarter) or "")
        body = csv_file(link[1].split("/")[-2]) if link else None
        assert body is not None
        found[quarter] = [name for name in ("Greyfeather", "Percival") if name in body.decode()]
    assert found == {(2026, 4): ["Greyfeather"], (2027, 1): ["Greyfeather", "Percival"], (2027, 2): ["Percival"]}
