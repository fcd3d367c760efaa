"""What operators change: recorded once with the reason, whatever the user does at Stripe."""

import json
import uuid
from typing import Any

import psycopg
import pytest

from tests.conftest import Connect, new_user
from tests.sql.billing import settle_overage, violations
from tests.sql.metering import Db, action, admit, at, counters, key, ledger, pack, release, settle, turn, value

NOON = "2026-03-10T12:00Z"


def actions(db: Db) -> list[dict[str, Any]]:
    """The recorded actions, oldest first."""
    return db.execute("select * from public.operator_actions order by created_at, id").fetchall()


def credit_back(db: Db, query_id: str, an_action: str | None = None) -> dict[str, Any]:
    """Calls credit_back."""
    done: dict[str, Any] = value(db, "select public.credit_back(%s, %s)", query_id, an_action or action())
    return done


def sign_up(db: Db, email: str) -> str:
    """A new user with this address."""
    user: str = value(db, "insert into auth.users (id, email) values (gen_random_uuid(), %s) returning id::text", email)
    return user


def charged(db: Db, user: str, **more: Any) -> str:
    """A query that was answered. Returns its id."""
    hold: str = admit(db, user, **more)["hold_id"]
    settle(db, hold)
    return hold


def test_a_block_survives_deletion_and_a_new_sign_up(db: Db) -> None:
    user = sign_up(db, "Spam@Example.test")
    value(db, "select public.block_user(%s, %s)", user, action("Spam"))
    db.execute("delete from auth.users where id = %s", (user,))
    again, other = sign_up(db, "spam@example.test"), sign_up(db, "else@example.test")
    blocked = "select blocked_at is not null from public.user_subscriptions where user_id = %s"
    assert (value(db, blocked, again), value(db, blocked, other)) == (True, False)
    with pytest.raises(psycopg.Error, match="blocked"):
        admit(db, again)
    value(db, "select public.unblock_user(%s, %s)", again, action("Paid"))
    db.execute("delete from auth.users where id = %s", (again,))
    assert value(db, blocked, sign_up(db, "spam@example.test")) is False


def test_every_id_of_a_refused_request_is_found(db: Db) -> None:
    """A user who sends a message again is shown another id each time."""
    user = new_user(db, "free", lifetime_used=10)
    ids = [admit(db, user, "r1")["hold_id"] for _ in range(3)]
    assert len({*ids}) == 3
    for an_id in ids:
        (found,) = value(db, "select public.find_users(%s)", an_id)
        assert found["id"] == user
        (refusal,) = value(db, "select public.find_queries(%s, %s)", user, an_id)
        assert (refusal["is_exact"], refusal["decision"]) == (True, "refused")


@pytest.mark.parametrize(
    ("tier", "change"),
    [
        ("usage_only", "update public.credit_packs set is_frozen = true where user_id = %s"),
        ("usage_only", "update public.credit_packs set expires_at = '2026-03-09Z' where user_id = %s"),
        ("basic", "update public.user_subscriptions set tier = 'pro' where user_id = %s"),
        ("free", "update public.user_subscriptions set tier = 'usage_only' where user_id = %s"),
    ],
    ids=["frozen pack", "expired pack", "another plan", "no free plan any more"],
)
def test_what_cannot_be_used_any_more_is_reported(db: Db, tier: str, change: str) -> None:
    at(db, NOON)
    user = new_user(db, tier)
    if tier == "usage_only":
        pack(db, user, 3)
    query, other = charged(db, user), charged(db, user)
    assert credit_back(db, other)["after"]["is_usable"] is True
    db.execute(change.encode(), (user,))
    assert credit_back(db, query)["after"]["is_usable"] is False


# Actions -------------------------------------------------------------------------------------------------------------


def test_a_repeated_action_changes_nothing_again(db: Db) -> None:
    """A lost response is requested again with the same id."""
    user, grant = new_user(db, "basic"), action("Apology")
    first, second = (value(db, "select public.grant_credits(%s, 5, null, %s)", user, grant) for _ in range(2))
    assert first == second
    assert value(db, "select sum(credits_remaining) from public.credit_packs") == 5
    (row,) = actions(db)
    assert (row["operator"], row["action"], row["reason"], str(row["subject_user_id"])) == (
        "tests", "grant", "Apology", user,
    )  # fmt: skip


@pytest.mark.parametrize(
    "change",
    [
        "update public.operator_actions set reason = 'x'",
        "update public.operator_actions set subject_user_id = null",
        "delete from public.operator_actions",
        "truncate public.operator_actions",
    ],
)
def test_actions_are_append_only(db: Db, change: str) -> None:
    value(db, "select public.block_user(%s, %s)", new_user(db), action())
    with pytest.raises(psycopg.errors.InsufficientPrivilege, match="never changed or deleted"):
        db.execute(change.encode())


@pytest.mark.parametrize("blank", ["", "  ", "\n\t"])
def test_an_action_needs_words(db: Db, blank: str) -> None:
    """A reason, an operator, and sentences for users."""
    user = new_user(db)
    unnamed = json.dumps({**json.loads(action()), "operator": blank})
    for an_action in (action(blank), unnamed):
        with pytest.raises(psycopg.errors.CheckViolation):
            value(db, "select public.block_user(%s, %s)", user, an_action)
    for sentences in ((blank, "fr"), ("en", blank)):
        with pytest.raises(psycopg.errors.CheckViolation):
            value(db, "select public.announce(%s, %s, null, null, %s)", *sentences, action())
    assert (counters(db, user)["blocked_at"], actions(db)) == (None, [])


def test_a_deleted_user_leaves_their_actions(db: Db) -> None:
    """Who did what kind of thing and when stays; the user, the reason and the values go."""
    user = new_user(db)
    value(db, "select public.block_user(%s, %s)", user, action("Ada wrote to us"))
    db.execute("delete from auth.users where id = %s", (user,))
    (row,) = actions(db)
    assert (row["action"], row["operator"], row["subject_user_id"]) == ("block", "tests", None)
    assert (row["reason"], row["before"], row["after"]) == ("The user was deleted.", {}, {})


# Users ---------------------------------------------------------------------------------------------------------------


def test_a_block_outlives_what_stripe_says(db: Db) -> None:
    """apply_customer writes other columns. The running answer is stopped."""
    user = new_user(db, "basic", stripe_customer_id="cus_1")
    hold = admit(db, user)["hold_id"]
    value(db, "select public.block_user(%s, %s)", user, action("Fraud"))
    assert value(db, "select stop_requested from public.query_holds where id = %s", hold) is True
    state = {"id": "sub_1", "tier": "pro", "paid_tiers": [], "status": "active", "period_start": None,
             "period_end": None}  # fmt: skip
    value(db, "select public.apply_customer('cus_1', 5, false, %s)", json.dumps(state))
    row = counters(db, user)
    assert (row["tier"], row["blocked_reason"], row["blocked_at"] is not None) == ("pro", "Fraud", True)
    value(db, "select public.unblock_user(%s, %s)", user, action("A mistake"))
    assert counters(db, user)["blocked_at"] is None
    assert [row["action"] for row in actions(db)] == ["block", "unblock"]


def test_limits_apply_at_once_and_return_to_the_plan(db: Db) -> None:
    at(db, NOON)
    user = new_user(db, "basic")
    done = value(db, "select public.set_limits(%s, %s, %s)", user, '{"daily_quota": 1}', action())
    assert (done["before"]["daily_quota"], done["after"]["daily_quota"]) == (None, 1)
    charged(db, user)
    assert admit(db, user)["decision"] == "refused"
    value(db, "select public.set_limits(%s, %s, %s)", user, '{"daily_quota": null}', action())
    assert admit(db, user)["funding"] == "included"


def test_a_user_cannot_pass_the_ceiling_of_overage(db: Db, connect: Connect) -> None:
    user = new_user(db, "basic", stripe_subscription_id="sub_1")
    value(db, "select public.set_limits(%s, %s, %s)", user, '{"overage_ceiling_usd": "5"}', action())
    assert counters(db, user)["overage_limit"] == 5  # the plan has 10
    me = connect("authenticated", user)
    for wanted, limit in (("100", 5), ("null", 5), ("2", 2)):
        summary = value(me, "select public.set_overage(%s)", f'{{"overage_limit_usd": {wanted}}}')
        assert float(summary["limit_usd"]) == limit
    value(db, "select public.set_limits(%s, %s, %s)", user, '{"overage_ceiling_usd": null}', action())
    assert float(value(me, "select public.set_overage(%s)", '{"overage_limit_usd": 100}')["limit_usd"]) == 10
    value(db, "select public.set_limits(%s, %s, %s)", user, '{"overage_limit_usd": 100}', action())
    assert counters(db, user)["overage_limit"] == 100


def test_granted_credits_are_a_pack_without_a_payment(db: Db) -> None:
    """A free user becomes usage_only, because free spends no credits."""
    user = new_user(db)
    done = value(db, "select public.grant_credits(%s, 2, '2100-01-01Z', %s)", user, action())
    assert (done["before"]["tier"], done["after"]["tier"]) == ("free", "usage_only")
    assert admit(db, user)["funding"] == "credit"
    assert violations(db) == []


# Charges -------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("funding", ["included", "lifetime", "credit", "overage"])
def test_a_charge_returns_to_what_paid(db: Db, funding: str) -> None:
    """Once. The ledger row stays, with a reversing entry."""
    at(db, NOON)
    user = new_user(
        db, "free" if funding == "lifetime" else "basic", stripe_subscription_id="sub_1",
        daily_quota=15 if funding == "included" else 0,
    )  # fmt: skip
    if funding == "credit":
        pack(db, user, 1)
    before = counters(db, user)
    query = charged(db, user)
    done = credit_back(db, query)
    assert done["before"]["funding"] == funding.replace("lifetime", "included")
    assert done["after"] == {"is_usable": True, "invoice_item_id": None, "cents": 0}
    after = counters(db, user)
    for counter in ("quota_used", "lifetime_used", "current_overage_amount"):
        assert after[counter] == before[counter]
    (row,) = ledger(db, user)
    assert (row["is_charged"], row["reversed_at"] is not None) == (True, True)
    assert value(db, "select query_id::text from public.usage_reversals") == query
    assert "refused" in credit_back(db, query)
    assert admit(db, user)["funding"] == funding.replace("lifetime", "included")
    assert violations(db) == []


def test_what_was_not_charged_cannot_be_given_back(db: Db) -> None:
    """A failed query and one of an own key are refused, an unknown one is an error."""
    user = new_user(db, "basic")
    failed = admit(db, user)["hold_id"]
    release(db, failed)
    key(db, user, "anthropic")
    own_key = charged(db, user)
    for query in (failed, own_key):
        assert credit_back(db, query)["refused"] == "Nothing was charged for this query."
    with pytest.raises(psycopg.Error) as caught:
        credit_back(db, str(uuid.uuid4()))
    assert caught.value.sqlstate == "NTFND"
    assert actions(db) == []


def test_a_charge_of_an_earlier_day_is_no_longer_usable(db: Db) -> None:
    at(db, NOON)
    user = new_user(db, "basic", quota_date="2026-03-10")
    query = charged(db, user)
    at(db, "2026-03-11T12:00Z")
    assert credit_back(db, query)["after"]["is_usable"] is False
    assert violations(db) == []


def test_unbilled_overage_that_is_given_back_is_never_billed(db: Db) -> None:
    at(db, NOON)
    user = new_user(
        db, "basic", stripe_customer_id="cus_1", stripe_subscription_id="sub_1", daily_quota=0,
        overage_period_start="2026-03-01Z",
    )  # fmt: skip
    queries = [charged(db, user) for _ in range(3)]
    credit_back(db, queries[0])
    (item,) = value(db, "select public.claim_overage(%s, 'infinity', '{}')", user)
    assert (item["queries"], item["amount_cents"]) == (2, 5)
    assert violations(db) == []


def test_billed_overage_gives_back_its_share_of_the_rounded_item(db: Db) -> None:
    """Of 7 cents for three queries: 2, 3 and 2 cents. The sum is what was billed."""
    at(db, NOON)
    user = new_user(
        db, "basic", stripe_customer_id="cus_1", stripe_subscription_id="sub_1", daily_quota=0,
        overage_period_start="2026-03-01Z",
    )  # fmt: skip
    queries = [charged(db, user) for _ in range(3)]
    (item,) = value(db, "select public.claim_overage(%s, 'infinity', '{}')", user)
    assert item["amount_cents"] == 7
    value(db, "select public.place_overage(%s, 'ii_1', 'in_1')", item["id"])
    settle_overage(db, user, {item["id"]: "paid"})
    given = [credit_back(db, query)["after"]["cents"] for query in queries]
    assert given == [2, 3, 2]
    items = value(db, "select public.claim_overage(%s, 'infinity', '{}')", user)
    assert sorted((one["queries"], one["amount_cents"]) for one in items) == [(-1, -3), (-1, -2), (-1, -2)]
    assert violations(db) == []
    db.execute("update public.overage_invoice_items set gives_back_cents = 1 where gives_back_cents = 3")
    assert {row[0] for row in violations(db)} == {"I7"}


def test_overage_on_an_invoice_is_given_back_after_the_payment(db: Db) -> None:
    at(db, NOON)
    user = new_user(
        db, "basic", stripe_customer_id="cus_1", stripe_subscription_id="sub_1", daily_quota=0,
        overage_period_start="2026-03-01Z",
    )  # fmt: skip
    query = charged(db, user)
    (item,) = value(db, "select public.claim_overage(%s, 'infinity', '{}')", user)
    for invoice in (None, "in_1"):
        value(db, "select public.place_overage(%s, 'ii_1', %s)", item["id"], invoice)
        assert credit_back(db, query)["refused"].startswith("The invoice of this query is not paid yet.")
    settle_overage(db, user, {item["id"]: "void"})
    assert credit_back(db, query)["refused"].startswith("The invoice of this query was voided")
    settle_overage(db, user, {item["id"]: "paid"})
    assert credit_back(db, query)["after"]["cents"] == 2
    assert violations(db) == []


# Everyone ------------------------------------------------------------------------------------------------------------


def pause(db: Db, kind: str, provider: str | None = None) -> None:
    value(db, "select public.pause_service(%s, %s, 'Back soon.', 'De retour bientôt.', %s)", kind, provider, action())


def resume(db: Db, kind: str, provider: str | None = None) -> None:
    value(db, "select public.resume_service(%s, %s, %s)", kind, provider, action())


def paused_reasons(db: Db, connect: Connect, user: str) -> list[str]:
    """GET /usage and the command show. Neither says that something pays for the next query."""
    usage = value(connect("authenticated", user), "select public.usage_summary()")
    shown = value(db, "select public.support_summary(%s) -> 'next'", user)
    for state in (usage, shown):
        assert (state["can_query"], state["reason"], state["resets_at"]) == (False, "Chat paused", None)
    return [usage["reason_code"], shown["reason_code"]]


@pytest.mark.parametrize("tier", ["free", "basic", "usage_only"])
def test_a_paused_chat_admits_no_query(db: Db, connect: Connect, tier: str) -> None:
    """Also not on the fast path of admission. The refusal has the operator's sentence."""
    user = new_user(db, tier)
    pack(db, user, 5)
    charged(db, user)
    pause(db, "chat_paused")
    refused = admit(db, user)
    assert (refused["decision"], refused["reason"]) == ("refused", "Chat paused")
    assert refused["sentence"] == {"en": "Back soon.", "fr": "De retour bientôt."}
    assert paused_reasons(db, connect, user) == ["chat_paused"] * 2
    resume(db, "chat_paused")
    assert admit(db, user)["decision"] == "admitted"


def test_a_paused_provider_is_replaced_or_refused(db: Db) -> None:
    """The default becomes the other provider. A failover does not see the models of the paused one."""
    user = new_user(db, "basic")
    charged(db, user)
    pause(db, "provider_paused", "anthropic")
    admitted = admit(db, user)
    assert (admitted["provider"], list(admitted["models"])) == ("openai", ["openai"])
    refused = admit(db, user, p_provider="anthropic")
    assert (refused["reason"], refused["sentence"]["en"]) == ("Provider paused", "Back soon.")
    settle(db, admitted["hold_id"])
    key(db, user, "anthropic")
    assert admit(db, user)["reason"] == "Provider paused"  # not charged to the plan instead
    key(db, user, "openai")
    assert admit(db, user)["funding"] == "byok"
    resume(db, "provider_paused", "anthropic")
    assert admit(db, user, p_provider="anthropic")["provider"] == "anthropic"


def test_a_refused_provider_or_model_counts_nothing(db: Db) -> None:
    """Also on the fast path of admission."""
    user = new_user(db, "basic")
    charged(db, user)
    with pytest.raises(psycopg.Error) as caught:
        admit(db, user, p_provider="mistral")
    assert caught.value.sqlstate == "NOMDL"
    pause(db, "provider_paused", "openai")
    refused = [admit(db, user, **asked)["reason"] for asked in ({"p_provider": "openai"}, {"p_model": "gpt-6-luna"})]
    assert refused == ["Provider paused"] * 2
    assert (counters(db, user)["quota_used"], violations(db)) == (1, [])


def test_both_providers_paused_pause_the_chat(db: Db, connect: Connect) -> None:
    """With the sentence of the provider that was asked."""
    user = new_user(db, "basic")
    key(db, user, "openai")
    for provider in ("anthropic", "openai"):
        sentence = f"{provider} is down."
        value(db, "select public.pause_service('provider_paused', %s, %s, 'fr', %s)", provider, sentence, action())
    for asked in ("anthropic", "openai"):
        refused = admit(db, user, p_provider=asked)
        assert (refused["reason"], refused["sentence"]["en"]) == ("Chat paused", f"{asked} is down.")
    assert paused_reasons(db, connect, user) == ["chat_paused"] * 2
    value(db, "select public.block_user(%s, %s)", user, action())
    assert value(db, "select reason from public.can_user_query(%s)", user) == "Account blocked"


def test_paused_sign_ups_create_no_user(db: Db) -> None:
    pause(db, "sign_ups_paused")
    with pytest.raises(psycopg.Error) as caught:
        new_user(db)
    assert caught.value.sqlstate == "PAUSE"
    ask = "select public.before_user_created(%s) -> 'error' ->> 'message'"
    for metadata, sentence in (({}, "Back soon."), ({"language": "fr"}, "De retour bientôt.")):
        assert value(db, ask, json.dumps({"user": {"user_metadata": metadata}})) == sentence
    resume(db, "sign_ups_paused")
    assert value(db, ask, "{}") is None
    new_user(db)


def test_users_see_current_announcements_only(db: Db, connect: Connect) -> None:
    me = connect("authenticated", new_user(db))
    announce = "select public.announce(%s, 'fr', %s, %s, %s)"
    for text, starts, ends in (("now", None, None), ("over", None, "2100-01-01Z"), ("later", "2100-01-01Z", None)):
        value(db, announce, text, starts, ends, action())
    db.execute("update public.announcements set starts_at = '2020-01-01', ends_at = '2020-01-02' where en = 'over'")
    pause(db, "chat_paused")
    shown = [row["en"] for row in me.execute("select en from public.announcements order by created_at")]
    assert shown == ["now", "Back soon."]
    for row in db.execute("select id from public.announcements where kind = 'notice' and en = 'now'").fetchall():
        value(db, "select public.end_announcement(%s, %s)", row["id"], action())
    resume(db, "chat_paused")
    assert me.execute("select en from public.announcements").fetchall() == []


def test_new_models_of_a_plan_apply_to_the_next_query(db: Db) -> None:
    user = new_user(db, "basic")
    done = value(db, "select public.set_models('basic', 'openai', %s, false, %s)", ["gpt-7", "gpt-6-luna"], action())
    assert done["before"]["models"] == ["gpt-6-luna", "gpt-6-sol"]
    assert admit(db, user, p_provider="openai")["model"] == "gpt-7"


@pytest.mark.parametrize("column", ["models", "own_key_models"])
@pytest.mark.parametrize("names", ["[null]", "[1, {}]", '[""]', '[["gpt-7"]]', '"gpt-7"'])
def test_models_of_plans_are_names(db: Db, column: str, names: str) -> None:
    with pytest.raises(psycopg.errors.CheckViolation):
        db.execute(f"update public.plans set {column} = jsonb_set({column}, '{{openai}}', %s)".encode(), (names,))


def test_no_amount_is_not_a_number(db: Db) -> None:
    with pytest.raises(psycopg.errors.CheckViolation):
        new_user(db, "basic", overage_limit="NaN")


# Reads ---------------------------------------------------------------------------------------------------------------


def test_every_id_leads_to_the_query(db: Db) -> None:
    """The query, which is also the request and the answer, the user's own message, and an edit of it."""
    user = new_user(db, "basic")
    chat = str(uuid.uuid4())
    hold = admit(db, user, "m1", p_chat_id=chat)["hold_id"]
    settle(db, hold, turn=turn(chat, "m1", hold))
    question = value(db, "select id::text from public.messages where role = 'user'")
    running = admit(db, user, "edit:m1:abc", p_chat_id=str(uuid.uuid4()))["hold_id"]
    for an_id in (hold, hold.replace("-", ""), question, "m1"):
        found = value(db, "select public.find_queries(%s, %s)", user, an_id)
        assert found[0]["id"] == hold, an_id
        assert [one["id"] for one in value(db, "select public.find_users(%s)", an_id)] == [user] * (an_id != "m1")
    assert [one["id"] for one in value(db, "select public.find_queries(%s, 'm1')", user)] == [hold, running]
    assert value(db, "select public.find_queries(%s, %s)", new_user(db), hold) == []


def test_an_exact_id_finds_no_other_query(db: Db) -> None:
    """Two chats have a message m1, and the answer in one of them was regenerated."""
    user = new_user(db, "basic")
    chats = [str(uuid.uuid4()) for _ in range(2)]
    one, two = (admit(db, user, "m1", p_chat_id=chat)["hold_id"] for chat in chats)
    for query, chat in ((one, chats[0]), (two, chats[1])):
        settle(db, query, turn=turn(chat, "m1", query))
    again = charged(db, user, request_id=f"regenerate:{one}:m1", p_chat_id=chats[0])
    question = value(
        db, "select id::text from public.messages where role = 'user' and conversation_id = %s::uuid", chats[0]
    )
    for an_id, ids in ((one, [one]), (again, [again]), (question, [one, again]), ("m1", [one, two, again])):
        found = value(db, "select public.find_queries(%s, %s)", user, an_id)
        assert [query["id"] for query in found] == ids
        assert [query["is_exact"] for query in found] == [an_id == query for query in ids]


def test_the_costliest_users_come_first(db: Db) -> None:
    at(db, NOON)
    cheap, dear, own_key = new_user(db, "basic"), new_user(db, "basic"), new_user(db, "basic")
    key(db, own_key, "anthropic")
    for user, cost in ((cheap, "0.001"), (dear, "0.01"), (own_key, "1")):
        settle(db, admit(db, user)["hold_id"], usage=json.dumps({"cost_usd": cost}))
    rows = db.execute("select user_id::text, cost_usd from public.costliest_users(7, 2)").fetchall()
    assert [tuple(row.values()) for row in rows] == [(dear, "0.010000"), (cheap, "0.001000")]
    at(db, "2026-03-18T12:00Z")
    assert db.execute("select from public.costliest_users(7, 2)").fetchall() == []
