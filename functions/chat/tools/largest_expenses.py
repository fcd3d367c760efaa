"""largest_expenses: the members who spent most on a category in a quarter."""

from typing import Annotated, Literal

from pydantic import Field

from functions.chat.sources import Parliament
from functions.chat.sources.base import Language
from functions.chat.sources.terms import party_in
from functions.chat.tools.arguments import Arguments, Limit
from functions.chat.tools.base import ToolError
from functions.chat.tools.imported_records import describe_largest
from functions.chat.tools.results import Item, list_result
from functions.chat.tools.tool import Tool, ToolData


class LargestExpenses(Arguments):
    category: Annotated[
        Literal["total", "salaries", "travel", "hospitality", "contracts"], Field(description="What was spent on.")
    ] = "total"
    fiscal_year: Annotated[
        int | None,
        Field(ge=1, le=9999, description="The year in which the fiscal year ends. Omit it for the newest quarter."),
    ] = None
    quarter: Annotated[int | None, Field(ge=1, le=4, description="1 is April to June, 4 is January to March.")] = None
    limit: Limit = 10


async def largest_expenses(arguments: LargestExpenses, parliament: Parliament, language: Language) -> ToolData:
    """The largest amount first."""
    largest = await parliament.imported.largest_expenses(
        arguments.category, arguments.limit, arguments.fiscal_year, arguments.quarter
    )
    if largest is None:
        raise ToolError(
            "No expenses of that quarter were imported.", "Aucune dépense de ce trimestre n’a été importée."
        )
    about, source = describe_largest(parliament, largest, arguments.category, language)
    items = [
        Item(
            {"mp": one.name, "riding": one.riding, "caucus": party_in(one.caucus, language), "amount": one.amount},
            source,
        )
        for one in largest.spenders
    ]
    return list_result(about, [source], items, arguments.limit, more=largest.members > len(items))


TOOL = Tool(
    "largest_expenses",
    "The MPs whose offices spent most in a quarter: in total, or on salaries, travel, hospitality or contracts; with "
    "the sum and the median of all members.",
    LargestExpenses,
    largest_expenses,
)
