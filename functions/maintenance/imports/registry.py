"""The formats of the registry of lobbyists: the CSV files of its two zips, and the records made of them.

The zips are described by the data dictionaries beside them (https://lobbycanada.gc.ca/en/open-data/). Reports since
October 2024 have a text, and their subjects in the file of the texts; earlier ones have them in a file of their own.
"""

from collections.abc import Iterable, Iterator
from datetime import date
from itertools import groupby
from typing import Any

from functions.maintenance.imports.staging import Archive, Row, Staging, parse_id
from functions.maintenance.imports.tables import require_few_bad

TEXT_CHARACTERS = 4_000
NAME_CHARACTERS = 500
PERSON_CHARACTERS = 200
OFFICIALS = 100
INSTITUTIONS = 100
SUBJECTS = 60
YEARS = range(1980, 2101)

Record = dict[str, Any]  # as import_registrations and import_communications take it

CODES = {"code": ("SUBJECT_CODE_OBJET",), "en": ("SMT_EN_DESC",), "fr": ("SMT_FR_DESC",)}
SUBJECT_CODE = ("SUBJECT_CODE_OBJET", "SUBJ_MATTER_OBJET")
OTHER_SUBJECT = ("CUSTOM_SUBJ_OBJET_PERSO", "OTHER_SUBJ_MATTER_AUTRE_OBJET")
ORGANIZATION = {
    "client_number": ("CLIENT_ORG_CORP_NUM",),
    "organization_en": ("EN_CLIENT_ORG_CORP_NM_AN",),
    "organization_fr": ("FR_CLIENT_ORG_CORP_NM",),
    "last_name": ("RGSTRNT_LAST_NM_DCLRNT",),
    "first_name": ("RGSTRNT_1ST_NM_PRENOM_DCLRNT",),
    "kind": ("REG_TYPE_ENR",),
}
COMMUNICATION = {
    "id": ("COMLOG_ID",),
    **ORGANIZATION,
    "communicated_on": ("COMM_DATE",),
    "posted_on": ("POSTED_DATE_PUBLICATION",),
    "previous": ("PREV_COMLOG_ID_PRECEDNT",),
}
OFFICIAL = {
    "id": ("COMLOG_ID",),
    "last_name": ("DPOH_LAST_NM_TCPD",),
    "first_name": ("DPOH_FIRST_NM_PRENOM_TCPD",),
    "title": ("DPOH_TITLE_TITRE_TCPD",),
    "other_institution": ("OTHER_INSTITUTION_AUTRE",),
    "institution": ("INSTITUTION",),
}
COMMUNICATION_SUBJECT = {"id": ("COMLOG_ID",), "code": SUBJECT_CODE, "other": OTHER_SUBJECT}
COMMUNICATION_TEXT = {"id": ("COMLOG_ID",), "codes": SUBJECT_CODE, "text": ("DESCRIPTION",)}
REGISTRATION = {
    "id": ("REG_ID_ENR",),
    "number": ("REG_NUM_ENR",),
    "firm_en": ("EN_FIRM_NM_FIRME_AN",),
    "firm_fr": ("FR_FIRM_NM_FIRME",),
    **ORGANIZATION,
    "effective_on": ("EFFECTIVE_DATE_VIGUEUR",),
    "ends_on": ("END_DATE_FIN",),
}
REGISTRATION_SUBJECT = {"id": ("REG_ID_ENR",), "code": SUBJECT_CODE, "other": OTHER_SUBJECT}
REGISTRATION_TEXT = {
    "id": ("REG_ID_ENR",),
    "codes": ("ASSOC_SUBJECT_CODES_OBJET", *SUBJECT_CODE),
    "text": ("DESCRIPTION",),
}
INSTITUTION = {"id": ("REG_ID_ENR",), "institution": ("INSTITUTION",)}


class SubjectNames:
    """The registry's subjects by code: their names in English and French. Another text is a subject of its own."""

    def __init__(self, archive: Archive, staging: Staging) -> None:
        rows = list(archive.table("Codes_SubjectMatterTypesExport.csv", CODES))
        good = [row for row in rows if row is not None and len(row) == len(CODES) and row["code"] and row["en"]]
        self._is_complete = len(good) == len(rows)
        bad = len(rows) - len(good)
        require_few_bad(bad, len(rows), "the file of subjects")
        staging.bad_rows += bad
        self._names = {row["code"]: (row["en"], row["fr"]) for row in good}
        staging.execute("create table names (id, en, fr)")
        # A row that cannot be read is not a subject that the file lacks: the records with its code are left out.
        unread = ((f"row {number}", "unread", "unread") for number in range(bad))
        for names in (*((code, *names) for code, names in self._names.items()), *unread):
            staging.execute("insert into names values (?, ?, ?)", names)

    def knows(self, codes: Iterable[str]) -> bool:
        """Whether no code may be one of a row that cannot be read."""
        return self._is_complete or all(code in self._names for code in codes)

    def lists(self, codes: Iterable[str]) -> dict[str, list[str]]:
        """The names of the codes, in both languages, in alphabetical order."""
        names = sorted({self._names.get(code, (code, code)) for code in codes})[:SUBJECTS]
        return {
            "subjects_en": [en[:PERSON_CHARACTERS] for en, _ in names],
            "subjects_fr": [(fr or en)[:PERSON_CHARACTERS] for en, fr in names],
        }


def stage_communications(archive: Archive, staging: Staging) -> None:
    """Read the zip of the reports into `staging`."""
    for statement in (
        "create table primary_rows (id integer primary key, communicated_on, posted_on, kind, client_number, en, fr,"
        " registrant)",
        "create table superseded (id integer primary key)",
        "create table officials (id integer, name, title, institution)",
        "create table subjects (id integer, code)",
        "create table texts (id integer, text)",
    ):
        staging.execute(statement)

    def primary(number: int, row: Row) -> Iterator[tuple[Any, ...]]:
        day = _day(row["communicated_on"])
        if day is None or not (row["organization_en"] or row["organization_fr"]):
            raise ValueError
        previous = parse_id(row["previous"]) if row["previous"] else None
        values = (number, day, _day(row["posted_on"]), *_organization(row), _person(row))
        if previous is not None:
            staging.execute("insert or ignore into superseded values (?)", (previous,))
        yield values

    staging.load(
        archive.table("Communication_PrimaryExport.csv", COMMUNICATION),
        "id",
        "insert or replace into primary_rows values (?, ?, ?, ?, ?, ?, ?, ?)",
        primary,
    )
    staging.load(
        archive.table("Communication_DpohExport.csv", OFFICIAL),
        "id",
        "insert into officials values (?, ?, ?, ?)",
        lambda number, row: [
            (
                number,
                _person(row) or "",
                row["title"][:PERSON_CHARACTERS],
                (row["other_institution"] or row["institution"])[:PERSON_CHARACTERS],
            )
        ],
    )
    _stage_subjects(archive, staging, "Communication", COMMUNICATION_SUBJECT, COMMUNICATION_TEXT)
    for table in ("officials", "subjects", "texts"):
        staging.execute(f"create index {table}_id on {table} (id)")


def communications(staging: Staging, names: SubjectNames, after: int | None, batch: int) -> Iterator[list[Record]]:
    """The reports after a number, in the order of their numbers, in lists of at most `batch`. Damaged ones are left
    out."""
    last = after if after is not None else -1
    while True:
        rows = staging.execute(
            "select p.id, p.communicated_on, p.posted_on, p.kind, p.client_number, p.en, p.fr, p.registrant,"
            " s.id is not null from primary_rows p left join superseded s on s.id = p.id"
            " where p.id > ? order by p.id limit ?",
            (last, batch),
        ).fetchall()
        if not rows:
            return
        span = (last + 1, rows[-1][0])
        last = rows[-1][0]
        officials = _by_id(staging, "select id, name, title, institution from officials", span)
        subjects = _by_id(staging, "select id, code from subjects", span)
        texts = _by_id(staging, "select id, text from texts", span)
        damaged = _by_id(staging, "select id, 0 from damaged", span)
        yield [
            {
                "number": number,
                "communicated_on": communicated_on,
                "posted_on": posted_on,
                "kind": kind,
                "client_number": client_number,
                "organization_en": en or fr,
                "organization_fr": fr or en,
                "registrant": registrant,
                "is_superseded": bool(is_superseded),
                "officials": [
                    {"name": name, "title": title, "institution": institution}
                    for name, title, institution in list(dict.fromkeys(officials.get(number, [])))[:OFFICIALS]
                ],
                "description": "\n".join(dict.fromkeys(text for (text,) in texts.get(number, [])))[:TEXT_CHARACTERS],
                **names.lists(code for (code,) in subjects.get(number, [])),
            }
            for number, communicated_on, posted_on, kind, client_number, en, fr, registrant, is_superseded in rows
            if number not in damaged and names.knows(code for (code,) in subjects.get(number, []))
        ]


def stage_registrations(archive: Archive, staging: Staging) -> None:
    """Read the zip of the registrations into `staging`."""
    for statement in (
        "create table primary_rows (id integer primary key, number, effective_on, ends_on, kind, client_number, en, fr,"
        " registrant, firm)",
        "create table subjects (id integer, code)",
        "create table texts (id integer, text)",
        "create table institutions (id integer, institution)",
    ):
        staging.execute(statement)

    def primary(number: int, row: Row) -> Iterator[tuple[Any, ...]]:
        if not row["number"] or not (row["organization_en"] or row["organization_fr"]):
            raise ValueError
        firm = (row["firm_en"] or row["firm_fr"])[:NAME_CHARACTERS] or None
        days = _day(row["effective_on"]), _day(row["ends_on"])
        yield number, _chain(row["number"]), *days, *_organization(row), _person(row), firm

    staging.load(
        archive.table("Registration_PrimaryExport.csv", REGISTRATION),
        "id",
        "insert or replace into primary_rows values (?, ?, ?, ?, ?, ?, ?, ?, ?, ?)",
        primary,
    )
    staging.execute("create index primary_rows_number on primary_rows (number, effective_on, id)")
    _stage_subjects(archive, staging, "Registration", REGISTRATION_SUBJECT, REGISTRATION_TEXT)
    # Only those of the newest versions are kept: there are about ten for each of them.
    staging.execute("create table newest (id integer primary key)")
    staging.execute(
        "insert into newest select id from (select max(coalesce(effective_on, '') || printf('-%020d', id)), id"
        " from primary_rows group by number)"
    )
    staging.load(
        archive.table("Registration_GovernmentInstExport.csv", INSTITUTION),
        "id",
        "insert into institutions select ?1, ?2 where exists (select 1 from newest where id = ?1)",
        lambda number, row: [(number, row["institution"][:PERSON_CHARACTERS])] if row["institution"] else [],
    )
    for table in ("subjects", "texts", "institutions"):
        staging.execute(f"create index {table}_id on {table} (id)")
    # A damaged version damages its registration.
    staging.execute("create table damaged_numbers (number primary key)")
    staging.execute(
        "insert or ignore into damaged_numbers select number from primary_rows p join damaged d on d.id = p.id"
    )


def registrations(staging: Staging, names: SubjectNames, after: str | None, batch: int) -> Iterator[list[Record]]:
    """The registrations after a number, in the order of their numbers, in lists of at most `batch`."""
    last = after or ""
    while True:
        numbers = [
            number
            for (number,) in staging.execute(
                "select distinct number from primary_rows where number > ? order by number limit ?", (last, batch)
            )
        ]
        if not numbers:
            return
        versions = staging.execute(
            "select id, number, effective_on, ends_on, kind, client_number, en, fr, registrant, firm"
            " from primary_rows where number > ? and number <= ? order by number, effective_on, id",
            (last, numbers[-1]),
        ).fetchall()
        last = numbers[-1]
        damaged = {number for (number,) in staging.execute("select number from damaged_numbers")}
        read = (
            _registration(staging, names, number, list(group))
            for number, group in groupby(versions, key=lambda version: version[1])
            if number not in damaged
        )
        yield [record for record in read if record is not None]


def _registration(staging: Staging, names: SubjectNames, number: str, versions: list[Any]) -> Record | None:
    """The record of a registration, from its versions in the order of their dates.

    None where a subject's name could not be read.
    """
    newest = versions[-1]
    identity, _, effective_on, ends_on, kind, client_number, en, fr, registrant, firm = newest
    institutions = staging.execute(
        "select distinct institution from institutions where id = ? limit ?",
        (
            identity,
            INSTITUTIONS,
        ),
    ).fetchall()
    subjects: dict[str, Record] = {}
    for version, _, starts_on, until, *_ in versions:
        codes = {code for (code,) in staging.execute("select code from subjects where id = ?", (version,))}
        if not names.knows(codes):
            return None
        texts = [text for (text,) in staging.execute("select text from texts where id = ?", (version,))]
        for text in texts or ([""] if codes else []):
            subject = subjects.setdefault(
                text, {"description": text, "starts_on": starts_on, "ends_on": until, "codes": set()}
            )
            subject["codes"] |= codes
            subject["ends_on"] = until
    return {
        "number": number,
        "newest_id": identity,
        "versions": len(versions),
        "kind": kind,
        "client_number": client_number,
        "organization_en": en or fr,
        "organization_fr": fr or en,
        "firm": firm,
        "registrant": registrant,
        "first_effective_on": versions[0][2],
        "effective_on": effective_on,
        "ends_on": ends_on,
        "institutions": sorted(institution for (institution,) in institutions),
        "subjects": [{**names.lists(subject.pop("codes")), **subject} for subject in subjects.values()],
    }


def _stage_subjects(
    archive: Archive,
    staging: Staging,
    prefix: str,
    subject_columns: dict[str, tuple[str, ...]],
    text_columns: dict[str, tuple[str, ...]],
) -> None:
    """The subjects that were ticked, and the texts with theirs."""
    insert = "insert into subjects values (?, ?)"
    staging.load(
        archive.table(f"{prefix}_SubjectMattersExport.csv", subject_columns),
        "id",
        insert,
        lambda number, row: [(number, code) for code in {row["code"], row["other"]} - {""}],
    )

    def text(number: int, row: Row) -> list[tuple[Any, ...]]:
        for code in row["codes"].split(","):
            if code.strip():
                staging.execute(insert, (number, code.strip()))
        return [(number, row["text"][:TEXT_CHARACTERS])] if row["text"] else []

    staging.load(
        archive.table(f"{prefix}_SubjectMatterDetailsExport.csv", text_columns),
        "id",
        "insert into texts values (?, ?)",
        text,
    )


def _by_id(staging: Staging, select: str, span: tuple[int, int]) -> dict[int, list[Any]]:
    """The rows of a table with ids in a range, without the id, by id."""
    found: dict[int, list[Any]] = {}
    for number, *values in staging.execute(f"{select} where id between ? and ? order by id, rowid", span):
        found.setdefault(number, []).append(tuple(values))
    return found


def _organization(row: Row) -> tuple[int | None, str | None, str, str]:
    en, fr = row["organization_en"][:NAME_CHARACTERS], row["organization_fr"][:NAME_CHARACTERS]
    kind = int(row["kind"]) if row["kind"] in ("1", "2", "3") else None
    return kind, row["client_number"][:60] or None, en, fr


def _person(row: Row) -> str | None:
    return " ".join(f"{row['first_name']} {row['last_name']}".split())[:PERSON_CHARACTERS] or None


def _day(text: str) -> str | None:
    """The date in ISO 8601; None for an empty text. Raises ValueError."""
    if not text:
        return None
    day = date.fromisoformat(text[:10])
    if day.year not in YEARS:
        raise ValueError
    return day.isoformat()


def _chain(number: str) -> str:
    """775615-4611 of 775615-4611-11: the number of a registration without its version."""
    return (number.rpartition("-")[0] if number.count("-") >= 2 else number)[:60]
