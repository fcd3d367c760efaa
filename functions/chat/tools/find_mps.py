"""find_mps: MPs who sit now, by name, riding, province, party or postal code; former MPs by name.

openparliament.ca matches only complete names and cannot search ridings, so this tool searches the list of sitting MPs.
"""

from typing import Annotated, Literal

from pydantic import Field, model_validator

from functions.chat.sources import Parliament
from functions.chat.sources.base import JsonObject, Language
from functions.chat.sources.openparliament_records import Politician
from functions.chat.sources.represent import Representative
from functions.chat.sources.terms import party_in, party_name
from functions.chat.sources.text import contains_words, person_name, shorten
from functions.chat.tools.arguments import Arguments, Limit, PostalCode, Words
from functions.chat.tools.base import Source
from functions.chat.tools.records import NAME_BYTES, list_page, mp_of, mp_source, named_party, represents, riding_names
from functions.chat.tools.results import Item, list_result
from functions.chat.tools.tool import Tool, ToolData

Province = Literal["AB", "BC", "MB", "NB", "NL", "NS", "NT", "NU", "ON", "PE", "QC", "SK", "YT"]

MAX_VACANT = 5


class FindMps(Arguments):
    name: Annotated[
        Words | None, Field(description="Words of the MP's name, in any order; parts of words also match.")
    ] = None
    riding: Annotated[Words | None, Field(description="Words of the riding's name; parts of words also match.")] = None
    province: Annotated[Province | None, Field(description="The riding's province or territory.")] = None
    party: Annotated[Words | None, Field(description="A party, in English or French.")] = None
    postal_code: Annotated[
        PostalCode | None, Field(description="A Canadian postal code in the riding, for example K1A 0A6.")
    ] = None
    former: Annotated[bool, Field(description="true for MPs who no longer sit; then give only the name.")] = False
    limit: Limit = 10

    @model_validator(mode="after")
    def _require_a_criterion(self) -> "FindMps":
        if self.former and (not self.name or self.riding or self.province or self.party or self.postal_code):
            raise ValueError("former MPs can be found by name only")
        if not (self.name or self.riding or self.province or self.party or self.postal_code):
            raise ValueError("give at least one of name, riding, province, party and postal_code")
        return self


async def find_mps(arguments: FindMps, parliament: Parliament, language: Language) -> ToolData:
    """The MPs who match all criteria. An exact match of the name is first.

    Where no sitting MP has the name, former MPs are searched.
    """
    criteria = arguments.model_dump(exclude_none=True, exclude={"limit"}, exclude_defaults=True)
    if arguments.former:
        return await _find_former(arguments, criteria, parliament)
    sitting = mps = await parliament.openparliament.sitting_mps()
    others: list[Item] = []
    about: JsonObject = {"mps_with": criteria}
    sources: list[Source] = []
    if arguments.postal_code is not None:
        area = await parliament.represent.area(arguments.postal_code.replace(" ", "").replace("-", ""))
        mps, others = _match_representatives(area.mps, sitting, parliament, language)
        # The winner of a by-election can be missing at Represent.
        found = {riding: [mp for mp in sitting if represents(mp, riding)] for riding in area.vacant}
        mps += [mp for members in found.values() for mp in members if mp not in mps]
        if vacant := [riding for riding, members in found.items() if not members]:
            page = list_page(parliament, "politicians")
            about |= {"vacant_ridings": [shorten(name, NAME_BYTES) for name in vacant[:MAX_VACANT]], "url": page.url}
            sources.append(page)
    party = None if arguments.party is None else named_party(arguments.party, sitting)
    matching = [mp for mp in mps if _matches(arguments, party, mp)]
    if not matching and criteria.keys() == {"name"}:
        return await _find_former(arguments, criteria, parliament)
    items = [_item(mp, parliament, language) for mp in _exact_name_first(arguments.name, matching)]
    if not items and not others:
        sources.append(list_page(parliament, "politicians"))
    return list_result(about, sources, [*items, *others], arguments.limit)


async def _find_former(arguments: FindMps, criteria: JsonObject, parliament: Parliament) -> ToolData:
    """Former MPs by name. The list of former MPs has nothing but names; get_mp returns the terms."""
    former = await parliament.openparliament.former_mps()
    matching = [mp for mp in former if contains_words(person_name(arguments.name), mp.name)]
    items = []
    for mp in _exact_name_first(arguments.name, matching):
        source = mp_source(parliament, mp)
        items.append(Item({"mp": mp.slug, "name": mp.name, "sits_now": False, "url": source.url}, source))
    sources = [] if items else [list_page(parliament, "politicians")]
    return list_result({"mps_with": criteria | {"former": True}}, sources, items, arguments.limit)


def _exact_name_first(name: str | None, mps: list[Politician]) -> list[Politician]:
    return sorted(mps, key=lambda mp: not (name and person_name(name) == person_name(mp.name)))


def _matches(arguments: FindMps, party: str | None, mp: Politician) -> bool:
    return (
        (arguments.name is None or contains_words(person_name(arguments.name), mp.name))
        and (arguments.riding is None or contains_words(arguments.riding, *riding_names(mp)))
        and (arguments.province is None or mp.province == arguments.province)
        and (party is None or mp.party == party)
    )


def _match_representatives(
    people: list[Representative], mps: list[Politician], parliament: Parliament, language: Language
) -> tuple[list[Politician], list[Item]]:
    """openparliament.ca's records of Represent's MPs, and items for MPs without a record yet.

    A new MP can be missing there, for example after a by-election.
    """
    matched: list[Politician] = []
    unmatched: list[Item] = []
    for person in people:
        mp = mp_of(person, mps)
        if mp is None:
            party = party_in(person.party, language)
            data = {
                name: shorten(text, NAME_BYTES)
                for name, text in (("name", person.name), ("party", party), ("riding", person.riding))
            }
            unmatched.append(Item(data, list_page(parliament, "politicians")))
        elif mp not in matched:
            matched.append(mp)
    return matched, unmatched


def _item(mp: Politician, parliament: Parliament, language: Language) -> Item:
    source = mp_source(parliament, mp)
    data = {
        "mp": mp.slug,
        "name": mp.name,
        "party": party_name(mp.party, language) if mp.party else None,
        "riding": mp.riding.in_(language) if mp.riding else None,
        "province": mp.province,
        "url": source.url,
    }
    return Item(data, source)


TOOL = Tool(
    "find_mps",
    "Find members of Parliament by name, riding, province, party or postal code, and former ones by name. Returns the "
    "slugs that the other MP tools need. A postal code can lie in several ridings; a riding can be vacant.",
    FindMps,
    find_mps,
)
