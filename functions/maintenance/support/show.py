"""show: a user at a glance."""

from collections.abc import Mapping, Sequence
from typing import Any

from stripe import StripeClient, StripeError

from functions.common.billing.stripe_client import account
from functions.maintenance.findings import KINDS
from functions.maintenance.reconcile import ledger_findings
from functions.maintenance.support.lines import FUNDING, cents, moment, price, section, usd
from functions.maintenance.support.session import Session
from functions.maintenance.support.why import describe, what_helps

INVOICES = 5


async def show(session: Session, user_id: str) -> list[str]:
    """Plan, what pays next and why, counters, running queries, packs, bills, keys, queries, refusals, findings."""
    user = await session.read("support_summary", "account", p_user_id=user_id)
    customer, currency = user["subscription"]["customer"], session.currency
    return [
        *_account(user, currency),
        *_next(user["next"], currency),
        *section("Running", [line for one in user["running"] for line in describe(one, currency)]),
        *section("Packs", [_pack(one, currency) for one in user["packs"]]),
        *section("Own keys", [_key(one) for one in user["keys"]]),
        *section("Overage bills", [_bill(one, currency) for one in user["bills"]]),
        f"Overage not billed yet: {price(user['to_be_billed_usd'], currency)}",
        *section("Stripe's invoices", await _invoices(session, customer) if customer else []),
        *section("Last queries", [line for one in user["queries"] for line in describe(one, currency)]),
        *section("Last refusals", [line for one in user["refusals"] for line in describe(one, currency)]),
        *section("Actions of operators", [_action(one) for one in user["actions"]]),
        *section("Findings of reconcile", await _findings(session, user_id)),
    ]


def _account(user: Mapping[str, Any], currency: str) -> list[str]:
    account, subscription = user["account"], user["subscription"]
    confirmed = "confirmed" if account["confirmed_at"] else "NOT CONFIRMED"
    lines = [
        f"{account['email'] or 'no e-mail address'}, user {account['id']}",
        f"  signed up {moment(account['created_at'])}, {confirmed}, last sign-in {moment(account['last_sign_in_at'])}; "
        f"{user['conversations']} conversations",
    ]
    if account["is_anonymous"]:
        lines.append("  an anonymous account")
    if account["banned_until"]:
        lines.append(f"  BANNED in Supabase Auth until {moment(account['banned_until'])}")
    if subscription["blocked_at"]:
        lines.append(f"  BLOCKED since {moment(subscription['blocked_at'])}: {subscription['blocked_reason']}")
    plan = f"Plan: {user['next']['plan']} ({user['next']['tier']}), {subscription['status']}"
    if subscription["period_end"]:
        plan += f", period {moment(subscription['period_start'])} to {moment(subscription['period_end'])}"
    lines.append(plan)
    lines.append(
        f"  Stripe: {subscription['customer'] or 'no customer'}, {subscription['subscription'] or 'no subscription'}"
    )
    for name, text in (
        ("next_tier", "changes to {} at the end of the period"),
        ("daily_quota", "daily quota set by support: {}"),
        ("lifetime_quota", "lifetime quota set by support: {}"),
    ):
        if subscription[name] is not None:
            lines.append(f"  {text.format(subscription[name])}")
    if (ceiling := subscription["overage_ceiling_usd"]) is not None:
        lines.append(f"  ceiling of the overage limit set by support: {price(ceiling, currency)}")
    for name, text in (("canceled_at", "canceled"), ("past_due_since", "payment failed")):
        if subscription[name]:
            lines.append(f"  {text} {moment(subscription[name])}")
    return lines


def _next(state: Mapping[str, Any], currency: str) -> list[str]:
    if state["can_query"]:
        verdict = f"{FUNDING[state['funding']]} pays: {state['reason']}"
    else:
        verdict = f"REFUSED: {state['reason']}; {what_helps(state['reason_code'])}"
    if state["resets_at"]:
        verdict += f"; resets {moment(state['resets_at'])}"
    quota = "in total" if state["is_lifetime"] else "today"
    overage = "allowed" if state["allows_overage"] else "off"
    overage_used, overage_limit = (price(state[f"overage_{name}_usd"], currency) for name in ("used", "limit"))
    return [
        f"Next query: {verdict}",
        f"  included: {state['used']} of {state['limit']} used {quota}",
        f"  overage: {overage_used} of {overage_limit} used this period, {overage}",
        f"  unpaid failures today: {usd(state['failed_cost_usd'])} of {usd(state['failed_cost_limit_usd'])}; "
        f"queries at once: at most {state['concurrent_queries']}",
    ]


def _pack(pack: Mapping[str, Any], currency: str) -> str:
    state = f"{pack['remaining']} of {pack['bought']} left, {pack['used']} used"
    for name in ("revoked", "expired"):
        state += f", {pack[name]} {name}" if pack[name] else ""
    frozen = ", FROZEN by a dispute" if pack["is_frozen"] else ""
    origin = (
        f"paid {price(pack['price_usd'], currency)} ({pack['payment']})" if pack["payment"] else "granted by support"
    )
    return f"{moment(pack['bought_at'])}  {state}{frozen}, expires {moment(pack['expires_at'])}, {origin}; {pack['id']}"


def _key(key: Mapping[str, Any]) -> str:
    error = f": {key['validation_error']}" if key["validation_error"] else ""
    return f"{key['provider']} {key['hint']} {key['status']}{error}, checked {moment(key['last_validated_at'])}"


def _bill(bill: Mapping[str, Any], currency: str) -> str:
    what = f"{bill['queries']} queries" if bill["queries"] > 0 else "given back"
    place = f"{bill['item'] or 'not at Stripe yet'}, {bill['invoice'] or 'waits for the next invoice'}"
    return f"period of {moment(bill['period_start'])}: {what}, {cents(bill['amount_cents'], currency)}, {place}"


def _action(action: Mapping[str, Any]) -> str:
    subject = f" {action['subject']}" if action["subject"] else ""
    return f"{moment(action['at'])}  {action['action']}{subject} by {action['operator']}: {action['reason']}"


async def _invoices(session: Session, customer: str) -> list[str]:
    """The newest invoices. Stripe out of reach is no reason to show nothing else."""
    try:
        async with account(session.environment) as stripe:
            return await _invoice_lines(stripe, customer)
    except StripeError as error:
        return [f"Stripe did not answer: {type(error).__name__}"]


async def _invoice_lines(stripe: StripeClient, customer: str) -> list[str]:
    found = await stripe.v1.invoices.list_async({"customer": customer, "limit": INVOICES})
    return [
        f"{one.number or one.id}  {one.status}, {cents(one.total, one.currency)}, "
        f"{cents(one.amount_remaining, one.currency)} open, {one.billing_reason}"
        + (f", {one.hosted_invoice_url}" if one.hosted_invoice_url else "")
        for one in found.data
    ]


async def _findings(session: Session, user_id: str) -> Sequence[str]:
    found = [one for one in await ledger_findings(session.database) if one.user_id == user_id]
    return [
        f"{one.kind} {one.subject}: expected {one.expected}, found {one.found} ({KINDS[one.kind]})" for one in found
    ]
