"""search_debates: speeches that contain certain words, in the House and in committees.

The API cannot search texts, but the site's search has an RSS feed: about the newest fifteen speeches, in English.
"""

from typing import Annotated

from pydantic import Field

from functions.chat.sources import Parliament
from functions.chat.sources.base import Language
from functions.chat.sources.openparliament import SearchHit
from functions.chat.sources.text import html_to_text, shorten
from functions.chat.tools.arguments import Arguments, Limit, Words
from functions.chat.tools.base import Source
from functions.chat.tools.results import Item, list_result, speech_text_limit
from functions.chat.tools.tool import Tool, ToolData


class SearchDebates(Arguments):
    words: Annotated[Words, Field(description='The words to search for; quotes search for an "exact phrase".')]
    limit: Limit = 8


async def search_debates(arguments: SearchDebates, parliament: Parliament, language: Language) -> ToolData:
    """The newest speeches first."""
    hits = await parliament.openparliament.search_speeches(arguments.words)
    text_limit = speech_text_limit(min(len(hits), arguments.limit))
    items = [_item(hit, parliament, text_limit) for hit in hits]
    return list_result({"speeches_with": arguments.words, "excerpts_in": "en"}, [], items, arguments.limit)


def _item(hit: SearchHit, parliament: Parliament, text_limit: int) -> Item:
    url = parliament.openparliament.public_url(hit.url)
    title = shorten(html_to_text(hit.title), 160) or "openparliament.ca"
    data = {
        "date": hit.date,
        "heading_and_speaker": title,
        "excerpt": shorten(html_to_text(hit.excerpt), text_limit),
        "url": url,
    }
    return Item(data, Source(url, title))


TOOL = Tool(
    "search_debates",
    "Search all speeches in the House and in committees for words, newest first: heading and speaker, an excerpt, "
    "and the transcript's page.",
    SearchDebates,
    search_debates,
)
