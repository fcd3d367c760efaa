"""Writes the speeches of one sitting day or one committee meeting."""

import random
from collections import Counter
from collections.abc import Mapping
from datetime import date, datetime, time, timedelta

from infra.local.parliament.data import MINISTER, SENTENCES, SESSION, SPEAKER, SUBJECTS
from infra.local.parliament.model import Bill, Json, Person, Record, bilingual, speeches_path

Texts = list[tuple[str, str]]  # English and French paragraphs
TABLES = tuple(
    f"<table><tr><th>{place}</th><th>{count}</th></tr><tr><td>Saltgrass</td><td>12</td></tr></table>"
    for place, count in (("Lighthouse", "Stories"), ("Phare", "Contes"))
)


class Transcript:
    """The transcript of a day at `url`. Appends its speeches to `speeches`, two minutes apart."""

    def __init__(
        self,
        day: date,
        url: str,
        *,
        people: Mapping[str, Person],
        bills: Mapping[str, Bill],
        speeches: list[Record],
        rng: random.Random,
        filter_values: Json | None = None,
    ) -> None:
        self._day, self._url = day, url
        self._people, self._bills, self._speeches, self._rng = people, bills, speeches, rng
        self._time = datetime.combine(day, time(10))
        self._filter_values, self._headings, self._bill = filter_values or {}, dict[str, Json](), ""
        self._speeches_by, self._words = Counter[str](), Counter[str]()

    def add_heading(self, english: str, french: str, about: str = "") -> None:
        """Set the headings of the next speeches. `about` is a bill or a subject."""
        self._bill = about if about in self._bills else ""
        self._headings = {"h1": bilingual(english, french)}
        if self._bill:
            bill = self._bills[about]
            self._headings["h2"] = bilingual(bill.short_title_en, bill.short_title_fr)
            self._headings["h3"] = bilingual(f"Bill {about}. Invented stage", f"Projet de loi {about}. Étape inventée")
        elif about:
            self._headings["h2"] = bilingual(SUBJECTS[about][0].capitalize(), SUBJECTS[about][1].capitalize())

    def add_procedural_speech(self, english: str, french: str) -> None:
        """A short procedural speech of the Speaker."""
        self._add(SPEAKER, bilingual("The Speaker", "Le Président"), [(english, french)], procedural=True)

    def add_speech(self, slug: str | None, topic: tuple[str, str], paragraphs: int, *, table: bool = False) -> None:
        """A speech of the member, of the minister where the member has no seat on this day, or of a witness (None).

        `table` adds a table at the end.
        """
        person = self._people[slug] if slug else None
        if person and not person.term_on(self._day):
            person = self._people[MINISTER]
        term = person.term_on(self._day) if person else None
        riding = term.riding if term else "Witness Landing"
        name = person.name if person else "Dr. Wren Testimony"
        texts = [("Mr. Speaker, I rise today.", "Monsieur le Président, je prends la parole aujourd’hui.")]
        if self._bill:
            link = f'<a data-HoCid="990000" href="/bills/{SESSION}/{self._bill}/" title="{topic[0]}">'
            thanks = f'<a data-HoCid="990001" href="/politicians/{MINISTER}/">'
            english = f"I speak to {link}Bill {self._bill}</a>, with thanks to {thanks}the minister</a>."
            french = f"Je parle du {link}projet de loi {self._bill}</a> et je remercie {thanks}la ministre</a>."
            texts.append((english, french))
        for _ in range(paragraphs):
            first, second = self._rng.sample(SENTENCES, 2)
            english = f"{first[0]} {second[0]}".format(riding=riding, thing=topic[0])
            texts.append((english, f"{first[1]} {second[1]}".format(riding=riding, thing=topic[1])))
        self._words.update({topic[0].split()[-1]: paragraphs})
        affiliation = f"{riding}, {term.party}" if term else "Invented Institute"
        attribution = f"{name} ({affiliation})"
        self._add(person.slug if person else None, bilingual(attribution, attribution), texts, table=table)

    def most_frequent_word(self) -> str:
        return self._words.most_common(1)[0][0]

    def _add(
        self, slug: str | None, attribution: Json, texts: Texts, *, procedural: bool = False, table: bool = False
    ) -> None:
        person = self._people[slug] if slug else None
        term = person.term_on(self._day) if person else None
        self._time += timedelta(minutes=2)
        speaker = "the-speaker" if procedural else slug or "wren-testimony"
        self._speeches_by[speaker] += 1
        number = 9_000_000 + 200 * len(self._speeches)  # leaves room for the numbers of its paragraphs
        tags = [
            f'<p data-HoCid="{number + index}" data-originallang="{_spoken_in(person, index)}">'
            for index in range(len(texts))
        ]
        english, french = (
            "\n".join(f"{tag}{pair[side]}</p>" for tag, pair in zip(tags, texts, strict=True))
            + (f"\n{TABLES[side]}" if table else "")
            for side in (0, 1)
        )
        url = f"{self._url}{speaker}-{self._speeches_by[speaker]}/"
        listed = {
            "time": str(self._time),
            "attribution": attribution,
            "content": bilingual(english, french),
            "politician_url": person.url if person else None,
            "politician_membership_url": term.url if term else None,
            "procedural": procedural,
            "source_id": str(number),
            **self._headings,
            "document_url": self._url,
        }
        details = {"related": {"document_speeches_url": speeches_path(self._url)}}
        bill = f"{SESSION}/{self._bill}" if self._bill else None
        mentioned_bill = bill if not procedural else None
        filter_values = {
            "time": self._time,
            "procedural": procedural,
            "document": self._url,
            **self._filter_values,
            "politician": slug,
            "politician_membership": str(term.number) if term else None,
            "bill_debated": bill,
            "mentioned_bill": mentioned_bill,
            "mentioned_politician": MINISTER if mentioned_bill else None,
        }
        self._speeches.append(Record(url, listed, details, filter_values))


def _spoken_in(person: Person | None, paragraph: int) -> str:
    """Members of Quebec speak French, and those of New Brunswick begin in French."""
    french = person is not None and (person.province == "QC" or (person.province == "NB" and paragraph == 0))
    return "fr" if french else "en"
