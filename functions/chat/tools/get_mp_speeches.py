"""get_mp_speeches: an MP's speeches in the House and in committees, with the transcript's pages."""

from datetime import date
from typing import Annotated

from pydantic import Field

from functions.chat.sources import Parliament
from functions.chat.sources.base import Language
from functions.chat.tools.arguments import Arguments, Limit, MpSlug
from functions.chat.tools.records import describe_mp, speech_item
from functions.chat.tools.results import list_result, speech_text_limit
from functions.chat.tools.tool import Tool, ToolData


class GetMpSpeeches(Arguments):
    slug: MpSlug
    since: Annotated[date | None, Field(description="Only speeches on or after this date.")] = None
    limit: Limit = 5


async def get_mp_speeches(arguments: GetMpSpeeches, parliament: Parliament, language: Language) -> ToolData:
    """The newest speeches first, without procedural ones."""
    summary, source = await describe_mp(parliament, arguments.slug, language)
    since = None if arguments.since is None else arguments.since.isoformat()
    speeches, more = await parliament.openparliament.speeches(
        arguments.limit, politician=arguments.slug, time__gte=since
    )
    text_limit = speech_text_limit(len(speeches))
    items = [speech_item(parliament, speech, language, text_limit) for speech in speeches]
    return list_result({"speeches_of": summary, "since": since}, [source], items, arguments.limit, more=more)


TOOL = Tool(
    "get_mp_speeches",
    "An MP's newest speeches in the House and in committees: the words of the transcript and its page. Where "
    "spoken_in is another language, the text is the official translation. Long speeches are shortened; a lower limit "
    "returns more of each.",
    GetMpSpeeches,
    get_mp_speeches,
)
