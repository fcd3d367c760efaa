-- The types of values that several tables share, with their limits.

do $$
begin
  create domain public.usd as numeric(14,6) constraint usd_is_not_negative check (value >= 0 and value <> 'NaN');
  create domain public.currency as text constraint currency_is_sold_in check (value in ('cad', 'usd'));
  create domain public.quantity as integer constraint quantity_is_not_negative check (value >= 0);
  create domain public.request_key as text
    constraint request_key_is_bounded check (octet_length(value) between 1 and 800);
  create domain public.subscription_status as text
    constraint subscription_status_is_known check (value in ('active', 'canceled', 'suspended', 'past_due'));
  create domain public.query_funding as text
    constraint query_funding_is_known check (value in ('byok', 'included', 'credit', 'overage'));
  create domain public.query_outcome as text
    constraint query_outcome_is_known check (value in ('answered', 'stopped', 'failed', 'lost'));
  create domain public.finish_reason as text
    constraint finish_reason_is_known check (value in ('stop', 'length', 'content-filter', 'stopped', 'limit'));
  create domain public.client_id as text
    constraint client_id_is_bounded check (char_length(value) between 1 and 128);
  create domain public.short_text as text
    constraint short_text_is_bounded check (char_length(value) <= 200);
  create domain public.conversation_context as text
    constraint conversation_context_is_known check (
      value in ('general', 'mp', 'bill', 'dashboard', 'lobbying', 'spending'));
  create domain public.message_role as text
    constraint message_role_is_known check (value in ('user', 'assistant', 'system'));
  create domain public.message_position as integer constraint message_position_is_positive check (value > 0);
  create domain public.token_count as bigint constraint token_count_is_not_negative check (value >= 0);
exception when duplicate_object then
  null; -- This file has run before.
end
$$;
comment on domain public.usd is
  'An amount, never negative: a cost in US dollars, or a price in the currency of all prices (settings). Six '
  'decimals hold a tenth of a thousandth of a cent, so sums are exact.';
comment on domain public.currency is
  'A currency of our prices, as Stripe writes it. Each has cents, and at Stripe a smallest charge of 50 of them.';
comment on domain public.quantity is 'A count, never negative.';
comment on domain public.request_key is 'The idempotency key of a request.';
comment on domain public.subscription_status is 'The status of a subscription.';
comment on domain public.query_funding is 'What pays for a query.';
comment on domain public.query_outcome is 'How a query ended. private.is_charged() decides which outcomes are charged.';

comment on domain public.finish_reason is
  'Why an answer ended: the model finished, reached its own limit of length or was cut by its provider''s filter, the '
  'user stopped it, or it reached a limit of ours (cost, time).';
comment on domain public.client_id is 'An id that a client chose, for a chat or a message.';
comment on domain public.short_text is 'A text of at most 200 characters.';
comment on domain public.conversation_context is 'The kind of page that a conversation is about.';
comment on domain public.message_role is 'The author of a message.';
comment on domain public.message_position is 'The place of a message in its conversation, from 1.';
comment on domain public.token_count is 'A sum of tokens, never negative.';


create or replace function private.is_charged(p_outcome text) returns boolean
language plpgsql immutable set search_path = ''
as $$
begin
  return p_outcome in ('answered', 'stopped');
end
$$;
comment on function private.is_charged(text) is
  'Whether an outcome is charged: answered and stopped are, failed and lost are not. The column usage_logs.is_charged '
  'has the result, and reconcile compares it.';
revoke all on function private.is_charged(text) from public, anon, authenticated, service_role;
