"""get_committee: a committee and its meetings."""

from functions.chat.tools import Found, Language, Source, Tool
from functions.chat.tools.arguments import Arguments, CommitteeSlug, Limit
from functions.chat.tools.parliament import Parliament
from functions.chat.tools.shape import Entry, Record, committee_source, listed, said, shorten

SESSIONS = 5


class GetCommittee(Arguments):
    slug: CommitteeSlug
    limit: Limit = 10


async def get_committee(wanted: GetCommittee, parliament: Parliament, language: Language) -> Found:
    """The newest meetings first; some may be yet to come."""
    committee = await parliament.committee(wanted.slug)
    source = committee_source(parliament, committee, language)
    meetings, more = await parliament.many("committees", "meetings", limit=wanted.limit, committee=wanted.slug)
    meetings.sort(key=lambda meeting: str(meeting.get("date") or ""), reverse=True)
    name = said(committee.get("short_name"), language) or said(committee.get("name"), language)
    entries = [_entry(meeting, name, parliament, language) for meeting in meetings]
    about = {
        "committee": wanted.slug,
        "name": shorten(said(committee.get("name"), language), 200),
        "sessions": [
            {"session": session.get("session"), "acronym": session.get("acronym")}
            for session in (committee.get("sessions") or [])[:SESSIONS]
        ],
        "url": source.url,
    }
    return listed(about, [source], entries, wanted.limit, more=more)


def _entry(meeting: Record, committee: str | None, parliament: Parliament, language: Language) -> Entry:
    url, number, date = parliament.page(meeting.get("url")), meeting.get("number"), meeting.get("date")
    word = "réunion" if language == "fr" else "meeting"
    item = {
        "meeting": number,
        "date": date,
        "in_camera": meeting.get("in_camera"),
        "transcript": meeting.get("has_evidence"),
        "url": url,
    }
    return item, Source(url, f"{shorten(committee, 100)}, {word} {number}, {date}")


TOOL = Tool(
    "get_committee",
    "A committee by its slug and its newest meetings: number, date, whether in camera, whether there is a transcript.",
    GetCommittee,
    get_committee,
)
