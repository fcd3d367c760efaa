"""The site's own page of a vote: every ballot under the party that its member belonged to on that day.

The API has no such list: its ballots name a membership, and its members the party of today.
Source: parliament/templates/bills/votequestion_detail.html of github.com/michaelmulley/openparliament.
"""

import html
from collections.abc import Iterator
from itertools import groupby

from infra.local.parliament.dataset import dataset
from infra.local.parliament.model import Json, Record

LETTERS = {"Yes": "Y", "No": "N", "Paired": "P", "Didn't vote": "A"}


def vote_page(vote: Record) -> str:
    """The page of a vote, with the ballots by party and family name."""
    return f"""<!DOCTYPE html><html lang="en"><title>Vote #{vote.listed["number"]}</title><body>
<div class="row"><div class="context-col"><h2>Vote topic</h2></div>
<div class="main-col"><p>{html.escape(vote.listed["description"]["en"])}</p></div></div>
<div class="row"><div class="context-col"><h2>Result</h2></div><div class="columns"><div class="row tile">
<div class="column"><span class="tag voteresult_Y">Yes</span> {vote.listed["yea_total"]}<br></div>
<div class="column"><span class="tag voteresult_N">No</span> {vote.listed["nay_total"]}<br></div></div></div></div>
{"".join(_parties(vote))}</body></html>"""


def _parties(vote: Record) -> Iterator[str]:
    ballots = sorted(_ballots(vote))
    for party, group in groupby(ballots, key=lambda ballot: ballot[0]):
        entries = "".join(
            f"""<div class="column column-block oneline overflowtip"><span class="tag voteresult_{LETTERS[choice]}">"""
            f"""{html.escape(choice)}</span> <a href="{url}">{html.escape(name)}</a></div>"""
            for _, _, name, url, choice in group
        )
        yield f"""<div class="row">
	<div class="context-col"><h2>{html.escape(party)}</h2></div>
	<div class="columns"><div class="row tile dense small-up-1 medium-up-2 large-up-3">{entries}</div></div>
</div>
"""


def _ballots(vote: Record) -> Iterator[tuple[str, str, str, str, str]]:
    """Party on that day, family name, name, URL and choice."""
    by_url = dataset().by_url
    for record in dataset().tables["ballots"]:
        ballot: Json = record.listed
        if ballot["vote_url"] == vote.url:
            politician = by_url[ballot["politician_url"]]
            party = by_url[ballot["politician_membership_url"]].listed["party"]["short_name"]["en"]
            family_name = politician.details["family_name"]
            yield party, family_name, politician.listed["name"], politician.url, ballot["ballot"]
