"""The closed lists are complete: against the real site's code, the stand-in's data, and each other."""

import ast
from pathlib import Path
from typing import get_args

import pytest

from functions.chat import sources, tools
from functions.chat.sources.base import Text
from functions.chat.sources.terms import (
    CHAMBERS,
    CHOICES,
    PARTIES,
    PARTY_NAMES,
    PARTY_WORDS,
    RESULTS,
    STATUSES,
    bill_status,
    chamber_name,
    matches_party,
    party_full_name,
    party_in,
    party_name,
)
from functions.chat.sources.votes import STAGES, Stage
from functions.chat.tools.find_mps import Province
from infra.local.parliament.dataset import dataset

# `STATUS_CODES`, `CHAMBERS`, `VOTE_CHOICES` and `VOTE_RESULT_CHOICES` in parliament/bills/models.py, the provinces of
# parliament/core/models.py, and the parties with a slug in parliament/core/fixtures/parties.json.
STATUS_CODES = """
BillNotActive WillNotBeProceededWith RoyalAssentAwaiting BillDefeated HouseAtReportStage SenateAtReportStage
RoyalAssentGiven SenateAt1stReading HouseAt1stReading HouseAtReferralToCommitteeBeforeSecondReading HouseAt2ndReading
HouseAtReportStageAndSecondReading SenateAt2ndReading SenateAt3rdReading HouseAt3rdReading HouseInCommittee
SenateInCommittee SenateConsiderationOfCommitteeReport HouseConsiderationOfCommitteeReport
SenateConsiderationOfAmendments HouseConsiderationOfAmendments Introduced ProForma SenateBillWaitingHouse
HouseBillWaitingSenate OutsideOrderPrecedence SenConsideringHouseAmendments HouseConsideringSenAmendments
"""
ERRORS = {"SourceError", "RecordNotFound", "ToolError"}
PROVINCES = {"AB", "BC", "SK", "MB", "ON", "QC", "NB", "NS", "PE", "NL", "YT", "NT", "NU"}
PARTIES_WITH_MEMBERS = {
    "Conservative",
    "NDP",
    "Bloc",
    "Liberal",
    "Independent",
    "Green",
    "Canadian Alliance",
    "Progressive Conservative",
    "Reform",
    "Forces et Démocratie",
}


def test_lists_have_every_value_of_the_sites_code() -> None:
    assert STATUSES.keys() == {*STATUS_CODES.split()}
    assert CHAMBERS.keys() == {"House", "Senate"}
    assert CHOICES.keys() == {"Yes", "No", "Paired", "Didn't vote"}
    assert RESULTS.keys() == {"Passed", "Failed", "Tie"}
    assert STAGES.keys() == {*Stage}
    assert PARTIES.keys() == PARTY_NAMES.keys() == PARTY_WORDS.keys() == PARTIES_WITH_MEMBERS
    assert {*get_args(Province)} == PROVINCES


def test_every_term_has_both_languages() -> None:
    for texts in (STATUSES, CHAMBERS, CHOICES, RESULTS, STAGES, PARTIES, PARTY_NAMES):
        assert all(isinstance(text, Text) and text.en and text.fr for text in texts.values())


def test_lists_have_every_value_of_the_sample_parliament() -> None:
    for record in dataset().tables["bills"]:
        code, english = record.details["status_code"], record.details["status"]["en"]
        assert bill_status(code, english, "en") == english
        assert bill_status(code, english, "fr") not in (None, english)
        assert record.details["home_chamber"] in CHAMBERS
    assert {record.listed["result"] for record in dataset().tables["votes"]} <= RESULTS.keys()
    assert {record.listed["ballot"] for record in dataset().tables["ballots"]} <= CHOICES.keys()


def test_unknown_value_stays_in_english() -> None:
    assert bill_status("NewCode", "A new status", "fr") == "A new status"
    assert bill_status(None, None, "fr") is None
    assert (chamber_name("Senate", "fr"), chamber_name("Crown", "fr")) == ("Sénat", "Crown")
    assert (party_name("NDP", "fr"), party_name("Heron", "fr"), party_name(None, "fr")) == ("NPD", "Heron", "inconnu")
    assert party_full_name("NDP", "New Democratic Party", "fr") == "Nouveau Parti démocratique"
    assert party_full_name("Heron", "Heron Party of Canada", "fr") == "Heron Party of Canada"


@pytest.mark.parametrize(
    ("words", "party"),
    [
        ("NPD", "NDP"),
        ("néo-démocrates", "NDP"),
        ("New Democrats", "NDP"),
        ("Conservateurs", "Conservative"),
        ("Tories", "Conservative"),
        ("Parti libéral du Canada", "Liberal"),
        ("les Verts", "Green"),
        ("Bloc Québécois", "Bloc"),
        ("indépendante", "Independent"),
        ("the Heron Party", "Heron"),
        ("her", "Heron"),
    ],
)
def test_party_is_found_by_its_names_in_both_languages(words: str, party: str) -> None:
    assert [name for name in (*PARTIES, "Heron") if matches_party(words, name)] == [party]


@pytest.mark.parametrize(
    ("written", "french"),
    [
        ("Conservative", "Conservateur"),
        ("NDP", "NPD"),
        ("Green Party", "Vert"),
        ("New Democratic Party", "NPD"),
        ("Bloc Québécois", "Bloc"),
        ("Liberal Party of Canada", "Libéral"),
        ("Progressive Conservative", "Progressiste-conservateur"),
        ("Heron", "Heron"),
        (None, None),
    ],
)
def test_party_of_another_source_is_translated(written: str | None, french: str | None) -> None:
    assert party_in(written, "fr") == french


def test_every_error_of_sources_and_tools_has_both_languages() -> None:
    sites = 0
    for file in [*Path(sources.__path__[0]).glob("*.py"), *Path(tools.__path__[0]).glob("*.py")]:
        for node in ast.walk(ast.parse(file.read_text())):
            if isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and node.func.id in ERRORS:
                sites += 1
                assert len(node.args) == 2, f"{file.name}:{node.lineno}"
    assert sites > 30
