r"""Arguments that several tools take, each with its pattern and its bounds.

The patterns prevent unsafe text in URLs and show the model the expected format. They use [0-9] because \d also
matches the digits of other scripts.
"""

from typing import Annotated

from pydantic import BaseModel, ConfigDict, Field, StringConstraints


class Arguments(BaseModel):
    """Base class of every tool's arguments: immutable, and unknown arguments are rejected."""

    model_config = ConfigDict(extra="forbid", frozen=True, str_strip_whitespace=True)


MpSlug = Annotated[
    str,
    StringConstraints(pattern=r"^[a-z0-9][a-z0-9-]*$", max_length=60),
    Field(description="The MP's slug from find_mps, for example jane-doe."),
]
CommitteeSlug = Annotated[
    str,
    StringConstraints(pattern=r"^[a-z0-9][a-z0-9-]*$", max_length=60),
    Field(description="The slug from find_committees, for example finance."),
]
Session = Annotated[
    str,
    StringConstraints(pattern=r"^[0-9]{2}-[0-9]$", max_length=4),
    Field(description="For example 45-1. Omit it for the current session."),
]
BillNumber = Annotated[
    str,
    StringConstraints(pattern=r"^[CScs]-[0-9]{1,4}[A-Za-z]?$", max_length=7, to_upper=True),
    Field(description="For example C-5, or S-201 of the Senate."),
]
PostalCode = Annotated[
    str, StringConstraints(pattern=r"^[A-Za-z][0-9][A-Za-z][ -]?[0-9][A-Za-z][0-9]$", max_length=7, to_upper=True)
]
# At least one letter or digit: without one, every name would match, or none.
Words = Annotated[str, StringConstraints(min_length=2, max_length=100, pattern=r"[^\W_]")]
Limit = Annotated[int, Field(ge=1, le=20, description="At most so many results, 1 to 20.")]
