"""The public record where one server stands in for all its sources."""

from functions.chat.sources import Addresses, Parliament


def addresses_at(url: str) -> Addresses:
    """All sources at one address."""
    url = url.rstrip("/")
    return Addresses(openparliament=url, represent=url, legisinfo=f"{url}/legisinfo", ourcommons=url)


def parliament_at(url: str, contact: str = "tests") -> Parliament:
    """All sources at one address."""
    return Parliament.at(addresses_at(url), contact)
