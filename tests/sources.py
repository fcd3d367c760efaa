"""The public record where one server stands in for all its sources."""

from functions.chat.sources import Addresses, Parliament


def parliament_at(url: str, contact: str = "tests") -> Parliament:
    """All sources at one address."""
    return Parliament.at(Addresses(openparliament=url, represent=url), contact)
