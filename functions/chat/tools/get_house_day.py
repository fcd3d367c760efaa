"""get_house_day: what the House debated and voted on, on a day or on its newest sitting day."""

from datetime import date
from typing import Annotated

from pydantic import Field

from functions.chat.sources import Parliament
from functions.chat.sources.base import JsonObject, Language, Text
from functions.chat.sources.text import bill_reference, localized, shorten
from functions.chat.sources.votes import Vote
from functions.chat.tools.arguments import Arguments
from functions.chat.tools.base import Source, ToolError
from functions.chat.tools.divisions import vote_data, vote_page
from functions.chat.tools.results import fit
from functions.chat.tools.tool import Tool, ToolData

SPEECHES = 500
MAX_VOTES = 500  # one request; a day of votes on the estimates has over a hundred
SUBJECTS_BYTES = 3_500
VOTES_BYTES = 2_500
LATER_VOTES_BYTES = 1_000
NO_TRANSCRIPT = Text(
    "There is no transcript of the asked day: the House did not sit, or it is not published yet.",
    "Il n’y a pas de transcription du jour demandé : la Chambre n’a pas siégé, ou elle n’est pas encore publiée.",
)


class GetHouseDay(Arguments):
    day: Annotated[date | None, Field(description="The day. Omit it for the newest sitting day.")] = None


async def get_house_day(arguments: GetHouseDay, parliament: Parliament, language: Language) -> ToolData:
    """The subjects of the debate in their order, and the votes. Without a transcript of the day: of the sitting before.

    Votes are published on the same day, transcripts in the evening or on the next day.
    """
    record = parliament.openparliament
    asked = arguments.day.isoformat() if arguments.day else None
    debates = _with_pages((await record.list_records("debates", limit=1, date__lte=asked)).records)
    if not debates:
        raise ToolError(
            "There is no transcript of that day or of an earlier one.",
            "Il n’y a pas de transcription de ce jour ni d’un jour précédent.",
        )
    day, page = str(debates[0].get("date")), record.public_url(debates[0].get("url"))
    votes = await parliament.votes.between(day, asked, MAX_VOTES)
    speeches, more = await record.list_records("speeches", limit=SPEECHES, document=debates[0].get("url"))
    of_day = [vote for vote in votes if vote.date.isoformat() == day]
    later = [vote for vote in votes if vote.date.isoformat() != day]
    fitted = fit([_vote(vote, parliament, language) for vote in of_day], VOTES_BYTES)
    data: JsonObject = {
        "sitting_day": day,
        "subjects": fit(_subjects(speeches, parliament, language), SUBJECTS_BYTES),
        "votes": fitted,
        "url": page,
    }
    if more:
        data["more_speeches"] = True
    if later:
        fitted_later = fit([_vote(vote, parliament, language) for vote in later], LATER_VOTES_BYTES)
        data["later_votes"] = fitted_later
        later = later[: len(fitted_later["items"])]
    if asked is not None and asked != day:
        data["asked_day"] = asked
        data["note"] = NO_TRANSCRIPT.in_(language)
    title = f"Débats de la Chambre des communes, {day}" if language == "fr" else f"House of Commons debates, {day}"
    sources = [vote_page(parliament, vote, language) for vote in (*of_day[: len(fitted["items"])], *later)]
    return ToolData(data, [Source(page, title), *sources])


def _with_pages(records: list[JsonObject]) -> list[JsonObject]:
    """The records that have a page: others cannot be read."""
    return [record for record in records if isinstance(record.get("url"), str)]


def _subjects(speeches: list[JsonObject], parliament: Parliament, language: Language) -> list[JsonObject]:
    """The headings in their order, each once, with the number of its speeches and its first speech's page."""
    subjects: dict[tuple[str | None, str | None], JsonObject] = {}
    for speech in sorted(_with_pages(speeches), key=lambda speech: str(speech.get("time"))):
        heading, subject = (localized(speech.get(level), language) for level in ("h1", "h2"))
        entry = subjects.setdefault(
            (heading, subject),
            {
                "heading": shorten(heading, 120),
                "subject": shorten(subject, 160),
                "on_bill": bill_reference(speech.get("bill_debated_url")),
                "speeches": 0,
                "url": parliament.openparliament.public_url(speech.get("url")),
            },
        )
        entry["speeches"] += 1
    return list(subjects.values())


def _vote(vote: Vote, parliament: Parliament, language: Language) -> JsonObject:
    data = vote_data(vote, language, vote_page(parliament, vote, language).url)
    return {key: value for key, value in data.items() if key not in ("session", "paired")}


TOOL = Tool(
    "get_house_day",
    "What happened in the House of Commons on a day: the subjects of its debate and its recorded votes. Without a day: "
    "the newest sitting day and the latest votes.",
    GetHouseDay,
    get_house_day,
)
