"""The endings of a query and the payers, as tables: test_endings.py checks each cell."""

import re
from typing import Any

# on the wire  the last parts of the stream, or the status and code of an error; gone: the client disconnected
# text         how much of the provider's answer arrived: whole, half, part, none; limit: the sentence about the limit
# tools        a sign for each call that the client received: + output, ! error, ? the answer ended before it was run
# ask          how often the provider was asked
# kept         both: question and answer are stored, where the plan keeps history (PAYERS)
# cost         the number of steps whose tokens and cost are in the ledger
# incl … byok  the funding and its counters: paid, given back, or the same in both cases; -: does not occur
ENDINGS = """
ending                        on the wire              text   tools    ask  kept  outcome   cost  incl  cred  over  byok
finished                      finish stop              whole  -        1    both  answered  1     paid  paid  paid  same
finished after tools          finish stop              whole  +        2    both  answered  2     paid  paid  paid  same
a tool failed                 finish stop              whole  !        2    both  answered  2     paid  paid  paid  same
over the steps limit          finish stop              whole  +++++++  8    both  answered  8     paid  paid  paid  same
over the cost limit           finish length            limit  ?        1    both  answered  1     paid  paid  paid  same
cut short by output limit     finish length            half   -        1    both  answered  1     paid  paid  paid  same
refused by the filter         finish content-filter    half   -        1    both  answered  1     paid  paid  paid  same
failed once, asked again      finish stop              whole  -        2    both  answered  1     paid  paid  paid  same
client left before a byte     gone                     whole  -        1    both  answered  1     paid  paid  paid  same
client left in the text       gone                     whole  -        1    both  answered  1     paid  paid  paid  same
sent twice at once            finish stop, 409         whole  -        1    both  answered  1     paid  paid  paid  same
sent a day later, kept        finish stop              whole  +        2    both  answered  2     paid  paid  paid  same
sent a day later, not kept    409 already_answered     none   -        2    none  answered  2     paid  -     paid  -
stopped before a byte         metadata, abort          none   -        1    both  stopped   0     paid  paid  paid  same
stopped in the text           metadata, abort          part   -        1    both  stopped   1     paid  paid  paid  same
stopped by another process    metadata, abort          part   -        1    both  stopped   1     paid  paid  paid  same
stopped while a tool runs     metadata, abort          none   +?       1    both  stopped   1     paid  paid  paid  same
finished without text         error, finish error      none   -        1    none  failed    1     back  back  back  same
failed before a byte          502 provider_error       none   -        2    none  failed    0     back  back  back  same
failed in the text            error, finish error      part   -        1    none  failed    1     back  back  back  same
failed during a tool call     error, finish error      none   ?        1    none  failed    1     back  back  back  same
failed after tools, silent    error, finish error      none   +        3    none  failed    1     back  back  back  same
failed after tools, writing   error, finish error      part   +        2    none  failed    2     back  back  back  same
out of time before a byte     504 provider_timeout     none   -        1    none  failed    0     back  back  back  same
out of time in the text       error, finish error      part   -        1    none  failed    1     back  back  back  same
out of time as a tool runs    error, finish error      none   +?       1    none  failed    1     back  back  back  same
hold lost meanwhile           finish stop              whole  -        1    none  lost      0     back  back  back  same
admission lost                finish stop              whole  -        1    both  answered  1     paid  paid  paid  same
admission lost, failed        error, finish error      part   -        1    none  failed    1     back  back  back  same
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
# The stand-in's answer, its prefix after tools, and the product's sentences about limits and tools that did not run.
FULL_ANSWER = (
    "This is a stand-in answer, no model was asked. You wrote: “{question}”. In an invented sitting of the House of "
    "Commons, three members spoke to it and the matter was referred to a committee."
)
TOOLS_PREFIX = "The tools answered: “"
LIMIT = "This answer has reached the limit of one question and ends here. Ask another question to continue."
NOT_RUN = "The answer ended before this tool was run."
# Bills that do not exist: no cache answers for them.
SLOW_BILL, BROKEN_BILL = "C-9999", "C-9998"


def rows(table: str) -> list[dict[str, str]]:
    """The rows of a table whose columns are separated by two spaces."""
    heading, *lines = (re.split(r"\s{2,}", line.strip()) for line in table.strip().splitlines())
    return [dict(zip(heading, line, strict=True)) for line in lines]


TABLE = {row["ending"]: row for row in rows(ENDINGS)}
PAYER = {row["payer"]: row for row in rows(PAYERS)}
COMMON = ("on the wire", "text", "tools", "ask", "kept", "outcome", "cost")
COLUMN = {"included": "incl", "credit": "cred", "overage": "over", "byok": "byok"}
