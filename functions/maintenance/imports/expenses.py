"""import-expenses: the expenses of members of Parliament by quarter, from the House of Commons' proactive disclosure.

The list of quarters links a page for each, and the page its CSV file, whose address has an id of its own. A quarter's
rows are replaced in one transaction. Quarters that were imported are not read again, except for the newest two, because
the House corrects them.
"""

import hashlib
import html
import io
import re
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass
from decimal import Decimal
from typing import TypedDict

from functions.common import results
from functions.common.database import Database
from functions.maintenance.imports.errors import ImportFailed
from functions.maintenance.imports.fetch import Site
from functions.maintenance.imports.tables import read_table, require_few_bad

VERSION = "2"  # change it where the same file would be read differently
LIST = "/ProactiveDisclosure/en/members"
QUARTER_LINK = re.compile(r'href="(/ProactiveDisclosure/en/members/(\d{4})/([1-4])(?:\?[^"]*)?)"', re.IGNORECASE)
CSV_LINK = re.compile(r'href="(/ProactiveDisclosure/en/members/[0-9a-f-]+/csv)"', re.IGNORECASE)
COLUMNS = {
    name: (name.upper(),)
    for name in ("name", "constituency", "caucus", "salaries", "travel", "hospitality", "contracts")
}
AMOUNT = re.compile(r"-?(\d{1,9}|\d{1,3}([, \u00a0]\d{3}){1,2})(\.\d{1,6})?", re.ASCII)
AMOUNTS = ("salaries", "travel", "hospitality", "contracts")
CORRECTED_QUARTERS = 2  # the newest, which are read every time
SMALLEST_SHARE = 0.9  # of the rows of the last file: a shorter file is not believed
MOST_ROWS = 2_000  # import_member_expenses takes no more
CALL_TIMEOUT_S = 30.0


class ExpenseCounts(TypedDict):
    """Quarters that were read, that had not changed, and that could not be read; rows written, deleted and skipped."""

    quarters: int
    unchanged: int
    refused: int
    written: int
    deleted: int
    bad_rows: int


@dataclass(frozen=True, slots=True, order=True)
class Quarter:
    """A quarter and the path of its page. 2027, 1 is April to June 2026."""

    fiscal_year: int
    number: int
    path: str

    @property
    def source(self) -> str:
        """Its name in import_states."""
        return f"expenses-{self.fiscal_year}-{self.number}"


@dataclass(frozen=True, slots=True)
class Rows:
    """The rows of a file as import_member_expenses takes them, and how many could not be read."""

    rows: list[dict[str, str | int]]
    bad: int


async def import_expenses(
    database: Database,
    site: Site,
    progress: Callable[[str], None],
    *,
    everything: bool = False,
    accept_smaller: bool = False,
) -> ExpenseCounts:
    """Import the quarters that are new or may have changed; with `everything`, all.

    `accept_smaller`: also files that are much smaller than the last ones.

    Raises Unavailable, and ImportFailed where the list or a quarter cannot be read; the other quarters are imported.
    """
    quarters = parse_quarters((await site.page(LIST)).decode("utf-8", "replace"))
    if not quarters:
        raise ImportFailed(f"{site.host} lists no quarter: the page has changed, or is not the page.")
    states = await database.call(
        "import_states_of", {"p_prefix": "expenses-"}, timeout_s=CALL_TIMEOUT_S, parse=results.record()
    )
    counts = ExpenseCounts(quarters=0, unchanged=0, refused=0, written=0, deleted=0, bad_rows=0)
    refusals = []
    for number, quarter in enumerate(quarters):
        if quarter.source in states and number >= CORRECTED_QUARTERS and not everything:
            continue
        try:
            await _import_quarter(database, site, quarter, states.get(quarter.source), counts, accept_smaller)
        except ImportFailed as error:
            counts["refused"] += 1
            refusals.append(f"{quarter.fiscal_year}/{quarter.number}: {error}")
        progress(f"import-expenses: {number + 1} of {len(quarters)} quarters, {counts['written']:,} rows written")
    if refusals:
        raise ImportFailed(f"{len(refusals)} quarters could not be read, and stay as they were. {refusals[0]}")
    return counts


async def _import_quarter(
    database: Database,
    site: Site,
    quarter: Quarter,
    state: dict[str, object] | None,
    counts: ExpenseCounts,
    accept_smaller: bool,
) -> None:
    link = CSV_LINK.search((await site.page(html.unescape(quarter.path))).decode("utf-8", "replace"))
    if link is None:
        raise ImportFailed("its page links no CSV file.")
    body = await site.file(link[1])
    digest = f"{VERSION}-{hashlib.sha256(body).hexdigest()}"
    counts["quarters"] += 1
    if state is not None and state["digest"] == digest:
        counts["unchanged"] += 1
        return
    table = parse_expenses(body)
    last = int(str(state["records"] or 0)) if state is not None else 0
    if len(table.rows) + table.bad < SMALLEST_SHARE * last and not accept_smaller:
        raise ImportFailed(
            f"the file has {len(table.rows)} rows, and the last import had {last}. If that is right, run the job by "
            "hand with --accept-smaller."
        )
    params = {
        "p_last_digest": state["digest"] if state is not None else None,
        "p_fiscal_year": quarter.fiscal_year,
        "p_quarter": quarter.number,
        "p_digest": digest,
        "p_rows": table.rows,
        "p_is_complete": not table.bad,
    }
    done = await database.call(
        "import_member_expenses",
        params,
        timeout_s=CALL_TIMEOUT_S,
        parse=results.record("is_current", "written", "deleted"),
    )
    if not done["is_current"]:
        raise ImportFailed("another run has stored a file of this quarter since this one began.")
    counts["written"] += done["written"]
    counts["deleted"] += done["deleted"]
    counts["bad_rows"] += table.bad


def parse_quarters(page: str) -> list[Quarter]:
    """The quarters that the list links, the newest first."""
    found = {(int(year), int(number)): path for path, year, number in QUARTER_LINK.findall(page)}
    return sorted((Quarter(*key, path) for key, path in found.items()), reverse=True)


def parse_expenses(body: bytes) -> Rows:
    """The rows of a quarter's file. Raises ImportFailed where it is no such file.

    A member can have several rows. An equal one is a repetition, and counts as bad; so does one that cannot be read,
    but it is counted among the member's, so that the next one does not take its place.
    """
    try:
        body.decode()
    except UnicodeDecodeError:
        raise ImportFailed("the file is not UTF-8.") from None
    rows: list[dict[str, str | int]] = []
    occurrences: Counter[tuple[str, ...]] = Counter()
    lines: set[tuple[str, ...]] = set()
    filled: set[str] = set()
    total = repeated = 0
    for row in read_table(io.BytesIO(body), "the file", COLUMNS, "utf-8"):
        total += 1
        if row is None or len(row) < len(COLUMNS) or not row["name"]:
            continue
        # "Quillwater,  Fern": the file has two spaces where a title could be.
        texts = {name: " ".join(row[name].split())[:100] for name in ("name", "constituency", "caucus")}
        filled.update(name for name in AMOUNTS if row[name])
        try:
            amounts = {name: str(parse_amount(row[name])) for name in AMOUNTS}
        except ValueError:
            amounts = {}
        key, line = tuple(texts.values()), (*texts.values(), *amounts.values())
        repeated += key in occurrences
        if amounts and line in lines:
            continue
        occurrences[key] += 1
        lines.add(line)
        if amounts:
            rows.append({**texts, "occurrence": occurrences[key], **amounts})
    if not rows:
        raise ImportFailed("the file has no row that can be read.")
    if len(rows) > MOST_ROWS:
        raise ImportFailed(f"the file has {len(rows):,} rows, more than any that is known.")
    if missing := [name for name in AMOUNTS if name not in filled]:
        raise ImportFailed(f"no row has an amount in {missing[0].upper()}.")
    require_few_bad(repeated, total, "the file")
    require_few_bad(total - len(rows), total, "the file")
    return Rows(rows, total - len(rows))


def parse_amount(text: str) -> Decimal:
    """Dollars: 4262.5, "$1,604.42", "(12.50)" for a refund, nothing for zero. Raises ValueError.

    A comma separates thousands only: "2,5" is no amount.
    """
    digits = text.replace("$", "").strip()
    is_negative = digits.startswith("(") and digits.endswith(")")
    digits = digits[1:-1] if is_negative else digits or "0"
    if not AMOUNT.fullmatch(digits):
        raise ValueError
    amount = Decimal(re.sub("[, \u00a0]", "", digits))
    return (-amount if is_negative else amount).quantize(Decimal("0.01"))
