"""Reads pydantic's validation errors without the values, which may be secrets."""

from dataclasses import dataclass

from pydantic import ValidationError


@dataclass(frozen=True, slots=True)
class FieldError:
    """One invalid field. `message` is a clause such as "must be a URL". `path` is empty for the document itself."""

    path: tuple[str, ...]
    message: str
    is_missing: bool

    @property
    def name(self) -> str:
        """The path with dots, or an empty string."""
        return ".".join(self.path)


def field_errors(error: ValidationError) -> list[FieldError]:
    """The invalid fields, in the order of the model."""
    return [
        FieldError(
            path=tuple(str(step) for step in found["loc"]),
            message=found["msg"].removeprefix("Value error, "),
            is_missing=found["type"] == "missing",
        )
        for found in error.errors(include_url=False, include_context=False, include_input=False)
    ]
