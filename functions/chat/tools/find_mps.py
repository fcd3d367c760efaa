"""find_mps: MPs who sit now, by name, riding, province, party or postal code.

openparliament.ca matches only complete names and cannot search ridings, so this tool searches the list of sitting MPs.
"""

from typing import Annotated, Any, Literal

from pydantic import Field, model_validator

from functions.chat.sources import Parliament
from functions.chat.sources.base import JsonObject, Language
from functions.chat.sources.represent import Representative
from functions.chat.sources.text import contains_words, localized, normalize, slug_of
from functions.chat.tools.arguments import Arguments, Limit, PostalCode, Words
from functions.chat.tools.base import Source, ToolError
from functions.chat.tools.records import mp_source
from functions.chat.tools.results import Item, list_result
from functions.chat.tools.tool import Tool, ToolData

Province = Literal["AB", "BC", "MB", "NB", "NL", "NS", "NT", "NU", "ON", "PE", "QC", "SK", "YT"]


class FindMps(Arguments):
    name: Annotated[
        Words | None, Field(description="Words of the MP's name, in any order; parts of words also match.")
    ] = None
    riding: Annotated[Words | None, Field(description="Words of the riding's name; parts of words also match.")] = None
    province: Annotated[Province | None, Field(description="The riding's province or territory.")] = None
    party: Annotated[
        Words | None, Field(description="The party's short name in English: Liberal, Conservative, Bloc, NDP, Green.")
    ] = None
    postal_code: Annotated[
        PostalCode | None, Field(description="A Canadian postal code in the riding, for example K1A 0A6.")
    ] = None
    limit: Limit = 10

    @model_validator(mode="after")
    def _require_a_criterion(self) -> "FindMps":
        if not (self.name or self.riding or self.province or self.party or self.postal_code):
            raise ValueError("give at least one of name, riding, province, party and postal_code")
        return self


async def find_mps(arguments: FindMps, parliament: Parliament, language: Language) -> ToolData:
    """The MPs who match all criteria. An exact match of the name is first."""
    sitting = mps = await parliament.openparliament.sitting_mps()
    unmatched: list[Item] = []
    if arguments.postal_code is not None:
        people = await parliament.represent.representatives(arguments.postal_code.replace(" ", "").replace("-", ""))
        mps, unmatched = _match_representatives(people, sitting, parliament)
    if arguments.party is not None:
        _check_party(arguments.party, sitting)
    found = [mp for mp in mps if _matches(arguments, mp)]
    found.sort(key=lambda mp: not (arguments.name and normalize(arguments.name) == normalize(mp.get("name"))))
    items = [_item(mp, parliament, language) for mp in found]
    criteria = arguments.model_dump(exclude_none=True, exclude={"limit"})
    return list_result({"mps_with": criteria}, [], [*items, *unmatched], arguments.limit)


def _matches(arguments: FindMps, mp: JsonObject) -> bool:
    riding = mp.get("current_riding") or {}
    return (
        (arguments.name is None or contains_words(arguments.name, mp.get("name")))
        and (arguments.riding is None or contains_words(arguments.riding, *_all_languages(riding.get("name"))))
        and (arguments.province is None or riding.get("province") == arguments.province)
        and (arguments.party is None or _is_member(arguments.party, mp))
    )


def _is_member(party: str, mp: JsonObject) -> bool:
    """Whether one name contains the other: "Bloc Québécois" matches Bloc, "Liberals" matches Liberal."""
    requested, actual = normalize(party), normalize(_party(mp))
    return bool(actual) and (requested in actual or actual in requested)


def _check_party(party: str, mps: list[JsonObject]) -> None:
    """Raise ToolError for an unknown party: an empty result would mean a party without MPs."""
    if not any(_is_member(party, mp) for mp in mps):
        parties = sorted({_party(mp) for mp in mps} - {""})
        raise ToolError(f"No party in the House has that name; the parties are {', '.join(parties[:20])}.")


def _party(mp: JsonObject) -> str:
    return localized((mp.get("current_party") or {}).get("short_name"), "en") or ""


def _all_languages(name: Any) -> list[Any]:
    return list(name.values()) if isinstance(name, dict) else [name]


def _match_representatives(
    people: list[Representative], mps: list[JsonObject], parliament: Parliament
) -> tuple[list[JsonObject], list[Item]]:
    """openparliament.ca's records of Represent's MPs, and items for MPs without a record yet.

    A new MP can be missing there, for example after a by-election.
    """
    matched: list[JsonObject] = []
    unmatched: list[Item] = []
    for person in people:
        mp = _find_mp(person, mps)
        if mp is None:
            data = {"name": person.name, "party": person.party, "riding": person.riding}
            unmatched.append(
                Item(data, Source(parliament.openparliament.public_url("/politicians/"), "openparliament.ca"))
            )
        elif mp not in matched:
            matched.append(mp)
    return matched, unmatched


def _find_mp(person: Representative, mps: list[JsonObject]) -> JsonObject | None:
    """The MP of the same riding, or otherwise of the same name."""
    riding, name = normalize(person.riding), normalize(person.name)
    for mp in mps:
        names = _all_languages((mp.get("current_riding") or {}).get("name"))
        if riding and riding in map(normalize, names):
            return mp
    return next((mp for mp in mps if name and normalize(mp.get("name")) == name), None)


def _item(mp: JsonObject, parliament: Parliament, language: Language) -> Item:
    riding = mp.get("current_riding") or {}
    source = mp_source(parliament, mp)
    data = {
        "mp": slug_of(mp.get("url")),
        "name": mp.get("name"),
        "party": localized((mp.get("current_party") or {}).get("short_name"), language),
        "riding": localized(riding.get("name"), language),
        "province": riding.get("province"),
        "url": source.url,
    }
    return Item(data, source)


TOOL = Tool(
    "find_mps",
    "Find members of Parliament who sit now, by name, riding, province, party or postal code. Returns the slugs that "
    "the other MP tools need. A postal code can lie in more than one riding.",
    FindMps,
    find_mps,
)
