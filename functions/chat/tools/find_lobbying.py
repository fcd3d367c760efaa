"""find_lobbying: who lobbied on a bill, on a subject, for an organization, or a member of Parliament.

The numbers of bills return in every session. A text is about a bill if it has its number and words of its title, and
is from the time since its introduction.
"""

from datetime import date
from typing import Annotated, Self

from pydantic import Field, model_validator

from functions.chat.sources import Parliament
from functions.chat.sources.base import Language
from functions.chat.tools.arguments import Arguments, BillNumber, Limit, MpSlug, Session, Words
from functions.chat.tools.base import ToolError
from functions.chat.tools.imported_records import (
    MOST_REGISTRATIONS,
    count_of,
    lobbying_on_bill,
    lobbyist_item,
    name_in,
    organization_count,
    registration_item,
    registry_source,
    report_item,
)
from functions.chat.tools.records import describe_mp
from functions.chat.tools.results import list_result
from functions.chat.tools.tool import Tool, ToolData

REPORT_BYTES = 400  # of each text
EXACT_WORDS = {
    "en": "Only texts with all these words are counted. Synonyms and the other language find others.",
    "fr": "Seuls les textes qui ont tous ces mots sont comptés. Des synonymes et l'autre langue en trouvent d'autres.",
}


class FindLobbying(Arguments):
    bill: Annotated[BillNumber | None, Field(description="The number of a bill, for example C-5.")] = None
    session: Session | None = None
    subject: Annotated[Words | None, Field(description="Words that the lobbying was about, English or French.")] = None
    organization: Annotated[
        Words | None, Field(description="Words of the name of who lobbied, or of a consultants' firm.")
    ] = None
    slug: Annotated[MpSlug | None, Field(description="The slug of the MP who was lobbied.")] = None
    since: Annotated[
        date | None, Field(description="With subject or organization: from this date. Default for subject: two years.")
    ] = None
    limit: Limit = 8

    @model_validator(mode="after")
    def _has_one(self) -> Self:
        if sum(value is not None for value in (self.bill, self.subject, self.organization, self.slug)) != 1:
            raise ValueError("give exactly one of bill, subject, organization and slug")
        if self.since and (self.bill is not None or self.slug is not None):
            raise ValueError("since goes with subject or organization")
        return self


async def find_lobbying(arguments: FindLobbying, parliament: Parliament, language: Language) -> ToolData:
    """By bill and subject: the organizations with most reports. Otherwise the newest reports."""
    if arguments.slug is not None:
        return await _of_member(arguments.slug, arguments.limit, parliament, language)
    if arguments.organization is not None:
        return await _by_organization(arguments.organization, arguments.since, arguments.limit, parliament, language)
    if arguments.bill is not None:
        about, source, found = await lobbying_on_bill(
            parliament, arguments.session, arguments.bill, arguments.limit, language
        )
        sources = [source]
    else:
        found = await parliament.imported.lobbying_on_subject(arguments.subject or "", arguments.since, arguments.limit)
        registry = registry_source(parliament, language)
        about = {"lobbying_on": arguments.subject, "registry": registry.url, "note": EXACT_WORDS[language]}
        sources = [registry]
    items = [lobbyist_item(one, REPORT_BYTES, language) for one in found.lobbyists]
    totals = {
        "organizations": found.organizations,
        "reports": count_of(found.reports),
        "registrations": count_of(found.registrations, MOST_REGISTRATIONS),
    }
    return list_result({**about, **totals}, sources, items, arguments.limit, more=found.organizations > len(items))


async def _by_organization(
    name: str, since: date | None, limit: int, parliament: Parliament, language: Language
) -> ToolData:
    found = await parliament.imported.lobbying_by_organization(name, since, limit)
    if not found.names:
        raise ToolError(
            "The registry of lobbyists has no organization and no firm with these words in its name, "
            + (f"since {since}." if since else "in English or French."),
            "Le registre des lobbyistes n’a ni organisation ni cabinet dont le nom contient ces mots"
            + (f" depuis le {since}." if since else ", en français ou en anglais."),
        )
    registrations = [registration_item(one, REPORT_BYTES, language) for one in found.newest_registrations]
    registry = registry_source(parliament, language)
    about = {
        "lobbying_by": [name_in(name, language) for name in found.names],
        "since": since and since.isoformat(),
        "registry": registry.url,
        "reports": count_of(found.reports),
        "registrations": count_of(found.registrations, MOST_REGISTRATIONS),
        "active_registrations": count_of(found.active_registrations, MOST_REGISTRATIONS),
        "newest_registrations": [item.data for item in registrations[:2]],
    }
    items = [report_item(one, REPORT_BYTES, language) for one in found.newest_reports]
    sources = [registry, *(item.source for item in registrations[:2])]
    return list_result(about, sources, items, limit, more=found.reports > len(items))


async def _of_member(slug: str, limit: int, parliament: Parliament, language: Language) -> ToolData:
    summary, source = await describe_mp(parliament, slug, language)
    found = await parliament.imported.lobbying_of_member(summary["name"] or "", limit)
    registry = registry_source(parliament, language)
    about = {
        "lobbying_of": summary,
        "registry": registry.url,
        "reports": count_of(found.reports),
        "most_reports_by": [organization_count(one, language) for one in found.organizations[:8]],
    }
    items = [report_item(one, REPORT_BYTES, language) for one in found.newest_reports]
    return list_result(about, [source, registry], items, limit, more=found.reports > len(items))


TOOL = Tool(
    "find_lobbying",
    "The federal registry of lobbyists: who lobbied on a bill or a subject, what an organization lobbied for, or who "
    "lobbied an MP. Give one of bill, subject, organization and slug.",
    FindLobbying,
    find_lobbying,
)
