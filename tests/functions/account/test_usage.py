"""GET /usage: what it adds to usage_summary, in the language of the request."""

import uuid
from collections.abc import Callable

import pytest

from infra.local.stack import Stack
from tests.api import Api
from tests.conftest import Person, lasting_connection


@pytest.mark.parametrize(
    ("language", "reason", "alert", "notice"),
    [
        ("en", "Your account is blocked. Contact support.", "You have used all your included queries.", "Slow today."),
        (
            "fr-CA",
            "Votre compte est bloqué. Communiquez avec le soutien.",
            "Vous avez utilisé toutes vos requêtes incluses.",
            "Lent aujourd’hui.",
        ),
    ],
)
def test_usage_explains_itself_in_the_users_language(
    api: Api, stack: Stack, person: Callable[..., Person], language: str, reason: str, alert: str, notice: str
) -> None:
    user = person("free", lifetime_used=10, blocked_at="2026-01-01Z", blocked_reason="Abuse")
    announcement = str(uuid.uuid4())
    db = lasting_connection(stack)
    db.execute(
        "insert into public.announcements (id, kind, en, fr, starts_at)"
        " values (%s, 'notice', 'Slow today.', 'Lent aujourd’hui.', now() - interval '1 minute')",
        (announcement,),
    )
    try:
        usage = api.http.get("/usage", headers={**user.headers, "accept-language": language}).json()
    finally:
        db.execute("delete from public.announcements where id = %s", (announcement,))
    assert (usage["can_query"], usage["reason_code"], usage["action"], usage["message"]) == (
        *(False, "account_blocked", "contact_support"),
        reason,
    )
    assert usage["alerts"] == [
        {"kind": "included", "percent": 100, "reason_code": "quota_used", "message": alert, "action": "none"}
    ]
    assert [one["message"] for one in usage["announcements"]] == [notice]
    assert usage["announcements"][0].keys() == {"kind", "provider", "message", "starts_at", "ends_at"}


def test_every_alert_has_a_reason(api: Api, person: Callable[..., Person]) -> None:
    user = person("pro", quota_used=32, overage_limit="1", current_overage_amount="0.99")
    usage = api.usage(user)
    assert {alert["reason_code"] for alert in usage["alerts"]} == {"quota_nearly_used", "overage_used"}
    assert (usage["reason_code"], usage["action"]) == ("daily_quota", "none")
    assert usage["models"]["anthropic"]
