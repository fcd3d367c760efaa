"""find_mps: who sits in the House, by name, riding, province, party or postal code.

openparliament.ca matches names only exactly and ridings not at all, so the list of those who sit is searched here.
"""

from typing import Annotated, Any, Literal

from pydantic import Field, StringConstraints, model_validator

from functions.chat.tools import Found, Language, Source, Tool, ToolError
from functions.chat.tools.arguments import Arguments, Limit, Words
from functions.chat.tools.parliament import Parliament
from functions.chat.tools.shape import Entry, Record, folded, listed, member_source, mentions, said, slug_of

Province = Literal["AB", "BC", "MB", "NB", "NL", "NS", "NT", "NU", "ON", "PE", "QC", "SK", "YT"]
PostalCode = Annotated[
    str, StringConstraints(pattern=r"^[A-Za-z][0-9][A-Za-z][ -]?[0-9][A-Za-z][0-9]$", max_length=7, to_upper=True)
]


class FindMps(Arguments):
    name: Annotated[Words | None, Field(description="Words of the MP's name, in any order; parts of words do.")] = None
    riding: Annotated[Words | None, Field(description="Words of the riding's name; parts of words do.")] = None
    province: Annotated[Province | None, Field(description="The riding's province or territory.")] = None
    party: Annotated[
        Words | None, Field(description="The party's short name in English: Liberal, Conservative, Bloc, NDP, Green.")
    ] = None
    postal_code: Annotated[
        PostalCode | None, Field(description="A Canadian postal code, for example K1A 0A6: whose riding it is in.")
    ] = None
    limit: Limit = 10

    @model_validator(mode="after")
    def _asks_for_something(self) -> "FindMps":
        if not (self.name or self.riding or self.province or self.party or self.postal_code):
            raise ValueError("give at least one of name, riding, province, party and postal_code")
        return self


async def find_mps(wanted: FindMps, parliament: Parliament, language: Language) -> Found:
    """The MPs for whom everything that was given is true, those named exactly so first."""
    members = await parliament.members()
    unmatched: list[Entry] = []
    if wanted.postal_code is not None:
        people = await parliament.representatives(wanted.postal_code.replace(" ", "").replace("-", ""))
        members, unmatched = _matched(people, members, parliament)
    if wanted.party is not None:
        _check_party(wanted.party, await parliament.members())
    found = [member for member in members if _fits(wanted, member)]
    found.sort(key=lambda member: not (wanted.name and folded(wanted.name) == folded(member.get("name"))))
    entries = [_entry(member, parliament, language) for member in found]
    asked = wanted.model_dump(exclude_none=True, exclude={"limit"})
    return listed({"mps_with": asked}, [], [*entries, *unmatched], wanted.limit)


def _fits(wanted: FindMps, member: Record) -> bool:
    riding = member.get("current_riding") or {}
    return (
        (wanted.name is None or mentions(wanted.name, member.get("name")))
        and (wanted.riding is None or mentions(wanted.riding, *_names(riding.get("name"))))
        and (wanted.province is None or riding.get("province") == wanted.province)
        and (wanted.party is None or _is_of(wanted.party, member))
    )


def _is_of(party: str, member: Record) -> bool:
    """In either direction, because Bloc Québécois is called Bloc, and Liberals are Liberal."""
    asked, own = folded(party), folded(_party(member))
    return bool(own) and (asked in own or own in asked)


def _check_party(party: str, members: list[Record]) -> None:
    """An unknown party is not a party without MPs."""
    if not any(_is_of(party, member) for member in members):
        known = sorted({_party(member) for member in members} - {""})
        raise ToolError(f"No party of that name sits in the House; there are {', '.join(known[:20])}.")


def _party(member: Record) -> str:
    return said((member.get("current_party") or {}).get("short_name"), "en") or ""


def _names(name: Any) -> list[Any]:
    return list(name.values()) if isinstance(name, dict) else [name]


def _matched(people: list[Record], members: list[Record], parliament: Parliament) -> tuple[list[Record], list[Entry]]:
    """openparliament.ca's own records of Represent's people, and those who have none yet (after a by-election, say)."""
    matched: list[Record] = []
    unmatched: list[Entry] = []
    for person in people:
        riding, name = folded(person.get("district_name")), folded(person.get("name"))
        member = next(
            (
                m
                for m in members
                if riding and riding in map(folded, _names((m.get("current_riding") or {}).get("name")))
            ),
            None,
        ) or next((m for m in members if name and folded(m.get("name")) == name), None)
        if member is None:
            item = {
                "name": person.get("name"),
                "party": person.get("party_name"),
                "riding": person.get("district_name"),
            }
            unmatched.append((item, Source(parliament.page("/politicians/"), "openparliament.ca")))
        elif member not in matched:
            matched.append(member)
    return matched, unmatched


def _entry(member: Record, parliament: Parliament, language: Language) -> Entry:
    riding = member.get("current_riding") or {}
    source = member_source(parliament, member)
    item = {
        "mp": slug_of(member.get("url")),
        "name": member.get("name"),
        "party": said((member.get("current_party") or {}).get("short_name"), language),
        "riding": said(riding.get("name"), language),
        "province": riding.get("province"),
        "url": source.url,
    }
    return item, source


TOOL = Tool(
    "find_mps",
    "Find members of Parliament who sit now, by name, riding, province, party or postal code. Gives their slugs, "
    "which the other MP tools need. A postal code can lie in more than one riding.",
    FindMps,
    find_mps,
)
