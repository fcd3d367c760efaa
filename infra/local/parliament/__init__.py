"""The parliamentary data stand-in: openparliament.ca's API and search feed, Represent, and LEGISinfo, on one origin.

People, ridings, bills, votes and speeches are invented. Response formats and behaviour are those of the real sites:
pages, filters that are rejected or ignored, errors that are not JSON, and 429 for concurrent requests. For tests,
`?_slow=SECONDS` delays an answer, `GET /_requests` returns the requests received, and `POST /_fail` {"path_prefix",
"status", "times", "retry_after", "slow", "body"} makes the next answers fail.

Formats: github.com/michaelmulley/openparliament, represent.opennorth.ca/api.
"""

from infra.local.parliament.app import create_app

__all__ = ["create_app"]
