r"""The arguments that several tools take, each with its pattern and bound.

A pattern keeps a model's text out of addresses, and tells the model what is meant; \d would let other scripts' digits
in.
"""

from typing import Annotated

from pydantic import BaseModel, ConfigDict, Field, StringConstraints


class Arguments(BaseModel):
    """What every tool's arguments are: fixed once checked, and nothing that the tool does not know."""

    model_config = ConfigDict(extra="forbid", frozen=True, str_strip_whitespace=True)


MpSlug = Annotated[
    str,
    StringConstraints(pattern=r"^[a-z0-9][a-z0-9-]*$", max_length=60),
    Field(description="The MP's slug as find_mps gives it, for example jane-doe."),
]
CommitteeSlug = Annotated[
    str,
    StringConstraints(pattern=r"^[a-z0-9][a-z0-9-]*$", max_length=60),
    Field(description="The committee's slug as find_committees gives it, for example finance."),
]
Session = Annotated[
    str,
    StringConstraints(pattern=r"^[0-9]{2}-[0-9]$", max_length=4),
    Field(description="The Parliament and its session, for example 45-1. Leave it out for the current one."),
]
BillNumber = Annotated[
    str,
    StringConstraints(pattern=r"^[CScs]-[0-9]{1,4}[A-Za-z]?$", max_length=7, to_upper=True),
    Field(description="The bill's number: C-5 for one of the House, S-201 for one of the Senate."),
]
Words = Annotated[str, StringConstraints(min_length=2, max_length=100)]
Limit = Annotated[int, Field(ge=1, le=20, description="How many to give at most.")]
