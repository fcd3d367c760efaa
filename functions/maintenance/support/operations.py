"""What operators see and change for everyone: costs, announcements, pauses, models. Each returns the lines to print."""

from collections.abc import Mapping, Sequence
from decimal import Decimal
from typing import Any

from functions.common import results
from functions.maintenance.support import model_prices
from functions.maintenance.support.lines import changes, moment, price, section, usd
from functions.maintenance.support.session import Session, SupportError

REPORT_TIMEOUT_S = 150.0
PAUSES = {"chat": "chat_paused", "sign-ups": "sign_ups_paused", "provider": "provider_paused"}


async def costliest(session: Session, days: int, limit: int) -> list[str]:
    """The users who have cost us most in the newest days, UTC."""
    rows: Sequence[Mapping[str, Any]] = await session.database.call(
        "costliest_users",
        {"p_days": days, "p_limit": limit},
        parse=results.records("user_id"),
        timeout_s=REPORT_TIMEOUT_S,
    )

    def paid(row: Mapping[str, Any]) -> str:
        return price(Decimal(row["overage_usd"]) + Decimal(row["credits_usd"]), session.currency)

    heading = f"{'cost':>10} {'paid':>10} {'queries':>8} {'failed':>7}  {'plan':<11}user"
    return [
        f"The newest {days} days, cost in US dollars; `paid` in the prices' currency, without plan fees",
        heading,
        *(
            f"{usd(row['cost_usd']):>10} {paid(row):>10} "
            f"{row['queries']:>8,} {row['failed']:>7,}  {row['tier']:<11}{row['email'] or row['user_id']}"
            for row in rows
        ),
    ]


async def list_announcements(session: Session) -> list[str]:
    """What is paused, and what users are shown."""
    state = await session.read("list_operations", "announcements")
    paused = [f"the chat since {moment(state['chat_paused_at'])}"] if state["chat_paused_at"] else []
    paused += [f"provider {provider}" for provider in state["paused_providers"]]
    paused += [f"sign-ups since {moment(state['sign_ups_paused_at'])}"] if state["sign_ups_paused_at"] else []
    return [
        *section("Paused", paused, "nothing"),
        *section(
            "Announcements",
            [
                f"{one['id']}  {one['kind']}, from {moment(one['starts_at'])} to "
                f"{moment(one['ends_at'], 'its end by an operator')}: {one['en']} / {one['fr']}"
                for one in state["announcements"]
            ],
        ),
    ]


async def announce(session: Session, en: str, fr: str, starts: str | None, ends: str | None, reason: str) -> list[str]:
    """Show users a notice."""
    params = {"p_en": en, "p_fr": fr, "p_starts_at": starts, "p_ends_at": ends}
    await session.change("announce", reason, **params)
    return ["announced", *await list_announcements(session)]


async def end_announcement(session: Session, announcement_id: str, reason: str) -> list[str]:
    """Stop showing a notice."""
    await session.change("end_announcement", reason, p_id=announcement_id)
    return ["ended", *await list_announcements(session)]


async def pause(session: Session, what: str, provider: str | None, en: str, fr: str, reason: str) -> list[str]:
    """Pause something until `resume`, and show users why."""
    params = {"p_kind": PAUSES[what], "p_provider": provider, "p_en": en, "p_fr": fr}
    await session.change("pause_service", reason, **params)
    return ["paused", *await list_announcements(session)]


async def resume(session: Session, what: str, provider: str | None, reason: str) -> list[str]:
    """End a pause."""
    await session.change("resume_service", reason, p_kind=PAUSES[what], p_provider=provider)
    return ["resumed", *await list_announcements(session)]


async def list_models(session: Session) -> list[str]:
    """The models of each plan, the default first."""
    state = await session.read("list_operations", "plans")
    lines = []
    for plan in state["plans"]:
        for kind, name in (("", "models"), (", further ones on an own key", "own_key_models")):
            lines += [
                f"{plan['tier']}, {provider}{kind}: {', '.join(models)}"
                for provider, models in plan[name].items()
                if models or not kind
            ]
    return lines


async def set_models(
    session: Session, tier: str, provider: str, models: Sequence[str], reason: str, *, is_own_key: bool
) -> list[str]:
    """Set the models of a plan at a provider, the default first."""
    if not models and not is_own_key:
        raise SupportError("Name at least one model. To stop using a provider: `pause provider`.")
    if len(set(models)) < len(models):
        raise SupportError("A model is named twice.")
    plans = (await session.read("list_operations", "plans"))["plans"]
    (limit,) = (Decimal(plan["query_cost_limit_usd"]) for plan in plans if plan["tier"] == tier)
    for model in models:
        if found := model_prices.problem(provider, model, None if is_own_key else limit):
            raise SupportError(found)
    params = {"p_tier": tier, "p_provider": provider, "p_models": list(models), "p_is_own_key": is_own_key}
    return ["models set", *changes(await session.change("set_models", reason, **params), session.currency)]
