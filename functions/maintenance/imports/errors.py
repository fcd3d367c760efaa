"""The error of an import."""


class ImportFailed(Exception):
    """A source cannot be read. The message is a sentence for the operator. What was imported before stays."""
