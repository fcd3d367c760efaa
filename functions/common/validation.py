"""Invalid fields, with messages in English and French. Reads pydantic's errors without the values, which may be
secrets."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from pydantic import ValidationError
from pydantic_core import PydanticCustomError

from functions.common.language import Language

# Our own problems: clauses in English and French.
PROBLEMS = {
    "null_character": ("must not contain the null character", "ne doit pas contenir le caractère nul"),
    "origin": ("must be on an allowed origin", "doit être sur une origine permise"),
    "plan_or_pack": ("needs either a plan or a pack", "doit nommer soit un forfait, soit un bloc de crédits"),
    "api_key": (
        "must be a provider's API key: 16 to {limit} printable characters without spaces",
        "doit être la clé d’API d’un fournisseur, de 16 à {limit} caractères imprimables sans espaces",
    ),
    "context_size": (
        "must be at most {limit} bytes of JSON, and not deeply nested",
        "doit compter au plus {limit} octets de JSON, sans imbrication profonde",
    ),
    "question": (
        "the last message must be the user's and have text",
        "le dernier message doit venir de l’utilisateur et avoir un texte",
    ),
    "question_file": (
        "the last message has a file, but only text can be read: send it without the file",
        "le dernier message a un fichier, mais seul le texte peut être lu, envoyez-le sans le fichier",
    ),
    "question_size": (
        "the last message is longer than {limit} bytes",
        "le dernier message compte plus de {limit} octets",
    ),
    "question_cost": ("too long", "trop longue"),
    "number": ("must be a number", "doit être un nombre"),
    "comment": ("needs a rating beside the comment", "doit avoir une note en plus du commentaire"),
    "confirmation": (
        "must be the e-mail address of the account",
        "doit être l’adresse courriel du compte",
    ),
}
# The types of pydantic's errors that a request can cause. Their English is pydantic's.
# https://docs.pydantic.dev/latest/errors/validation_errors/
FRENCH = {
    "missing": "est obligatoire",
    "extra_forbidden": "n’est pas un champ connu",
    "string_type": "doit être un texte",
    "string_too_short": "doit compter au moins {min_length} caractère(s)",
    "string_too_long": "doit compter au plus {max_length} caractère(s)",
    "list_type": "doit être une liste",
    "too_short": "doit compter au moins {min_length} élément(s)",
    "too_long": "doit compter au plus {max_length} élément(s)",
    "dict_type": "doit être un objet",
    "model_type": "doit être un objet",
    "model_attributes_type": "doit être un objet",
    "literal_error": "n’est pas une des valeurs permises",
    "bool_type": "doit être vrai ou faux",
    "bool_parsing": "doit être vrai ou faux",
    "decimal_type": "doit être un nombre",
    "decimal_parsing": "doit être un nombre",
    "int_parsing": "doit être un nombre entier",
    "greater_than_equal": "doit être au moins {ge}",
    "less_than_equal": "doit être au plus {le}",
    "decimal_max_digits": "a trop de chiffres",
    "decimal_whole_digits": "a trop de chiffres",
    "decimal_max_places": "a trop de décimales",
}
OTHER_IN_FRENCH = "n’est pas valide"


@dataclass(frozen=True, slots=True)
class FieldError:
    """One invalid field. `message` is a clause such as "must be a URL". `path` is empty for the document itself.

    `kind` is the type of pydantic's error or one of PROBLEMS, `values` its limits.
    """

    path: tuple[str, ...]
    message: str
    kind: str
    values: Mapping[str, Any] = field(default_factory=dict)

    @property
    def name(self) -> str:
        """The path with dots, or an empty string."""
        return ".".join(self.path)

    def message_in(self, language: Language) -> str:
        """The clause in a language."""
        if language == "en":
            return self.message
        clause = PROBLEMS[self.kind][1] if self.kind in PROBLEMS else FRENCH.get(self.kind, OTHER_IN_FRENCH)
        return clause.format_map(self.values)


def problem(kind: str, **values: str | int) -> PydanticCustomError:
    """What a validator raises for one of PROBLEMS."""
    return PydanticCustomError(kind, PROBLEMS[kind][0], values)


def field_problem(name: str, kind: str) -> FieldError:
    """A field that breaks a rule which no validator checks: one of PROBLEMS."""
    return FieldError((name,), PROBLEMS[kind][0], kind)


def field_errors(error: ValidationError) -> list[FieldError]:
    """The invalid fields, in the order of the model."""
    return read_errors(error.errors(include_url=False, include_input=False))


def read_errors(errors: Sequence[Any]) -> list[FieldError]:
    """The invalid fields of pydantic's own list of errors, which FastAPI has too."""
    return [
        FieldError(
            path=tuple(str(step) for step in found["loc"]),
            message=found["msg"].removeprefix("Value error, "),
            kind=found["type"],
            values=found.get("ctx", {}),
        )
        for found in errors
    ]
