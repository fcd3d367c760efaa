"""Types shared by the sources and by the tools. Imports no other module of this package."""

from typing import Any, Literal

Language = Literal["en", "fr"]
JsonObject = dict[str, Any]


class SourceError(Exception):
    """A source has no answer. The message is one sentence for the model and the client, without internal details."""


class RecordNotFound(SourceError):
    """The requested record does not exist."""
