"""The search for words, bills and people in the imported data, and the plans of the queries of the tools."""

import re
from collections.abc import Iterator
from typing import Any

import psycopg
import pytest

from infra.local.stack import Stack
from tests.sql.metering import Db, value

TITLES = [
    "An Act respecting the reopening of small ferry routes and amending the Wharves and Puddles Act",
    "Loi concernant la réouverture des petites liaisons par traversier",
    "Online Act",
]


@pytest.mark.parametrize(
    ("text", "found"),
    [
        ("Bill C-5, An Act respecting the reopening of small ferry routes", True),
        ("BILL C5 (SMALL FERRY ROUTES)", True),
        ("C‑5: ferry/routes", True),
        ("Projet de loi C-5 : réouverture des LIAISONS par traversier", True),
        ("C-5 and the Online Act", True),
        ("Bill C-5, An Act respecting the humane housing of mice", False),
        ("Bill C-52, small ferry routes", False),
        ("small ferry routes", False),
        ("C-5", False),
        ("Bill C-5, An Act respecting small mice", False),
    ],
)
def test_a_bill_is_found_by_number_and_title_words(db: Db, text: str, found: bool) -> None:
    query = "select private.search_words(%s) @@ private.bill_query('C-5', %s)"
    assert value(db, query, text, TITLES) is found


@pytest.mark.parametrize(
    ("words", "text", "found"),
    [
        ("pipeline", "Oil and gas: pipelines.", True),
        ("traversiers", "Un traversier", True),
        ("ferry", "Ferries", True),
        ("ferries", "A ferry", True),
        ("taxes", "tax", False),
        ("class", "clash", False),
        ("the energy of the future", "Future/energy policy", True),
        ("énergie", "ENERGIE propre", True),
        ("l'eau d'érable", "Production d’eau d’érable", True),
        ("cœur", "le coeur", True),
        ("AI", "paint", False),
        ("energy policy", "energy", False),
        ("the of", "the of", None),
    ],
)
def test_words_are_found_in_both_languages(db: Db, words: str, text: str, found: bool | None) -> None:
    assert value(db, "select private.search_words(%s) @@ private.search_query(%s)", text, words) is found


@pytest.mark.parametrize(
    ("name", "key"),
    [
        ("Quillwater, Hon. Fern", "fern quillwater"),
        ("Quillwater,  Fern", "fern quillwater"),
        ("The Right Honourable Fern B. Quillwater", "fern quillwater"),
        ("Théodule Vertegrange", "theodule vertegrange"),
        ("Josephine O'Fennimore", "josephine ofennimore"),
        ("O’Fennimore, Josephine", "josephine ofennimore"),
        ("N/A", None),
        ("", None),
    ],
)
def test_a_person_is_recognized_by_name(db: Db, name: str, key: str | None) -> None:
    assert value(db, "select private.person_key(%s)", name) == key


@pytest.fixture
def large(db: Db) -> Db:
    """20,000 reports and registrations: `transport` in every text, `ferries` in a thousandth, `early` in old ones."""
    db.execute(
        """
        insert into public.lobbying_communications (
          number, communicated_on, organization_en, organization_fr, is_superseded, officials, official_keys,
          description, subjects_en, subjects_fr)
        select n, '2015-01-01'::date + n / 5, format('Org%s Ltd', n % 5000), '', false, '[]',
               array[format('member %s', n % 400)],
               format('transport word%s %s %s', n % 500, case when n < 10000 then 'early' else 'late' end,
                      case when n % 1000 = 0 then 'ferries Bill C-5 wharves' end),
               '{}', '{}'
        from generate_series(1, 20000) n
        """
    )
    db.execute(
        """
        insert into public.lobbying_registrations (
          number, newest_id, versions, organization_en, organization_fr, effective_on, institutions)
        select n::text, n, 1, format('Org%s Ltd', n % 5000), '', '2015-01-01'::date + n / 5, '{}'
        from generate_series(1, 20000) n
        """
    )
    db.execute(
        """
        insert into public.lobbying_subjects (registration_id, description, subjects_en, subjects_fr, starts_on)
        select g.id,
               format('transport word%s %s', g.newest_id % 500,
                      case when g.newest_id % 1000 = 0 then 'ferries Bill C-5 wharves' end),
               '{}', '{}', g.effective_on
        from public.lobbying_registrations g
        """
    )
    for table in ("lobbying_communications", "lobbying_registrations", "lobbying_subjects"):
        db.execute(f"analyze public.{table}".encode())
    return db


@pytest.fixture
def plans(stack: Stack, large: Db) -> Iterator[tuple[psycopg.Connection[Any], list[str]]]:
    """A connection that records the plans of the statements in functions. Only a superuser may load auto_explain."""
    url = stack.postgres.url("supabase_admin", large.info.dbname)
    found: list[str] = []
    with psycopg.connect(url, autocommit=True) as admin:
        admin.execute("load 'auto_explain'")
        for setting in ("log_min_duration = 0", "log_nested_statements = on", "log_analyze = off"):
            admin.execute(f"set auto_explain.{setting}".encode())
        admin.execute("set client_min_messages = log")
        admin.add_notice_handler(lambda notice: found.append(notice.message_primary or ""))
        yield admin, found


# A call, the indexes that it uses, and the reports that it finds.
CALLS = [
    ("lobbying_on_subject('ferries', '2015-01-01')", ["words_idx"], 20),
    ("lobbying_on_subject('transport', '2015-01-01')", ["communicated_on_idx", "newest_first_idx"], 250),
    ("lobbying_on_subject('word7 word8', '2015-01-01')", ["words_idx"], 0),
    ("lobbying_on_subject('early late', '2015-01-01')", ["words_idx", "communicated_on_idx"], 0),
    ("lobbying_on_subject('early', '2015-01-01')", ["words_idx", "communicated_on_idx"], 250),
    ("lobbying_on_bill('C-5', array['Wharves Act'], '2015-01-01')", ["words_idx"], 20),
    ("lobbying_by_organization('org4321')", ["organization_words_idx"], 4),
    ("lobbying_of_member('Member 77')", ["official_keys_idx"], 50),
    ("recent_lobbying()", ["communicated_on_idx"], 146),
]


def test_queries_of_the_tools_use_their_indexes(plans: tuple[psycopg.Connection[Any], list[str]]) -> None:
    """Rare words are found over their index, common ones among the newest rows: for two words that are never together,
    and for words of old texts, too. No table is read as a whole.
    """
    admin, found = plans
    for call, indexes, reports in CALLS:
        found.clear()
        (result,) = admin.execute(f"select public.{call}".encode()).fetchone() or [None]
        assert result["reports"] == reports, call
        text = "\n".join(found)
        assert re.findall(r"Seq Scan on \w*lobbying_\w+", text) == [], text
        used = set(re.findall(r"lobbying_\w+_idx", text))
        assert [name for name in indexes if not any(index.endswith(name) for index in used)] == [], text
