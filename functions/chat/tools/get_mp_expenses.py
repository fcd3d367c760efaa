"""get_mp_expenses: what a member spent, by quarter and category, and their rank in the House."""

from typing import Annotated

from pydantic import Field

from functions.chat.sources import Parliament
from functions.chat.sources.base import Language
from functions.chat.sources.imported import MemberExpenses
from functions.chat.tools.arguments import Arguments, MpSlug
from functions.chat.tools.base import ToolError
from functions.chat.tools.imported_records import expenses_source
from functions.chat.tools.records import describe_mp
from functions.chat.tools.results import Item, list_result
from functions.chat.tools.tool import Tool, ToolData


class GetMpExpenses(Arguments):
    slug: MpSlug
    quarters: Annotated[int, Field(ge=1, le=20, description="How many of the newest quarters.")] = 4


async def get_mp_expenses(arguments: GetMpExpenses, parliament: Parliament, language: Language) -> ToolData:
    """The newest quarter first."""
    summary, source = await describe_mp(parliament, arguments.slug, language)
    quarters = await parliament.imported.member_expenses(summary["name"] or "", arguments.quarters)
    if not quarters:
        raise ToolError(
            "The House's disclosure has no expenses under this member's name.",
            "La divulgation de la Chambre n’a pas de dépenses sous le nom de ce député.",
        )
    items = [_item(one, parliament, language) for one in quarters]
    about = {"expenses_of": summary, "currency": "CAD"}
    return list_result(about, [source], items, arguments.quarters)


def _item(expenses: MemberExpenses, parliament: Parliament, language: Language) -> Item:
    source = expenses_source(parliament, expenses.quarter, language)
    first, last = expenses.quarter.months
    data = {
        "from": first,
        "to": last,
        "fiscal_year": expenses.quarter.fiscal_year,
        "quarter": expenses.quarter.number,
        **expenses.amounts,
        "rank_of_total": f"{expenses.rank} / {expenses.members}",
        "median_total": expenses.median,
        "url": source.url,
    }
    return Item(data, source)


TOOL = Tool(
    "get_mp_expenses",
    "What an MP's office spent in each of the newest quarters (salaries of employees, travel, hospitality, contracts), "
    "and the rank among all members.",
    GetMpExpenses,
    get_mp_expenses,
)
