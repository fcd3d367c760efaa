"""The languages of our sentences, and which of them a client prefers."""

from typing import Literal, cast

Language = Literal["en", "fr"]
LANGUAGES = ("en", "fr")


def preferred(header: str) -> Language:
    """The language that an Accept-Language header prefers. English unless French has a higher weight.

    RFC 9110, section 12.5.4. Regions are ignored, and of equal weights the first counts.
    """
    best: Language = "en"
    best_weight = 0.0
    for entry in header.lower().split(","):
        tag, *parameters = (part.strip() for part in entry.split(";"))
        language = tag.partition("-")[0]
        weight = next((_weight(value[2:]) for value in parameters if value.startswith("q=")), 1.0)
        if language in LANGUAGES and weight > best_weight:
            best, best_weight = cast("Language", language), weight
    return best


def _weight(text: str) -> float:
    try:
        return float(text)
    except ValueError:
        return 0.0
