"""get_committee: a committee and its meetings."""

from functions.chat.sources import Parliament
from functions.chat.sources.base import Language
from functions.chat.sources.openparliament_records import Committee, Meeting
from functions.chat.sources.text import localized_url, shorten
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
    meetings, more = await parliament.openparliament.meetings(committee, arguments.limit)
    meetings.sort(key=lambda meeting: meeting.date, reverse=True)
    items = [_item(meeting, committee, parliament, language) for meeting in meetings]
    about = {
        "committee": committee.slug,
        "name": shorten(committee.name.in_(language), 200),
        "sessions": [
            {"session": each.session, "acronym": each.acronym, "page": localized_url(each.page, language)}
            for each in committee.sessions[:MAX_SESSIONS]
        ],
        "url": source.url,
    }
    return list_result(about, [source], items, arguments.limit, more=more)


def _item(meeting: Meeting, committee: Committee, parliament: Parliament, language: Language) -> Item:
    url = parliament.openparliament.public_url(meeting.path)
    word = "réunion" if language == "fr" else "meeting"
    data = {
        "meeting": meeting.number,
        "date": meeting.date,
        "in_camera": meeting.in_camera,
        "transcript": meeting.has_transcript,
        "url": url,
    }
    name = shorten(committee.short_name.in_(language), 100)
    return Item(data, Source(url, f"{name}, {word} {meeting.number}, {meeting.date}"))


TOOL = Tool(
    "get_committee",
    "A committee by its slug and its newest meetings: number, date, whether in camera, whether there is a transcript.",
    GetCommittee,
    get_committee,
)
