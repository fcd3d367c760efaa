"""why: what happened to a query, by any of its ids."""

from collections.abc import Mapping, Sequence
from typing import Any

from functions.common import reasons, results
from functions.maintenance.support.lines import FUNDING, cents, moment, price, usd
from functions.maintenance.support.session import CALL_TIMEOUT_S, Session, SupportError

NOT_FOUND = (
    "No query of this user has this id. A request that was refused before admission (a wrong token, an invalid body, "
    "an unknown address) or that repeated an earlier one is only in the log: search the chat's log for request_id."
)


async def why(session: Session, user_id: str, an_id: str) -> list[str]:
    """Each attempt at the query, oldest first. Raises SupportError if there is none."""
    found = await find_queries(session, user_id, an_id)
    if not found:
        raise SupportError(NOT_FOUND)
    return [line for query in found for line in describe(query, session.currency)]


async def find_queries(session: Session, user_id: str, an_id: str) -> Sequence[Mapping[str, Any]]:
    """The attempts that an id belongs to, oldest first."""
    found: Sequence[Mapping[str, Any]] = await session.database.call(
        "find_queries",
        {"p_user_id": user_id, "p_id": an_id},
        parse=results.records("decision"),
        timeout_s=CALL_TIMEOUT_S,
    )
    return found


def describe(query: Mapping[str, Any], currency: str) -> list[str]:
    """The lines of one attempt: a refusal, a running query, or one that ended."""
    state = f"{query['quota_used']} of {query['quota_limit']} included queries used before"
    if query["overage_limit_usd"] is not None:
        state += f", overage {price(query['overage_used_usd'], currency)} of "
        state += price(query["overage_limit_usd"], currency)
    if query["decision"] == "refused":
        return _refusal(query, state)
    lines = [
        f"{moment(query['at'])}  query {query['id']}, plan {query['tier']}",
        f"  admitted: {query['reason']}; {FUNDING[query['funding']]} pays ({state})",
    ]
    if "outcome" not in query:
        rest = "its process died: the next query or release-stale-holds gives the funding back"
        return [
            *lines,
            f"  runs on {query['provider']} {query['model']}" + (f"; {rest}" if query["is_expired"] else ""),
        ]
    ended = f"  {query['outcome']} at {moment(query['ended_at'])} by {query['provider']} {query['model']}"
    if query["finish_reason"] is not None:
        ended += f", finish reason {query['finish_reason']}"
    lines.append(f"{ended}; {query['tokens']:,} tokens, cost {usd(query['cost_usd'])}")
    lines.append(f"  {charge(query, currency)}")
    if (reversal := query["reversal"]) is not None:
        given = f"  given back at {moment(reversal['at'])} by {reversal['operator']}: {reversal['reason']}"
        if reversal["cents"] is not None:
            given += f"; {cents(reversal['cents'], currency)} as invoice item {reversal['item'] or 'not placed yet'}"
            given += f" on {reversal['invoice']}" if reversal["invoice"] else ""
        lines.append(given)
    if query["is_charged"]:
        lines.append(
            f"  answer {query['message_id']}" if query["message_id"] else "  the answer is not stored (any more)"
        )
    return lines


def _refusal(query: Mapping[str, Any], state: str) -> list[str]:
    until = f" until {moment(query['resets_at'])}" if query["resets_at"] else ""
    return [
        f"{moment(query['at'])}  request {query['id']}, plan {query['tier']}",
        f"  refused{until}: {query['reason']} ({state}). Nothing was charged.",
        f"  {what_helps(query['reason_code'])}",
    ]


def what_helps(reason_code: str) -> str:
    """The action that the refusal named, and what else ends it."""
    reason = reasons.BY_CODE.get(reason_code)
    if reason is None:
        return f"reason {reason_code}"
    paying = "a payment helps" if reason.paying_helps else "a payment does not help"
    return f"reason {reason.code}: action {reason.action}, {paying}; ends {reason.ends}"


def charge(query: Mapping[str, Any], currency: str) -> str:
    """What the query was charged, as what follows its name."""
    if not query["is_charged"]:
        return "charged nothing: a query that failed gives its funding back"
    if query["funding"] == "byok":
        return "charged nothing: the user's own key paid the provider"
    if query["funding"] == "credit":
        return f"charged one credit of pack {query['credit_pack_id']}"
    if query["funding"] == "included":
        return "charged one included query"
    if (invoice := query["invoice"]) is None:
        return f"charged {price(query['charged_usd'], currency)} of overage, not on an invoice yet"
    place, item = invoice["invoice"] or "the next invoice", invoice["item"] or "not placed yet"
    return f"charged {price(query['charged_usd'], currency)} of overage, on {place}, item {item}"
