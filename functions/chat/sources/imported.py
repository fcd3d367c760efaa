"""Members' expenses and the registry of lobbyists, which the maintenance function imports into our database."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import date
from typing import TYPE_CHECKING, Any

from functions.chat.sources.base import Language, SourceError, Text
from functions.common.errors import AppError

if TYPE_CHECKING:
    from functions.common.database import Database

CALL_S = 3.0
REGISTRY = "/app/secure/ocl/lrs/do"


@dataclass(frozen=True, slots=True)
class Quarter:
    """A quarter of a fiscal year, which is named by the year in which it ends: 2027, 1 is April to June 2026."""

    fiscal_year: int
    number: int

    @property
    def months(self) -> tuple[str, str]:
        """The first and the last month: 2026-04, 2026-06."""
        year = self.fiscal_year if self.number == 4 else self.fiscal_year - 1
        first = (self.number * 3) % 12 + 1
        return f"{year}-{first:02}", f"{year}-{first + 2:02}"


@dataclass(frozen=True, slots=True)
class MemberExpenses:
    """A member's quarter. Amounts are exact text, Canadian dollars. `rank` 1 is the largest total of `members`."""

    quarter: Quarter
    name: str
    riding: str
    caucus: str
    amounts: Mapping[str, str]  # salaries, travel, hospitality, contracts, total
    rank: int
    members: int
    median: str


@dataclass(frozen=True, slots=True)
class Spender:
    """A member and an amount."""

    name: str
    riding: str
    caucus: str
    amount: str


@dataclass(frozen=True, slots=True)
class LargestExpenses:
    """The members with the largest expenses of a category in a quarter; the sum and median are of all members."""

    quarter: Quarter
    members: int
    sum: str
    median: str
    spenders: Sequence[Spender]


@dataclass(frozen=True, slots=True)
class Official:
    """An official who was lobbied. The title is as the lobbyist wrote it."""

    name: str
    title: str
    institution: str


@dataclass(frozen=True, slots=True)
class Report:
    """A report of a communication. `description` is in the lobbyist's language; empty before October 2024."""

    number: int
    organization: Text
    date: str
    subjects: Text
    description: str
    officials: Sequence[Official]
    url: str


@dataclass(frozen=True, slots=True)
class Registration:
    """A registration to lobby. `ends_on` None: active."""

    newest_id: int
    client_number: str | None
    organization: Text
    firm: str | None
    registrant: str | None
    since: str | None
    ends_on: str | None
    description: str
    url: str


@dataclass(frozen=True, slots=True)
class Lobbyist:
    """An organization that lobbied on something: its reports and registrations that match, and one text of each."""

    organization: Text
    reports: int
    last_report_on: str | None
    registrations: int
    is_active: bool
    report_text: str | None
    registration_text: str | None
    url: str


@dataclass(frozen=True, slots=True)
class Lobbying:
    """Who lobbied on something, those with most reports first. Counts are of the newest 250 or 125 at most."""

    reports: int
    registrations: int
    organizations: int
    lobbyists: Sequence[Lobbyist]


@dataclass(frozen=True, slots=True)
class OrganizationCount:
    """An organization and how many reports it has."""

    organization: Text
    reports: int
    last_report_on: str | None


@dataclass(frozen=True, slots=True)
class OrganizationLobbying:
    """The lobbying of organizations whose name has the words that were asked for: `names` are theirs."""

    names: Sequence[Text]
    reports: int
    registrations: int
    active_registrations: int
    newest_reports: Sequence[Report]
    newest_registrations: Sequence[Registration]


@dataclass(frozen=True, slots=True)
class MemberLobbying:
    """Who lobbied a member."""

    reports: int
    organizations: Sequence[OrganizationCount]
    newest_reports: Sequence[Report]


@dataclass(frozen=True, slots=True)
class RecentLobbying:
    """The organizations with most reports between two days."""

    since: str | None
    until: str | None
    reports: int
    organizations: Sequence[OrganizationCount]


class Imported:
    """Reads the imported data. Without a database, nothing is available. The addresses are of the public pages."""

    def __init__(self, database: "Database | None", ourcommons: str, lobbying: str) -> None:
        self._database = database
        self._ourcommons, self._lobbying = ourcommons.rstrip("/"), lobbying.rstrip("/")

    def expenses_page(self, quarter: Quarter, language: Language) -> str:
        """The House's page of a quarter."""
        return f"{self._ourcommons}/ProactiveDisclosure/{language}/members/{quarter.fiscal_year}/{quarter.number}"

    def registry_page(self, language: Language) -> str:
        """The registry's home page."""
        return f"{self._lobbying}/{language}/"

    def _report_page(self, number: int) -> str:
        return f"{self._lobbying}{REGISTRY}/cmmLgPblcVw?comlogId={number}"

    def _registration_page(self, client_number: str | None, newest_id: int) -> str:
        return f"{self._lobbying}{REGISTRY}/vwRg?cno={client_number or ''}&regId={newest_id}"

    async def member_expenses(self, member: str, limit: int) -> list[MemberExpenses]:
        """A member's newest quarters, by their name. Raises SourceError, as every method here."""
        rows = await self._call("expenses_of_member", p_member=member, p_limit=limit)
        return [
            MemberExpenses(
                Quarter(row["fiscal_year"], row["quarter"]),
                row["name"],
                row["constituency"],
                row["caucus"],
                {name: row[name] for name in ("salaries", "travel", "hospitality", "contracts", "total")},
                row["rank"],
                row["members"],
                row["median"],
            )
            for row in rows
        ]

    async def largest_expenses(
        self, category: str, limit: int, fiscal_year: int | None = None, quarter: int | None = None
    ) -> LargestExpenses | None:
        """The largest expenses of a category, by default of the newest quarter. None: nothing was imported."""
        row = await self._call(
            "largest_expenses", p_category=category, p_fiscal_year=fiscal_year, p_quarter=quarter, p_limit=limit
        )
        if not row["items"]:
            return None
        spenders = [Spender(one["name"], one["constituency"], one["caucus"], one["amount"]) for one in row["items"]]
        when = Quarter(row["fiscal_year"], row["quarter"])
        return LargestExpenses(when, row["members"], row["sum"], row["median"], spenders)

    async def lobbying_on_bill(self, number: str, titles: Sequence[str], since: date, limit: int) -> Lobbying:
        """Who lobbied on a bill: texts with its number and words of one of its titles, since its introduction."""
        row = await self._call(
            "lobbying_on_bill", p_number=number, p_titles=list(titles), p_since=since.isoformat(), p_limit=limit
        )
        return self._lobbying_of(row)

    async def lobbying_on_subject(self, words: str, since: date | None, limit: int) -> Lobbying:
        """Who lobbied on a subject: texts with all these words, by default in the newest two years."""
        day = since.isoformat() if since else None
        return self._lobbying_of(await self._call("lobbying_on_subject", p_words=words, p_since=day, p_limit=limit))

    async def lobbying_by_organization(self, name: str, since: date | None, limit: int) -> OrganizationLobbying:
        """The lobbying of organizations, and of clients of firms, whose name has all these words."""
        day = since.isoformat() if since else None
        row = await self._call("lobbying_by_organization", p_organization=name, p_since=day, p_limit=limit)
        return OrganizationLobbying(
            [Text(one["name"], one["name_fr"]) for one in row["names"]],
            row["reports"],
            row["registrations"],
            row["active_registrations"],
            [self._report(one) for one in row["items"]],
            [
                Registration(
                    one["newest_id"],
                    one["client_number"],
                    Text(one["organization_en"], one["organization_fr"]),
                    one["firm"],
                    one["registrant"],
                    one["first_effective_on"],
                    one["ends_on"],
                    one["description"] or "",
                    self._registration_page(one["client_number"], one["newest_id"]),
                )
                for one in row["registered"]
            ],
        )

    async def lobbying_of_member(self, member: str, limit: int) -> MemberLobbying:
        """Who lobbied a member, by their name."""
        row = await self._call("lobbying_of_member", p_member=member, p_limit=limit)
        return MemberLobbying(
            row["reports"], [_count(one) for one in row["organizations"]], [self._report(one) for one in row["items"]]
        )

    async def recent_lobbying(self, limit: int) -> RecentLobbying:
        """The organizations with most reports of the newest thirty days."""
        row = await self._call("recent_lobbying", p_limit=limit)
        return RecentLobbying(row["since"], row["until"], row["reports"], [_count(one) for one in row["items"]])

    def _lobbying_of(self, row: Mapping[str, Any]) -> Lobbying:
        lobbyists = [
            Lobbyist(
                Text(one["name"], one["name_fr"]),
                one["reports"],
                one["last_report_on"],
                one["registrations"],
                one["is_active"],
                one["said"],
                one["registered"],
                self._report_page(one["last_report"])
                if one["last_report"]
                else self._registration_page(one["client_number"], one["newest_id"]),
            )
            for one in row["items"]
        ]
        return Lobbying(row["reports"], row["subjects"], row["organizations"], lobbyists)

    def _report(self, row: Mapping[str, Any]) -> Report:
        return Report(
            row["number"],
            Text(row["organization_en"], row["organization_fr"]),
            row["communicated_on"],
            Text("; ".join(row["subjects_en"]), " ; ".join(row["subjects_fr"])),
            row["description"],
            [Official(one["name"], one["title"], one["institution"]) for one in row["officials"]],
            self._report_page(row["number"]),
        )

    async def _call(self, function: str, **params: Any) -> Any:
        if self._database is None:
            raise SourceError("This data is not available.", "Ces données ne sont pas disponibles.")
        try:
            result = await self._database.call(function, params, parse=_not_none, timeout_s=CALL_S)
        except AppError as error:
            raise SourceError(
                "This data is not available at the moment.", "Ces données ne sont pas disponibles pour le moment."
            ) from error
        if isinstance(result, dict) and result.get("as_of", "") is None and not result["reports"]:
            raise SourceError(
                "The registry of lobbyists has not been imported yet.",
                "Le registre des lobbyistes n’a pas encore été importé.",
            )
        return result


def _not_none(value: Any) -> Any:
    if not isinstance(value, dict | list):
        raise TypeError
    return value


def _count(row: Mapping[str, Any]) -> OrganizationCount:
    return OrganizationCount(Text(row["name"], row["name_fr"]), row["reports"], row["last_report_on"])
