"""get_committee: a committee and its meetings."""

from functions.chat.sources import Parliament
from functions.chat.sources.base import JsonObject, Language
from functions.chat.sources.text import localized, shorten
from functions.chat.tools.arguments import Arguments, CommitteeSlug, Limit
from functions.chat.tools.base import Source
from functions.chat.tools.records import committee_source
from functions.chat.tools.results import Item, list_result
from functions.chat.tools.tool import Tool, ToolData

MAX_SESSIONS = 5


class GetCommittee(Arguments):
    slug: CommitteeSlug
    limit: Limit = 10


async def get_committee(arguments: GetCommittee, parliament: Parliament, language: Language) -> ToolData:
    """The newest meetings first. Includes future meetings."""
    committee = await parliament.openparliament.get_committee(arguments.slug)
    source = committee_source(parliament, committee, language)
    meetings, more = await parliament.openparliament.list_records(
        "committees", "meetings", limit=arguments.limit, committee=arguments.slug
    )
    meetings.sort(key=lambda meeting: str(meeting.get("date") or ""), reverse=True)
    name = localized(committee.get("short_name"), language) or localized(committee.get("name"), language)
    items = [_item(meeting, name, parliament, language) for meeting in meetings]
    about = {
        "committee": arguments.slug,
        "name": shorten(localized(committee.get("name"), language), 200),
        "sessions": [
            {"session": session.get("session"), "acronym": session.get("acronym")}
            for session in (committee.get("sessions") or [])[:MAX_SESSIONS]
        ],
        "url": source.url,
    }
    return list_result(about, [source], items, arguments.limit, more=more)


def _item(meeting: JsonObject, committee: str | None, parliament: Parliament, language: Language) -> Item:
    url, number, date = (
        parliament.openparliament.public_url(meeting.get("url")),
        meeting.get("number"),
        meeting.get("date"),
    )
    word = "réunion" if language == "fr" else "meeting"
    data = {
        "meeting": number,
        "date": date,
        "in_camera": meeting.get("in_camera"),
        "transcript": meeting.get("has_evidence"),
        "url": url,
    }
    return Item(data, Source(url, f"{shorten(committee, 100)}, {word} {number}, {date}"))


TOOL = Tool(
    "get_committee",
    "A committee by its slug and its newest meetings: number, date, whether in camera, whether there is a transcript.",
    GetCommittee,
    get_committee,
)
