"""The two zips of the registry of lobbyists, invented, in the format of the real ones.

Compared with what programs that read the real files say of them: the names of files and columns, Windows-1252, every
field in quotes, "null" for nothing, numbers of registrations with a version at the end (775615-4611-11), a version
repeats the texts of the one before, reports that replace earlier ones (PREV_COMLOG_ID_PRECEDNT), subjects in a file of
their own until September 2024 and in the file of the texts since, several codes in one field.
"""

import csv
import io
import random
import zipfile
from collections.abc import Iterable
from datetime import date, timedelta
from functools import cache
from itertools import accumulate
from typing import IO, Any

from infra.local.parliament.data import BILLS, PEOPLE

CODES = {
    "SMT-1": ("Agriculture", "Agriculture"),
    "SMT-14": ("Environment", "Environnement"),
    "SMT-17": ("Government Procurement", "Marchés publics"),
    "SMT-20": ("Health", "Santé"),
    "SMT-36": ("Taxation and Finance", "Fiscalité et finances"),
    "SMT-39": ("Transportation", "Transports"),
}
# Who lobbies: English name, French name or null, and what for, with the days and the official of one report.
STORIES = (
    (
        "Small Ferry Operators of Canada",
        "Exploitants de petits traversiers du Canada",
        "Bill C-5, An Act respecting the reopening of small ferry routes: funding for wharves.",
        "SMT-39",
        "Fern Quillwater",
        date(2026, 3, 4),
    ),
    (
        "Wharf Builders’ Guild",
        "null",
        "Bill C-5 (Small Ferries Act), with regard to amendments on wharves and puddles.",
        "SMT-39,SMT-17",
        "Barnaby Tidewell",
        date(2026, 5, 19),
    ),
    (
        "Société des traversiers de l’Île-aux-Fables",
        "Société des traversiers de l’Île-aux-Fables",
        "Projet de loi C-5, Loi concernant la réouverture des petites liaisons par traversier : cœur du réseau.",
        "SMT-39",
        "Théodule Vertegrange",
        date(2026, 4, 21),
    ),
    (
        "Mousetrap Makers Association",
        "null",
        "Bill C-5, An Act respecting the humane housing of mice.",
        "SMT-1",
        "Odalys Brambleton",
        date(2023, 6, 6),
    ),
    (
        "Friends of the Heron",
        "Les Amis du héron",
        "Bill C-2, Heron Census Act: funding of the national census of herons.",
        "SMT-14",
        "Odalys Brambleton",
        date(2026, 2, 17),
    ),
    (
        "Maple Sap Producers of the Imaginary Coast",
        "Producteurs d’eau d’érable de la Côte imaginaire",
        "Labelling of maple sap; taxation of sugar shacks.",
        "SMT-1,SMT-36",
        "Théodule Vertegrange",
        date(2026, 9, 22),
    ),
)
COMMUNICATION_FILES: dict[str, str] = {
    "Communication_PrimaryExport.csv": "COMLOG_ID CLIENT_ORG_CORP_NUM EN_CLIENT_ORG_CORP_NM_AN FR_CLIENT_ORG_CORP_NM "
    "REGISTRANT_NUM_DECLARANT RGSTRNT_LAST_NM_DCLRNT RGSTRNT_1ST_NM_PRENOM_DCLRNT COMM_DATE REG_TYPE_ENR "
    "SUBMISSION_DATE_SOUMISSION POSTED_DATE_PUBLICATION PREV_COMLOG_ID_PRECEDNT",
    "Communication_DpohExport.csv": "COMLOG_ID DPOH_LAST_NM_TCPD DPOH_FIRST_NM_PRENOM_TCPD DPOH_TITLE_TITRE_TCPD "
    "BRANCH_UNIT_DIRECTION_SERVICE OTHER_INSTITUTION_AUTRE INSTITUTION",
    "Communication_SubjectMattersExport.csv": "COMLOG_ID SUBJECT_CODE_OBJET CUSTOM_SUBJ_OBJET_PERSO",
    "Communication_SubjectMatterDetailsExport.csv": "COMLOG_ID SUBJECT_CODE_OBJET DESCRIPTION NEED_REV_REQ",
    "Codes_SubjectMatterTypesExport.csv": "SUBJECT_CODE_OBJET SMT_EN_DESC SMT_FR_DESC",
}
REGISTRATION_FILES: dict[str, str] = {
    "Registration_PrimaryExport.csv": "REG_ID_ENR REG_TYPE_ENR REG_NUM_ENR VERSION_CODE EN_FIRM_NM_FIRME_AN "
    "FR_FIRM_NM_FIRME RGSTRNT_POS_POSTE_DCLRNT FIRM_ADDRESS_ADRESSE_FIRME FIRM_TEL_FIRME FIRM_FAX_FIRME "
    "RGSTRNT_NUM_DECLARANT RGSTRNT_LAST_NM_DCLRNT RGSTRNT_1ST_NM_PRENOM_DCLRNT RO_POS_POSTE_AR "
    "RGSTRNT_ADDRESS_ADRESSE_DCLRNT RGSTRNT_TEL_DCLRNT RGSTRNT_FAX_DCLRNT "
    "CLIENT_ORG_CORP_PROFIL_ID_PROFIL_CLIENT_ORG_CORP CLIENT_ORG_CORP_NUM EN_CLIENT_ORG_CORP_NM_AN "
    "FR_CLIENT_ORG_CORP_NM CLIENT_ORG_CORP_ADDRESS_ADRESSE_CLIENT_ORG_CORP CLIENT_ORG_CORP_TEL CLIENT_ORG_CORP_FAX "
    "REP_LAST_NM_REP REP_1ST_NM_PRENOM_REP REP_POSITION_POSTE_REP EFFECTIVE_DATE_VIGUEUR END_DATE_FIN "
    "PARENT_IND_SOC_MERE COALITION_IND SUBSIDIARY_IND_FILIALE DIRECT_INT_IND_INT_DIRECT GOVT_FUND_IND_FIN_GOUV "
    "FY_END_DATE_FIN_EXERCICE CONTG_FEE_IND_HON_COND PREV_REG_ID_ENR_PRECEDNT POSTED_DATE_PUBLICATION",
    "Registration_SubjectMattersExport.csv": "REG_ID_ENR SUBJECT_CODE_OBJET CUSTOM_SUBJ_OBJET_PERSO",
    "Registration_SubjectMatterDetailsExport.csv": "REG_ID_ENR ASSOC_SUBJECT_CODES_OBJET DESCRIPTION",
    "Registration_GovernmentInstExport.csv": "REG_ID_ENR INSTITUTION",
    "Codes_SubjectMatterTypesExport.csv": COMMUNICATION_FILES["Codes_SubjectMatterTypesExport.csv"],
}
TEXTS_SINCE = date(2024, 10, 1)
STORY_REPORTS = 4 * len(STORIES)
VERSIONS = 6  # of a registration, about
INSTITUTIONS = ("House of Commons", "Transport Canada (TC)", "Finance Canada (FIN)", "Health Canada (HC)")
Values = dict[str, Any]
Topic = tuple[str, str, str, str, str, date]  # who, in French, what for, the codes, an official, the day


class Registry:
    """The records behind both zips: the stories, then as many invented ones as are asked for, always the same."""

    def __init__(self, communications: int, registrations: int) -> None:
        self._communications, self._registrations = communications, registrations
        self._people = [" ".join(line.split()[3:5]) for line in PEOPLE.strip().splitlines()]
        self._bills = [tuple(line.split("|")[:2]) for line in BILLS.strip().splitlines()]
        # A few words are in many texts, most in few, as in any language.
        words = random.Random(7)  # noqa: S311 -- the same every time
        syllables = ["ba", "cor", "del", "fen", "gri", "hul", "lo", "mar", "nes", "pol", "quin", "ros", "tal", "vi"]
        self._words = ["".join(words.choices(syllables, k=3)) for _ in range(4000)]
        self._weights = list(accumulate(1 / (rank + 2) for rank in range(len(self._words))))

    def communications_zip(self, to: IO[bytes]) -> None:
        """Write communications_ocl_cal.zip."""
        _write_zip(
            to,
            {
                "Communication_PrimaryExport.csv": (self._communication(n) for n in self._numbers()),
                "Communication_DpohExport.csv": (row for n in self._numbers() for row in self._officials(n)),
                "Communication_SubjectMattersExport.csv": (row for n in self._numbers() for row in self._ticked(n)),
                "Communication_SubjectMatterDetailsExport.csv": (row for n in self._numbers() for row in self._said(n)),
                "Codes_SubjectMatterTypesExport.csv": _codes(),
            },
            COMMUNICATION_FILES,
        )

    def registrations_zip(self, to: IO[bytes]) -> None:
        """Write registrations_enregistrements_ocl_cal.zip."""
        numbers = range(self._registrations)
        _write_zip(
            to,
            {
                "Registration_PrimaryExport.csv": (self._registration(n) for n in numbers),
                "Registration_SubjectMattersExport.csv": (
                    {"REG_ID_ENR": n + 1, "SUBJECT_CODE_OBJET": self._chain(n // VERSIONS)[3].split(",")[0]}
                    for n in numbers
                    if n % 3 == 0
                ),
                "Registration_SubjectMatterDetailsExport.csv": (
                    {
                        "REG_ID_ENR": n + 1,
                        "ASSOC_SUBJECT_CODES_OBJET": self._chain(n // VERSIONS)[3],
                        "DESCRIPTION": text,
                    }
                    for n in numbers
                    for text in self._texts(n)
                ),
                "Registration_GovernmentInstExport.csv": (
                    {"REG_ID_ENR": n + 1, "INSTITUTION": institution} for n in numbers for institution in INSTITUTIONS
                ),
                "Codes_SubjectMatterTypesExport.csv": _codes(),
            },
            REGISTRATION_FILES,
        )

    def _numbers(self) -> Iterable[int]:
        """In no order, as in the real files."""
        numbers = list(range(self._communications))
        random.Random(9).shuffle(numbers)  # noqa: S311
        return numbers

    def _report(self, number: int, *, has_text: bool = False) -> Topic:
        return self._topic(number, self._communications, has_text=has_text)

    def _chain(self, number: int, *, has_text: bool = False) -> Topic:
        return self._topic(number, self._registrations // VERSIONS + 1, has_text=has_text)

    def _topic(self, number: int, of: int, *, has_text: bool) -> Topic:
        """Who lobbies for what. The first are the stories."""
        if number < STORY_REPORTS:
            en, fr, text, codes, official, day = STORIES[number % len(STORIES)]
            return en, fr, text, codes, official, day + timedelta(days=9 * (number // len(STORIES)))
        rng = random.Random(number)  # noqa: S311
        name = " ".join(rng.choices(self._words, k=2)).title()
        bill, title = rng.choice(self._bills)
        about = f"Bill {bill}, {title}. " if number % 10 == 0 else ""
        # Numbers are given in the order of time.
        day = date(2008, 7, 1) + timedelta(days=6600 * number // of)
        return (
            f"{name} Ltd.",
            f"{name} ltée",
            f"{about}{self._text(number, 40)}" if has_text else "",
            rng.choice(list(CODES)),
            f"{rng.choice(self._people).split()[0]} {rng.choice(self._people).split()[1]}",
            day,
        )

    def _texts(self, number: int) -> Iterable[str]:
        """The texts of a version, some of which its predecessors have too."""
        chain, version = divmod(number, VERSIONS)
        # A bill is named from the version after its introduction on.
        is_new = chain >= len(STORIES) or version == VERSIONS - 1
        yield self._chain(chain, has_text=True)[2] if is_new else "Funding and regulation."
        if chain >= len(STORIES):
            yield self._text(7 * chain + version // 3, 60)

    def _text(self, seed: int, words: int) -> str:
        return " ".join(random.Random(seed).choices(self._words, cum_weights=self._weights, k=words)) + "."  # noqa: S311

    def _communication(self, number: int) -> Values:
        en, fr, _, _, _, day = self._report(number)
        client = 1000 + (number % len(STORIES) if number < STORY_REPORTS else number % 20_000)
        return {
            "COMLOG_ID": number + 1,
            "CLIENT_ORG_CORP_NUM": client,
            "EN_CLIENT_ORG_CORP_NM_AN": en,
            "FR_CLIENT_ORG_CORP_NM": fr,
            "REGISTRANT_NUM_DECLARANT": 770_000 + client,
            "RGSTRNT_LAST_NM_DCLRNT": "Lobeur",
            "RGSTRNT_1ST_NM_PRENOM_DCLRNT": "Éloïse",
            "COMM_DATE": day,
            "REG_TYPE_ENR": 1 + number % 3,
            "SUBMISSION_DATE_SOUMISSION": day + timedelta(days=10),
            "POSTED_DATE_PUBLICATION": day + timedelta(days=12),
            # Every fiftieth report replaces the one before.
            "PREV_COMLOG_ID_PRECEDNT": number if number % 50 == 49 else "null",
        }

    def _officials(self, number: int) -> Iterable[Values]:
        first, last = self._report(number)[4].split(" ", 1)
        member = {"DPOH_FIRST_NM_PRENOM_TCPD": first, "DPOH_LAST_NM_TCPD": last}
        yield {
            "COMLOG_ID": number + 1,
            **member,
            "DPOH_TITLE_TITRE_TCPD": ("Member of Parliament", "MP", "Député", "Member of Parliment")[number % 4],
            "INSTITUTION": "House of Commons" if number % 40 else "Members of the House of Commons",
        }
        if number % 5 < 3:
            yield {
                "COMLOG_ID": number + 1,
                "DPOH_FIRST_NM_PRENOM_TCPD": "Zoë",
                "DPOH_LAST_NM_TCPD": f"Fonctionnaire-{number % 300}",
                "DPOH_TITLE_TITRE_TCPD": "Assistant Deputy Minister",
                "BRANCH_UNIT_DIRECTION_SERVICE": "Policy",
                "INSTITUTION": INSTITUTIONS[1 + number % 3],
            }

    def _ticked(self, number: int) -> Iterable[Values]:
        *_, codes, _, day = self._report(number)
        if day < TEXTS_SINCE:
            for code in codes.split(","):
                yield {"COMLOG_ID": number + 1, "SUBJECT_CODE_OBJET": code}

    def _said(self, number: int) -> Iterable[Values]:
        _, _, text, codes, _, day = self._report(number, has_text=True)
        # The mice are a story about a text from before the texts.
        if day >= TEXTS_SINCE or number < STORY_REPORTS:
            yield {
                "COMLOG_ID": number + 1,
                "SUBJECT_CODE_OBJET": codes,
                "DESCRIPTION": text,
                "NEED_REV_REQ": "N",
            }

    def _registration(self, number: int) -> Values:
        chain, version = divmod(number, VERSIONS)
        en, fr, _, _, _, day = self._chain(chain)
        begins = day - timedelta(days=10 + 180 * (VERSIONS - 1 - version))
        is_newest = version == VERSIONS - 1 or number == self._registrations - 1
        is_active = is_newest and (chain < len(STORIES) or chain % 3 == 0)
        return {
            "REG_ID_ENR": number + 1,
            "REG_TYPE_ENR": 1 + chain % 3,
            "REG_NUM_ENR": f"{770_000 + chain}-{1000 + chain}-{version + 1}",
            "VERSION_CODE": "V6" if begins >= TEXTS_SINCE else "V5",
            "EN_FIRM_NM_FIRME_AN": "Whisper & Sons" if chain % 3 == 0 else "null",
            "RGSTRNT_LAST_NM_DCLRNT": "Lobeur",
            "RGSTRNT_1ST_NM_PRENOM_DCLRNT": "Éloïse",
            "CLIENT_ORG_CORP_NUM": 1000 + chain,
            "EN_CLIENT_ORG_CORP_NM_AN": en,
            "FR_CLIENT_ORG_CORP_NM": fr,
            "EFFECTIVE_DATE_VIGUEUR": begins,
            "END_DATE_FIN": "null" if is_active else begins + timedelta(days=179),
            "GOVT_FUND_IND_FIN_GOUV": "N",
            "PREV_REG_ID_ENR_PRECEDNT": number if version else "null",
            "POSTED_DATE_PUBLICATION": begins + timedelta(days=5),
        }


def _codes() -> Iterable[Values]:
    return ({"SUBJECT_CODE_OBJET": code, "SMT_EN_DESC": en, "SMT_FR_DESC": fr} for code, (en, fr) in CODES.items())


def _write_zip(to: IO[bytes], files: dict[str, Iterable[Values]], columns: dict[str, str]) -> None:
    with zipfile.ZipFile(to, "w", zipfile.ZIP_DEFLATED, compresslevel=1) as archive:
        for name, rows in files.items():
            with archive.open(name, "w") as member:
                text = io.TextIOWrapper(member, "cp1252", newline="")
                writer = csv.DictWriter(
                    text, columns[name].split(), restval="null", quoting=csv.QUOTE_ALL, lineterminator="\r\n"
                )
                writer.writeheader()
                writer.writerows(rows)
                text.flush()
                text.detach()


@cache
def sample_zip(name: str) -> bytes:
    """The zip of the sample, `communications` or `registrations`."""
    file = io.BytesIO()
    registry = Registry(communications=STORY_REPORTS, registrations=VERSIONS * len(STORIES))
    (registry.communications_zip if name == "communications" else registry.registrations_zip)(file)
    return file.getvalue()
