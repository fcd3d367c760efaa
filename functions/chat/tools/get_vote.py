"""get_vote: one recorded vote: totals, every party's count, and who differed from most of their party."""

from typing import Annotated

from pydantic import Field

from functions.chat import limits
from functions.chat.sources import Parliament
from functions.chat.sources.base import Language
from functions.chat.tools.arguments import Arguments, Session
from functions.chat.tools.divisions import division_data, vote_data, vote_page
from functions.chat.tools.results import json_length
from functions.chat.tools.tool import Tool, ToolData


class GetVote(Arguments):
    number: Annotated[int, Field(ge=1, le=9_999, description="The vote's number in its session.")]
    session: Session | None = None


async def get_vote(arguments: GetVote, parliament: Parliament, language: Language) -> ToolData:
    """The vote, counted from its ballots."""
    vote = await parliament.votes.find(arguments.session, arguments.number)
    division = await parliament.votes.division(vote)
    page = vote_page(parliament, vote, language)
    data = vote_data(vote, language, page.url)
    rest = division_data(parliament, division, language, limits.TOOL_RESULT_BYTES - json_length(data))
    return ToolData({**data, **rest.data}, [page, *rest.sources])


TOOL = Tool(
    "get_vote",
    "One recorded vote by its number: what it was on, totals, result, every party's count, and who differed from most "
    "of their party, was paired or did not vote.",
    GetVote,
    get_vote,
)
