"""The parliamentary data stand-in: openparliament.ca's API and search feed, Represent, LEGISinfo, on one origin.

People, ridings, bills, votes and speeches are invented; shapes and manners are the real sites': pages, filters that are
refused or ignored, errors that are not JSON, 429 for whoever asks two things at once. `?_slow=SECONDS` holds an answer
back. `GET /_requests` tells what was asked; `POST /_fail` {"path_prefix", "status", "times", "retry_after", "slow",
"body"} spoils the next answers. Shapes: github.com/michaelmulley/openparliament, represent.opennorth.ca/api.
"""

from infra.local.parliament.server import create_app

__all__ = ["create_app"]
