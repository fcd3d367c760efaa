"""The House's proactive disclosure of members' expenses, invented: the list of quarters, a page and a CSV file of each.

Compared with programs that read the real pages: the list links `…/{year}/{quarter}?summaryId=…`, the page of a quarter
links the CSV file under another id, the file starts with a byte order mark and has "Vacant" offices, honorifics, two
spaces before a name without one, a member twice, and amounts with one decimal or none.
"""

import csv
import io
import random
import uuid
from datetime import date
from functools import cache

from infra.local.parliament.data import JOINED_ON, LEFT_ON, MINISTER, PEOPLE
from infra.local.parliament.model import slugify

QUARTERS = ((2027, 2), (2027, 1), (2026, 4))
ROOT = "/ProactiveDisclosure/en/members"
COLUMNS = ("Name", "Constituency", "Caucus", "Salaries", "Travel", "Hospitality", "Contracts")
MONTHS = ("April 1, {0} to June 30, {0}", "July 1, {0} to September 30, {0}")
LATER_MONTHS = ("October 1, {0} to December 31, {0}", "January 1, {1} to March 31, {1}")


def _id(*parts: object) -> str:
    return str(uuid.uuid5(uuid.NAMESPACE_URL, "/".join(map(str, parts))))


def _has_seat(slug: str, year: int, quarter: int) -> bool:
    """Whether a member has a seat on a day of the quarter. Quarter 4 of 2026 is January to March 2026."""
    first, after = (date(year - 1 + (3 * number) // 12, 1 + (3 * number) % 12, 1) for number in (quarter, quarter + 1))
    return JOINED_ON.get(slug, first) < after and LEFT_ON.get(slug, first) >= first


def list_page() -> str:
    """The page of all quarters."""
    links = "".join(
        f'<li><a href="{ROOT}/{year}/{quarter}?summaryId={_id("summary", year, quarter)}">Q{quarter}</a></li>\n'
        for year, quarter in QUARTERS
    )
    return f"<!DOCTYPE html><title>Members&#x2019; Expenditures</title><ul>\n{links}</ul>"


def quarter_page(year: int, quarter: int) -> str | None:
    """The page of a quarter; None where there is no such quarter."""
    if (year, quarter) not in QUARTERS:
        return None
    period = (*MONTHS, *LATER_MONTHS)[quarter - 1].format(year - 1, year)
    link = f'<a class="csv-btn" href="{ROOT}/{_id("csv", year, quarter)}/csv">CSV</a>'
    return f"<!DOCTYPE html><title>Members &#x2013; Summary of Expenditures</title><p>{period}</p>{link}"


@cache
def csv_file(identity: str) -> bytes | None:
    """The CSV file with this id; None where there is none."""
    found = next((key for key in QUARTERS if _id("csv", *key) == identity), None)
    if found is None:
        return None
    year, quarter = found
    file = io.StringIO()
    writer = csv.writer(file, lineterminator="\r\n")
    writer.writerow(COLUMNS)
    writer.writerow(["Vacant", "Empty Exemplar", "Heron", 4262.5, 0, 0, 3809.95])
    for line in PEOPLE.strip().splitlines():
        party, _, _, given, family, *riding = line.split()
        slug = slugify(f"{given} {family}")
        if not _has_seat(slug, year, quarter):
            continue
        rng = random.Random(f"{year}{quarter}{given}{family}")  # noqa: S311 -- the same every time
        name = f"{family}, Hon. {given}" if slug == MINISTER else f"{family},  {given}"
        amounts = [round(rng.uniform(30_000, 80_000), 2), round(rng.uniform(0, 40_000), 1), rng.randrange(900)]
        writer.writerow([name, " ".join(riding), party, *amounts, round(rng.uniform(5_000, 35_000), 2)])
    # He changed his caucus in this quarter, and has a row for each.
    if (year, quarter) == (2027, 1):
        writer.writerow(["Plumbrook,  Sixtus", "Northern Legend", "Independent", 1200, 0, -35.5, 21.44])
    return b"\xef\xbb\xbf" + file.getvalue().encode()
