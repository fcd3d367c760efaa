"""get_mp_speeches: what an MP said in the House and in committees, in their own words, with the transcript's page."""

from datetime import date
from typing import Annotated

from pydantic import Field

from functions.chat.tools import Found, Language, Tool
from functions.chat.tools.arguments import Arguments, Limit, MpSlug
from functions.chat.tools.parliament import Parliament
from functions.chat.tools.shape import listed, speech_entry, speech_room


class GetMpSpeeches(Arguments):
    slug: MpSlug
    since: Annotated[date | None, Field(description="Only speeches on or after this date.")] = None
    limit: Limit = 5


async def get_mp_speeches(wanted: GetMpSpeeches, parliament: Parliament, language: Language) -> Found:
    """The newest speeches first, without the short procedural ones."""
    described, source = await parliament.describe_mp(wanted.slug, language)
    since = None if wanted.since is None else wanted.since.isoformat()
    speeches, more = await parliament.many(
        "speeches", limit=wanted.limit, politician=wanted.slug, procedural="False", time__gte=since
    )
    room = speech_room(len(speeches))
    entries = [speech_entry(parliament, speech, language, room) for speech in speeches]
    return listed({"speeches_of": described, "since": since}, [source], entries, wanted.limit, more=more)


TOOL = Tool(
    "get_mp_speeches",
    "What an MP said lately in the House and in committees: the transcript's words and its page. Long speeches are "
    "cut; fewer of them leave more room for each.",
    GetMpSpeeches,
    get_mp_speeches,
)
