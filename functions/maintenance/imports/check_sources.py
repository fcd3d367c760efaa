"""check-sources: asks each source of public data for one thing, and compares its shape with what the code reads.

For a machine with a network: the tests run it against the stand-ins.
"""

import html
import re
from collections.abc import Awaitable, Callable
from typing import Any, TypedDict

import orjson

from functions.maintenance.imports.errors import ImportFailed
from functions.maintenance.imports.expenses import CSV_LINK, LIST, parse_expenses, parse_quarters
from functions.maintenance.imports.fetch import Site, Sleep
from functions.maintenance.imports.lobbying import DATASETS
from functions.maintenance.imports.settings import SourceSettings

ZIP_START = b"PK\x03\x04"
FEWEST_MEMBERS = 20  # of a quarter
FEWEST_IN_COMMITTEE = 3
# The two pages that are read as HTML: a party's heading and a ballot; a heading and a link to a member.
PARTY_OR_BALLOT = re.compile(
    r'<h2>([^<]*)</h2>|voteresult_[YNPA]">[^<]*</span>\s*(<a href="/politicians/[^"]+">[^<]*</a>)'
)
COMMITTEE_ROLE = re.compile(r"<h[1-4]\b[^>]*>.*?</h[1-4]>", re.IGNORECASE | re.DOTALL)
COMMITTEE_MEMBER = re.compile(r'<a\b[^>]*\bhref="[^"]*/members/en/[^"/]*\(\d+\)"', re.IGNORECASE)

Check = Callable[[], Awaitable[None]]  # raises ImportFailed


class CheckCounts(TypedDict):
    """How many sources were asked, and how many differ; a line for each."""

    sources: int
    differences: int
    report: list[str]


async def check_sources(settings: SourceSettings, progress: Callable[[str], None], sleep: Sleep) -> CheckCounts:
    """Ask every source. A source that cannot be read is a difference."""
    report, differences = [], 0
    for name, check in _checks(settings, sleep).items():
        progress(f"check-sources: {name}")
        try:
            await check()
            report.append(f"as expected  {name}")
        except ImportFailed as error:
            differences += 1
            report.append(f"DIFFERENT    {name}: {error}")
    return CheckCounts(sources=len(report), differences=differences, report=report)


def _checks(settings: SourceSettings, sleep: Sleep) -> dict[str, Check]:
    def site(url: str) -> Site:
        return Site(url, settings.contact, sleep)

    api, represent = site(settings.parliament_url), site(settings.represent_url)
    feed = site(settings.parliament_url.replace("://api.", "://"))
    legisinfo, house, registry = (
        site(settings.legisinfo_url),
        site(settings.ourcommons_url),
        site(settings.lobbying_url),
    )
    checks: dict[str, Check] = {
        f"openparliament.ca {name}": _api_list(api, name, *keys.split())
        for name, keys in {
            "bills": "session number name introduced url",
            "committees": "name slug url",
            "debates": "date url",
            "politicians": "name url current_party current_riding",
            "speeches": "time attribution content url",
            "votes": "session number date description result yea_total nay_total url",
            "votes/ballots": "vote_url politician_url ballot",
        }.items()
    }
    return {
        **checks,
        "openparliament.ca search feed": _contains(feed, "/search/feed/?q=bill", "<rss", "<item>", "<link>"),
        "openparliament.ca page of a vote": _vote_page(api, feed),
        "Represent": _object(represent, "/postcodes/K1A0A6/", "representatives_centroid"),
        "LEGISinfo": _bill(legisinfo),
        "ourcommons.ca ministers": _contains(
            house, "/Members/en/ministries/xml", "<Minister>", "<Title>", "<PersonOfficialLastName>"
        ),
        "ourcommons.ca parliamentary secretaries": _contains(
            house, "/Members/en/parliamentary-secretaries/xml", "<ParliamentarySecretary>", "<Title>"
        ),
        "ourcommons.ca committee's members": _committee_members(api, house),
        "ourcommons.ca expenses": _expenses(house),
        **{f"lobbycanada.gc.ca {one.noun}": _zip(registry, one.path) for one in DATASETS},
    }


def _api_list(site: Site, name: str, *keys: str) -> Check:
    async def check() -> None:
        await _first_record(site, name, keys)

    return check


async def _first_record(site: Site, name: str, keys: tuple[str, ...]) -> dict[str, Any]:
    """The first record of a list, which has these keys."""
    answer = await _json(site, f"/{name}/?limit=1&format=json")
    records = answer.get("objects") if isinstance(answer, dict) else None
    if not isinstance(records, list) or not records:
        raise ImportFailed("the list has no records.")
    _require(records[0], keys)
    return dict(records[0])


def _vote_page(api: Site, site: Site) -> Check:
    """The newest vote has as many ballots on its page as it counts, under headings of parties."""

    async def check() -> None:
        vote = await _first_record(api, "votes", ("url", "yea_total", "nay_total"))
        page = (await site.page(str(vote["url"]), accept="text/html")).decode("utf-8", "replace")
        ballots, heading = [], ""
        for party, ballot in PARTY_OR_BALLOT.findall(page):
            if ballot:
                ballots.append(heading)
            else:
                heading = party
        cast = int(vote["yea_total"]) + int(vote["nay_total"])
        if len(ballots) < cast:
            raise ImportFailed(f"the page has {len(ballots)} ballots that can be read, of {cast}.")
        if len(set(ballots)) < 2:
            raise ImportFailed("the page has no headings of parties.")

    return check


def _committee_members(api: Site, house: Site) -> Check:
    """The first committee's members, by the acronym in its record."""

    async def check() -> None:
        committee = await _first_record(api, "committees", ("url",))
        record = await _json(api, f"{committee['url']}?format=json")
        sessions = record.get("sessions") if isinstance(record, dict) else None
        acronyms = [one.get("acronym") for one in sessions or [] if isinstance(one, dict) and one.get("acronym")]
        if not acronyms:
            raise ImportFailed("a committee's record has no acronym.")
        page = (await house.page(f"/Committees/en/{acronyms[0]}/Members")).decode("utf-8", "replace")
        members = len(COMMITTEE_MEMBER.findall(page))
        if members < FEWEST_IN_COMMITTEE or not COMMITTEE_ROLE.search(page):
            raise ImportFailed(f"the page has {members} members that can be read, or no headings.")

    return check


def _object(site: Site, path: str, *keys: str) -> Check:
    async def check() -> None:
        _require(await _json(site, path), keys)

    return check


def _bill(site: Site) -> Check:
    """The list has the newest session's bills; the page of one bill is a list of one."""

    async def check() -> None:
        bills = await _json(site, "/en/bills/json")
        if not isinstance(bills, list) or not bills:
            raise ImportFailed("the list has no bills.")
        # The names of the fields drift, so the code reads some under each of their names.
        number = _first(bills[0], "NumberCode", "BillNumberFormatted")
        _require(bills[0], ("ParliamentNumber", "SessionNumber"))
        session = f"{bills[0]['ParliamentNumber']}-{bills[0]['SessionNumber']}"
        one = await _json(site, f"/en/bill/{session}/{number.lower()}/json")
        if not isinstance(one, list) or len(one) != 1:
            raise ImportFailed("the page of a bill is no list of one.")
        _first(one[0], "LongTitleEn", "LongTitle")

    return check


def _contains(site: Site, path: str, *parts: str) -> Check:
    async def check() -> None:
        body = (await site.page(path)).decode("utf-8", "replace")
        if missing := [part for part in parts if part.rstrip(">") not in body]:
            raise ImportFailed(f"the response has no {' and no '.join(missing)}.")

    return check


def _expenses(site: Site) -> Check:
    async def check() -> None:
        quarters = parse_quarters((await site.page(LIST)).decode("utf-8", "replace"))
        if not quarters:
            raise ImportFailed("the list links no quarter.")
        page = (await site.page(html.unescape(quarters[0].path))).decode("utf-8", "replace")
        link = CSV_LINK.search(page)
        if link is None:
            raise ImportFailed("the page of a quarter links no CSV file.")
        table = parse_expenses(await site.page(link[1]))
        if table.bad or len(table.rows) < FEWEST_MEMBERS:
            raise ImportFailed(f"the file has {len(table.rows)} rows, and {table.bad} that cannot be read.")

    return check


def _zip(site: Site, path: str) -> Check:
    async def check() -> None:
        if await site.head(path, len(ZIP_START)) != ZIP_START:
            raise ImportFailed("the file is no zip.")

    return check


async def _json(site: Site, path: str) -> Any:
    try:
        return orjson.loads(await site.page(path))
    except orjson.JSONDecodeError as error:
        raise ImportFailed("the response is no JSON.") from error


def _require(record: Any, keys: tuple[str, ...]) -> None:
    if not isinstance(record, dict):
        raise ImportFailed("a record is no object.")
    if missing := [key for key in keys if key not in record]:
        raise ImportFailed(f"a record has no {', '.join(missing)}; it has {', '.join(sorted(record))[:200]}.")


def _first(record: Any, *names: str) -> str:
    """The value under the first name that the record has."""
    if isinstance(record, dict):
        for name in names:
            if isinstance(record.get(name), str) and re.search(r"\S", record[name]):
                return str(record[name])
    raise ImportFailed(f"a bill has no {' or '.join(names)}.")
