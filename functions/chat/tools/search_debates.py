"""search_debates: what anybody said about something, in the House and in committees.

The API does not search texts, but the site gives its search as an RSS feed: the newest fifteen or so, in English.
"""

from typing import Annotated

from pydantic import Field

from functions.chat.tools import Found, Language, Source, Tool
from functions.chat.tools.arguments import Arguments, Limit, Words
from functions.chat.tools.parliament import Parliament
from functions.chat.tools.shape import Entry, Record, listed, plain, shorten, speech_room


class SearchDebates(Arguments):
    words: Annotated[Words, Field(description='What to look for; "several words" in quotes are looked for as such.')]
    limit: Limit = 8


async def search_debates(wanted: SearchDebates, parliament: Parliament, language: Language) -> Found:
    """The newest first."""
    speeches = await parliament.search(wanted.words)
    room = speech_room(min(len(speeches), wanted.limit))
    entries = [_entry(speech, parliament, room) for speech in speeches]
    return listed({"speeches_with": wanted.words, "excerpts_in": "en"}, [], entries, wanted.limit)


def _entry(speech: Record, parliament: Parliament, room: int) -> Entry:
    url = parliament.page(speech["link"])
    title = shorten(plain(speech["title"]), 160) or "openparliament.ca"
    item = {
        "date": speech["date"],
        "heading_and_speaker": title,
        "excerpt": shorten(plain(speech["description"]), room),
        "url": url,
    }
    return item, Source(url, title)


TOOL = Tool(
    "search_debates",
    "Search everything said in the House and in committees for words, newest first: heading and speaker, an excerpt "
    "and the transcript's page.",
    SearchDebates,
    search_debates,
)
