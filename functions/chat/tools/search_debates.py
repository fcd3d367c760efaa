"""search_debates: speeches that contain certain words, in the House and in committees.

The API cannot search texts, but the site's search has an RSS feed of English texts. The site takes its newest 15
results of all kinds for it, and bills and members among them use up places.
"""

from datetime import date
from typing import Annotated

from pydantic import Field

from functions.chat.sources import Parliament
from functions.chat.sources.base import JsonObject, Language
from functions.chat.sources.openparliament_records import SearchFilters, SearchHit
from functions.chat.sources.text import html_to_text, shorten
from functions.chat.tools.arguments import Arguments, CommitteeSlug, Limit, MpSlug, Words
from functions.chat.tools.base import Source
from functions.chat.tools.records import committee_source, describe_mp, named_party
from functions.chat.tools.results import Item, list_result, speech_text_limit
from functions.chat.tools.tool import Tool, ToolData

KINDS = {"debates": "speech", "committees": "committee", "bills": "bill", "politicians": "mp"}


class SearchDebates(Arguments):
    words: Annotated[
        Words, Field(description='English words, because the index is English; quotes search for an "exact phrase".')
    ]
    speaker: MpSlug | None = None
    party: Annotated[Words | None, Field(description="The speakers' party, in English or French.")] = None
    committee: CommitteeSlug | None = None
    since: Annotated[date | None, Field(description="Only on or after this date.")] = None
    until: Annotated[date | None, Field(description="Only on or before this date.")] = None
    limit: Limit = 8


async def search_debates(arguments: SearchDebates, parliament: Parliament, language: Language) -> ToolData:
    """The newest results first. A speaker, a party or a committee that does not exist is an error."""
    about: JsonObject = {"speeches_with": arguments.words, "excerpts_in": "en"}
    sources: list[Source] = []
    speaker = party = committee = None
    if arguments.speaker is not None:
        about["speaker"], source = await describe_mp(parliament, arguments.speaker, language)
        speaker = about["speaker"]["mp"]
        sources.append(source)
    if arguments.party is not None:
        about["party"] = party = named_party(arguments.party, await parliament.openparliament.sitting_mps())
    if arguments.committee is not None:
        record = await parliament.openparliament.get_committee(arguments.committee)
        about["committee"] = committee = record.slug
        sources.append(committee_source(parliament, record, language))
    about |= {name: str(day) for name in ("since", "until") if (day := getattr(arguments, name))}
    filters = SearchFilters(speaker, party, committee, arguments.since, arguments.until)
    hits = await parliament.openparliament.search(arguments.words, filters)
    text_limit = speech_text_limit(min(len(hits), arguments.limit))
    items = [_item(hit, parliament, text_limit) for hit in hits]
    return list_result(about, sources, items, arguments.limit)


def _item(hit: SearchHit, parliament: Parliament, text_limit: int) -> Item:
    url = parliament.openparliament.public_url(hit.url)
    title = shorten(html_to_text(hit.title).strip(" /"), 160) or "openparliament.ca"
    data = {
        "date": hit.date,
        "kind": KINDS.get(hit.path.strip("/").partition("/")[0], "page"),
        "heading_and_speaker": title,
        "excerpt": shorten(html_to_text(hit.excerpt), text_limit),
        "url": url,
    }
    return Item(data, Source(url, title))


TOOL = Tool(
    "search_debates",
    "Search all speeches in the House and in committees for words, newest first: heading and speaker, an excerpt, "
    "and the transcript's page. Optionally of one speaker, party, committee or period.",
    SearchDebates,
    search_debates,
)
