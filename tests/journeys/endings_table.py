"""The endings of a query and the payers, as tables: test_endings.py checks each cell.

docs/metering.md has the rest of each ending: what was delivered, the outcome, why it ended, and whether it is charged.
"""

import re
from typing import Any

from infra.local.postgres import ROOT

# on the wire  the last parts of the stream, or the status and code of an error; gone: the client disconnected
# text         how much of the provider's answer arrived: whole, half, part, none; limit, no text, refused: our sentence
# tools        a sign for each call that the client received: + output, ! error, ? the answer ended before it was run
# ask          how often the provider was asked
# cost         the number of steps whose tokens and cost are in the ledger
ENDINGS = """
ending                        on the wire              text           tools    ask  cost
finished                      finish stop              whole          -        1    1
finished after tools          finish stop              whole          +        2    2
a tool failed                 finish stop              whole          !        2    2
over the steps limit          finish stop              whole          +++++++  8    8
over the cost limit           finish length            limit          !        1    1
cut short by output limit     finish length            half           -        1    1
refused by the filter         finish content-filter    half+refused   -        1    1
refused in silence            finish content-filter    refused        -        1    1
refused before a byte         finish content-filter    refused        -        1    0
refused after tools           finish content-filter    refused        +        2    2
failed once, asked again      finish stop              whole          -        2    1
client left before a byte     gone                     whole          -        1    1
client left in the text       gone                     whole          -        1    1
sent twice at once            finish stop, 409         whole          -        1    1
sent a day later, kept        finish stop              whole          +        2    2
sent a day later, not kept    409 already_answered     none           -        2    2
stopped before a byte         metadata, abort          none           -        1    0
stopped in the text           metadata, abort          part           -        1    1
stopped by another process    metadata, abort          part           -        1    1
stopped while a tool runs     metadata, abort          none           +?       1    1
finished without text         error, finish error      none           -        1    1
failed before a byte          502 provider_error       none           -        2    0
failed in the text            error, finish error      part           -        1    1
failed during a tool call     error, finish error      none           ?        1    1
failed after tools, silent    error, finish error      none           +        3    1
failed after tools, writing   error, finish error      part           +        2    2
out of time before a byte     504 provider_timeout     none           -        1    0
out of time in the text       finish length            part+limit     -        1    1
out of time as a tool runs    finish length            limit          +?       1    1
no text after tools           finish stop              no text        +        2    2
too long before a byte        502 provider_error       none           -        1    0
too long after tools          finish length            limit          +        2    1
too long after text, tools    finish length            part+limit     +        2    1
hold lost meanwhile           finish stop              whole          -        1    0
admission lost                finish stop              whole          -        1    1
admission lost, failed        error, finish error      part           -        1    1
"""

# The payers. After one paid query: the counters today, for life, overage of this period, credits left + used; then
# counted_against_quota, was_overage and overage_charge of its row. left: the remaining queries after a paid one;
# unpaid: after one that was given back.
PAYERS = """
payer  funding   tier        history  today  life  overage   credits  counted  was_overage  charge    left  unpaid
free   included  free        no       0      1     0.000000  -        yes      no           0.000000  9     10
pro    included  pro         yes      1      0     0.000000  -        yes      no           0.000000  39    40
pack   credit    basic       yes      0      0     0.000000  2+1      no       no           0.000000  2     3
payg   overage   usage_only  no       0      0     0.025000  -        no       yes          0.025000  399   400
over   overage   basic       yes      0      0     0.025000  -        no       yes          0.025000  399   400
own    byok      basic       yes      0      0     0.000000  -        no       no           0.000000  None  None
"""
# The same after a query that was given back.
NOTHING_PAID = {"today": "0", "life": "0", "overage": "0.000000", "counted": "no", "was_overage": "no",
                "charge": "0.000000"}  # fmt: skip
ALL_CREDITS = "3+0"
# Their subscriptions. The quota of free and pro pays; the others have none.
SUBSCRIPTIONS: dict[str, dict[str, Any]] = {
    "free": {}, "pro": {}, "pack": {"daily_quota": 0}, "payg": {"stripe": True},
    "over": {"daily_quota": 0, "stripe": True}, "own": {},
}  # fmt: skip

PROVIDERS = ["anthropic", "openai"]
# The last four characters of the platform's key, in the requests that the stand-in recorded.
PLATFORM = "d-in"
# The stand-in's answer, the start and end of one after tools, and the product's sentences about limits and tools that
# did not run.
FULL_ANSWER = (
    "This is a stand-in answer, no model was asked. You wrote: “{question}”. In an invented sitting of the House of "
    "Commons, three members spoke to it and the matter was referred to a committee."
)
FOUND, NOT_FOUND = "[Bill C-5](", "A tool answered: “"
WRITTEN_BY = "*Stand-in: no model was asked.*"
LIMIT = "This answer has reached the limit of one question and ends here. Ask another question to continue."
NO_TEXT = "The model ended here without a text. The results of its tools are above. Ask again for an answer in words."
REFUSED = (
    "The model provider ended this answer because of its rules on content. Ask in other words, or ask something else."
)
NOT_RUN = "The answer ended before this tool was run."
# Bills that do not exist: no cache answers for them.
SLOW_BILL, BROKEN_BILL = "C-9999", "C-9998"


def rows(table: str) -> list[dict[str, str]]:
    """The rows of a table whose columns are separated by two spaces."""
    heading, *lines = (re.split(r"\s{2,}", line.strip()) for line in table.strip().splitlines())
    return [dict(zip(heading, line, strict=True)) for line in lines]


def endings_of_the_page() -> list[dict[str, str]]:
    """The table of endings in docs/metering.md."""
    page = (ROOT / "docs" / "metering.md").read_text(encoding="utf-8")
    heading, _, *lines = page[page.index("| ending |") :].split("\n\n")[0].splitlines()
    names, *rows = ([cell.strip() for cell in line.strip("|").split("|")] for line in (heading, *lines))
    return [dict(zip(names, row, strict=True)) for row in rows]


PAGE = {row["ending"]: row for row in endings_of_the_page()}
TABLE = {row["ending"]: row | PAGE[row["ending"]] for row in rows(ENDINGS)}
PAYER = {row["payer"]: row for row in rows(PAYERS)}
FUNDINGS = {"included", "credit", "overage", "byok"}
