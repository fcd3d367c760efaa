"""The page's own words, and English that a French page must not show."""

import re

from tests.page.sites import FRONTEND

# `words(` of frontend/src/words: the English texts, then the French ones, as Biome formats them.
PAIR = re.compile(r"words\(\n  \{\n(.*?)\n  \},\n  \{\n(.*?)\n  \},?\n\);", re.DOTALL)
TEXT = re.compile(r'"(?:[^"\\]|\\.)*"|`[^`]*`')
VALUE = re.compile(r"\$\{[^}]*\}")
WORD = re.compile(r"[^\W\d_]{2,}")


def words_of(text: str) -> set[str]:
    """The words of a text, in lower case."""
    return set(WORD.findall(text.lower()))


# English words that no French sentence has.
FUNCTION_WORDS = words_of(
    "the of and or is are was were be been has have had do does did not no it its this that these those there to from "
    "with without for by at in into about your you we our they their what which who when where why how will would can "
    "cannot could should must more most less than then only any each other all here"
)


def english_words() -> set[str]:
    """The words of the English page that the French page does not have, and function words, which it must not have."""
    english, french = set[str](), set[str]()
    for path in sorted((FRONTEND / "src/words").glob("*.ts")):
        for pair in PAIR.finditer(path.read_text()):
            for found, block in zip((english, french), pair.groups(), strict=True):
                for text in TEXT.findall(block):
                    found |= words_of(VALUE.sub(" ", text))
    assert len(english - french) > 50, "the page's words are written in another form"
    return english - french | FUNCTION_WORDS
