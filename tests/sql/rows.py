"""A user with at least one row in every table that has rows of users."""

import uuid
from dataclasses import dataclass
from typing import Any

import psycopg

from tests.conftest import new_user


@dataclass(frozen=True, slots=True)
class UserWithRows:
    """Ids of the user and of some of their rows."""

    id: str
    conversation_id: str
    credit_pack_id: str


def user_with_rows_in_every_table(db: psycopg.Connection[Any]) -> UserWithRows:
    """Creates a user with a credit pack, a key, a shared conversation, a rating, a bill, a running query and a
    refusal."""
    user_id = new_user(db, "pro")
    pack_id, conversation_id, message_id, item_id = (str(uuid.uuid4()) for _ in range(4))
    db.execute(
        "insert into public.credit_packs (id, user_id, credits_purchased, credits_remaining, credits_used, price_paid) "
        "values (%s, %s, 7, 5, 2, 1)",
        (pack_id, user_id),
    )
    db.execute(
        "insert into public.user_api_keys "
        "(user_id, provider, encrypted_key, encryption_iv, encryption_tag, encryption_key_id, hint) "
        "values (%s, 'openai', %s, %s, %s, 'k1', '…1234')",
        (user_id, b"ciphertext", bytes(12), bytes(16)),
    )
    db.execute(
        "insert into public.conversations (id, user_id, title, message_count, expires_at) "
        "values (%s, %s, 'Hansard', 2, private.clock() + interval '90 days')",
        (conversation_id, user_id),
    )
    db.execute(
        "insert into public.messages (id, conversation_id, position, role, content) "
        "values (gen_random_uuid(), %(conversation)s, 1, 'user', 'Who?'), "
        "(%(id)s, %(conversation)s, 2, 'assistant', 'She.')",
        {"conversation": conversation_id, "id": message_id},
    )
    db.execute(
        "insert into public.usage_logs (id, user_id, request_id, conversation_id, message_id, tier, funding, outcome, "
        "query_date, query_timestamp, period_start, credit_pack_id, quota_used, quota_limit, overage_used, "
        "tokens_output, tokens_total, provider, model, used_byo_key, is_charged, counted_against_quota, was_overage) "
        "values (gen_random_uuid(), %s, 'first', %s, %s, 'pro', 'credit', 'answered', "
        "(private.clock() at time zone 'UTC')::date, private.clock(), date_trunc('month', private.clock(), 'UTC'), %s, "
        "40, 40, 0, 7, 7, 'openai', 'm', false, true, false, false)",
        (user_id, conversation_id, message_id, pack_id),
    )
    db.execute(
        "insert into public.pending_turns (id, user_id, conversation_id, conversation_created_at, expires_at, "
        "is_certain, position, turn) select u.id, u.user_id, c.id, c.created_at, c.expires_at, true, 9, '{}' "
        "from public.usage_logs u join public.conversations c on c.id = u.conversation_id where u.user_id = %s",
        (user_id,),
    )
    db.execute(
        "insert into public.overage_invoice_items (id, user_id, period_start, queries, unit_price_usd, target) "
        "values (%s, %s, date_trunc('month', private.clock(), 'UTC') - interval '1 month', 1, 0.025, '{}')",
        (item_id, user_id),
    )
    db.execute(
        "insert into public.usage_logs (id, user_id, request_id, conversation_id, message_id, tier, funding, outcome, "
        "query_date, query_timestamp, period_start, quota_used, quota_limit, overage_used, provider, model, "
        "used_byo_key, is_charged, counted_against_quota, was_overage, overage_charge, invoice_item_id) "
        "select gen_random_uuid(), user_id, 'billed', %s, %s, 'pro', 'overage', 'answered', period_start::date, "
        "period_start, period_start, 40, 40, 0, 'openai', 'm', false, true, false, true, unit_price_usd, id "
        "from public.overage_invoice_items where id = %s",
        (conversation_id, message_id, item_id),
    )
    db.execute(
        "with reversed as (insert into public.usage_logs (id, user_id, request_id, tier, funding, outcome, query_date, "
        "query_timestamp, period_start, quota_used, quota_limit, overage_used, provider, model, used_byo_key, "
        "is_charged, counted_against_quota, was_overage, reversed_at) "
        "select gen_random_uuid(), user_id, 'given back', 'pro', 'included', 'answered', period_start::date, "
        "period_start, period_start, 0, 40, 0, 'openai', 'm', false, true, true, false, private.clock() "
        "from public.overage_invoice_items where id = %s returning id, user_id, funding, overage_charge) "
        "insert into public.usage_reversals (id, user_id, query_id, funding, overage_charge) "
        "select gen_random_uuid(), user_id, id, funding, overage_charge from reversed",
        (item_id,),
    )
    db.execute(
        "insert into public.query_holds (id, user_id, request_id, tier, funding, query_date, credit_pack_id, "
        "period_start, quota_used, quota_limit, overage_used, provider, model, expires_at) "
        "values (gen_random_uuid(), %s, 'second', 'pro', 'credit', (private.clock() at time zone 'UTC')::date, %s, "
        "date_trunc('month', private.clock(), 'UTC'), 40, 40, 0, 'openai', 'm', "
        "private.clock() + interval '5 minutes')",
        (user_id, pack_id),
    )
    db.execute(
        "insert into public.query_refusals (id, created_at, user_id, request_id, reason, reason_code, "
        "requires_payment, tier, quota_used, quota_limit, overage_used) "
        "values (gen_random_uuid(), private.clock(), %s, 'third', 'Daily quota exceeded', 'daily_quota_used', false, "
        "'pro', 40, 40, 0)",
        (user_id,),
    )
    db.execute(
        "insert into public.message_feedback (user_id, query_id, rating, comment) "
        "select user_id, id, 'down', 'Wrong.' from public.usage_logs where user_id = %s and request_id = 'first'",
        (user_id,),
    )
    db.execute(
        "insert into public.shared_conversations (user_id, conversation_id, token, snapshot, expires_at) "
        "values (%s, %s, %s, '{}', private.clock() + interval '90 days')",
        (user_id, conversation_id, uuid.uuid4().hex),
    )
    return UserWithRows(user_id, conversation_id, pack_id)
