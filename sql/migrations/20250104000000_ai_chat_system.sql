-- The database of the AI chat: tables, row-level security, grants, metering, billing and scheduled jobs.
--
-- Generated from sql/schemas/ by `make migration`. Change the sources, not this file.
-- Run it with the Supabase CLI, paste it into the dashboard's SQL editor, or use psql: sql/README.md.
-- Running it again changes nothing.


-- ==== sql/schemas/00_private.sql

-- The schema `private`, and the helpers that tables need for their defaults and triggers.
--
-- Rules for every file in this folder:
-- * Every state change is a function, so no role is granted insert, update or delete on a table.
-- * Row-level security is forced, so it also applies to the tables' owner, unless that role bypasses row-level
--   security by its own attribute, as `postgres` does on Supabase.
-- * Limits on single values are domains (01_domains.sql). Postgres prepares a table's check constraints again for
--   every statement that writes to it, which costs more than the write. A domain's check is prepared once a connection.
-- * Every file can run again and then changes nothing.

do $$
begin
  if current_setting('server_version_num')::integer < 150000 then
    raise feature_not_supported
      using message = format('The database needs Postgres 15 or newer, not %s.', current_setting('server_version'));
  end if;
end
$$;


create schema if not exists private;
comment on schema private is 'Helpers of the functions in public. Never exposed over the Data API.';
revoke all on schema private from public;
-- can_user_query and usage_summary run with the rights of the caller, who therefore needs these helpers.
grant usage on schema private to authenticated, service_role;


create or replace function private.time_ordered_id() returns uuid
language plpgsql volatile set search_path = ''
as $$
begin
  -- Time-ordered ids keep the newest rows of an index on few pages. Random ids scatter them over all pages.
  -- https://www.rfc-editor.org/rfc/rfc9562#name-uuid-version-7
  -- PL/pgSQL, because Postgres plans a SQL function that it cannot inline again at every call.
  -- The last 19 digits of a random UUID, which are its variant and random bits.
  return (lpad(to_hex((date_part('epoch', clock_timestamp()) * 1000)::bigint), 12, '0') || '7'
          || substr(gen_random_uuid()::text, 16))::uuid;
end
$$;
comment on function private.time_ordered_id() is 'A UUID version 7: 48 bits of Unix milliseconds, then random bits.';
revoke all on function private.time_ordered_id() from public, anon, authenticated, service_role;


create or replace function private.clock() returns timestamptz
language plpgsql volatile set search_path = ''
as $$
begin
  -- Not now(): a transaction that waited for a lock past midnight must see the new day.
  return coalesce(nullif(current_setting('metering.now', true), '')::timestamptz, clock_timestamp());
end
$$;
comment on function private.clock() is
  'The current time for metering. Tests move it with the setting metering.now. No API request can set it.';
revoke all on function private.clock() from public, anon, authenticated, service_role;
grant execute on function private.clock() to authenticated, service_role;


create or replace function private.check_statement() returns boolean
language plpgsql stable set search_path = ''
as $$
begin
  -- PostgREST writes the filters `match` and `imatch` as these operators. Some regular expressions take seconds of CPU
  -- for a text of 200 characters.
  if position(' ~ ' in current_query()) > 0 or position(' ~* ' in current_query()) > 0 then
    raise insufficient_privilege using message = 'The Data API takes no regular expressions.';
  end if;
  -- PostgREST embeds a table with a lateral join. Embedded tables multiply: messages of conversations of messages. The
  -- arguments of a function are lateral, too, but after a comma.
  if current_query() ~ ' JOIN LATERAL \(.* JOIN LATERAL \(' then
    raise insufficient_privilege using message = 'The Data API embeds one table at most.';
  end if;
  return true;
end
$$;
comment on function private.check_statement() is
  'True, or 42501 if the statement has a regular expression or embeds more than one table. Every policy for users '
  'calls it, once a statement.';
revoke all on function private.check_statement() from public, anon, authenticated, service_role;
grant execute on function private.check_statement() to authenticated;


create or replace function private.set_updated_at() returns trigger
language plpgsql volatile set search_path = ''
as $$
begin
  new.updated_at := now();
  return new;
end
$$;
comment on function private.set_updated_at() is 'Trigger: sets updated_at when a row changes.';
revoke all on function private.set_updated_at() from public, anon, authenticated, service_role;


-- ==== sql/schemas/01_domains.sql

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


-- ==== sql/schemas/02_timeouts.sql

-- How long a statement of a visitor or a user may run in the Data API, whose filters and embedded resources are SQL
-- that anyone may write. The roles belong to the cluster, so a comparison of databases does not show this setting.

alter role anon set statement_timeout = '1s';
alter role authenticated set statement_timeout = '1s';
notify pgrst, 'reload config';


-- ==== sql/schemas/03_search.sql

-- The words of texts in English and French, for search without an extension.

create or replace function private.fold(p_text text) returns text
language plpgsql immutable set search_path = ''
as $$
begin
  -- Bill numbers become one word: "C-5" is c5. Everything else but letters and digits is a space, because Postgres's
  -- parser takes "energy/climate" for the name of a file. Accents are decomposed and removed: translate() is slow.
  return regexp_replace(
    regexp_replace(
      lower(regexp_replace(
        normalize(translate(replace(replace(p_text, 'œ', 'oe'), 'Œ', 'oe'), '‐‑–', '---'), NFD),
        U&'[\0300-\036f]+', '', 'g')),
      '\m([cs])-\s?(\d{1,4}[a-z]?)\M', '\1\2', 'g'),
    '[^a-z0-9]+', ' ', 'g');
end
$$;
comment on function private.fold(text) is
  'The text in lower case, without accents and punctuation; the number of a bill is one word.';
revoke all on function private.fold(text) from public, anon, authenticated, service_role;


create or replace function private.join_texts(p_texts text[]) returns text
language plpgsql immutable set search_path = ''
as $$
begin
  return array_to_string(p_texts, ' '); -- it is only stable, because of types whose output depends on settings
end
$$;
comment on function private.join_texts(text[]) is 'The texts with spaces between them.';
revoke all on function private.join_texts(text[]) from public, anon, authenticated, service_role;


create or replace function private.search_words(p_text text) returns tsvector
language plpgsql immutable set search_path = ''
as $$
begin
  return to_tsvector('pg_catalog.simple'::regconfig, private.fold(p_text));
end
$$;
comment on function private.search_words(text) is 'The words of a text in either language, without stemming.';
revoke all on function private.search_words(text) from public, anon, authenticated, service_role;


create or replace function private.query_words(p_text text) returns text[]
language plpgsql immutable set search_path = ''
as $$
begin
  return array(
    select word from unnest(string_to_array(private.fold(p_text), ' ')) with ordinality as words (word, place)
    where word <> '' and word <> all (array[
      'a', 'an', 'and', 'at', 'by', 'for', 'from', 'in', 'of', 'on', 'or', 'the', 'to', 'with',
      'au', 'aux', 'd', 'dans', 'de', 'des', 'du', 'en', 'et', 'l', 'la', 'le', 'les', 'ou', 'par', 'pour', 'sur', 'un',
      'une'])
    group by word order by min(place) limit 20);
end
$$;
comment on function private.query_words(text) is
  'The distinct words of a search, at most 20, without those that say nothing.';
revoke all on function private.query_words(text) from public, anon, authenticated, service_role;


create or replace function private.search_query(p_text text) returns tsquery
language plpgsql immutable set search_path = ''
as $$
begin
  -- A word of four letters and more also finds words that start with it: "pipeline" finds pipelines. Plurals find the
  -- singular: "traversiers" finds traversier, "ferries" and "ferry" find each other.
  return (
    select string_agg(
      case
        when word ~ '^[a-z]{4,}ies$' or word ~ '^[a-z]{3,}[^aeiou0-9]y$'
          then format('(%1$sy:* | %1$sie:*)', regexp_replace(word, '(ies|y)$', ''))
        when word ~ '^[a-z]{4,}[sx]$' and word !~ 'ss$' then left(word, -1) || ':*'
        when char_length(word) >= 4 then word || ':*'
        else word
      end, ' & ')
    from unnest(private.query_words(p_text)) word)::tsquery;
end
$$;
comment on function private.search_query(text) is 'Finds texts with all the words. Null where there is none.';
revoke all on function private.search_query(text) from public, anon, authenticated, service_role;


create or replace function private.bill_query(p_number text, p_titles text[]) returns tsquery
language plpgsql immutable set search_path = ''
as $$
declare
  v_number constant text := trim(private.fold(p_number));
  v_pairs text;
begin
  -- Numbers return in every session, so a text must also have two words of a title (or its only one).
  select string_agg(distinct pair, ' | ') into v_pairs
  from unnest(p_titles) title
  cross join lateral (
    select array(
      select word from unnest(private.query_words(title)) with ordinality as words (word, place)
      where char_length(word) >= 4 and word !~ '^\d+$' and word <> all (array[
        'acts', 'amend', 'amending', 'amendments', 'autres', 'bill', 'canada', 'canadian', 'canadienne', 'certain',
        'certaines', 'certains', 'concernant', 'consequential', 'edicting', 'edictant', 'enact', 'enacting', 'lois',
        'measures', 'mesures', 'modifiant', 'other', 'portant', 'projet', 'related', 'relation', 'respect',
        'respecting', 'visant', 'that', 'this', 'cette'])
      order by place limit 10) as found
  ) significant
  cross join lateral (
    select format('(%s & %s)', one, other) as pair
    from unnest(significant.found) one, unnest(significant.found) other where one < other
    union all
    select significant.found[1] where cardinality(significant.found) = 1
  ) pairs;
  return (v_number || coalesce(' & (' || v_pairs || ')', ''))::tsquery;
end
$$;
comment on function private.bill_query(text, text[]) is
  'Finds texts that name a bill: its number and two words of one of its titles. Of a bill without a title, the number.';
revoke all on function private.bill_query(text, text[]) from public, anon, authenticated, service_role;


create or replace function private.person_key(p_name text) returns text
language plpgsql immutable set search_path = ''
as $$
begin
  -- "Quillwater, Hon. Fern" is Fern Quillwater. An apostrophe separates no words here: O'Neil, O’Neil, Oneil.
  return nullif(trim(regexp_replace(
    private.fold(translate(
      case when p_name like '%,%' then split_part(p_name, ',', 2) || ' ' || split_part(p_name, ',', 1) else p_name end,
      '''’', '')),
    '\m([a-z]|dr|hon|honorable|honourable|lhonorable|mme|mr|mrs|ms|right|rt|the|tres)\M *', '', 'g')), '');
end
$$;
comment on function private.person_key(text) is
  'A person''s name for comparison, without honorifics, initials, accents and case. Null where nothing is left.';
revoke all on function private.person_key(text) from public, anon, authenticated, service_role;


-- ==== sql/schemas/04_reasons.sql

-- Why a query is admitted or a request refused, with sentences in English and French. Generated from
-- functions/common/reasons.py by `make reasons`. Change the source, not this file.

create table if not exists public.reasons (
  id uuid primary key default private.time_ordered_id(),
  created_at timestamptz not null default now(),
  code text not null
    constraint reasons_code_is_unique unique,
  error text,
  action text not null,
  paying_helps boolean not null,
  reason text,
  ends text not null,
  en text not null,
  fr text not null
);
comment on table public.reasons is 'Why a query is admitted or a request refused, with its sentences.';
comment on column public.reasons.id is 'Identifies the row.';
comment on column public.reasons.created_at is 'When the reason was added.';
comment on column public.reasons.code is 'The reason_code of responses.';
comment on column public.reasons.error is 'The code of the HTTP error. Null: the query is admitted, or it is an alert.';
comment on column public.reasons.action is 'What the user can do.';
comment on column public.reasons.paying_helps is 'Whether it costs money, or a payment makes the request possible.';
comment on column public.reasons.reason is
  'The text that can_user_query and admit_query return. Several reasons may have the same. Null: they do not.';
comment on column public.reasons.ends is 'What ends the refusal.';
comment on column public.reasons.en is 'The sentence in English. Details of the error fill its placeholders.';
comment on column public.reasons.fr is 'The sentence in French.';

insert into public.reasons (code, error, action, paying_helps, reason, ends, en, fr)
values
  ('own_key', null, 'none', false,
   'Unlimited (BYOK)',
   'when the key is deleted or rejected',
   'Your own key pays for the next query.',
   'Votre propre clé paie la prochaine requête.'),
  ('free_quota', null, 'none', false,
   'Within free tier quota',
   'when the free queries are used',
   'The next query is one of your free queries.',
   'La prochaine requête fait partie de vos requêtes gratuites.'),
  ('daily_quota', null, 'none', false,
   'Within daily quota',
   'when the queries of the day are used',
   'The next query is included in your plan.',
   'La prochaine requête est incluse dans votre forfait.'),
  ('credits', null, 'none', false,
   'Credits available',
   'when the credits are used',
   'The next query uses one of your credits.',
   'La prochaine requête utilise un de vos crédits.'),
  ('overage', null, 'none', true,
   'Overage allowed',
   'at the overage limit',
   'The next query is charged as overage.',
   'La prochaine requête sera facturée comme dépassement.'),
  ('account_blocked', 'account_blocked', 'contact_support', false,
   'Account blocked',
   'when support lifts it',
   'Your account is blocked. Contact support.',
   'Votre compte est bloqué. Communiquez avec le soutien.'),
  ('no_subscription', 'payment_required', 'upgrade', true,
   'No subscription found',
   'when a plan is chosen',
   'Your account has no plan yet. Choose one to continue.',
   'Votre compte n’a pas encore de forfait. Choisissez-en un pour continuer.'),
  ('subscription_unpaid', 'payment_required', 'pay_invoice', true,
   'Subscription not active: suspended, past_due',
   'when the invoice is paid',
   'Your last invoice is not paid. Pay it to continue.',
   'Votre dernière facture n’est pas payée. Payez-la pour continuer.'),
  ('subscription_paused', 'payment_required', 'contact_support', true,
   'Subscription not active: suspended, past_due',
   'when support collects payments again',
   'Your subscription is paused, and there is no invoice to pay. Contact support.',
   'Votre abonnement est suspendu et il n’y a aucune facture à payer. Communiquez avec le soutien.'),
  ('subscription_ended', 'payment_required', 'upgrade', true,
   'Subscription not active: suspended, canceled, past_due',
   'when a plan is chosen',
   'Your subscription is not active. Choose a plan to continue.',
   'Votre abonnement n’est pas actif. Choisissez un forfait pour continuer.'),
  ('free_quota_used', 'payment_required', 'upgrade', true,
   'Free tier quota exhausted',
   'when a plan is chosen or credits are bought',
   'You have used all your free queries. Choose a plan or buy credits to continue.',
   'Vous avez utilisé toutes vos requêtes gratuites. Choisissez un forfait ou achetez des crédits pour '
   'continuer.'),
  ('credits_used', 'payment_required', 'buy_pack', true,
   'Daily quota exceeded',
   'when credits are bought',
   'You have no credits that can be used. Buy a credit pack to continue.',
   'Vous n’avez aucun crédit utilisable. Achetez un bloc de crédits pour continuer.'),
  ('payment_failed', 'payment_required', 'pay_invoice', true,
   'Daily quota exceeded',
   'when the invoice is paid, or credits are bought',
   'Your last payment failed, so nothing can be charged. Pay the open invoice to continue.',
   'Votre dernier paiement a échoué, donc rien ne peut être facturé. Payez la facture ouverte pour continuer.'),
  ('daily_quota_used', 'quota_exhausted', 'wait', false,
   'Daily quota exceeded',
   'at midnight UTC, or when credits are bought',
   'You have used all queries for today. They return at midnight UTC; with a credit pack you continue now.',
   'Vous avez utilisé toutes les requêtes d’aujourd’hui. Elles reviennent à minuit UTC; un bloc de crédits '
   'permet de continuer maintenant.'),
  ('daily_quota_used_overage_off', 'quota_exhausted', 'enable_overage', false,
   'Daily quota exceeded',
   'at midnight UTC, or when overage is turned on',
   'You have used all queries for today, and overage is off. Turn it on, or wait until midnight UTC.',
   'Vous avez utilisé toutes les requêtes d’aujourd’hui et le dépassement est désactivé. Activez-le ou '
   'attendez minuit UTC.'),
  ('no_quota', 'quota_exhausted', 'buy_pack', false,
   'Daily quota exceeded',
   'when support raises the quota, or credits are bought',
   'Your account includes no queries at the moment. Buy a credit pack to continue.',
   'Votre compte ne comprend aucune requête pour le moment. Achetez un bloc de crédits pour continuer.'),
  ('overage_off', 'quota_exhausted', 'enable_overage', false,
   'Daily quota exceeded',
   'when overage is turned on, or credits are bought',
   'Your account includes no queries, and overage is off. Turn it on to continue.',
   'Votre compte ne comprend aucune requête et le dépassement est désactivé. Activez-le pour continuer.'),
  ('overage_limit_reached', 'overage_limit_reached', 'raise_limit', false,
   'Overage limit reached',
   'when the limit is raised or resets',
   'Your overage limit for this period is reached. Raise it to continue.',
   'Votre limite de dépassement pour cette période est atteinte. Augmentez-la pour continuer.'),
  ('overage_unpaid', 'payment_required', 'pay_invoice', true,
   'Overage limit reached',
   'when the invoice is paid, or credits are bought',
   'You have not paid for queries beyond your plan. Pay the open invoice to continue.',
   'Vous n’avez pas payé des requêtes hors forfait. Payez la facture ouverte pour continuer.'),
  ('overage_ceiling_reached', 'overage_limit_reached', 'wait', false,
   'Overage limit reached',
   'when the limit resets, or credits are bought',
   'The highest overage limit that your account may have is reached. With a credit pack you continue now.',
   'La limite de dépassement la plus élevée permise pour votre compte est atteinte. Un bloc de crédits permet'
   ' de continuer maintenant.'),
  ('overage_without_invoice', 'overage_limit_reached', 'contact_support', false,
   'Overage limit reached',
   'when support raises the limit, or credits are bought',
   'You have not paid for queries beyond your plan, and there is no invoice to pay. Contact support.',
   'Vous n’avez pas payé des requêtes hors forfait et il n’y a aucune facture à payer. Communiquez avec le '
   'soutien.'),
  ('overage_returned', 'overage_limit_reached', 'contact_support', false,
   'Overage limit reached',
   'when the dispute is won, support raises the limit, or credits are bought',
   'A payment of yours for queries beyond your plan was refunded or is disputed. Contact support.',
   'Un de vos paiements pour des requêtes hors forfait a été remboursé ou est contesté. Communiquez avec le '
   'soutien.'),
  ('too_many_queries', 'too_many_requests', 'wait', false,
   'Too many queries at once',
   'when one of the running answers ends',
   'As many questions of yours as your plan allows are being answered. Wait for one of them, or stop it.',
   'Vous avez autant de réponses en cours que votre forfait le permet. Attendez la fin de l’une d’elles ou '
   'arrêtez-la.'),
  ('too_many_failures', 'too_many_requests', 'wait', false,
   'Too many failed queries today',
   'at midnight UTC',
   'Too many of your questions failed today and were not charged. You can ask again after midnight UTC.',
   'Trop de vos questions ont échoué aujourd’hui sans être facturées. Vous pourrez en poser d’autres après '
   'minuit UTC.'),
  ('free_answers_off', 'too_many_requests', 'wait', false,
   'Free answers are off today',
   'at midnight UTC, or with a paid plan',
   'Free answers are used up for today. They return at midnight UTC; a paid plan answers now.',
   'Les réponses gratuites d’aujourd’hui sont épuisées. Elles reviennent à minuit UTC; un forfait payant '
   'répond maintenant.'),
  ('too_many_tool_calls', 'too_many_requests', 'wait', false,
   'Too many tool calls',
   'with the minute',
   'Your assistant has called as many tools as a minute allows. Wait a moment.',
   'Votre assistant a appelé autant d’outils qu’une minute le permet. Attendez un moment.'),
  ('chat_paused', 'unavailable', 'wait', false,
   'Chat paused',
   'when an operator ends the pause',
   'The chat is paused, so the request was refused and nothing was charged. Please try again later.',
   'Le clavardage est suspendu. La demande a donc été refusée et rien n’a été facturé. Veuillez réessayer '
   'plus tard.'),
  ('provider_paused', 'provider_overloaded', 'wait', false,
   'Provider paused',
   'when an operator ends the pause',
   'The models of {provider} are paused. Nothing was charged; choose another provider or try again later.',
   'Les modèles d’{provider} sont suspendus. Rien n’a été facturé; choisissez un autre fournisseur ou '
   'réessayez plus tard.'),
  ('sign_ups_paused', 'forbidden', 'wait', false,
   null,
   'when an operator ends the pause',
   'New accounts cannot be created at the moment. Please try again later.',
   'Il n’est pas possible de créer un compte pour le moment. Veuillez réessayer plus tard.'),
  ('quota_nearly_used', null, 'none', false,
   null,
   'when the quota resets',
   'You have used at least 80% of your included queries.',
   'Vous avez utilisé au moins 80 % de vos requêtes incluses.'),
  ('quota_used', null, 'none', false,
   null,
   'when the quota resets',
   'You have used all your included queries.',
   'Vous avez utilisé toutes vos requêtes incluses.'),
  ('overage_nearly_used', null, 'raise_limit', false,
   null,
   'when the limit is raised or resets',
   'Your overage of this period is at least 80% of your limit.',
   'Votre dépassement pour cette période atteint au moins 80 % de votre limite.'),
  ('overage_used', null, 'raise_limit', false,
   null,
   'when the limit is raised or resets',
   'Your overage limit of this period allows no further query.',
   'Votre limite de dépassement pour cette période ne permet aucune autre requête.'),
  ('credits_nearly_used', null, 'buy_pack', true,
   null,
   'when credits are bought',
   'You have used at least 80% of your credits.',
   'Vous avez utilisé au moins 80 % de vos crédits.'),
  ('all_credits_used', null, 'buy_pack', true,
   null,
   'when credits are bought',
   'You have used all your credits.',
   'Vous avez utilisé tous vos crédits.'),
  ('export_repeated', 'too_many_requests', 'wait', false,
   null,
   'a minute after the last attempt',
   'Your data was requested less than a minute ago. Please wait a moment.',
   'Vos données ont été demandées il y a moins d’une minute. Veuillez attendre un moment.'),
  ('unauthenticated', 'unauthenticated', 'none', false,
   null,
   'with a new sign-in',
   'Sign in again: the access token is missing, expired or not valid.',
   'Reconnectez-vous, car le jeton d’accès est absent, expiré ou non valide.'),
  ('email_not_confirmed', 'email_not_confirmed', 'confirm_email', false,
   null,
   'when the e-mail address is confirmed',
   'Confirm the e-mail address of your account to use your free queries.',
   'Confirmez l’adresse courriel de votre compte pour utiliser vos requêtes gratuites.'),
  ('invoice_open', 'payment_required', 'pay_invoice', true,
   null,
   'when the invoice is paid',
   'You have an open invoice. Pay it before you choose a plan.',
   'Vous avez une facture ouverte. Payez-la avant de choisir un forfait.'),
  ('deletion_unpaid', 'payment_required', 'pay_invoice', true,
   null,
   'when the invoice is paid',
   'You have an open invoice for queries beyond your plan. Pay it, then delete your account.',
   'Vous avez une facture ouverte pour des requêtes hors forfait. Payez-la, puis supprimez votre compte.'),
  ('forbidden', 'forbidden', 'none', false,
   null,
   'never',
   'You are not allowed to do this.',
   'Vous n’êtes pas autorisé à faire cela.'),
  ('old_sign_in', 'forbidden', 'none', false,
   null,
   'with a new sign-in',
   'Sign in again to delete your account: the last sign-in is over five minutes ago.',
   'Reconnectez-vous pour supprimer votre compte, car la dernière connexion date de plus de cinq minutes.'),
  ('subscription_live', 'forbidden', 'contact_support', false,
   null,
   'when the subscription is canceled',
   'The account still has a subscription at Stripe, so it was not deleted. Repeat it, or contact support.',
   'Le compte a encore un abonnement chez Stripe, il n’a donc pas été supprimé. Réessayez ou communiquez avec'
   ' le soutien.'),
  ('overage_owed', 'forbidden', 'contact_support', false,
   null,
   'when the overage is paid or written off',
   'The account owes overage for which there is no invoice to pay, so it was not deleted. Contact support.',
   'Le compte doit un dépassement pour lequel il n’y a aucune facture à payer, il n’a donc pas été supprimé. '
   'Communiquez avec le soutien.'),
  ('byok_not_allowed', 'byok_not_allowed', 'upgrade', true,
   null,
   'with a plan that allows own keys',
   'Your plan does not include using your own API keys. Upgrade to use one.',
   'Votre forfait ne permet pas d’utiliser vos propres clés d’API. Passez à un forfait supérieur pour en '
   'utiliser une.'),
  ('byok_key_rejected', 'byok_key_rejected', 'reconnect_key', false,
   null,
   'with another key, or without one',
   '{provider} does not accept your own key. Store another one, or delete it to use your plan''s queries.',
   '{provider} n’accepte pas votre propre clé. Enregistrez-en une autre ou supprimez-la pour utiliser les '
   'requêtes de votre forfait.'),
  ('byok_key_not_stored', 'byok_key_rejected', 'reconnect_key', false,
   null,
   'with another key',
   '{provider} does not accept this key, so it was not stored.',
   '{provider} n’accepte pas cette clé, elle n’a donc pas été enregistrée.'),
  ('byok_key_unreadable', 'byok_key_rejected', 'reconnect_key', false,
   null,
   'when the key is stored again or deleted',
   'Your own API key can no longer be decrypted. Store it again, or delete it.',
   'Votre propre clé d’API ne peut plus être déchiffrée. Enregistrez-la de nouveau ou supprimez-la.'),
  ('byok_balance_exhausted', 'byok_balance_exhausted', 'reconnect_key', false,
   null,
   'with credit at the provider, another key, or without a key',
   'Your own {provider} account has no credit left. Add some there, or delete your key here to use your '
   'plan''s queries.',
   'Votre propre compte {provider} n’a plus de crédit. Ajoutez-en chez le fournisseur ou supprimez votre clé '
   'ici pour utiliser les requêtes de votre forfait.'),
  ('byok_rate_limited', 'too_many_requests', 'wait', false,
   null,
   'when the provider''s limit resets',
   'Your own {provider} account is at its rate limit. Please try again in a moment.',
   'Votre propre compte {provider} a atteint sa limite de débit. Veuillez réessayer dans un moment.'),
  ('byok_not_permitted', 'provider_error', 'reconnect_key', false,
   null,
   'with other permissions, or without the key',
   '{provider} does not allow this request to your own account. Nothing was charged, and your key is kept. '
   'Check its permissions and your account there, or delete the key here to use your plan''s queries.',
   '{provider} ne permet pas cette demande à votre propre compte. Rien n’a été facturé et votre clé est '
   'conservée. Vérifiez ses autorisations et votre compte chez le fournisseur ou supprimez la clé ici pour '
   'utiliser les requêtes de votre forfait.'),
  ('model_not_available', 'model_not_available', 'none', false,
   null,
   'with another model',
   'Your plan does not include this model.',
   'Votre forfait ne comprend pas ce modèle.'),
  ('model_not_in_plan', 'model_not_available', 'none', false,
   null,
   'with another model',
   'Your plan does not include this model. It has these models of {provider}: {models}.',
   'Votre forfait ne comprend pas ce modèle. Il comprend ces modèles d’{provider} : {models}.'),
  ('model_of_other_plan', 'model_not_available', 'upgrade', true,
   null,
   'with another model or plan',
   'Your plan does not include this model, another plan does. Yours has these models of {provider}: {models}.',
   'Votre forfait ne comprend pas ce modèle, un autre le comprend. Le vôtre a ces modèles d’{provider} : '
   '{models}.'),
  ('no_models', 'model_not_available', 'none', false,
   null,
   'with another provider',
   'Your plan has no models of {provider}. Choose another provider.',
   'Votre forfait n’a aucun modèle d’{provider}. Choisissez un autre fournisseur.'),
  ('provider_not_available', 'model_not_available', 'none', false,
   null,
   'with another provider',
   'Models of {provider} are not available here. Choose another provider.',
   'Les modèles d’{provider} ne sont pas offerts ici. Choisissez un autre fournisseur.'),
  ('model_gone', 'model_not_available', 'none', false,
   null,
   'with another model',
   '{provider} does not offer {model} any more. Nothing was charged; choose another.',
   '{provider} n’offre plus {model}. Rien n’a été facturé; choisissez un autre modèle.'),
  ('byok_model_gone', 'model_not_available', 'none', false,
   null,
   'with another model',
   'Your own {provider} account does not have the model {model}. Your key is accepted. Nothing was charged; '
   'choose another model.',
   'Votre propre compte {provider} n’a pas le modèle {model}. Votre clé est acceptée. Rien n’a été facturé; '
   'choisissez un autre modèle.'),
  ('provider_error', 'provider_error', 'wait', false,
   null,
   'often at the next attempt',
   'The model provider failed to answer. Nothing was charged; please try again.',
   'Le fournisseur du modèle n’a pas répondu. Rien n’a été facturé; veuillez réessayer.'),
  ('prompt_refused', 'provider_error', 'none', false,
   null,
   'with a shorter question',
   'This question is too long for the model. Nothing was charged; ask a shorter one.',
   'Cette question est trop longue pour le modèle. Rien n’a été facturé; posez-en une plus courte.'),
  ('question_too_long', 'invalid_request', 'none', false,
   null,
   'with a shorter question',
   'The question is too long for the models of your plan. Please shorten it.',
   'La question est trop longue pour les modèles de votre forfait. Veuillez la raccourcir.'),
  ('answer_failed', 'provider_error', 'wait', false,
   null,
   'often at the next attempt',
   'This answer failed. Nothing was charged; please try again.',
   'Cette réponse a échoué. Rien n’a été facturé; veuillez réessayer.'),
  ('provider_overloaded', 'provider_overloaded', 'wait', false,
   null,
   'when the provider has capacity',
   'The model provider is overloaded. Nothing was charged; please try again in a moment.',
   'Le fournisseur du modèle est surchargé. Rien n’a été facturé; veuillez réessayer dans un moment.'),
  ('provider_timeout', 'provider_timeout', 'wait', false,
   null,
   'often at the next attempt',
   'The model provider took too long. Nothing was charged; please try again.',
   'Le fournisseur du modèle a mis trop de temps. Rien n’a été facturé; veuillez réessayer.'),
  ('request_in_progress', 'request_in_progress', 'wait', false,
   null,
   'when the answer is complete',
   'This message is already being answered.',
   'Une réponse à ce message est déjà en cours.'),
  ('conflict', 'conflict', 'none', false,
   null,
   'with a new message id',
   'This message id was used before with other words. Send the message with a new id.',
   'Cet identifiant de message a déjà servi avec d’autres mots. Envoyez le message avec un nouvel '
   'identifiant.'),
  ('already_answered', 'already_answered', 'none', false,
   null,
   'with a new message',
   'This message was already answered and the answer was not stored. Send it as a new message to ask again.',
   'Ce message a déjà reçu une réponse, qui n’a pas été conservée. Envoyez-le comme nouveau message pour '
   'reposer la question.'),
  ('too_many_followers', 'too_many_requests', 'wait', false,
   null,
   'when one of the readers leaves',
   'Three other tabs or devices are reading this answer. Close one of them, or open the conversation later.',
   'Trois autres onglets ou appareils lisent cette réponse. Fermez-en un ou ouvrez la conversation plus tard.'),
  ('end_not_received', 'unavailable', 'none', false,
   null,
   'when the conversation is opened again',
   'The end of this answer could not be sent here. Open the conversation again to see what was stored.',
   'La fin de cette réponse n’a pas pu être envoyée ici. Ouvrez de nouveau la conversation pour voir ce qui a'
   ' été conservé.'),
  ('invalid_json', 'invalid_json', 'none', false,
   null,
   'with another body',
   'The request body is not valid JSON.',
   'Le corps de la demande n’est pas du JSON valide.'),
  ('json_too_deep', 'invalid_json', 'none', false,
   null,
   'with another body',
   'The request body is nested too deeply.',
   'Le corps de la demande a trop de niveaux imbriqués.'),
  ('not_an_http_request', 'not_an_http_request', 'none', false,
   null,
   'never',
   'This function answers HTTP requests to its URL. The event that invoked it is not one.',
   'Cette fonction répond aux requêtes HTTP envoyées à son adresse. L’événement reçu n’en est pas une.'),
  ('invalid_signature', 'invalid_signature', 'none', false,
   null,
   'with another signature',
   'The Stripe-Signature header does not match this body, or is not from the last five minutes.',
   'L’en-tête Stripe-Signature ne correspond pas à ce corps ou date de plus de cinq minutes.'),
  ('too_large', 'too_large', 'none', false,
   null,
   'with a smaller body',
   'The request body is over {limit_kib:,} KiB.',
   'Le corps de la demande dépasse {limit_kib} Kio.'),
  ('export_too_large', 'too_large', 'contact_support', false,
   null,
   'when support sends a copy',
   'Your data is too large for one download. In a minute, accept it compressed (gzip), or ask support for a '
   'copy.',
   'Vos données sont trop volumineuses pour un seul téléchargement. Dans une minute, acceptez-les compressées'
   ' (gzip) ou demandez une copie au soutien.'),
  ('conversation_too_large', 'too_large', 'none', false,
   null,
   'with a shorter conversation',
   'This conversation is too large to be shared.',
   'Cette conversation est trop longue pour être partagée.'),
  ('invalid_request', 'invalid_request', 'none', false,
   null,
   'with other fields',
   'The request is not valid; see fields.',
   'La demande n’est pas valide; voir les champs.'),
  ('not_found', 'not_found', 'none', false,
   null,
   'never',
   'This was not found.',
   'Ceci est introuvable.'),
  ('conversation_not_found', 'not_found', 'none', false,
   null,
   'never',
   'There is no such conversation.',
   'Cette conversation n’existe pas.'),
  ('not_shared', 'not_found', 'none', false,
   null,
   'with a new link',
   'This conversation is not shared, or the link has expired.',
   'Cette conversation n’est pas partagée ou le lien a expiré.'),
  ('pack_not_found', 'not_found', 'none', false,
   null,
   'with a pack that is sold',
   'There is no such credit pack.',
   'Ce bloc de crédits n’existe pas.'),
  ('user_not_found', 'not_found', 'none', false,
   null,
   'never',
   'There is no such user.',
   'Cette personne n’existe pas.'),
  ('query_not_found', 'not_found', 'none', false,
   null,
   'when the query ends',
   'There is no ended query with this id.',
   'Aucune requête terminée ne porte cet identifiant.'),
  ('nothing_bought', 'not_found', 'upgrade', true,
   null,
   'with the first purchase',
   'You have not bought anything yet, so there is nothing to manage.',
   'Vous n’avez encore rien acheté, il n’y a donc rien à gérer.'),
  ('method_not_allowed', 'method_not_allowed', 'none', false,
   null,
   'never',
   'This address does not support this HTTP method.',
   'Cette adresse n’accepte pas cette méthode HTTP.'),
  ('internal', 'internal', 'contact_support', false,
   null,
   'when the fault is repaired',
   'Something went wrong on our side. Nothing was charged; please try again, or contact support.',
   'Un problème est survenu de notre côté. Rien n’a été facturé; veuillez réessayer ou communiquer avec le '
   'soutien.'),
  ('unavailable', 'unavailable', 'wait', false,
   'Timed out',
   'when the database can be reached',
   'Our database cannot be reached, so the request was refused and nothing was charged. Please try again.',
   'Notre base de données est inaccessible. La demande a donc été refusée et rien n’a été facturé. Veuillez '
   'réessayer.'),
  ('payment_unavailable', 'payment_unavailable', 'wait', false,
   null,
   'when Stripe can be reached',
   'Our payment provider cannot be reached, and nothing was charged. Please try again in a moment.',
   'Notre fournisseur de paiement est inaccessible et rien n’a été facturé. Veuillez réessayer dans un '
   'moment.'),
  ('currency_differs', 'payment_unavailable', 'contact_support', false,
   null,
   'when support has ended what is in it',
   'You have a subscription or an open bill in another currency, so this cannot be bought now. Nothing was '
   'charged. Contact support.',
   'Vous avez un abonnement ou un solde dans une autre monnaie : l’achat est impossible pour l’instant. Rien '
   'n’a été débité. Communiquez avec le soutien.'),
  ('price_differs', 'payment_unavailable', 'wait', false,
   null,
   'when the price is published',
   'This price is being changed, so it cannot be bought now. Nothing was charged; please try again later.',
   'Ce prix est en cours de modification, l’achat est donc impossible pour le moment. Rien n’a été facturé; '
   'veuillez réessayer plus tard.')
on conflict (code) do update set
  error = excluded.error, action = excluded.action, paying_helps = excluded.paying_helps, reason = excluded.reason,
  ends = excluded.ends, en = excluded.en, fr = excluded.fr
-- A second run writes no row.
where (reasons.error, reasons.action, reasons.paying_helps, reasons.reason, reasons.ends, reasons.en, reasons.fr)
  is distinct from (excluded.error, excluded.action, excluded.paying_helps, excluded.reason, excluded.ends, excluded.en,
                    excluded.fr);

alter table public.reasons enable row level security;
alter table public.reasons force row level security;
drop policy if exists "Signed-in users read the reasons" on public.reasons;
create policy "Signed-in users read the reasons" on public.reasons
  for select to authenticated using ((select private.check_statement()));
revoke all on public.reasons from public, anon, authenticated, service_role;
grant select on public.reasons to authenticated, service_role;


-- ==== sql/schemas/05_settings.sql

-- Settings that operators change while the product runs: one row.

create table if not exists public.settings (
  id uuid primary key default private.time_ordered_id(),
  created_at timestamptz not null default now(),
  is_only_row boolean not null default true
    constraint settings_has_one_row unique
    constraint settings_row_is_the_only_one check (is_only_row),
  currency public.currency not null default 'usd'
    constraint settings_currency_is_unique unique,
  usd_per_unit numeric(12,6) not null default 1
    constraint settings_rate_is_positive check (usd_per_unit > 0),
  free_daily_budget_usd public.usd,
  platform_daily_budget_usd public.usd,
  sign_ups_paused_at timestamptz,
  constraint settings_rate_of_us_dollars_is_one check ((currency = 'usd') = (usd_per_unit = 1))
);
comment on table public.settings is 'Settings that operators change with SQL, in one row. They apply at once.';
comment on column public.settings.id is 'Identifies the row.';
comment on column public.settings.created_at is 'When the row was added.';
comment on column public.settings.is_only_row is 'Always true: there is one row.';
comment on column public.settings.currency is
  'The currency of all prices: plans and packs refer to it. It can change until the first charge.';
comment on column public.settings.usd_per_unit is
  'US dollars for one unit of the currency, to compare income with our cost. The reports use it, no charge does.';
comment on column public.settings.free_daily_budget_usd is
  'What all free users together may cost us at the providers per UTC day, US dollars. From then on free users are '
  'refused until midnight. Null: no limit.';
comment on column public.settings.platform_daily_budget_usd is
  'What all users together may cost us at the providers per UTC day, US dollars. From then on free users are refused '
  'until midnight; all others are not. Null: no limit.';
comment on column public.settings.sign_ups_paused_at is
  'Since when an operator has paused sign-ups. Null: everyone may sign up.';

insert into public.settings (free_daily_budget_usd, platform_daily_budget_usd) values (20, 200)
on conflict (is_only_row) do nothing;

create or replace function private.keep_currency() returns trigger
language plpgsql volatile security definer set search_path = ''
as $$
begin
  if exists (select from public.user_subscriptions s where s.stripe_subscription_id is not null)
     or exists (select from public.usage_logs u where u.overage_charge > 0)
     or exists (select from public.query_holds h where h.overage_charge > 0)
     or exists (select from public.credit_packs c where c.price_paid > 0)
     or exists (select from public.retained_usage r where r.overage_usd > 0 or r.credits_usd > 0)
     or exists (select from public.retained_invoice_items)
  then
    raise check_violation using
      message = 'The currency cannot change: there are subscriptions or charges in ' || old.currency || '.';
  end if;
  return new;
end
$$;
comment on function private.keep_currency() is
  'Trigger: refuses another currency once something was sold, because amounts are stored without their currency.';
revoke all on function private.keep_currency() from public, anon, authenticated, service_role;

create or replace trigger settings_keep_currency before update on public.settings
  for each row when (old.currency is distinct from new.currency) execute function private.keep_currency();

alter table public.settings enable row level security;
alter table public.settings force row level security;
revoke all on public.settings from public, anon, authenticated, service_role;
-- No role of the Data API reads or writes them. Operators are postgres.


-- ==== sql/schemas/10_plans.sql

-- The tiers: quotas, prices, retention and models. One row a tier.
-- The rows are part of this file. A later change of them is written by hand into a migration.

create table if not exists public.plans (
  id uuid primary key default private.time_ordered_id(),
  created_at timestamptz not null default now(),
  tier text not null
    constraint plans_tier_is_unique unique
    constraint plans_tier_is_known check (tier in ('free', 'basic', 'pro', 'usage_only')),
  name text not null,
  currency public.currency not null default 'usd'
    constraint plans_currency_is_that_of_all_prices references public.settings (currency) on update cascade,
  price_usd public.usd not null
    constraint plans_price_is_one_that_stripe_charges check (price_usd = round(price_usd, 2)),
  daily_quota public.quantity,
  lifetime_quota public.quantity,
  overage_price_usd public.usd
    constraint plans_overage_price_is_positive check (overage_price_usd > 0),
  overage_limit_usd public.usd,
  overage_threshold_usd public.usd
    constraint plans_overage_threshold_is_positive check (overage_threshold_usd > 0),
  allows_credits boolean not null,
  allows_byok boolean not null,
  history_days public.quantity not null,
  query_cost_limit_usd public.usd not null,
  failed_cost_limit_usd public.usd not null,
  concurrent_queries integer not null
    constraint plans_concurrent_queries_are_positive check (concurrent_queries > 0),
  models jsonb not null
    constraint plans_models_are_lists_by_provider check (
      (jsonb_typeof(models -> 'anthropic') = 'array' and jsonb_typeof(models -> 'openai') = 'array'
       and not jsonb_path_exists(models, 'strict $.*[*] ? (@.type() != "string" || @ == "")', '{}', true)) is true),
  own_key_models jsonb not null default '{"anthropic": [], "openai": []}'
    constraint plans_own_key_models_are_lists_by_provider check (
      (jsonb_typeof(own_key_models -> 'anthropic') = 'array' and jsonb_typeof(own_key_models -> 'openai') = 'array'
       and not jsonb_path_exists(own_key_models, 'strict $.*[*] ? (@.type() != "string" || @ == "")', '{}', true))
      is true),
  paused_at timestamptz,
  paused_providers text[] not null default '{}',
  overage_repriced_at timestamptz,
  constraint plans_has_one_kind_of_quota check (num_nonnulls(daily_quota, lifetime_quota) = 1),
  constraint plans_overage_has_price_and_limit check ((overage_price_usd is null) = (overage_limit_usd is null))
);
create index if not exists plans_currency_idx on public.plans (currency);
comment on table public.plans is 'One row a tier: the single source of quotas, prices, retention and models.';
comment on column public.plans.id is 'Identifies the row.';
comment on column public.plans.created_at is 'When the plan was added.';
comment on column public.plans.tier is 'free, basic, pro or usage_only. Subscriptions refer to it.';
comment on column public.plans.name is 'The name that users see.';
comment on column public.plans.currency is
  'The currency of price_usd and the overage columns, that of all plans and packs. Costs are always US dollars.';
comment on column public.plans.price_usd is 'The price a month, in the currency.';
comment on column public.plans.daily_quota is 'Included queries per UTC day. Null if the quota is a lifetime quota.';
comment on column public.plans.lifetime_quota is 'Included queries in total. Null if the quota is daily.';
comment on column public.plans.overage_price_usd is
  'The price of a query beyond the quota, in the currency. Null: no overage.';
comment on column public.plans.overage_limit_usd is
  'The default overage limit, in the currency: of a period, and of what a user owes over all periods. Users may set '
  'their own.';
comment on column public.plans.overage_threshold_usd is
  'What a user may owe in overage until it is invoiced within the period, in the currency. Null: the limit.';
comment on column public.plans.allows_credits is 'Whether prepaid credit packs pay for queries.';
comment on column public.plans.allows_byok is 'Whether users may use their own provider key.';
comment on column public.plans.history_days is
  'Days a conversation is stored after its last message. 0: nothing is stored.';
comment on column public.plans.query_cost_limit_usd is
  'The most that one query may cost us at the provider, US dollars. docs/pricing.md has its reason.';
comment on column public.plans.failed_cost_limit_usd is
  'What a user''s failed queries may cost us at the provider per UTC day, US dollars. From then on the user is refused '
  'until midnight, except on an own key.';
comment on column public.plans.concurrent_queries is 'How many queries of a user may run at the same time.';
comment on column public.plans.models is
  'The models of the tier by provider: {anthropic: [...], openai: [...]}. The first is the default.';
comment on column public.plans.own_key_models is
  'Further models by provider, for queries that an own key pays for: too dear for the price of the plan.';
comment on column public.plans.paused_at is
  'Since when an operator has paused the chat. Null: it runs. Here, because admit_query reads this row anyway.';
comment on column public.plans.paused_providers is
  'The providers that an operator has paused. Their models are left out.';
comment on column public.plans.overage_repriced_at is
  'When overage_price_usd last changed. reconcile compares the overage since then with it. Null: never.';

create or replace function private.note_overage_price() returns trigger
language plpgsql volatile set search_path = ''
as $$
begin
  new.overage_repriced_at := private.clock();
  return new;
end
$$;
comment on function private.note_overage_price() is 'Trigger: records when overage_price_usd changes.';
revoke all on function private.note_overage_price() from public, anon, authenticated, service_role;

create or replace trigger plans_note_overage_price before update on public.plans
  for each row when (old.overage_price_usd is distinct from new.overage_price_usd)
  execute function private.note_overage_price();

insert into public.plans (tier, name, price_usd, daily_quota, lifetime_quota, overage_price_usd, overage_limit_usd,
                          allows_credits, allows_byok, history_days, query_cost_limit_usd, failed_cost_limit_usd,
                          concurrent_queries, models, own_key_models)
values
  ('free', 'Free', 0, null, 10, null, null, false, false, 0, 0.01, 0.02, 1,
   '{"anthropic": ["claude-haiku-5-5"], "openai": ["gpt-6-luna"]}', default),
  ('basic', 'Basic', 9.99, 15, null, 0.025, 10, true, true, 30, 0.03, 0.05, 3,
   '{"anthropic": ["claude-haiku-5-5", "claude-sonnet-5-5"], "openai": ["gpt-6-luna", "gpt-6-sol"]}', default),
  ('pro', 'Pro', 29.99, 40, null, 0.025, 10, true, true, 90, 0.035, 0.2, 3,
   '{"anthropic": ["claude-sonnet-5-5", "claude-haiku-5-5"], "openai": ["gpt-6-sol", "gpt-6-luna"]}',
   '{"anthropic": ["claude-opus-5-5"], "openai": ["gpt-6-astra"]}'),
  ('usage_only', 'Pay as you go', 0, 0, null, 0.025, 10, true, true, 0, 0.03, 0.05, 3,
   '{"anthropic": ["claude-haiku-5-5", "claude-sonnet-5-5"], "openai": ["gpt-6-luna", "gpt-6-sol"]}', default)
on conflict (tier) do nothing;

alter table public.plans enable row level security;
alter table public.plans force row level security;
drop policy if exists "Signed-in users read the plans" on public.plans;
create policy "Signed-in users read the plans" on public.plans
  for select to authenticated using ((select private.check_statement()));
revoke all on public.plans from public, anon, authenticated, service_role;
-- usage_summary and can_user_query read them with the rights of the user. Visitors get them from GET /plans.
grant select on public.plans to authenticated, service_role;


-- ==== sql/schemas/11_packs.sql

-- The credit packs that are sold.

create table if not exists public.packs (
  id uuid primary key default private.time_ordered_id(),
  created_at timestamptz not null default now(),
  slug text not null
    constraint packs_slug_is_unique unique
    constraint packs_slug_is_a_lookup_key check (slug ~ '^pack_[a-z0-9_]{1,40}$'),
  name text not null,
  credits integer not null
    constraint packs_credits_are_positive check (credits > 0),
  currency public.currency not null default 'usd'
    constraint packs_currency_is_that_of_all_prices references public.settings (currency) on update cascade,
  price_usd public.usd not null
    constraint packs_price_is_one_that_stripe_charges check (price_usd >= 0.5 and price_usd = round(price_usd, 2)),
  expires_after_days integer
    constraint packs_expiry_is_positive check (expires_after_days > 0),
  is_sold boolean not null default true
);
create index if not exists packs_currency_idx on public.packs (currency);
comment on table public.packs is 'The credit packs that are sold: the single source of sizes and prices.';
comment on column public.packs.id is 'Identifies the row.';
comment on column public.packs.created_at is 'When the pack was added.';
comment on column public.packs.slug is 'The id in POST /checkout, and the lookup key of the price at Stripe.';
comment on column public.packs.name is 'The name that users see.';
comment on column public.packs.credits is 'Queries that the pack pays for.';
comment on column public.packs.currency is 'The currency of price_usd, that of all plans and packs.';
comment on column public.packs.price_usd is 'The price in the currency, whole cents.';
comment on column public.packs.expires_after_days is 
  'Days until unused credits expire. Null: never. To change it, sell another pack: reconcile compares sold ones with '
  'it.';
comment on column public.packs.is_sold is 'False: the pack is no longer sold. Packs that users have bought stay valid.';

insert into public.packs (slug, name, credits, price_usd)
values ('pack_100', '100 queries', 100, 2.25), ('pack_500', '500 queries', 500, 10)
on conflict (slug) do nothing;

alter table public.packs enable row level security;
alter table public.packs force row level security;
revoke all on public.packs from public, anon, authenticated, service_role;
-- Not to anon and authenticated, and no policy: GET /plans has the packs.
grant select on public.packs to service_role;


-- ==== sql/schemas/12_user_subscriptions.sql

-- One row a user: the plan, its status, and the counters that admission updates.

create table if not exists public.user_subscriptions (
  id uuid primary key default private.time_ordered_id(),
  created_at timestamptz not null default now(),
  updated_at timestamptz not null default now(),
  user_id uuid not null
    constraint user_subscriptions_one_a_user unique
    references auth.users (id) on delete cascade,
  tier text not null default 'free' references public.plans (tier),
  next_tier text references public.plans (tier),
  status public.subscription_status not null default 'active',
  stripe_customer_id text
    constraint user_subscriptions_stripe_customer_is_unique unique,
  stripe_subscription_id text
    constraint user_subscriptions_stripe_subscription_is_unique unique,
  daily_quota public.quantity,
  lifetime_quota public.quantity,
  allow_overages boolean not null default true,
  overage_limit public.usd,
  overage_ceiling public.usd,
  current_overage_amount public.usd not null default 0,
  unpaid_overage_usd public.usd not null default 0,
  owes_overage boolean not null generated always as (unpaid_overage_usd >= 0.5) stored,
  paid_overage_usd public.usd not null default 0,
  uses_byo_key boolean not null default false,
  current_period_start timestamptz,
  current_period_end timestamptz,
  canceled_at timestamptz,
  past_due_since timestamptz,
  paid_until timestamptz,
  open_invoice_url text,
  quota_date date not null default (private.clock() at time zone 'UTC')::date,
  quota_used public.quantity not null default 0,
  lifetime_used public.quantity not null default 0,
  failed_cost_usd public.usd not null default 0,
  overage_period_start timestamptz not null default date_trunc('month', private.clock(), 'UTC'),
  included_until timestamptz,
  tool_minute timestamptz,
  tool_calls public.quantity not null default 0,
  stripe_sequence bigint not null default 0,
  downgraded_at timestamptz,
  exported_at timestamptz,
  blocked_at timestamptz,
  blocked_reason text
);
create index if not exists user_subscriptions_downgraded_idx on public.user_subscriptions (user_id)
  where downgraded_at is not null;
-- For users_at_threshold, every minute. An index on the amount would make every overage query write to all indexes.
create index if not exists user_subscriptions_owing_idx on public.user_subscriptions (user_id) where owes_overage;
create index if not exists user_subscriptions_tier_idx on public.user_subscriptions (tier);
create index if not exists user_subscriptions_next_tier_idx on public.user_subscriptions (next_tier)
  where next_tier is not null;

comment on table public.user_subscriptions is
  'One row a user: the plan, its status, and the counters that admission updates. Counters include holds.';
comment on column public.user_subscriptions.id is 'Identifies the row.';
comment on column public.user_subscriptions.created_at is 'When the user signed up.';
comment on column public.user_subscriptions.updated_at is 'When the row last changed, except for its counters.';
comment on column public.user_subscriptions.user_id is 'The user.';
comment on column public.user_subscriptions.tier is 'The plan.';
comment on column public.user_subscriptions.next_tier is
  'The plan from current_period_end on, after a downgrade. Null: the same plan.';
comment on column public.user_subscriptions.status is
  'active, canceled (serves until current_period_end), suspended or past_due.';
comment on column public.user_subscriptions.stripe_customer_id is 'The Stripe customer id.';
comment on column public.user_subscriptions.stripe_subscription_id is
  'The live Stripe subscription. Overage needs one, because its invoices collect it.';
comment on column public.user_subscriptions.daily_quota is
  'A daily quota for this user only. Null: the quota of the plan.';
comment on column public.user_subscriptions.lifetime_quota is
  'A lifetime quota for this user only. Null: the quota of the plan.';
comment on column public.user_subscriptions.allow_overages is 'Whether the user allows overage, if the plan has it.';
comment on column public.user_subscriptions.overage_limit is
  'The overage limit set by the user, dollars, of a period and of unpaid_overage_usd. Null: the default of the '
  'plan.';
comment on column public.user_subscriptions.overage_ceiling is
  'The most that overage_limit may be, dollars. Only operators set it. Null: twice paid_overage_usd, and at least '
  'the default of the plan.';
comment on column public.user_subscriptions.current_overage_amount is
  'Overage in the period that starts at overage_period_start, dollars, holds included.';
comment on column public.user_subscriptions.unpaid_overage_usd is
  'Overage of all periods and subscriptions that is not paid, dollars: held, settled, on an open invoice, or on a '
  'paid one whose payment was returned.';
comment on column public.user_subscriptions.owes_overage is
  'Whether unpaid_overage_usd is an amount that Stripe charges: 50 cents or more.';
comment on column public.user_subscriptions.paid_overage_usd is
  'Overage of all periods and subscriptions on paid invoices, dollars, before rounding.';
comment on column public.user_subscriptions.uses_byo_key is 'Whether the user has an active provider key.';
comment on column public.user_subscriptions.current_period_start is
  'Start of the billing period. Null: calendar months, UTC.';
comment on column public.user_subscriptions.current_period_end is 'End of the billing period.';
comment on column public.user_subscriptions.canceled_at is 'When the user canceled.';
comment on column public.user_subscriptions.past_due_since is
  'When the payment failed that made the subscription past due.';
comment on column public.user_subscriptions.paid_until is
  'Until when the tier of a past due subscription is paid: the seven days of grace start then, if later. Null: not.';
comment on column public.user_subscriptions.open_invoice_url is
  'Stripe''s page of the oldest open invoice for a plan or for overage, also of an ended subscription. Null: none is '
  'open.';
comment on column public.user_subscriptions.quota_date is 'The UTC day that quota_used counts.';
comment on column public.user_subscriptions.quota_used is 'Included queries admitted on quota_date, holds included.';
comment on column public.user_subscriptions.lifetime_used is
  'Included queries admitted on a lifetime quota, holds included.';
comment on column public.user_subscriptions.failed_cost_usd is
  'Our cost of the failed and lost queries of quota_date at the providers, US dollars, except on own keys.';
comment on column public.user_subscriptions.overage_period_start is
  'Start of the period that current_overage_amount counts.';
comment on column public.user_subscriptions.included_until is
  'Until this time admission reuses its last decision, which was: the daily quota pays. Null: decide again.';
comment on column public.user_subscriptions.tool_minute is
  'The minute that tool_calls counts. Null: the user''s own assistant has called no tool yet.';
comment on column public.user_subscriptions.tool_calls is
  'Calls of tools by the user''s own assistant in tool_minute.';
comment on column public.user_subscriptions.downgraded_at is
  'When the plan changed to one that stores history for fewer days. Null once expires_at has been shortened.';
comment on column public.user_subscriptions.exported_at is
  'When the user last downloaded their data. At most once a minute. Null: never.';
comment on column public.user_subscriptions.stripe_sequence is
  'The sequence number of the newest state of the Stripe customer applied here. Older states are ignored.';
comment on column public.user_subscriptions.blocked_at is
  'When an operator blocked the account. Null: it is not blocked. Nothing that reads Stripe writes it.';
comment on column public.user_subscriptions.blocked_reason is 'Why an operator blocked it. The user may read this.';

create or replace function private.check_subscription() returns trigger
language plpgsql volatile set search_path = ''
as $$
begin
  -- The grace period of seven days starts here, for every way in which the status changes.
  new.past_due_since := case when new.status = 'past_due' then coalesce(new.past_due_since, private.clock()) end;
  if (new.current_period_start is null) <> (new.current_period_end is null)
     or new.current_period_end <= new.current_period_start then
    raise check_violation using message = 'A billing period must end after it starts.';
  elsif (new.blocked_at is null) <> (new.blocked_reason is null) then
    raise check_violation using message = 'A block has a time and a reason.';
  end if;
  return new;
end
$$;
comment on function private.check_subscription() is
  'Trigger: sets past_due_since, and rejects a period that does not end after it starts and a block without a reason.';
revoke all on function private.check_subscription() from public, anon, authenticated, service_role;

create or replace trigger user_subscriptions_check
  before insert or update of status, past_due_since, current_period_start, current_period_end, blocked_at,
                             blocked_reason
  on public.user_subscriptions for each row execute function private.check_subscription();


create or replace function private.record_downgrade() returns trigger
language plpgsql volatile set search_path = ''
as $$
declare
  v_days_before constant integer := (select p.history_days from public.plans p where p.tier = old.tier);
  v_days_after constant integer := (select p.history_days from public.plans p where p.tier = new.tier);
begin
  new.downgraded_at := case when v_days_after < v_days_before then private.clock()
                            when v_days_after > v_days_before then null
                            else new.downgraded_at end;
  return new;
end
$$;
comment on function private.record_downgrade() is
  'Trigger: sets downgraded_at when the new plan stores history for fewer days. cleanup_expired_conversations() then '
  'shortens expires_at.';
revoke all on function private.record_downgrade() from public, anon, authenticated, service_role;

create or replace trigger user_subscriptions_record_downgrade
  before update of tier on public.user_subscriptions for each row when (old.tier <> new.tier)
  execute function private.record_downgrade();


create or replace function private.subscription_changed() returns trigger
language plpgsql volatile set search_path = ''
as $$
begin
  new.updated_at := now();
  new.included_until := null;
  return new;
end
$$;
comment on function private.subscription_changed() is
  'Trigger: sets updated_at and makes admission decide again when anything but the counters changes.';
revoke all on function private.subscription_changed() from public, anon, authenticated, service_role;

-- Every column that private.funding_state reads, except the counters, which change with every query.
create or replace trigger user_subscriptions_changed
  before update of tier, next_tier, status, stripe_customer_id, stripe_subscription_id, daily_quota, lifetime_quota,
                   allow_overages, overage_limit, uses_byo_key, current_period_start, current_period_end, canceled_at,
                   past_due_since, paid_until, blocked_at
  on public.user_subscriptions for each row execute function private.subscription_changed();


create or replace function private.is_blocked(p_user_id uuid) returns boolean
language plpgsql stable security definer set search_path = ''
as $$
begin
  return exists (select from public.user_subscriptions s where s.user_id = p_user_id and s.blocked_at is not null)
      or exists (select from auth.users u where u.id = p_user_id and u.banned_until > private.clock());
end
$$;
comment on function private.is_blocked(uuid) is
  'Whether an operator has blocked the account, here or, for some time, in Supabase Auth. Runs as its owner, because '
  'users may not read auth.users.';
revoke all on function private.is_blocked(uuid) from public, anon, authenticated, service_role;
grant execute on function private.is_blocked(uuid) to authenticated, service_role;


create or replace function private.refuse_blocked(p_user_id uuid) returns void
language plpgsql stable set search_path = ''
as $$
begin
  if private.is_blocked(p_user_id) then
    raise exception using errcode = 'BANND', message = 'The account is blocked.';
  end if;
end
$$;
comment on function private.refuse_blocked(uuid) is
  'BANND: an operator has blocked the account, here or in Supabase Auth.';
revoke all on function private.refuse_blocked(uuid) from public, anon, authenticated, service_role;
grant execute on function private.refuse_blocked(uuid) to authenticated, service_role;


create or replace function private.require_account(p_user_id uuid) returns void
language plpgsql stable set search_path = ''
as $$
begin
  if not exists (select from auth.users u where u.id = p_user_id and u.deleted_at is null) then
    raise exception using errcode = 'NOUSR', message = 'The account has ended.';
  end if;
end
$$;
comment on function private.require_account(uuid) is
  'NOUSR: the account has ended. Functions that have found nothing call it, because a token outlives its account.';
revoke all on function private.require_account(uuid) from public, anon, authenticated, service_role;


alter table public.user_subscriptions enable row level security;
alter table public.user_subscriptions force row level security;
drop policy if exists "Users read their own subscription" on public.user_subscriptions;
create policy "Users read their own subscription" on public.user_subscriptions
  for select to authenticated using (user_id = (select auth.uid()) and (select private.check_statement()));
revoke all on public.user_subscriptions from public, anon, authenticated, service_role;
grant select on public.user_subscriptions to authenticated, service_role;


-- ==== sql/schemas/13_user_api_keys.sql

-- Users' own provider keys, encrypted.

create table if not exists public.user_api_keys (
  id uuid primary key default private.time_ordered_id(),
  created_at timestamptz not null default now(),
  updated_at timestamptz not null default now(),
  user_id uuid not null references auth.users (id) on delete cascade,
  provider text not null
    constraint user_api_keys_provider_is_known check (provider in ('anthropic', 'openai')),
  encrypted_key bytea not null
    constraint user_api_keys_ciphertext_is_bounded check (octet_length(encrypted_key) between 1 and 1024),
  encryption_iv bytea not null
    constraint user_api_keys_iv_is_96_bits check (octet_length(encryption_iv) = 12),
  encryption_tag bytea not null
    constraint user_api_keys_tag_is_128_bits check (octet_length(encryption_tag) = 16),
  encryption_key_id text not null,
  hint text not null
    constraint user_api_keys_hint_shows_four_characters check (char_length(hint) <= 5),
  is_active boolean not null default true,
  last_validated_at timestamptz,
  validation_error text,
  constraint user_api_keys_one_a_provider unique (user_id, provider)
);
comment on table public.user_api_keys is 'Provider keys of users, encrypted with AES-256-GCM. Never in plain text.';
comment on column public.user_api_keys.id is 'Identifies the row.';
comment on column public.user_api_keys.created_at is 'When the key was stored.';
comment on column public.user_api_keys.updated_at is 'When the row last changed.';
comment on column public.user_api_keys.user_id is 'The owner of the key.';
comment on column public.user_api_keys.provider is 'anthropic or openai.';
comment on column public.user_api_keys.encrypted_key is 'Ciphertext. Not granted to any role.';
comment on column public.user_api_keys.encryption_iv is 'The nonce, 96 random bits. Not granted to any role.';
comment on column public.user_api_keys.encryption_tag is 'The authentication tag, 128 bits. Not granted to any role.';
comment on column public.user_api_keys.encryption_key_id is 'The id of the key in the key ring that encrypted it.';
comment on column public.user_api_keys.hint is 'The last four characters, so that the owner recognises the key.';
comment on column public.user_api_keys.is_active is 'False after the provider rejected the key.';
comment on column public.user_api_keys.last_validated_at is 'When the provider last accepted the key. Null: unchecked.';
comment on column public.user_api_keys.validation_error is 'Why the provider rejected the key.';

create or replace trigger user_api_keys_set_updated_at before update on public.user_api_keys
  for each row execute function private.set_updated_at();


create or replace function private.sync_uses_byo_key() returns trigger
language plpgsql volatile security definer set search_path = ''
as $$
declare
  v_user_id constant uuid := case when tg_op = 'DELETE' then old.user_id else new.user_id end;
begin
  -- Lock before counting, so that the second of two concurrent changes sees the first.
  perform from public.user_subscriptions where user_id = v_user_id for update;
  update public.user_subscriptions s set
    uses_byo_key = exists (select from public.user_api_keys k where k.user_id = v_user_id and k.is_active)
  where s.user_id = v_user_id;
  return null;
end
$$;
comment on function private.sync_uses_byo_key() is
  'Trigger: sets user_subscriptions.uses_byo_key to whether the user has an active key. Runs as its owner, because '
  'Auth deletes users.';
revoke all on function private.sync_uses_byo_key() from public, anon, authenticated, service_role;

create or replace trigger user_api_keys_sync_uses_byo_key
  after insert or delete or update of is_active on public.user_api_keys
  for each row execute function private.sync_uses_byo_key();


alter table public.user_api_keys enable row level security;
alter table public.user_api_keys force row level security;
drop policy if exists "Users read the metadata of their own keys" on public.user_api_keys;
create policy "Users read the metadata of their own keys" on public.user_api_keys
  for select to authenticated using (user_id = (select auth.uid()) and (select private.check_statement()));
revoke all on public.user_api_keys from public, anon, authenticated, service_role;
-- No role may read encrypted_key, encryption_iv or encryption_tag. Only functions return them.
grant select (id, created_at, updated_at, user_id, provider, encryption_key_id, hint, is_active, last_validated_at,
              validation_error)
  on public.user_api_keys to authenticated, service_role;


-- ==== sql/schemas/14_conversations.sql

-- Conversations of users whose plan stores history.

create table if not exists public.conversations (
  id uuid primary key default private.time_ordered_id(),
  created_at timestamptz not null default now(),
  updated_at timestamptz not null default now(),
  user_id uuid not null references auth.users (id) on delete cascade,
  external_id public.client_id,
  title public.short_text,
  context_type public.conversation_context not null default 'general',
  context_id public.short_text,
  context_data jsonb,
  message_count public.quantity not null default 0,
  total_tokens public.token_count not null default 0,
  is_pinned boolean not null default false,
  is_archived boolean not null default false,
  expires_at timestamptz not null,
  last_message_at timestamptz not null default now(),
  constraint conversations_external_id_is_the_users_own unique (user_id, external_id)
);
create index if not exists conversations_newest_first_idx
  on public.conversations (user_id, last_message_at desc);
create index if not exists conversations_expires_at_idx on public.conversations (expires_at) where not is_pinned;

comment on table public.conversations is 'Conversations of users whose plan stores history. Other plans store nothing.';
comment on column public.conversations.id is 'Identifies the conversation. Equal to the chat id if that is a UUID.';
comment on column public.conversations.created_at is 'When its first message was answered.';
comment on column public.conversations.updated_at is 'When the row last changed.';
comment on column public.conversations.user_id is 'The owner of the conversation.';
comment on column public.conversations.external_id is 'The chat id if that is not a UUID. Unique for each user.';
comment on column public.conversations.title is 'The title in lists. Starts as the beginning of the first question.';
comment on column public.conversations.context_type is 'The kind of page the user was on.';
comment on column public.conversations.context_id is 'The id of the record that the page shows.';
comment on column public.conversations.context_data is 'Data of the page, from the client.';
comment on column public.conversations.message_count is
  'The number of messages, equal to the position of the last one.';
comment on column public.conversations.total_tokens is 'Tokens of all its queries, replaced answers included.';
comment on column public.conversations.is_pinned is
  'Pinned conversations are stored past expires_at. A plan without history removes the pin.';
comment on column public.conversations.is_archived is 'Hidden from the default list.';
comment on column public.conversations.expires_at is
  'When the conversation may be deleted, unless it is pinned. Set from the plan at each message, never by a client.';
comment on column public.conversations.last_message_at is 'When the last message was answered.';

-- settle_query sets updated_at itself, because that costs less than the trigger.
create or replace trigger conversations_set_updated_at
  before update on public.conversations for each row when (new.updated_at = old.updated_at)
  execute function private.set_updated_at();


create or replace function private.check_pin() returns trigger
language plpgsql volatile set search_path = ''
as $$
begin
  if not exists (
    select from private.current_subscriptions s where s.user_id = new.user_id and s.history_days > 0) then
    raise insufficient_privilege using message = 'Your plan stores no conversations, so none can be pinned.';
  end if;
  return new;
end
$$;
comment on function private.check_pin() is 'Trigger: rejects pinning on plans that store no history.';
revoke all on function private.check_pin() from public, anon, authenticated, service_role;

create or replace trigger conversations_check_pin
  before update of is_pinned on public.conversations for each row when (new.is_pinned and not old.is_pinned)
  execute function private.check_pin();


alter table public.conversations enable row level security;
alter table public.conversations force row level security;
drop policy if exists "Users read their own conversations" on public.conversations;
create policy "Users read their own conversations" on public.conversations
  for select to authenticated using (user_id = (select auth.uid()) and (select private.check_statement()));
revoke all on public.conversations from public, anon, authenticated, service_role;
grant select on public.conversations to authenticated, service_role;
-- No update or delete: update_conversation and delete_conversation write (52_conversations.sql).


-- ==== sql/schemas/15_messages.sql

-- The messages of conversations.

create table if not exists public.messages (
  id uuid primary key default private.time_ordered_id(),
  created_at timestamptz not null default now(),
  conversation_id uuid not null references public.conversations (id) on delete cascade,
  position public.message_position not null,
  role public.message_role not null,
  external_id public.client_id,
  content text not null,
  step_ends jsonb,
  tokens_input public.quantity not null default 0,
  tokens_output public.quantity not null default 0,
  tokens_total integer not null default 0,
  provider text,
  model text,
  used_byo_key boolean not null default false,
  function_calls jsonb,
  function_results jsonb,
  finish_reason public.finish_reason,
  cost_usd public.usd not null default 0,
  constraint messages_position_is_taken_once unique (conversation_id, position)
);
comment on table public.messages is 'The questions and answers of a conversation, ordered by position.';
comment on column public.messages.id is 'Identifies the message. For an answer: the message id in the stream.';
comment on column public.messages.created_at is 'When the message was stored.';
comment on column public.messages.conversation_id is 'The conversation.';
comment on column public.messages.position is 'The place in the conversation, from 1.';
comment on column public.messages.role is 'The author: user, assistant or system.';
comment on column public.messages.external_id is 'The id of a user message in the client.';
comment on column public.messages.content is 'The text.';
comment on column public.messages.step_ends is
  'The number of characters of content at the end of each step of an answer. Null: it is one step.';
comment on column public.messages.tokens_input is 'Input tokens of this answer, cached ones included.';
comment on column public.messages.tokens_output is 'Output tokens.';
comment on column public.messages.tokens_total is 'Input and output tokens.';
comment on column public.messages.provider is 'The provider that answered: anthropic or openai.';
comment on column public.messages.model is 'The model that answered.';
comment on column public.messages.used_byo_key is 'Whether the user''s own key paid.';
comment on column public.messages.function_calls is
  'Tool calls: [{id, name, input, step, at}]. at: the number of characters of content before the call.';
comment on column public.messages.function_results is
  'Tool results in the same order: [{id, output or error, sources: [{url, title}]}].';
comment on column public.messages.finish_reason is 'Why the answer ended.';
comment on column public.messages.cost_usd is 'The cost at the provider, US dollars.';

alter table public.messages enable row level security;
alter table public.messages force row level security;
drop policy if exists "Users read the messages of their own conversations" on public.messages;
create policy "Users read the messages of their own conversations" on public.messages
  for select to authenticated using (
    (select private.check_statement()) and exists (
      select from public.conversations c
      where c.id = messages.conversation_id and c.user_id = (select auth.uid())));
revoke all on public.messages from public, anon, authenticated, service_role;
grant select on public.messages to authenticated, service_role;


-- ==== sql/schemas/16_credit_packs.sql

-- Credit packs that users bought.

create table if not exists public.credit_packs (
  id uuid primary key default private.time_ordered_id(),
  created_at timestamptz not null default now(),
  user_id uuid not null references auth.users (id) on delete cascade,
  credits_purchased integer not null
    constraint credit_packs_credits_purchased_are_positive check (credits_purchased > 0),
  credits_remaining public.quantity not null,
  credits_used public.quantity not null default 0,
  credits_revoked public.quantity not null default 0,
  credits_to_revoke public.quantity not null default 0,
  credits_expired public.quantity not null default 0,
  is_frozen boolean not null default false,
  price_paid public.usd not null,
  price_per_credit public.usd not null generated always as (round(price_paid / credits_purchased, 6)) stored,
  stripe_payment_intent_id text
    constraint credit_packs_stripe_payment_intent_is_unique unique,
  stripe_checkout_session_id text
    constraint credit_packs_stripe_checkout_session_is_unique unique,
  stripe_sequence bigint not null default 0,
  expires_at timestamptz,
  depleted_at timestamptz,
  lapsed_at timestamptz,
  constraint credit_packs_no_credit_is_lost check (
    credits_remaining + credits_used + credits_revoked + credits_expired = credits_purchased)
);
create index if not exists credit_packs_to_lapse_idx on public.credit_packs (expires_at)
  where expires_at is not null and lapsed_at is null;
create index if not exists credit_packs_created_at_idx on public.credit_packs (created_at);
create index if not exists credit_packs_spending_order_idx
  on public.credit_packs (user_id, expires_at, created_at);

comment on table public.credit_packs is 'Prepaid queries. Changed only under the user lock of the owner.';
comment on column public.credit_packs.id is 'Identifies the pack.';
comment on column public.credit_packs.created_at is 'When the pack was bought.';
comment on column public.credit_packs.user_id is 'The owner of the pack.';
comment on column public.credit_packs.credits_purchased is 'Credits bought.';
comment on column public.credit_packs.credits_remaining is 'Credits left.';
comment on column public.credit_packs.credits_used is 'Credits spent, holds included.';
comment on column public.credit_packs.credits_revoked is
  'Credits taken back after a refund or a lost dispute: at most those that were left.';
comment on column public.credit_packs.credits_to_revoke is
  'Credits that refunds and a lost dispute are worth. Credits spent before stay spent.';
comment on column public.credit_packs.credits_expired is 'Credits that were left when the pack expired.';
comment on column public.credit_packs.is_frozen is 'Whether the payment is disputed. A frozen pack pays for nothing.';
comment on column public.credit_packs.price_paid is 'Dollars paid for the pack, without tax.';
comment on column public.credit_packs.price_per_credit is 'Dollars per credit, to six decimals.';
comment on column public.credit_packs.stripe_payment_intent_id is 'The Stripe payment intent.';
comment on column public.credit_packs.stripe_checkout_session_id is
  'The Stripe checkout session. A session grants at most one pack.';
comment on column public.credit_packs.stripe_sequence is
  'The sequence number of the newest state of the payment applied here. Older states are ignored.';
comment on column public.credit_packs.expires_at is 'When the remaining credits expire. Null: never.';
comment on column public.credit_packs.depleted_at is 'When the last credit was taken. Null while credits are left.';
comment on column public.credit_packs.lapsed_at is
  'When the remaining credits were recorded as expired. The pack pays for nothing from expires_at on.';

alter table public.credit_packs enable row level security;
alter table public.credit_packs force row level security;
drop policy if exists "Users read their own credit packs" on public.credit_packs;
create policy "Users read their own credit packs" on public.credit_packs
  for select to authenticated using (user_id = (select auth.uid()) and (select private.check_statement()));
revoke all on public.credit_packs from public, anon, authenticated, service_role;
grant select on public.credit_packs to authenticated, service_role;


-- ==== sql/schemas/17_query_holds.sql

-- Holds: queries that were admitted and have not ended.

create table if not exists public.query_holds (
  id uuid primary key,
  created_at timestamptz not null default now(),
  user_id uuid not null references auth.users (id) on delete cascade,
  request_id public.request_key not null,
  chat_key uuid,
  question_digest uuid,
  tier text not null,
  funding public.query_funding not null,
  query_date date not null,
  credit_pack_id uuid references public.credit_packs (id) on delete cascade,
  overage_charge public.usd not null default 0,
  period_start timestamptz not null,
  quota_used public.quantity not null,
  quota_limit public.quantity not null,
  overage_used public.usd not null,
  overage_limit public.usd,
  provider text not null,
  model text not null,
  expires_at timestamptz not null,
  chat_id text,
  conversation_id uuid,
  position public.message_position,
  replaces_to integer,
  question jsonb,
  is_replaced boolean not null default false,
  progress text not null default '',
  followed_to public.quantity,
  followers jsonb not null default '{}',
  is_closing boolean not null default false,
  stop_requested boolean not null default false,
  constraint query_holds_one_a_request unique nulls not distinct (user_id, request_id, chat_key)
);
create index if not exists query_holds_expires_at_idx on public.query_holds (expires_at);
create index if not exists query_holds_credit_pack_id_idx on public.query_holds (credit_pack_id)
  where credit_pack_id is not null;

comment on table public.query_holds is
  'Queries that were admitted and have not ended. Each has taken its funding and records from where.';
comment on column public.query_holds.id is 'Identifies the query. Its usage_logs row gets the same id.';
comment on column public.query_holds.created_at is 'When the query was admitted.';
comment on column public.query_holds.user_id is 'The user.';
comment on column public.query_holds.request_id is
  'With chat_key the idempotency key: the same request is never charged twice.';
comment on column public.query_holds.chat_key is
  'The chat: its id if that is a UUID, otherwise its MD5. Null: the query has no chat.';
comment on column public.query_holds.question_digest is
  'The start of the SHA-256 of the question. Null: the request id identifies the question.';
comment on column public.query_holds.tier is 'The tier of the user at admission.';
comment on column public.query_holds.funding is 'What pays: byok, included, credit or overage.';
comment on column public.query_holds.query_date is
  'The UTC day of admission. The query counts against the quota of that day.';
comment on column public.query_holds.credit_pack_id is 'The credit pack that pays.';
comment on column public.query_holds.overage_charge is 'The amount held against the overage limit, dollars.';
comment on column public.query_holds.period_start is 'The overage period of admission.';
comment on column public.query_holds.quota_used is 'Included queries used before this one, of the day or in total.';
comment on column public.query_holds.quota_limit is 'The quota at that time, per day or in total.';
comment on column public.query_holds.overage_used is 'Overage in the period before this query, dollars.';
comment on column public.query_holds.overage_limit is
  'The overage limit at that time, dollars. Null: the plan had no overage.';
comment on column public.query_holds.provider is 'The provider chosen at admission.';
comment on column public.query_holds.model is 'The model chosen at admission.';
comment on column public.query_holds.expires_at is 'After this time the query is lost and its funding is returned.';
comment on column public.query_holds.chat_id is 'The chat id, as the client sent it.';
comment on column public.query_holds.conversation_id is
  'The conversation at admission. Null: it was new. No foreign key, because the user may delete the conversation.';
comment on column public.query_holds.position is
  'The position of the question in its conversation. Given at admission, so that messages are in the order of asking.';
comment on column public.query_holds.replaces_to is
  'The question was asked before: messages from position to here are replaced. Null: it is new.';
comment on column public.query_holds.question is
  'The question, {id, content}, for clients that load the chat while it is answered. Deleted with the hold.';
comment on column public.query_holds.is_replaced is
  'Whether a later query replaces this one, which is then not stored.';
comment on column public.query_holds.progress is
  'The stream so far, for clients that resume the answer in another process. Deleted with the hold.';
comment on column public.query_holds.followed_to is
  'How many characters of progress another process has read. Null: no process reads it.';
comment on column public.query_holds.followers is
  'When each client that reads the answer in another process last did: {id: time}.';
comment on column public.query_holds.is_closing is
  'Whether settlement is about to start. From then on no process may start to follow the answer.';
comment on column public.query_holds.stop_requested is 'Whether the user asked to stop the answer.';

alter table public.query_holds enable row level security;
alter table public.query_holds force row level security;
drop policy if exists "Users read their own holds" on public.query_holds;
create policy "Users read their own holds" on public.query_holds
  for select to authenticated using (user_id = (select auth.uid()) and (select private.check_statement()));
revoke all on public.query_holds from public, anon, authenticated, service_role;
grant select on public.query_holds to authenticated, service_role;


-- ==== sql/schemas/18_overage_invoice_items.sql

-- Overage on Stripe's invoices, from our ledger.

create table if not exists public.overage_invoice_items (
  id uuid primary key default private.time_ordered_id(),
  created_at timestamptz not null default now(),
  user_id uuid not null references auth.users (id) on delete cascade,
  period_start timestamptz not null,
  queries integer not null
    constraint overage_invoice_items_queries_are_not_zero check (queries <> 0),
  unit_price_usd public.usd not null,
  gives_back_cents public.quantity,
  amount_usd public.usd not null generated always as (abs(queries) * unit_price_usd) stored,
  amount_cents integer not null generated always as (
    coalesce(-gives_back_cents::integer, floor(queries * unit_price_usd * 100))) stored,
  attempts public.quantity not null default 0,
  target jsonb not null,
  refusals public.quantity not null default 0,
  stripe_invoice_item_id text
    constraint overage_invoice_items_stripe_invoice_item_is_unique unique,
  stripe_invoice_id text,
  settled_as text
    constraint overage_invoice_items_have_a_known_settlement
    check (settled_as in ('paid', 'credited', 'void', 'returned')),
  stripe_sequence bigint not null default 0,
  constraint overage_invoice_items_negative_ones_give_back check ((queries < 0) = (gives_back_cents is not null))
);
create index if not exists overage_invoice_items_user_id_idx on public.overage_invoice_items (user_id);
create index if not exists overage_invoice_items_created_at_idx on public.overage_invoice_items (created_at);
create index if not exists overage_invoice_items_open_idx on public.overage_invoice_items (user_id)
  where stripe_invoice_item_id is null or stripe_invoice_id is null;

comment on table public.overage_invoice_items is
  'Overage that is billed: one row per period and price, to which usage_logs.invoice_item_id refers. Of a charge that '
  'is given back after that: one row with queries -1, to which usage_reversals.invoice_item_id refers.';
comment on column public.overage_invoice_items.id is
  'Identifies the item, also at Stripe: metadata overage_invoice_item.';
comment on column public.overage_invoice_items.created_at is 'When the queries were collected into this item.';
comment on column public.overage_invoice_items.user_id is 'The user who is billed.';
comment on column public.overage_invoice_items.period_start is 'Start of the overage period of the queries.';
comment on column public.overage_invoice_items.queries is 'The number of queries. Negative: given back.';
comment on column public.overage_invoice_items.gives_back_cents is
  'Of an item that gives back: cents. They are what the query made of the amount of its item, which was rounded.';
comment on column public.overage_invoice_items.unit_price_usd is 'Dollars per query.';
comment on column public.overage_invoice_items.amount_usd is 'The exact amount, dollars, never negative.';
comment on column public.overage_invoice_items.amount_cents is
  'The amount for Stripe, cents. Rounded down in favour of the user. No other place rounds. Negative: given back.';
comment on column public.overage_invoice_items.attempts is
  'How many times the item was sent to Stripe. From the second attempt on, an existing item is searched first.';
comment on column public.overage_invoice_items.target is
  'Parameters of the Stripe request: {"invoice": id} for a draft, {} for the next invoice of the customer. Stored, so '
  'that concurrent attempts send the same request.';
comment on column public.overage_invoice_items.refusals is 'How many targets Stripe has permanently refused.';
comment on column public.overage_invoice_items.stripe_invoice_item_id is
  'The Stripe invoice item. Null: not known to exist yet.';
comment on column public.overage_invoice_items.stripe_invoice_id is
  'The Stripe invoice that has the item. Null: the item waits for one.';
comment on column public.overage_invoice_items.settled_as is
  'How the debt ended: its invoice was paid, or voided. Credited: the customer''s balance at Stripe paid some of it, '
  'which raises no limit. Returned: it was paid, and the payment was refunded or disputed, so the user owes it again. '
  'Null: the user owes it.';
comment on column public.overage_invoice_items.stripe_sequence is
  'The sequence number of the newest state of the invoice applied here. Older states are ignored.';

alter table public.overage_invoice_items enable row level security;
alter table public.overage_invoice_items force row level security;
drop policy if exists "Users read what they are billed" on public.overage_invoice_items;
create policy "Users read what they are billed" on public.overage_invoice_items
  for select to authenticated using (user_id = (select auth.uid()) and (select private.check_statement()));
revoke all on public.overage_invoice_items from public, anon, authenticated, service_role;
grant select on public.overage_invoice_items to authenticated, service_role;


-- ==== sql/schemas/19_usage_logs.sql

-- The ledger: one row for every query that ended.

create table if not exists public.usage_logs (
  id uuid primary key,
  created_at timestamptz not null default now(),
  user_id uuid not null references auth.users (id) on delete cascade,
  request_id public.request_key not null,
  chat_key uuid,
  question_digest uuid,
  conversation_id uuid references public.conversations (id) on delete set null,
  message_id uuid references public.messages (id) on delete set null,
  tier text not null,
  funding public.query_funding not null,
  outcome public.query_outcome not null,
  finish_reason public.finish_reason,
  is_charged boolean not null,
  query_date date not null,
  query_timestamp timestamptz not null,
  period_start timestamptz not null,
  credit_pack_id uuid references public.credit_packs (id) on delete set null,
  quota_used public.quantity not null,
  quota_limit public.quantity not null,
  overage_used public.usd not null,
  overage_limit public.usd,
  tokens_input public.quantity not null default 0,
  tokens_output public.quantity not null default 0,
  tokens_total integer not null default 0,
  cache_read_tokens public.quantity not null default 0,
  cache_write_tokens public.quantity not null default 0,
  cost_usd public.usd not null default 0,
  provider text not null,
  model text not null,
  used_byo_key boolean not null,
  counted_against_quota boolean not null,
  was_overage boolean not null,
  overage_charge public.usd not null default 0,
  invoice_item_id uuid references public.overage_invoice_items (id),
  reversed_at timestamptz
);
create index if not exists usage_logs_user_day_idx on public.usage_logs (user_id, query_date);
create unique index if not exists usage_logs_a_request_is_charged_once
  on public.usage_logs (user_id, request_id, chat_key) nulls not distinct where is_charged;
create index if not exists usage_logs_conversation_id_idx on public.usage_logs (conversation_id)
  where conversation_id is not null;
create index if not exists usage_logs_message_id_idx on public.usage_logs (message_id)
  where message_id is not null;
create index if not exists usage_logs_credit_pack_id_idx on public.usage_logs (credit_pack_id)
  where credit_pack_id is not null;
create index if not exists usage_logs_invoice_item_id_idx on public.usage_logs (invoice_item_id)
  where invoice_item_id is not null;
create index if not exists usage_logs_not_billed_idx on public.usage_logs (user_id, query_timestamp)
  where was_overage and invoice_item_id is null and reversed_at is null;

comment on table public.usage_logs is 'The ledger: one row for every admitted query that ended, with any outcome.';
comment on column public.usage_logs.id is
  'Identifies the query. Equal to the id of its hold, so a query ends only once.';
comment on column public.usage_logs.created_at is 'When the query ended.';
comment on column public.usage_logs.user_id is 'The user.';
comment on column public.usage_logs.request_id is 'With chat_key the idempotency key.';
comment on column public.usage_logs.chat_key is 'As in query_holds. It identifies the chat without its name.';
comment on column public.usage_logs.question_digest is 'As in query_holds.';
comment on column public.usage_logs.conversation_id is 'The conversation, while it is stored.';
comment on column public.usage_logs.message_id is 'The answer, while it is stored.';
comment on column public.usage_logs.tier is 'The tier of the user at admission.';
comment on column public.usage_logs.funding is 'What paid: byok, included, credit or overage.';
comment on column public.usage_logs.outcome is 'answered, stopped, failed or lost.';
comment on column public.usage_logs.finish_reason is 'Why the answer ended. Null: it failed or was lost.';
comment on column public.usage_logs.is_charged is 'Whether the outcome is charged.';
comment on column public.usage_logs.query_date is 'The UTC day of admission.';
comment on column public.usage_logs.query_timestamp is 'When the query was admitted.';
comment on column public.usage_logs.period_start is 'The overage period of admission.';
comment on column public.usage_logs.credit_pack_id is 'The credit pack that paid, or that got its credit back.';
comment on column public.usage_logs.quota_used is
  'Included queries used before this one was admitted, of the day or in total.';
comment on column public.usage_logs.quota_limit is 'The quota at that time, per day or in total.';
comment on column public.usage_logs.overage_used is 'Overage in the period before this query was admitted, dollars.';
comment on column public.usage_logs.overage_limit is
  'The overage limit at that time, dollars. Null: the plan had no overage.';
comment on column public.usage_logs.tokens_input is 'Input tokens, cached ones included.';
comment on column public.usage_logs.tokens_output is 'Output tokens.';
comment on column public.usage_logs.tokens_total is 'Input and output tokens.';
comment on column public.usage_logs.cache_read_tokens is 'Input tokens that were read from the provider''s cache.';
comment on column public.usage_logs.cache_write_tokens is 'Input tokens that were written to the provider''s cache.';
comment on column public.usage_logs.cost_usd is 'The cost at the provider, US dollars.';
comment on column public.usage_logs.provider is 'The provider that answered.';
comment on column public.usage_logs.model is 'The model that answered.';
comment on column public.usage_logs.used_byo_key is 'Whether the user''s own key paid.';
comment on column public.usage_logs.counted_against_quota is 'Whether the query used one included query.';
comment on column public.usage_logs.was_overage is 'Whether the query is charged as overage.';
comment on column public.usage_logs.overage_charge is 'The overage charge, dollars.';
comment on column public.usage_logs.invoice_item_id is
  'The invoice item that bills the query. Null: nothing to bill, or the period has not ended.';
comment on column public.usage_logs.reversed_at is
  'When an operator gave the charge back. usage_reversals has the reversing entry. Null: it stands.';

alter table public.usage_logs enable row level security;
alter table public.usage_logs force row level security;
drop policy if exists "Users read their own usage" on public.usage_logs;
create policy "Users read their own usage" on public.usage_logs
  for select to authenticated using (user_id = (select auth.uid()) and (select private.check_statement()));
revoke all on public.usage_logs from public, anon, authenticated, service_role;
grant select on public.usage_logs to authenticated, service_role;


-- ==== sql/schemas/20_query_refusals.sql

-- Refused queries, for support and explain_query.

create table if not exists public.query_refusals (
  id uuid primary key,
  created_at timestamptz not null,
  user_id uuid not null references auth.users (id) on delete cascade,
  request_id public.request_key not null,
  chat_key uuid,
  reason text not null,
  reason_code text not null,
  requires_payment boolean not null,
  resets_at timestamptz,
  tier text not null,
  quota_used public.quantity not null,
  quota_limit public.quantity not null,
  overage_used public.usd not null,
  overage_limit public.usd,
  earlier_ids uuid[] not null default '{}', -- record_refusal keeps at most 20
  constraint query_refusals_one_a_request unique nulls not distinct (user_id, request_id, chat_key)
);
create index if not exists query_refusals_newest_first_idx on public.query_refusals (user_id, created_at desc);
create index if not exists query_refusals_earlier_ids_idx on public.query_refusals using gin (earlier_ids);

comment on table public.query_refusals is
  'Refused queries with the reason and the state at that time: the newest fifty of each user. They took no funding.';
comment on column public.query_refusals.id is 'Identifies the attempt.';
comment on column public.query_refusals.earlier_ids is
  'The ids of earlier attempts at the request, the newest first, at most 20: users were shown them.';
comment on column public.query_refusals.created_at is 'When the request was last refused.';
comment on column public.query_refusals.user_id is 'The user.';
comment on column public.query_refusals.request_id is 'With chat_key the idempotency key of the request.';
comment on column public.query_refusals.chat_key is 'As in query_holds.';
comment on column public.query_refusals.reason is 'The reason, as can_user_query returns it.';
comment on column public.query_refusals.reason_code is 'The reason as a code of public.reasons.';
comment on column public.query_refusals.requires_payment is 'Whether a payment would have helped.';
comment on column public.query_refusals.resets_at is 'When the limit resets. Null: it does not reset.';
comment on column public.query_refusals.tier is 'The tier of the user at that time.';
comment on column public.query_refusals.quota_used is 'Included queries used at that time, of the day or in total.';
comment on column public.query_refusals.quota_limit is 'The quota at that time, per day or in total.';
comment on column public.query_refusals.overage_used is 'Overage in the period at that time, dollars.';
comment on column public.query_refusals.overage_limit is
  'The overage limit at that time, dollars. Null: the plan had no overage.';

alter table public.query_refusals enable row level security;
alter table public.query_refusals force row level security;
drop policy if exists "Users read their own refusals" on public.query_refusals;
create policy "Users read their own refusals" on public.query_refusals
  for select to authenticated using (user_id = (select auth.uid()) and (select private.check_statement()));
revoke all on public.query_refusals from public, anon, authenticated, service_role;
grant select on public.query_refusals to authenticated, service_role;


-- ==== sql/schemas/21_stripe_events.sql

-- Stripe's webhook events, and the sequence that orders reads of Stripe's state.

create sequence if not exists private.stripe_sequence;
comment on sequence private.stripe_sequence is
  'Numbers each read of Stripe''s state before it starts. Of two states, the one with the higher number is newer.';
revoke all on sequence private.stripe_sequence from public, anon, authenticated, service_role;

create table if not exists public.stripe_events (
  id uuid primary key default private.time_ordered_id(),
  created_at timestamptz not null default now(),
  event_id text not null
    constraint stripe_events_one_an_event unique,
  type text not null,
  attempts public.quantity not null default 0,
  last_error text,
  processed_at timestamptz
);
create index if not exists stripe_events_not_processed_idx on public.stripe_events (created_at)
  where processed_at is null;
create index if not exists stripe_events_processed_at_idx on public.stripe_events (processed_at);
comment on table public.stripe_events is
  'Stripe webhook events of the types that we use, and whether they have been processed.';
comment on column public.stripe_events.id is 'Identifies the row.';
comment on column public.stripe_events.created_at is 'When the event was first delivered.';
comment on column public.stripe_events.event_id is 'The Stripe event id.';
comment on column public.stripe_events.type is 'The Stripe event type.';
comment on column public.stripe_events.attempts is 'How many times processing was started.';
comment on column public.stripe_events.last_error is 'The exception type of the last failed attempt. Null: no failure.';
comment on column public.stripe_events.processed_at is
  'When the effect of the event was committed. Null: a redelivery or retry-events will process it.';

alter table public.stripe_events enable row level security;
alter table public.stripe_events force row level security;
revoke all on public.stripe_events from public, anon, authenticated, service_role;
grant select on public.stripe_events to service_role;


-- ==== sql/schemas/22_retained_usage.sql

-- The ledger of deleted users, as sums without any user.

create table if not exists public.retained_usage (
  id uuid primary key default private.time_ordered_id(),
  created_at timestamptz not null default now(),
  month date not null,
  tier text not null,
  provider text not null,
  model text not null,
  funding public.query_funding not null,
  outcome public.query_outcome not null,
  queries bigint not null,
  tokens_input bigint not null,
  tokens_output bigint not null,
  cost_usd public.usd not null,
  overage_usd public.usd not null,
  credits_usd public.usd not null,
  written_off_usd public.usd not null,
  constraint retained_usage_one_a_kind unique (month, tier, provider, model, funding, outcome)
);
comment on table public.retained_usage is
  'The ledger of deleted users as monthly sums, for accounting. Contains no user data.';
comment on column public.retained_usage.id is 'Identifies the row.';
comment on column public.retained_usage.created_at is 'When the first of these users was deleted.';
comment on column public.retained_usage.month is 'The first day of the UTC month of admission.';
comment on column public.retained_usage.tier is 'The tier at admission, as in usage_logs.';
comment on column public.retained_usage.provider is 'The provider that answered.';
comment on column public.retained_usage.model is 'The model that answered.';
comment on column public.retained_usage.funding is 'What paid.';
comment on column public.retained_usage.outcome is 'How the queries ended.';
comment on column public.retained_usage.queries is 'The number of queries.';
comment on column public.retained_usage.tokens_input is 'Input tokens.';
comment on column public.retained_usage.tokens_output is 'Output tokens.';
comment on column public.retained_usage.cost_usd is 'The cost at the provider, US dollars.';
comment on column public.retained_usage.overage_usd is 'Overage charges, dollars.';
comment on column public.retained_usage.credits_usd is 'The price of the credits spent, dollars.';
comment on column public.retained_usage.written_off_usd is 'The part of overage_usd that was never billed.';

alter table public.retained_usage enable row level security;
alter table public.retained_usage force row level security;
revoke all on public.retained_usage from public, anon, authenticated, service_role;
grant select on public.retained_usage to service_role;


-- ==== sql/schemas/23_retained_invoice_items.sql

-- Invoice items of deleted users.

create table if not exists public.retained_invoice_items (
  id uuid primary key,
  created_at timestamptz not null,
  period_start timestamptz not null,
  queries integer not null,
  unit_price_usd public.usd not null,
  amount_usd public.usd not null,
  amount_cents integer not null,
  stripe_invoice_item_id text,
  stripe_invoice_id text
);
create index if not exists retained_invoice_items_created_at_idx on public.retained_invoice_items (created_at);
comment on table public.retained_invoice_items is
  'Rows of overage_invoice_items of deleted users. Stripe still has their invoices.';
comment on column public.retained_invoice_items.id is 'Identifies the item, also at Stripe.';
comment on column public.retained_invoice_items.created_at is 'When the queries were collected into the item.';
comment on column public.retained_invoice_items.period_start is 'Start of the overage period.';
comment on column public.retained_invoice_items.queries is 'The number of queries. Negative: given back.';
comment on column public.retained_invoice_items.unit_price_usd is 'Dollars per query.';
comment on column public.retained_invoice_items.amount_usd is 'The exact amount, dollars.';
comment on column public.retained_invoice_items.amount_cents is 'The amount for Stripe, cents.';
comment on column public.retained_invoice_items.stripe_invoice_item_id is 'The Stripe invoice item.';
comment on column public.retained_invoice_items.stripe_invoice_id is 'The Stripe invoice.';

alter table public.retained_invoice_items enable row level security;
alter table public.retained_invoice_items force row level security;
revoke all on public.retained_invoice_items from public, anon, authenticated, service_role;
grant select on public.retained_invoice_items to service_role;


-- ==== sql/schemas/24_message_feedback.sql

-- Users' ratings of answers.

create table if not exists public.message_feedback (
  id uuid primary key default private.time_ordered_id(),
  created_at timestamptz not null default now(),
  updated_at timestamptz not null default private.clock(),
  user_id uuid not null references auth.users (id) on delete cascade,
  query_id uuid not null
    constraint message_feedback_one_for_each_answer unique
    references public.usage_logs (id) on delete cascade,
  rating text not null
    constraint message_feedback_rating_is_known check (rating in ('up', 'down')),
  comment text
    constraint message_feedback_comment_is_bounded check (char_length(comment) between 1 and 2000)
);
create index if not exists message_feedback_user_id_idx on public.message_feedback (user_id);
create index if not exists message_feedback_updated_at_idx on public.message_feedback (updated_at);

comment on table public.message_feedback is
  'Ratings of answers, on every plan. Deleted with the conversation, and 90 days after the last change.';
comment on column public.message_feedback.id is 'Identifies the rating.';
comment on column public.message_feedback.created_at is 'When the answer was first rated.';
comment on column public.message_feedback.updated_at is 'When the rating last changed.';
comment on column public.message_feedback.user_id is 'The user who asked and rated.';
comment on column public.message_feedback.query_id is
  'The query that produced the answer. Equal to the message id in the stream.';
comment on column public.message_feedback.rating is 'up or down.';
comment on column public.message_feedback.comment is 'What the user wrote about the answer.';

alter table public.message_feedback enable row level security;
alter table public.message_feedback force row level security;
drop policy if exists "Users read their own ratings" on public.message_feedback;
create policy "Users read their own ratings" on public.message_feedback
  for select to authenticated using (user_id = (select auth.uid()) and (select private.check_statement()));
revoke all on public.message_feedback from public, anon, authenticated, service_role;
grant select on public.message_feedback to authenticated, service_role;
-- No insert, update or delete: rate_message writes.


-- ==== sql/schemas/24_pending_turns.sql

-- Turns that are charged and not yet stored, because their conversation was locked when they were settled.

create table if not exists public.pending_turns (
  id uuid primary key,
  created_at timestamptz not null default now(),
  user_id uuid not null references auth.users (id) on delete cascade,
  conversation_id uuid not null,
  conversation_created_at timestamptz not null,
  expires_at timestamptz not null,
  is_certain boolean not null,
  position public.message_position not null,
  replaces_to integer,
  turn jsonb not null
);
create index if not exists pending_turns_user_id_idx on public.pending_turns (user_id);
create index if not exists pending_turns_in_order_idx on public.pending_turns (conversation_id, created_at, id);

comment on table public.pending_turns is
  'Turns that are charged and not yet stored, because their conversation was locked when they were settled. The next '
  'call for the conversation or apply_pending_turns stores them, in order.';
comment on column public.pending_turns.id is
  'The query. Its usage_logs row is written in the same transaction and has its usage.';
comment on column public.pending_turns.created_at is 'When the query was answered.';
comment on column public.pending_turns.user_id is 'The user.';
comment on column public.pending_turns.conversation_id is
  'The conversation. No foreign key, because its check would wait for the lock.';
comment on column public.pending_turns.conversation_created_at is
  'Distinguishes the conversation from a later one with the same id. If it is gone, the turn is dropped.';
comment on column public.pending_turns.expires_at is 'The expires_at of the conversation after this turn.';
comment on column public.pending_turns.is_certain is
  'Whether the turn will be stored: false if the lock may have been that of a deletion.';
comment on column public.pending_turns.position is 'As in query_holds.';
comment on column public.pending_turns.replaces_to is 'As in query_holds.';
comment on column public.pending_turns.turn is 'The argument p_turn of settle_query.';

alter table public.pending_turns enable row level security;
alter table public.pending_turns force row level security;
revoke all on public.pending_turns from public, anon, authenticated, service_role;
-- No grant and no policy: only functions read and write it.


-- ==== sql/schemas/24_shared_conversations.sql

-- Copies of conversations that everybody with the link can read.

create table if not exists public.shared_conversations (
  id uuid primary key default private.time_ordered_id(),
  created_at timestamptz not null default now(),
  updated_at timestamptz not null default private.clock(),
  user_id uuid not null references auth.users (id) on delete cascade,
  conversation_id uuid not null
    constraint shared_conversations_one_for_each_conversation unique
    references public.conversations (id) on delete cascade,
  token text not null
    constraint shared_conversations_token_is_unique unique
    constraint shared_conversations_token_is_unguessable check (char_length(token) between 32 and 64),
  snapshot jsonb not null,
  expires_at timestamptz not null
);
create index if not exists shared_conversations_user_id_idx on public.shared_conversations (user_id);
create index if not exists shared_conversations_expires_at_idx on public.shared_conversations (expires_at);

comment on table public.shared_conversations is
  'Copies of conversations that everybody with the token can read. Deleted with the conversation, when the user stops '
  'sharing, and after expires_at.';
comment on column public.shared_conversations.id is 'Identifies the copy.';
comment on column public.shared_conversations.created_at is 'When the conversation was first shared.';
comment on column public.shared_conversations.updated_at is 'When the copy was made.';
comment on column public.shared_conversations.user_id is 'The owner of the conversation.';
comment on column public.shared_conversations.conversation_id is 'The conversation.';
comment on column public.shared_conversations.token is 'The secret part of the link. It gives the right to read.';
comment on column public.shared_conversations.snapshot is
  'The title and the messages at that time: texts and sources, without tools, tokens and costs.';
comment on column public.shared_conversations.expires_at is
  'Until when it can be read: the expiry of the conversation when it was shared.';

alter table public.shared_conversations enable row level security;
alter table public.shared_conversations force row level security;
drop policy if exists "Users read what they share" on public.shared_conversations;
create policy "Users read what they share" on public.shared_conversations
  for select to authenticated using (user_id = (select auth.uid()) and (select private.check_statement()));
revoke all on public.shared_conversations from public, anon, authenticated, service_role;
grant select on public.shared_conversations to authenticated, service_role;
-- No grant to anon: visitors read through shared_conversation. No insert, update or delete: functions write.


-- ==== sql/schemas/25_announcements.sql

-- Sentences that operators show to users: notices, and why something is paused.

create table if not exists public.announcements (
  id uuid primary key,
  created_at timestamptz not null default now(),
  kind text not null
    constraint announcements_kind_is_known check (
      kind in ('notice', 'chat_paused', 'provider_paused', 'sign_ups_paused')),
  provider text
    constraint announcements_provider_is_known check (provider in ('anthropic', 'openai')),
  en text not null
    constraint announcements_en_is_bounded check (en ~ '\S' and char_length(en) <= 500),
  fr text not null
    constraint announcements_fr_is_bounded check (fr ~ '\S' and char_length(fr) <= 500),
  starts_at timestamptz not null,
  ends_at timestamptz,
  constraint announcements_end_after_they_start check (ends_at is null or ends_at >= starts_at),
  constraint announcements_provider_is_paused check ((kind = 'provider_paused') = (provider is not null))
);

comment on table public.announcements is 'Sentences that operators show to users, in both languages.';
comment on column public.announcements.id is 'Identifies the announcement: the id of the action in operator_actions.';
comment on column public.announcements.created_at is 'When it was written.';
comment on column public.announcements.kind is
  'notice, or what is paused while it is shown: chat_paused, provider_paused or sign_ups_paused.';
comment on column public.announcements.provider is 'The provider that is paused.';
comment on column public.announcements.en is 'The sentence in English.';
comment on column public.announcements.fr is 'The sentence in French.';
comment on column public.announcements.starts_at is 'From when on it is shown.';
comment on column public.announcements.ends_at is 'Until when it is shown. Null: until an operator ends it.';

alter table public.announcements enable row level security;
alter table public.announcements force row level security;
drop policy if exists "Signed-in users read the current announcements" on public.announcements;
create policy "Signed-in users read the current announcements" on public.announcements
  for select to authenticated
  using (
    starts_at <= (select private.clock()) and (ends_at is null or ends_at > (select private.clock()))
    and (select private.check_statement()));
revoke all on public.announcements from public, anon, authenticated, service_role;
grant select on public.announcements to authenticated, service_role;
-- No insert, update or delete: announce, pause_service and their opposites write.


create or replace function private.pause_sentence(p_kind text, p_provider text default null) returns jsonb
language plpgsql stable set search_path = ''
as $$
begin
  return (
    select jsonb_build_object('en', a.en, 'fr', a.fr) from public.announcements a
    where a.kind = p_kind and a.provider is not distinct from p_provider and a.ends_at is null
    order by a.starts_at desc limit 1);
end
$$;
comment on function private.pause_sentence(text, text) is
  'The sentence that users read while something is paused: {en, fr}. Null: it is not paused.';
revoke all on function private.pause_sentence(text, text) from public, anon, authenticated, service_role;


-- ==== sql/schemas/25_blocked_addresses.sql

-- E-mail addresses of users who were blocked when their account was deleted.

create table if not exists public.blocked_addresses (
  id uuid primary key default private.time_ordered_id(),
  created_at timestamptz not null default private.clock(),
  address_hash bytea not null
    constraint blocked_addresses_are_unique unique
    constraint blocked_addresses_are_sha256 check (octet_length(address_hash) = 32),
  blocked_at timestamptz not null
);

comment on table public.blocked_addresses is
  'Addresses of users who were blocked when their account was deleted: a new account with the address is blocked too, '
  'until unblock_user. Without it, a block would end with a deletion and a new sign-up.';
comment on column public.blocked_addresses.id is 'Identifies the row.';
comment on column public.blocked_addresses.created_at is 'When the account was deleted.';
comment on column public.blocked_addresses.address_hash is 'SHA-256 of the address in lower case.';
comment on column public.blocked_addresses.blocked_at is 'When the account was blocked.';

alter table public.blocked_addresses enable row level security;
alter table public.blocked_addresses force row level security;
revoke all on public.blocked_addresses from public, anon, authenticated, service_role;
-- No role of the Data API reads or writes it. Functions do.


create or replace function private.address_hash(p_address text) returns bytea
language plpgsql immutable set search_path = ''
as $$
begin
  return sha256(convert_to(lower(p_address), 'UTF8'));
end
$$;
comment on function private.address_hash(text) is 'The hash of an e-mail address in blocked_addresses.';
revoke all on function private.address_hash(text) from public, anon, authenticated, service_role;


-- ==== sql/schemas/25_daily_costs.sql

-- What the day's queries cost us at the providers, for the daily budgets in public.settings.
--
-- The sums are spread over 32 rows. Each connection adds to one of them, so queries that end at the same time hardly
-- ever wait for each other. The rows exist from the start and go on to the next day by themselves.

create table if not exists public.daily_costs (
  id uuid primary key default private.time_ordered_id(),
  created_at timestamptz not null default now(),
  shard integer not null
    constraint daily_costs_shard_is_unique unique,
  day date not null,
  free_usd public.usd not null default 0,
  total_usd public.usd not null default 0
) with (fillfactor = 25); -- room for new versions of the rows on their page
comment on table public.daily_costs is
  'Our cost of the queries of a UTC day at the providers, spread over 32 rows: the sum over the rows of the day.';
comment on column public.daily_costs.id is 'Identifies the row.';
comment on column public.daily_costs.created_at is 'When the row was added.';
comment on column public.daily_costs.shard is 'Numbers the rows from 0.';
comment on column public.daily_costs.day is 'The UTC day that the row counts: the admission of its queries.';
comment on column public.daily_costs.free_usd is 'The cost of free users, US dollars.';
comment on column public.daily_costs.total_usd is 'The cost of all users, except on their own keys, US dollars.';

insert into public.daily_costs (shard, day)
select shard, (private.clock() at time zone 'UTC')::date from generate_series(0, 31) shard
on conflict (shard) do nothing;

alter table public.daily_costs enable row level security;
alter table public.daily_costs force row level security;
revoke all on public.daily_costs from public, anon, authenticated, service_role;
-- No role of the Data API reads or writes them. Functions do.


-- ==== sql/schemas/25_operator_actions.sql

-- What operators did: one row for every change that a person made with the support commands. Append-only.

create table if not exists public.operator_actions (
  id uuid primary key,
  created_at timestamptz not null default now(),
  operator text not null
    constraint operator_actions_operator_is_bounded check (operator ~ '\S' and char_length(operator) <= 200),
  action text not null,
  reason text not null
    constraint operator_actions_reason_is_bounded check (reason ~ '\S' and char_length(reason) <= 500),
  subject_user_id uuid references auth.users (id) on delete set null,
  subject text,
  before jsonb not null,
  after jsonb not null
);
create index if not exists operator_actions_subject_user_id_idx
  on public.operator_actions (subject_user_id, created_at desc) where subject_user_id is not null;

comment on table public.operator_actions is
  'Changes that operators made, with the reason and the values before and after. Rows are never changed or deleted. If '
  'the user is deleted, their rows lose the user, the subject, the reason and the values.';
comment on column public.operator_actions.id is
  'Identifies the action. The command chooses it, so that a repeated call changes nothing again.';
comment on column public.operator_actions.created_at is 'When it was done.';
comment on column public.operator_actions.operator is 'Who did it.';
comment on column public.operator_actions.action is 'What was done: block, grant, pause chat, …';
comment on column public.operator_actions.reason is 'Why, in the words of the operator.';
comment on column public.operator_actions.subject_user_id is
  'The user. Null: it is about no user, or they were deleted.';
comment on column public.operator_actions.subject is 'What else it is about: a query, a plan, an announcement.';
comment on column public.operator_actions.before is 'The values before.';
comment on column public.operator_actions.after is 'The values after.';

create or replace function private.protect_operator_action() returns trigger
language plpgsql volatile set search_path = ''
as $$
begin
  if tg_op = 'UPDATE' and old.subject_user_id is not null and new.subject_user_id is null
     and not exists (select from auth.users u where u.id = old.subject_user_id) then
    -- The user has been deleted. The operator, the time and the kind of action stay.
    old.subject_user_id := null;
    old.subject := null;
    old.reason := 'The user was deleted.';
    old.before := '{}';
    old.after := '{}';
    return old;
  end if;
  raise insufficient_privilege using message = 'Rows of operator_actions are never changed or deleted.';
end
$$;
comment on function private.protect_operator_action() is
  'Trigger: rejects every change of operator_actions, except that a deleted user leaves their rows.';
revoke all on function private.protect_operator_action() from public, anon, authenticated, service_role;

create or replace trigger operator_actions_are_append_only before update or delete on public.operator_actions
  for each row execute function private.protect_operator_action();
create or replace trigger operator_actions_are_not_truncated before truncate on public.operator_actions
  for each statement execute function private.protect_operator_action();

alter table public.operator_actions enable row level security;
alter table public.operator_actions force row level security;
revoke all on public.operator_actions from public, anon, authenticated, service_role;
-- No grant and no policy: only functions read and write it.


create or replace function private.repeated_action(p_action jsonb) returns jsonb
language plpgsql stable set search_path = ''
as $$
begin
  return (
    select jsonb_build_object('before', a.before, 'after', a.after)
    from public.operator_actions a where a.id = (p_action ->> 'id')::uuid);
end
$$;
comment on function private.repeated_action(jsonb) is
  'The result of an operator''s action that was done before. Null: it was not. The caller holds the lock of what the '
  'action changes.';
revoke all on function private.repeated_action(jsonb) from public, anon, authenticated, service_role;


create or replace function private.record_action(
  p_action jsonb, p_name text, p_user_id uuid, p_subject text, p_before jsonb, p_after jsonb)
returns jsonb
language plpgsql volatile set search_path = ''
as $$
begin
  insert into public.operator_actions (
    id, created_at, operator, action, reason, subject_user_id, subject, before, after)
  values (
    (p_action ->> 'id')::uuid, private.clock(), p_action ->> 'operator', p_name, p_action ->> 'reason', p_user_id,
    p_subject, p_before, p_after);
  return jsonb_build_object('before', p_before, 'after', p_after);
end
$$;
comment on function private.record_action(jsonb, text, uuid, text, jsonb, jsonb) is
  'Records an action of an operator, and returns {before, after}. p_action: {id, operator, reason}. Every function '
  'that an operator calls records its action in the same transaction.';
revoke all on function private.record_action(jsonb, text, uuid, text, jsonb, jsonb)
  from public, anon, authenticated, service_role;


-- ==== sql/schemas/25_usage_reversals.sql

-- Reversing entries of the ledger: charges that an operator gave back.

create table if not exists public.usage_reversals (
  id uuid primary key,
  created_at timestamptz not null default now(),
  user_id uuid not null references auth.users (id) on delete cascade,
  query_id uuid not null
    constraint usage_reversals_one_a_query unique
    references public.usage_logs (id) on delete cascade,
  funding public.query_funding not null,
  overage_charge public.usd not null,
  invoice_item_id uuid
    constraint usage_reversals_one_an_invoice_item unique
    references public.overage_invoice_items (id)
);
create index if not exists usage_reversals_user_id_idx on public.usage_reversals (user_id);

comment on table public.usage_reversals is
  'Charges that an operator gave back: one row reverses one row of usage_logs, in which only reversed_at changes.';
comment on column public.usage_reversals.id is 'Identifies the entry: the id of the action in operator_actions.';
comment on column public.usage_reversals.created_at is 'When the charge was given back.';
comment on column public.usage_reversals.user_id is 'The user.';
comment on column public.usage_reversals.query_id is 'The query.';
comment on column public.usage_reversals.funding is 'What paid for it, and got it back.';
comment on column public.usage_reversals.overage_charge is 'The overage charge that is given back, dollars.';
comment on column public.usage_reversals.invoice_item_id is
  'The item that gives the money back at Stripe. Null: the query was not on an invoice item yet, and never will be.';

alter table public.usage_reversals enable row level security;
alter table public.usage_reversals force row level security;
drop policy if exists "Users read their own reversals" on public.usage_reversals;
create policy "Users read their own reversals" on public.usage_reversals
  for select to authenticated using (user_id = (select auth.uid()) and (select private.check_statement()));
revoke all on public.usage_reversals from public, anon, authenticated, service_role;
grant select on public.usage_reversals to authenticated, service_role;
-- No insert, update or delete: credit_back writes.


-- ==== sql/schemas/26_import_states.sql

-- How far each file of public data was imported, so that an import that was killed continues, and an unchanged file is
-- not imported again.

create table if not exists public.import_states (
  id uuid primary key default private.time_ordered_id(),
  created_at timestamptz not null default now(),
  source text not null
    constraint import_states_source_is_unique unique
    constraint import_states_source_is_bounded check (char_length(source) between 1 and 100),
  digest text not null
    constraint import_states_digest_is_bounded check (char_length(digest) between 1 and 100),
  position text
    constraint import_states_position_is_bounded check (char_length(position) <= 100),
  validator text
    constraint import_states_validator_is_bounded check (char_length(validator) <= 300),
  records integer
    constraint import_states_records_is_not_negative check (records >= 0),
  sizes jsonb
    constraint import_states_sizes_is_an_object check (jsonb_typeof(sizes) = 'object'),
  started_at timestamptz not null,
  finished_at timestamptz
);
comment on table public.import_states is 'How far each file of public data was imported.';
comment on column public.import_states.id is 'Identifies the row.';
comment on column public.import_states.created_at is 'When the file was first imported.';
comment on column public.import_states.source is
  'The file: lobbying-registrations, or a quarter such as expenses-2026-1.';
comment on column public.import_states.digest is 'Of the file that is being imported, or was imported last.';
comment on column public.import_states.position is
  'The key of the last imported record. An interrupted import continues after it. Null before the first batch.';
comment on column public.import_states.validator is
  'The ETag or the date of the file that was imported completely. The next run asks whether the file has changed.';
comment on column public.import_states.records is 'How many records the last complete import read.';
comment on column public.import_states.sizes is
  'How many records of the last complete import had a value, by column. A file with far fewer is not believed.';
comment on column public.import_states.started_at is 'When the import of this content began.';
comment on column public.import_states.finished_at is 'When it was complete. Null while it is not.';

alter table public.import_states enable row level security;
alter table public.import_states force row level security;
revoke all on public.import_states from public, anon, authenticated, service_role;
-- No role of the Data API reads or writes them. Functions do.


-- ==== sql/schemas/26_job_runs.sql

-- When each scheduled job last succeeded, so that one that no longer runs is noticed.

create table if not exists public.job_runs (
  id uuid primary key default private.time_ordered_id(),
  created_at timestamptz not null default now(),
  job text not null
    constraint job_runs_job_is_unique unique
    constraint job_runs_job_is_bounded check (char_length(job) between 1 and 100),
  finished_at timestamptz not null
);
comment on table public.job_runs is 'When each scheduled job of the maintenance function last succeeded.';
comment on column public.job_runs.id is 'Identifies the row.';
comment on column public.job_runs.created_at is 'When the row was added.';
comment on column public.job_runs.job is 'The name of the job, such as reconcile.';
comment on column public.job_runs.finished_at is
  'When it last ended without an error. Before its first end: when the row was added.';

alter table public.job_runs enable row level security;
alter table public.job_runs force row level security;
revoke all on public.job_runs from public, anon, authenticated, service_role;
-- No role of the Data API reads or writes them. Functions do.


-- ==== sql/schemas/27_member_expenses.sql

-- Members' expenses by quarter and category, as the House of Commons publishes them. Canadian dollars.

create table if not exists public.member_expenses (
  id uuid primary key default private.time_ordered_id(),
  created_at timestamptz not null default now(),
  fiscal_year integer not null
    constraint member_expenses_fiscal_year_is_plausible check (fiscal_year between 2000 and 2200),
  quarter integer not null
    constraint member_expenses_quarter_is_one_of_four check (quarter between 1 and 4),
  name text not null
    constraint member_expenses_name_is_bounded check (char_length(name) between 1 and 200),
  constituency text not null
    constraint member_expenses_constituency_is_bounded check (char_length(constituency) <= 200),
  caucus text not null
    constraint member_expenses_caucus_is_bounded check (char_length(caucus) <= 100),
  occurrence integer not null,
  member_key text
    constraint member_expenses_member_key_is_bounded check (char_length(member_key) <= 200),
  salaries numeric(12,2) not null,
  travel numeric(12,2) not null,
  hospitality numeric(12,2) not null,
  contracts numeric(12,2) not null,
  constraint member_expenses_has_each_row_once unique (fiscal_year, quarter, name, constituency, caucus, occurrence)
);
create index if not exists member_expenses_member_key_idx
  on public.member_expenses (member_key, fiscal_year desc, quarter desc);

comment on table public.member_expenses is
  'Members'' expenses by quarter and category, Canadian dollars. A refund is negative.';
comment on column public.member_expenses.id is 'Identifies the row.';
comment on column public.member_expenses.created_at is 'When it was imported.';
comment on column public.member_expenses.fiscal_year is
  'The year in which the fiscal year ends: 2027 is April 2026 to March 2027.';
comment on column public.member_expenses.quarter is '1 is April to June.';
comment on column public.member_expenses.name is
  'As published: "Quillwater, Hon. Fern", or "Vacant" for an office without a member.';
comment on column public.member_expenses.constituency is 'The riding.';
comment on column public.member_expenses.caucus is 'The caucus, in English.';
comment on column public.member_expenses.occurrence is
  '1; or 2 and more where the file has the same name, riding and caucus again. Both rows count.';
comment on column public.member_expenses.member_key is 'private.person_key of the member. Null for a vacant office.';
comment on column public.member_expenses.salaries is 'Salaries of employees.';
comment on column public.member_expenses.travel is 'Travel.';
comment on column public.member_expenses.hospitality is 'Hospitality.';
comment on column public.member_expenses.contracts is 'Contracts and other operating costs.';

alter table public.member_expenses enable row level security;
alter table public.member_expenses force row level security;
revoke all on public.member_expenses from public, anon, authenticated, service_role;
-- No role of the Data API reads or writes them: the Speaker's Permission excludes selling the data. Functions do.


-- ==== sql/schemas/28_lobbying_registrations.sql

-- The registry of lobbyists: registrations. Every search is of one index.

create table if not exists public.lobbying_registrations (
  id uuid primary key default private.time_ordered_id(),
  created_at timestamptz not null default now(),
  number text collate "C" not null
    constraint lobbying_registrations_number_is_unique unique
    constraint lobbying_registrations_number_is_bounded check (char_length(number) between 1 and 60),
  newest_id bigint not null,
  versions integer not null
    constraint lobbying_registrations_versions_is_positive check (versions > 0),
  kind integer,
  client_number text
    constraint lobbying_registrations_client_number_is_bounded check (char_length(client_number) <= 60),
  organization_en text not null
    constraint lobbying_registrations_organization_en_is_bounded check (char_length(organization_en) <= 500),
  organization_fr text not null
    constraint lobbying_registrations_organization_fr_is_bounded check (char_length(organization_fr) <= 500),
  firm text
    constraint lobbying_registrations_firm_is_bounded check (char_length(firm) <= 500),
  registrant text
    constraint lobbying_registrations_registrant_is_bounded check (char_length(registrant) <= 200),
  first_effective_on date,
  effective_on date,
  ends_on date,
  institutions text[] not null,
  organization_words tsvector generated always as (
    private.search_words(organization_en || ' ' || organization_fr || ' ' || coalesce(firm, ''))) stored
);
create index if not exists lobbying_registrations_organization_words_idx
  on public.lobbying_registrations using gin (organization_words);
create index if not exists lobbying_registrations_newest_first_idx
  on public.lobbying_registrations (effective_on desc nulls last);

comment on table public.lobbying_registrations is
  'Registrations to lobby. The registry publishes every version of a registration; a row is the newest one.';
comment on column public.lobbying_registrations.id is 'Identifies the row.';
comment on column public.lobbying_registrations.created_at is 'When it was imported.';
comment on column public.lobbying_registrations.number is 'The registration''s number without its version.';
comment on column public.lobbying_registrations.newest_id is 'The registry''s id of the newest version.';
comment on column public.lobbying_registrations.versions is 'How many versions were published.';
comment on column public.lobbying_registrations.kind is
  '1 consultant, 2 in-house of a corporation, 3 in-house of an organization.';
comment on column public.lobbying_registrations.client_number is 'The registry''s number of the client.';
comment on column public.lobbying_registrations.organization_en is
  'The client, organization or corporation; in French where it has no English name.';
comment on column public.lobbying_registrations.organization_fr is
  'The same in French; in English where it has no French name.';
comment on column public.lobbying_registrations.firm is 'The firm of a consultant.';
comment on column public.lobbying_registrations.registrant is 'The person who registered.';
comment on column public.lobbying_registrations.first_effective_on is 'The first day of the first version.';
comment on column public.lobbying_registrations.effective_on is 'The first day of the newest version.';
comment on column public.lobbying_registrations.ends_on is 'The last day of the newest version. Null: active.';
comment on column public.lobbying_registrations.institutions is
  'The institutions to be lobbied, of the newest version.';
comment on column public.lobbying_registrations.organization_words is 'The words of the names, for search.';

alter table public.lobbying_registrations enable row level security;
alter table public.lobbying_registrations force row level security;
revoke all on public.lobbying_registrations from public, anon, authenticated, service_role;
-- No role of the Data API reads or writes them. Functions do.


-- ==== sql/schemas/29_lobbying_communications.sql

-- The registry of lobbyists: reports of communications with officials.
--
-- Every search is of one index: words of a text or a name (GIN on tsvector 'simple', in both languages), a person's
-- key (GIN on an array), a date (B-tree).

create table if not exists public.lobbying_communications (
  id uuid primary key default private.time_ordered_id(),
  created_at timestamptz not null default now(),
  number bigint not null
    constraint lobbying_communications_number_is_unique unique,
  communicated_on date not null,
  posted_on date,
  kind integer,
  client_number text
    constraint lobbying_communications_client_number_is_bounded check (char_length(client_number) <= 60),
  organization_en text not null
    constraint lobbying_communications_organization_en_is_bounded check (char_length(organization_en) <= 500),
  organization_fr text not null
    constraint lobbying_communications_organization_fr_is_bounded check (char_length(organization_fr) <= 500),
  registrant text
    constraint lobbying_communications_registrant_is_bounded check (char_length(registrant) <= 200),
  is_superseded boolean not null,
  officials jsonb not null,
  official_keys text[] not null,
  description text not null
    constraint lobbying_communications_description_is_bounded check (char_length(description) <= 4000),
  subjects_en text[] not null,
  subjects_fr text[] not null,
  -- Superseded reports are not found.
  words tsvector generated always as (
    case when not is_superseded then private.search_words(
      description || ' ' || private.join_texts(subjects_en) || ' ' || private.join_texts(subjects_fr)) end) stored,
  organization_words tsvector generated always as (
    case when not is_superseded then private.search_words(organization_en || ' ' || organization_fr) end) stored
);
create index if not exists lobbying_communications_communicated_on_idx
  on public.lobbying_communications (communicated_on desc nulls last);
create index if not exists lobbying_communications_words_idx on public.lobbying_communications using gin (words);
create index if not exists lobbying_communications_organization_words_idx
  on public.lobbying_communications using gin (organization_words);
create index if not exists lobbying_communications_official_keys_idx
  on public.lobbying_communications using gin (official_keys);

comment on table public.lobbying_communications is
  'Reports of oral, arranged communications between lobbyists and senior officials.';
comment on column public.lobbying_communications.id is 'Identifies the row.';
comment on column public.lobbying_communications.created_at is 'When it was imported.';
comment on column public.lobbying_communications.number is 'The registry''s number of the report.';
comment on column public.lobbying_communications.communicated_on is 'The day of the communication.';
comment on column public.lobbying_communications.posted_on is 'When the registry published the report.';
comment on column public.lobbying_communications.kind is
  '1 consultant, 2 in-house of a corporation, 3 in-house of an organization.';
comment on column public.lobbying_communications.client_number is 'The registry''s number of the client.';
comment on column public.lobbying_communications.organization_en is
  'Who lobbied; in French where it has no English name.';
comment on column public.lobbying_communications.organization_fr is
  'The same in French; in English where it has no French name.';
comment on column public.lobbying_communications.registrant is 'The person responsible for the report.';
comment on column public.lobbying_communications.is_superseded is 'Whether a later report replaces this one.';
comment on column public.lobbying_communications.officials is
  'The officials: a list of {"name", "title", "institution"}.';
comment on column public.lobbying_communications.official_keys is 'private.person_key of each official.';
comment on column public.lobbying_communications.description is 'What it was about; empty before October 2024.';
comment on column public.lobbying_communications.subjects_en is 'The registry''s subjects, in English.';
comment on column public.lobbying_communications.subjects_fr is 'The registry''s subjects, in French.';
comment on column public.lobbying_communications.words is 'The words of the description and the subjects, for search.';
comment on column public.lobbying_communications.organization_words is 'The words of the names, for search.';

alter table public.lobbying_communications enable row level security;
alter table public.lobbying_communications force row level security;
revoke all on public.lobbying_communications from public, anon, authenticated, service_role;
-- No role of the Data API reads or writes them. Functions do.


-- ==== sql/schemas/29_lobbying_subjects.sql

-- The registry of lobbyists: what the registrations are about.

create table if not exists public.lobbying_subjects (
  id uuid primary key default private.time_ordered_id(),
  created_at timestamptz not null default now(),
  registration_id uuid not null references public.lobbying_registrations (id) on delete cascade,
  description text not null
    constraint lobbying_subjects_description_is_bounded check (char_length(description) <= 4000),
  description_md5 uuid generated always as (md5(description)::uuid) stored,
  subjects_en text[] not null,
  subjects_fr text[] not null,
  starts_on date,
  ends_on date,
  words tsvector generated always as (
    private.search_words(
      description || ' ' || private.join_texts(subjects_en) || ' ' || private.join_texts(subjects_fr))) stored,
  constraint lobbying_subjects_description_once_per_registration unique (registration_id, description_md5)
);
create index if not exists lobbying_subjects_words_idx on public.lobbying_subjects using gin (words);
create index if not exists lobbying_subjects_newest_first_idx on public.lobbying_subjects (starts_on desc nulls last);

comment on table public.lobbying_subjects is
  'What registrations are about. Versions of a registration repeat their texts; a text is one row here.';
comment on column public.lobbying_subjects.id is 'Identifies the row.';
comment on column public.lobbying_subjects.created_at is 'When it was imported.';
comment on column public.lobbying_subjects.registration_id is 'The registration.';
comment on column public.lobbying_subjects.description is
  'The registrant''s text; empty where only subjects were ticked.';
comment on column public.lobbying_subjects.description_md5 is 'Of the description, for the unique constraint.';
comment on column public.lobbying_subjects.subjects_en is 'The registry''s subjects, in English.';
comment on column public.lobbying_subjects.subjects_fr is 'The registry''s subjects, in French.';
comment on column public.lobbying_subjects.starts_on is 'The first day of the first version with this text.';
comment on column public.lobbying_subjects.ends_on is 'The last day of the last version with this text. Null: active.';
comment on column public.lobbying_subjects.words is 'The words of the description and the subjects, for search.';

alter table public.lobbying_subjects enable row level security;
alter table public.lobbying_subjects force row level security;
revoke all on public.lobbying_subjects from public, anon, authenticated, service_role;
-- No role of the Data API reads or writes them. Functions do.


-- ==== sql/schemas/30_signup.sql

-- Every new user starts on the free plan.

create or replace function private.start_subscription() returns trigger
language plpgsql volatile security definer set search_path = ''
as $$
begin
  if exists (select from public.settings s where s.sign_ups_paused_at is not null) then
    raise exception using errcode = 'PAUSE', message = 'Sign-ups are paused.';
  end if;
  insert into public.user_subscriptions (user_id, blocked_at, blocked_reason)
  select new.id, b.blocked_at, case when b.blocked_at is not null then 'Blocked before its deletion' end
  from (select private.address_hash(new.email) as hash) address
  left join public.blocked_addresses b on b.address_hash = address.hash
  on conflict (user_id) do nothing;
  return new;
end
$$;
comment on function private.start_subscription() is
  'Trigger on auth.users: creates a free subscription, which is blocked if the address was blocked when its account '
  'was deleted. Runs as its owner, because Auth may not write to public. PAUSE: an operator has paused sign-ups.';
revoke all on function private.start_subscription() from public, anon, authenticated, service_role;

create or replace trigger start_subscription after insert on auth.users
  for each row execute function private.start_subscription();

-- Users who signed up before this migration.
insert into public.user_subscriptions (user_id) select id from auth.users on conflict (user_id) do nothing;


create or replace function public.before_user_created(event jsonb) returns jsonb
language plpgsql stable security definer set search_path = ''
as $$
declare
  v_language constant text := event -> 'user' -> 'user_metadata' ->> 'language';
  v_sentence constant jsonb := private.pause_sentence('sign_ups_paused');
begin
  if exists (select from public.settings s where s.sign_ups_paused_at is not null) then
    return jsonb_build_object('error', jsonb_build_object(
      'http_code', 403,
      'message', coalesce(v_sentence ->> case v_language when 'fr' then 'fr' else 'en' end, 'Sign-ups are paused.')));
  end if;
  return '{}'::jsonb;
end
$$;
comment on function public.before_user_created(jsonb) is
  'Auth hook Before User Created: while sign-ups are paused, refuses them with the operator''s sentence, in French if '
  'the metadata of the new user have the language fr. Without the hook the trigger refuses them with an error of the '
  'database. https://supabase.com/docs/guides/auth/auth-hooks/before-user-created-hook';
revoke all on function public.before_user_created(jsonb) from public, anon, authenticated, service_role;
do $$
begin
  grant execute on function public.before_user_created(jsonb) to supabase_auth_admin;
exception when undefined_object then
  null; -- Not Supabase.
end
$$;


-- ==== sql/schemas/40_periods.sql

-- Billing periods.

create or replace function private.period_at(
  p_start timestamptz, p_end timestamptz, p_at timestamptz, out period_start timestamptz, out period_end timestamptz)
language plpgsql immutable set search_path = ''
as $$
declare
  -- The day of the month on which periods start. A period from 28 February to 31 March has its day, 31, in its end.
  v_anchor timestamp := case
    when extract(day from p_end at time zone 'UTC') > extract(day from p_start at time zone 'UTC') then p_end
    else p_start end at time zone 'UTC';
  v_at timestamp := p_at at time zone 'UTC';
  v_months integer;
begin
  if p_at >= p_start and p_at < p_end then
    period_start := p_start;
    period_end := p_end;
    return;
  elsif p_start is null then
    v_anchor := date_trunc('month', v_at);
  end if;
  v_months := (extract(year from v_at) - extract(year from v_anchor)) * 12
            + extract(month from v_at) - extract(month from v_anchor);
  -- Count from the anchor, so that a period that starts on the 31st returns to the 31st after a shorter month.
  if v_anchor + v_months * interval '1 month' > v_at then
    v_months := v_months - 1;
  end if;
  period_start := (v_anchor + v_months * interval '1 month') at time zone 'UTC';
  period_end := (v_anchor + (v_months + 1) * interval '1 month') at time zone 'UTC';
end
$$;
comment on function private.period_at(timestamptz, timestamptz, timestamptz) is
  'The billing period that contains p_at: the given period if it does, otherwise a period a number of months before or '
  'after it. Without a given period: the calendar month, UTC.';
revoke all on function private.period_at(timestamptz, timestamptz, timestamptz)
  from public, anon, authenticated, service_role;
grant execute on function private.period_at(timestamptz, timestamptz, timestamptz) to authenticated, service_role;


-- ==== sql/schemas/41_funding_sources.sql

-- What can pay for a query besides the quota: own keys and credit packs.

create or replace function private.own_key_provider(p_user_id uuid, p_provider text) returns text
language plpgsql stable set search_path = ''
as $$
begin
  -- 'anthropic' sorts before 'openai', which is the order of preference.
  return (
    select min(k.provider) from public.user_api_keys k
    where k.user_id = p_user_id and k.is_active and (p_provider is null or k.provider = p_provider));
end
$$;
comment on function private.own_key_provider(uuid, text) is
  'The provider of the active key of a user that would be used. p_provider null: any provider. Null: no such key.';
revoke all on function private.own_key_provider(uuid, text) from public, anon, authenticated, service_role;
grant execute on function private.own_key_provider(uuid, text) to authenticated, service_role;


create or replace function private.next_credit_pack(p_user_id uuid, p_at timestamptz) returns uuid
language plpgsql stable set search_path = ''
as $$
begin
  return (
    select c.id from public.credit_packs c
    where c.user_id = p_user_id and c.credits_remaining > 0 and not c.is_frozen
      and (c.expires_at > p_at or c.expires_at is null)
    order by c.expires_at nulls last, c.created_at, c.id limit 1);
end
$$;
comment on function private.next_credit_pack(uuid, timestamptz) is
  'The credit pack that pays next: the first to expire, then the oldest. Null: none can pay.';
revoke all on function private.next_credit_pack(uuid, timestamptz) from public, anon, authenticated, service_role;
grant execute on function private.next_credit_pack(uuid, timestamptz) to authenticated, service_role;


create or replace function private.unsubscribed_tier(p_user_id uuid, p_at timestamptz) returns text
language plpgsql stable set search_path = ''
as $$
begin
  return case when exists (
    select from public.credit_packs c
    where c.user_id = p_user_id and c.credits_to_revoke < c.credits_purchased
      and (c.expires_at > p_at or c.expires_at is null)
  ) then 'usage_only' else 'free' end;
end
$$;
comment on function private.unsubscribed_tier(uuid, timestamptz) is
  'The tier of a user without a subscription: usage_only while a credit pack has neither expired nor been fully '
  'refunded, even if all its credits are spent; otherwise free.';
revoke all on function private.unsubscribed_tier(uuid, timestamptz) from public, anon, authenticated, service_role;
grant execute on function private.unsubscribed_tier(uuid, timestamptz) to authenticated, service_role;


create or replace function private.set_tier_from_packs(p_user_id uuid) returns void
language plpgsql volatile set search_path = ''
as $$
declare
  v_tier constant text := private.unsubscribed_tier(p_user_id, private.clock());
begin
  update public.user_subscriptions s set tier = v_tier
  where s.user_id = p_user_id and s.stripe_subscription_id is null and s.status = 'active'
    and s.tier in ('free', 'usage_only') and s.tier <> v_tier;
end
$$;
comment on function private.set_tier_from_packs(uuid) is
  'Sets the tier of a user without a subscription to what their credit packs allow. The caller holds the user lock.';
revoke all on function private.set_tier_from_packs(uuid) from public, anon, authenticated, service_role;


create or replace function private.reason_of(p_funding text, p_tier text) returns text
language plpgsql immutable set search_path = ''
as $$
begin
  return case p_funding
    when 'byok' then 'Unlimited (BYOK)'
    when 'included' then case p_tier when 'free' then 'Within free tier quota' else 'Within daily quota' end
    when 'credit' then 'Credits available'
    when 'overage' then 'Overage allowed'
  end;
end
$$;
comment on function private.reason_of(text, text) is 'The reason text for an admitted query with this funding.';
revoke all on function private.reason_of(text, text) from public, anon, authenticated, service_role;
grant execute on function private.reason_of(text, text) to authenticated, service_role;


-- ==== sql/schemas/42_chats.sql

-- The chat of a query: its conversation, what the model reads of it, and the place of a question. For admit_query.

create or replace function private.conversation_key(p_chat_id text) returns uuid
language plpgsql immutable set search_path = ''
as $$
begin
  return case when p_chat_id ~* '^[0-9a-f]{8}-([0-9a-f]{4}-){3}[0-9a-f]{12}$' then p_chat_id::uuid end;
end
$$;
comment on function private.conversation_key(text) is
  'The conversation id for a chat id that is a UUID. Null for any other chat id, which is an external_id.';
revoke all on function private.conversation_key(text) from public, anon, authenticated, service_role;


create or replace function private.find_conversation(p_user_id uuid, p_chat_id text, p_chat_uuid uuid)
returns uuid
language plpgsql stable set search_path = ''
as $$
declare
  v_owner uuid;
  v_id uuid;
begin
  if p_chat_uuid is null then
    select id into v_id from public.conversations where user_id = p_user_id and external_id = p_chat_id;
    return v_id;
  end if;
  select id, user_id into v_id, v_owner from public.conversations where id = p_chat_uuid;
  if v_owner <> p_user_id then
    raise exception using errcode = 'NTFND', message = 'There is no such conversation.',
      hint = 'conversation_not_found';
  end if;
  return v_id;
end
$$;
comment on function private.find_conversation(uuid, text, uuid) is
  'The id of the conversation of a chat. Null if it is new. p_chat_uuid: conversation_key() of the chat id. NTFND: it '
  'belongs to another user.';
revoke all on function private.find_conversation(uuid, text, uuid) from public, anon, authenticated, service_role;


create or replace function private.recent_messages(
  p_conversation_id uuid, p_before integer, p_count integer, p_bytes integer)
returns jsonb
language plpgsql volatile set search_path = ''
as $$
declare
  v_has_pending boolean;
  v_pending jsonb := '[]'::jsonb;
  v_pending_size integer := 0;
  v_replaced int4multirange;
  v_stored jsonb;
begin
  v_has_pending := exists (select from public.pending_turns w where w.conversation_id = p_conversation_id);
  if v_has_pending then
    perform private.apply_pending_turns(p_conversation_id);
    v_has_pending := exists (select from public.pending_turns w where w.conversation_id = p_conversation_id);
  end if;
  if v_has_pending then
    -- The conversation is locked. Its pending turns are its newest messages, and replace others.
    v_replaced := (
      select range_agg(int4range(w.position::integer, w.replaces_to, '[]'))
      from public.pending_turns w
      where w.conversation_id = p_conversation_id and w.replaces_to is not null);
    select
      coalesce(jsonb_agg(jsonb_build_object('role', part.role, 'content', part.content,
                                            'finish_reason', part.finish_reason)
                         order by turn.created_at, turn.id, part.role desc), '[]'),
      coalesce(max(turn.size), 0)::integer
    into v_pending, v_pending_size
    from (
      select w.created_at, w.id, w.turn,
             sum(octet_length(w.turn -> 'question' ->> 'content') + octet_length(w.turn -> 'answer' ->> 'content'))
               over (order by w.created_at desc, w.id desc) as size
      from public.pending_turns w
      where w.conversation_id = p_conversation_id and (p_before is null or w.position < p_before)
        and not exists (
          select from public.pending_turns q
          where q.conversation_id = w.conversation_id and (q.created_at, q.id) > (w.created_at, w.id)
            and w.position between q.position and q.replaces_to)
      order by w.created_at desc, w.id desc limit p_count / 2
    ) turn
    cross join lateral (values
      ('user', turn.turn -> 'question' ->> 'content', null),
      ('assistant', turn.turn -> 'answer' ->> 'content', turn.turn -> 'answer' ->> 'finish_reason')
    ) part (role, content, finish_reason)
    where turn.size <= p_bytes;
  end if;

  v_stored := (
    select jsonb_agg(
      case when sized.size_with_results <= p_bytes - v_pending_size
           then jsonb_build_object('role', sized.role, 'content', sized.content,
                                   'finish_reason', sized.finish_reason, 'step_ends', sized.step_ends,
                                   'function_calls', sized.function_calls,
                                   'function_results', sized.function_results)
           else jsonb_build_object('role', sized.role, 'content', sized.content,
                                   'finish_reason', sized.finish_reason) end
      order by sized.position)
    from (
      select newest.*, sum(octet_length(newest.content)) over newest_first as size,
             sum(octet_length(newest.content) + coalesce(octet_length(newest.function_calls::text), 0)
                 + coalesce(octet_length(newest.function_results::text), 0))
               over newest_first as size_with_results
      from (
        select m.role, m.content, m.finish_reason, m.step_ends, m.function_calls, m.function_results, m.position
        from public.messages m
        where m.conversation_id = p_conversation_id and m.position < coalesce(p_before, 2147483647)
          and (v_replaced is null or not m.position::integer <@ v_replaced)
        order by m.position desc limit p_count - jsonb_array_length(v_pending)
      ) newest
      window newest_first as (order by newest.position desc)
    ) sized
    where sized.size <= p_bytes - v_pending_size);
  return case when v_has_pending or v_stored is null then coalesce(v_stored, '[]') || v_pending else v_stored end;
end
$$;
comment on function private.recent_messages(uuid, integer, integer, integer) is
  'The newest messages of a conversation that fit into p_bytes, oldest first: [{role, content, finish_reason, '
  'step_ends, function_calls, function_results}]. Steps, calls and results are left out of messages where they do not '
  'fit. p_before: only messages before this position. Pending turns are stored first, or read if the conversation is '
  'locked.';
revoke all on function private.recent_messages(uuid, integer, integer, integer)
  from public, anon, authenticated, service_role;


create or replace function private.newest_answer(p_user_id uuid, p_chat_key uuid) returns uuid
language plpgsql stable set search_path = ''
as $$
begin
  -- Among the newest 100 queries of the user, because no index has the chat.
  return (
    select newest.id
    from (
      select u.id, u.chat_key, u.is_charged, u.query_timestamp from public.usage_logs u where u.user_id = p_user_id
      order by u.query_date desc, u.query_timestamp desc limit 100) newest
    where newest.chat_key = p_chat_key and newest.is_charged
    order by newest.query_timestamp desc limit 1);
end
$$;
comment on function private.newest_answer(uuid, uuid) is
  'The newest charged query of a chat, whose id is that of its answer. Null: none among the newest 100 of the user.';
revoke all on function private.newest_answer(uuid, uuid) from public, anon, authenticated, service_role;


create or replace function private.stop_chat(p_user_id uuid, p_chat_key uuid, p_at timestamptz) returns void
language plpgsql volatile set search_path = ''
as $$
begin
  update public.query_holds h set stop_requested = true
  where h.user_id = p_user_id and h.chat_key = p_chat_key and h.expires_at > p_at;
end
$$;
comment on function private.stop_chat(uuid, uuid, timestamptz) is
  'Requests that all running queries of a chat stop. The caller holds the user lock.';
revoke all on function private.stop_chat(uuid, uuid, timestamptz) from public, anon, authenticated, service_role;


create or replace function private.place_question(
  p_user_id uuid, p_chat_key uuid, p_conversation_id uuid, p_question_id text, p_hold_id uuid,
  out question_position integer, out replaces_to integer)
language plpgsql stable set search_path = ''
as $$
begin
  -- As private.next_position, inlined because it runs for every query.
  question_position := greatest(
    (select max(m.position) + 1 from public.messages m where m.conversation_id = p_conversation_id),
    (select max(w.position) + 2 from public.pending_turns w where w.conversation_id = p_conversation_id),
    (select max(h.position) + 2 from public.query_holds h
     where h.user_id = p_user_id and h.chat_key = p_chat_key and h.id <> p_hold_id),
    1);
  if p_question_id is null or p_conversation_id is null then
    return;
  end if;

  -- A repeated question keeps its place. What was asked since is replaced.
  select repeated.position, question_position - 1 into question_position, replaces_to
  from (
    (select m.position from public.messages m
     where m.conversation_id = p_conversation_id and m.role = 'user' and m.external_id = p_question_id
     order by m.position desc limit 1)
    union all
    select w.position from public.pending_turns w
    where w.conversation_id = p_conversation_id and w.turn -> 'question' ->> 'id' = p_question_id
    union all
    select question_position) repeated (position)
  order by repeated.position limit 1;
  if place_question.replaces_to < question_position then
    replaces_to := null; -- the question is new
  end if;
end
$$;
comment on function private.place_question(uuid, uuid, uuid, text, uuid) is
  'The position of a question: after everything asked in its chat so far, or that of the same question if it was asked '
  'before. Then messages up to replaces_to are replaced. The caller holds the user lock.';
revoke all on function private.place_question(uuid, uuid, uuid, text, uuid)
  from public, anon, authenticated, service_role;


-- ==== sql/schemas/42_funding_state.sql

-- The decision: what pays for the next query of a user, in three views, each built on the one before.
--
-- current_subscriptions  the subscription as of now: the tier in force, counters of this day and this period
-- subscription_limits    what the tier and the user allow
-- funding_state          the decision: what pays, why, and when that changes
--
-- Postgres merges the views into one plan. A lateral subquery with `offset 0` is evaluated once for each row; without
-- it the planner copies its expressions to every place that uses them.

create or replace view private.current_subscriptions with (security_invoker = true) as
select
  s.user_id, s.updated_at, clock.now, clock.midnight,
  rolled.tier, rolled.status, rolled.is_lapsed,
  p.name, case when p.paused_at is null then p.models - p.paused_providers else '{}' end as models,
  p.history_days, p.allows_byok, p.allows_credits,
  p.query_cost_limit_usd::numeric as query_cost_limit_usd, p.overage_price_usd::numeric as overage_price_usd,
  p.daily_quota as plan_daily_quota, p.lifetime_quota as plan_lifetime_quota,
  p.overage_limit_usd::numeric as plan_overage_limit,
  s.tier as stored_tier, s.stripe_subscription_id, s.allow_overages, s.uses_byo_key,
  greatest(s.past_due_since, s.paid_until) as grace_starts_at,
  rolled.period_start, s.current_period_start as stored_period_start, s.current_period_end,
  rolled.quota_date, rolled.quota_used, s.lifetime_used::integer as lifetime_used,
  rolled.failed_cost_usd, p.failed_cost_limit_usd::numeric as failed_cost_limit_usd, p.concurrent_queries,
  s.daily_quota as own_daily_quota, s.lifetime_quota as own_lifetime_quota,
  rolled.overage_period_start, rolled.overage_used, s.overage_limit::numeric as own_overage_limit,
  coalesce(s.overage_ceiling, greatest(p.overage_limit_usd, 2 * s.paid_overage_usd))::numeric as overage_ceiling,
  s.blocked_at, s.unpaid_overage_usd::numeric as unpaid_overage,
  s.open_invoice_url
from (
  select c.now, (c.now at time zone 'UTC')::date as today,
         ((c.now at time zone 'UTC')::date + 1)::timestamp at time zone 'UTC' as midnight
  from (select private.clock() as now offset 0) c
) clock
cross join public.user_subscriptions s
cross join lateral (
  select
    period.is_lapsed,
    case when period.is_lapsed then private.unsubscribed_tier(s.user_id, clock.now)
         when s.next_tier is not null and s.current_period_end <= clock.now then s.next_tier
         else s.tier end as tier,
    case when period.is_lapsed then 'active' else s.status end as status,
    case when not period.is_lapsed then s.current_period_start end as period_start,
    -- Counters only move forward: of two transactions around midnight, neither may reset the count of the other.
    greatest(s.quota_date, clock.today) as quota_date,
    case when clock.today > s.quota_date then 0 else s.quota_used end as quota_used,
    case when clock.today > s.quota_date then 0 else s.failed_cost_usd end as failed_cost_usd,
    greatest(s.overage_period_start, period.starts_at) as overage_period_start,
    case when period.starts_at > s.overage_period_start then 0 else s.current_overage_amount end as overage_used
  from (
    select canceled.is_lapsed, case
        when canceled.is_lapsed or s.current_period_start is null then date_trunc('month', clock.now, 'UTC')
        when clock.now >= s.current_period_start and clock.now < s.current_period_end then s.current_period_start
        else (private.period_at(s.current_period_start, s.current_period_end, clock.now)).period_start
      end as starts_at
    -- `is true`: an unknown period (null) has not ended.
    from (select (s.status = 'canceled' and s.current_period_end <= clock.now) is true as is_lapsed) canceled
    offset 0
  ) period
  offset 0
) rolled
join public.plans p on p.tier = rolled.tier;
comment on view private.current_subscriptions is
  'Each subscription as of now. The only place that decides which tier is in force: a canceled plan ends with its '
  'period, a downgrade starts with the next period. Until included_until, admit_query and store_turn reuse the '
  'decision, which is the stored tier. Counters are those of the current day and period.';
comment on column private.current_subscriptions.user_id is 'The user.';
comment on column private.current_subscriptions.updated_at is 'When the subscription last changed, except counters.';
comment on column private.current_subscriptions.now is 'The time of this state.';
comment on column private.current_subscriptions.midnight is 'The end of the UTC day.';
comment on column private.current_subscriptions.tier is 'The tier in force.';
comment on column private.current_subscriptions.status is 'active, canceled, suspended or past_due.';
comment on column private.current_subscriptions.is_lapsed is
  'Whether a canceled plan has ended. The stored row does not show it until the next admission.';
comment on column private.current_subscriptions.name is 'The name of the plan.';
comment on column private.current_subscriptions.models is
  'The models of the plan by provider, without paused providers. Empty: the chat is paused.';
comment on column private.current_subscriptions.history_days is 'Days that the plan stores conversations.';
comment on column private.current_subscriptions.allows_byok is 'Whether the plan allows own keys.';
comment on column private.current_subscriptions.allows_credits is 'Whether credit packs pay on this plan.';
comment on column private.current_subscriptions.query_cost_limit_usd is 'The cost limit of one query, US dollars.';
comment on column private.current_subscriptions.overage_price_usd is 'Dollars per overage query. Null: no overage.';
comment on column private.current_subscriptions.plan_daily_quota is 'The daily quota of the plan.';
comment on column private.current_subscriptions.plan_lifetime_quota is 'The lifetime quota of the plan.';
comment on column private.current_subscriptions.plan_overage_limit is 'The default overage limit of the plan.';
comment on column private.current_subscriptions.stored_tier is 'The tier of the stored row.';
comment on column private.current_subscriptions.stripe_subscription_id is 'The live Stripe subscription.';
comment on column private.current_subscriptions.grace_starts_at is
  'When the payment failed, or later, when what was paid before ends. The seven days of grace start then.';
comment on column private.current_subscriptions.allow_overages is 'Whether the user allows overage.';
comment on column private.current_subscriptions.uses_byo_key is 'Whether the user has an active key.';
comment on column private.current_subscriptions.period_start is
  'Start of the billing period. Null: calendar months, UTC, also after a canceled plan has ended.';
comment on column private.current_subscriptions.stored_period_start is 'Start of the billing period in the stored row.';
comment on column private.current_subscriptions.current_period_end is 'End of the billing period in the stored row.';
comment on column private.current_subscriptions.quota_date is 'The UTC day that quota_used counts.';
comment on column private.current_subscriptions.quota_used is 'Included queries used on that day.';
comment on column private.current_subscriptions.lifetime_used is 'Included queries used of a lifetime quota.';
comment on column private.current_subscriptions.failed_cost_usd is
  'Our cost of failed queries on that day, US dollars.';
comment on column private.current_subscriptions.failed_cost_limit_usd is 'The limit of that cost.';
comment on column private.current_subscriptions.concurrent_queries is 'How many queries may run at the same time.';
comment on column private.current_subscriptions.own_daily_quota is 'A daily quota for this user only.';
comment on column private.current_subscriptions.own_lifetime_quota is 'A lifetime quota for this user only.';
comment on column private.current_subscriptions.overage_period_start is 'Start of the period that overage_used counts.';
comment on column private.current_subscriptions.overage_used is 'Overage in that period, dollars, holds included.';
comment on column private.current_subscriptions.own_overage_limit is 'The overage limit set by the user, dollars.';
comment on column private.current_subscriptions.overage_ceiling is
  'The most that the user may set as the overage limit, dollars (bounded_overage_limit).';
comment on column private.current_subscriptions.blocked_at is 'When an operator blocked the account. Null: never.';
comment on column private.current_subscriptions.unpaid_overage is
  'Overage of all periods that is not paid, dollars, holds included.';
comment on column private.current_subscriptions.open_invoice_url is 'The page of the oldest open invoice. Null: none.';
revoke all on private.current_subscriptions from public, anon, authenticated, service_role;
grant select on private.current_subscriptions to authenticated, service_role;


create or replace view private.subscription_limits with (security_invoker = true) as
select
  s.user_id, s.updated_at, s.now, s.midnight, s.tier, s.status, s.is_lapsed, s.name, s.models, s.history_days,
  s.allows_byok, s.allows_credits, s.query_cost_limit_usd, s.overage_price_usd, s.stored_tier, s.grace_starts_at,
  s.uses_byo_key, s.period_start, s.stored_period_start, s.current_period_end, s.quota_date, s.quota_used,
  s.lifetime_used, s.failed_cost_usd, s.failed_cost_limit_usd, s.concurrent_queries, s.overage_period_start,
  s.overage_used, s.overage_price_usd is not null and s.allow_overages as allows_overage,
  limits.is_lifetime, limits.quota_limit, limits.included_used, limits.overage_limit,
  limits.is_serving, limits.can_use_overage, limits.is_billed, limits.resets_daily, s.overage_ceiling, s.blocked_at,
  s.unpaid_overage, s.open_invoice_url
from private.current_subscriptions s
cross join lateral (
  select
    s.plan_lifetime_quota is not null as is_lifetime,
    case when s.plan_lifetime_quota is not null then s.lifetime_used else s.quota_used end as included_used,
    case when s.plan_lifetime_quota is not null then coalesce(s.own_lifetime_quota, s.plan_lifetime_quota)
         else coalesce(s.own_daily_quota, s.plan_daily_quota) end::integer as quota_limit,
    case when s.overage_price_usd is not null then coalesce(s.own_overage_limit, s.plan_overage_limit) end
      as overage_limit,
    -- A canceled plan serves until its period ends. A failed payment leaves seven days of grace,
    -- after the end of what was paid before.
    -- `is true`: an unknown time (null) refuses.
    s.blocked_at is null and (
     s.status = 'active'
     or s.status = 'canceled' and s.current_period_end > s.now
     or s.status = 'past_due' and s.grace_starts_at + interval '7 days' > s.now) is true as is_serving,
    -- Overage needs a live subscription, whose invoices collect it.
    s.overage_price_usd is not null and s.plan_lifetime_quota is null and s.allow_overages
      and s.stripe_subscription_id is not null and s.status = 'active' and not s.is_lapsed as can_use_overage,
    s.stripe_subscription_id is not null and not s.is_lapsed as is_billed,
    (s.plan_daily_quota > 0 or s.own_daily_quota > 0) is true as resets_daily
  offset 0
) limits;
comment on view private.subscription_limits is 'current_subscriptions with the limits of the plan and of the user.';
comment on column private.subscription_limits.user_id is 'As in current_subscriptions.';
comment on column private.subscription_limits.updated_at is 'As in current_subscriptions.';
comment on column private.subscription_limits.now is 'As in current_subscriptions.';
comment on column private.subscription_limits.midnight is 'As in current_subscriptions.';
comment on column private.subscription_limits.tier is 'As in current_subscriptions.';
comment on column private.subscription_limits.status is 'As in current_subscriptions.';
comment on column private.subscription_limits.is_lapsed is 'As in current_subscriptions.';
comment on column private.subscription_limits.name is 'As in current_subscriptions.';
comment on column private.subscription_limits.models is 'As in current_subscriptions.';
comment on column private.subscription_limits.history_days is 'As in current_subscriptions.';
comment on column private.subscription_limits.allows_byok is 'As in current_subscriptions.';
comment on column private.subscription_limits.allows_credits is 'As in current_subscriptions.';
comment on column private.subscription_limits.query_cost_limit_usd is 'As in current_subscriptions.';
comment on column private.subscription_limits.overage_price_usd is 'As in current_subscriptions.';
comment on column private.subscription_limits.stored_tier is 'As in current_subscriptions.';
comment on column private.subscription_limits.grace_starts_at is 'As in current_subscriptions.';
comment on column private.subscription_limits.uses_byo_key is 'As in current_subscriptions.';
comment on column private.subscription_limits.period_start is 'As in current_subscriptions.';
comment on column private.subscription_limits.stored_period_start is 'As in current_subscriptions.';
comment on column private.subscription_limits.current_period_end is 'As in current_subscriptions.';
comment on column private.subscription_limits.quota_date is 'As in current_subscriptions.';
comment on column private.subscription_limits.quota_used is 'As in current_subscriptions.';
comment on column private.subscription_limits.lifetime_used is 'As in current_subscriptions.';
comment on column private.subscription_limits.failed_cost_usd is 'As in current_subscriptions.';
comment on column private.subscription_limits.failed_cost_limit_usd is 'As in current_subscriptions.';
comment on column private.subscription_limits.concurrent_queries is 'As in current_subscriptions.';
comment on column private.subscription_limits.overage_period_start is 'As in current_subscriptions.';
comment on column private.subscription_limits.overage_used is 'As in current_subscriptions.';
comment on column private.subscription_limits.allows_overage is 'Whether the plan and the user allow overage.';
comment on column private.subscription_limits.is_lifetime is 'Whether the quota is a lifetime quota, not a daily one.';
comment on column private.subscription_limits.quota_limit is 'The quota: included queries per day or in total.';
comment on column private.subscription_limits.included_used is 'Included queries used, holds included.';
comment on column private.subscription_limits.overage_limit is
  'The limit of overage_used and of unpaid_overage, dollars. Null: the plan has no overage.';
comment on column private.subscription_limits.is_serving is 'Whether the status lets queries through.';
comment on column private.subscription_limits.can_use_overage is
  'Whether overage can pay: plan and user allow it, and a live subscription can invoice it.';
comment on column private.subscription_limits.is_billed is 'Whether there is a live subscription at Stripe.';
comment on column private.subscription_limits.resets_daily is
  'Whether the plan or the user has a daily quota that is not zero.';
comment on column private.subscription_limits.overage_ceiling is 'As in current_subscriptions.';
comment on column private.subscription_limits.blocked_at is 'As in current_subscriptions.';
comment on column private.subscription_limits.unpaid_overage is 'As in current_subscriptions.';
comment on column private.subscription_limits.open_invoice_url is 'As in current_subscriptions.';
revoke all on private.subscription_limits from public, anon, authenticated, service_role;
grant select on private.subscription_limits to authenticated, service_role;


create or replace view private.funding_state with (security_invoker = true) as
select
  s.user_id, s.updated_at, s.now, s.tier, s.name, s.status, s.is_lapsed, s.models, s.history_days,
  s.query_cost_limit_usd, s.allows_byok, s.is_lifetime, s.quota_limit, s.included_used, s.quota_date, s.quota_used,
  s.lifetime_used, s.failed_cost_usd, s.failed_cost_limit_usd, s.concurrent_queries, s.period_start,
  s.current_period_end, s.overage_period_start, s.overage_used, s.overage_limit, s.overage_price_usd, s.allows_overage,
  s.is_serving and s.allows_byok and s.uses_byo_key as own_key_pays,
  decision.funding,
  case
    when decision.funding is not null then private.reason_of(decision.funding, s.tier)
    when s.blocked_at is not null then 'Account blocked'
    when not s.is_serving then 'Subscription not active: ' || s.status
    when s.is_lifetime then 'Free tier quota exhausted'
    when s.can_use_overage then 'Overage limit reached'
    else 'Daily quota exceeded'
  end as reason,
  case when decision.funding is null then refusal.reason_code in (
         'subscription_unpaid', 'subscription_paused', 'subscription_ended', 'free_quota_used', 'credits_used',
         'payment_failed', 'overage_unpaid')
       else decision.funding = 'overage' end as requires_payment,
  case
    when decision.funding = 'included' and not s.is_lifetime
      or refusal.reason_code in ('daily_quota_used', 'daily_quota_used_overage_off', 'no_quota')
      or refusal.reason_code = 'overage_off' and s.resets_daily then s.midnight
    when decision.funding = 'overage'
      or refusal.reason_code in ('overage_limit_reached', 'overage_ceiling_reached', 'overage_returned',
                                 'overage_without_invoice') then least(
      case when decision.funding = 'overage'
                or refusal.reason_code not in ('overage_returned', 'overage_without_invoice')
                and s.overage_used + s.overage_price_usd > s.overage_limit
           then (private.period_at(s.period_start, s.current_period_end, s.now)).period_end end,
      case when decision.funding is null and s.quota_limit > 0 then s.midnight end)
  end as resets_at,
  -- Everything that time alone can change: the day, the period and what starts or ends with it, the grace period.
  case when decision.funding = 'included' and not s.is_lifetime and not s.uses_byo_key and s.tier = s.stored_tier
            and not s.is_lapsed then
    least(s.midnight, (private.period_at(s.stored_period_start, s.current_period_end, s.now)).period_end,
          case when s.status = 'past_due' then s.grace_starts_at + interval '7 days' end)
  end as included_until,
  case
    when decision.funding is null then refusal.reason_code
    when decision.funding = 'included' and s.is_lifetime then 'free_quota'
    when decision.funding = 'included' then 'daily_quota'
    when decision.funding = 'credit' then 'credits'
    else decision.funding
  end as reason_code,
  s.blocked_at, s.unpaid_overage
from private.subscription_limits s
cross join lateral (
  select case
      when not s.is_serving then null
      when s.included_used < s.quota_limit then 'included'
      when s.allows_credits and private.next_credit_pack(s.user_id, s.now) is not null then 'credit'
      when s.can_use_overage and greatest(s.overage_used, s.unpaid_overage) + s.overage_price_usd <= s.overage_limit
        then 'overage'
    end as funding
  offset 0
) decision
-- What the user can do decides between reasons with the same text. docs/error_codes.md lists them.
cross join lateral (
  select case
      when decision.funding is not null then null
      when s.blocked_at is not null then 'account_blocked'
      when not s.is_serving and s.is_billed and s.status <> 'canceled'
        then case when s.open_invoice_url is null then 'subscription_paused' else 'subscription_unpaid' end
      when not s.is_serving then 'subscription_ended'
      when s.is_lifetime then 'free_quota_used'
      when s.can_use_overage and s.open_invoice_url is not null
           and s.unpaid_overage + s.overage_price_usd > s.overage_limit then 'overage_unpaid'
      when s.can_use_overage and s.unpaid_overage + s.overage_price_usd > s.overage_ceiling and exists (
        select from public.overage_invoice_items i where i.user_id = s.user_id and i.settled_as = 'returned')
        then 'overage_returned'
      -- No later invoice collects it: its own is settled, or was deleted with its customer. A draft takes an hour. A
      -- total below 50 cents is on the balance, which the next invoice collects.
      when s.can_use_overage and s.unpaid_overage + s.overage_price_usd > s.overage_ceiling and exists (
        select from public.overage_invoice_items i
        where i.user_id = s.user_id and i.settled_as is null and i.stripe_invoice_id is not null
          and i.amount_cents >= 50 and i.created_at < s.now - interval '1 day')
        then 'overage_without_invoice'
      when s.can_use_overage and greatest(s.overage_used, s.unpaid_overage) + s.overage_price_usd > s.overage_ceiling
        then 'overage_ceiling_reached'
      when s.can_use_overage then 'overage_limit_reached'
      when s.quota_limit = 0 and s.is_billed and s.status = 'past_due' then 'payment_failed'
      when s.is_billed and s.status = 'active' and not s.allows_overage
           and s.overage_used + s.overage_price_usd <= s.overage_limit
        then case when s.quota_limit > 0 then 'daily_quota_used_overage_off' else 'overage_off' end
      when s.quota_limit > 0 then 'daily_quota_used'
      when s.resets_daily then 'no_quota'
      else 'credits_used'
    end as reason_code
) refusal;
comment on view private.funding_state is
  'The decision for the next query of each user: what pays, the reason, whether it costs money or a payment would '
  'help, and when that resets. If own_key_pays, an own key pays before everything else.';
comment on column private.funding_state.user_id is 'The user.';
comment on column private.funding_state.updated_at is 'When the subscription last changed, except counters.';
comment on column private.funding_state.now is 'The time of this state.';
comment on column private.funding_state.tier is 'The tier in force.';
comment on column private.funding_state.name is 'The name of the plan.';
comment on column private.funding_state.status is 'active, canceled, suspended or past_due.';
comment on column private.funding_state.is_lapsed is 'Whether a canceled plan has ended.';
comment on column private.funding_state.models is 'The models of the plan by provider.';
comment on column private.funding_state.history_days is 'Days that the plan stores conversations.';
comment on column private.funding_state.query_cost_limit_usd is 'The cost limit of one query, US dollars.';
comment on column private.funding_state.allows_byok is 'Whether the plan allows own keys.';
comment on column private.funding_state.is_lifetime is 'Whether the quota is a lifetime quota, not a daily one.';
comment on column private.funding_state.quota_limit is 'The quota: included queries per day or in total.';
comment on column private.funding_state.included_used is 'Included queries used, holds included.';
comment on column private.funding_state.quota_date is 'The UTC day that quota_used counts.';
comment on column private.funding_state.quota_used is 'Included queries used on that day.';
comment on column private.funding_state.lifetime_used is 'Included queries used of a lifetime quota.';
comment on column private.funding_state.failed_cost_usd is
  'Our cost of failed queries on quota_date, US dollars, except on own keys.';
comment on column private.funding_state.failed_cost_limit_usd is
  'The limit of that cost. From then on only own keys pay until the next day.';
comment on column private.funding_state.concurrent_queries is 'How many queries may run at the same time.';
comment on column private.funding_state.period_start is 'Start of the billing period. Null: calendar months, UTC.';
comment on column private.funding_state.current_period_end is 'End of the billing period in the stored row.';
comment on column private.funding_state.overage_period_start is 'Start of the period that overage_used counts.';
comment on column private.funding_state.overage_used is 'Overage in that period, dollars, holds included.';
comment on column private.funding_state.overage_limit is
  'The limit of overage_used and of unpaid_overage, dollars. Null: no overage.';
comment on column private.funding_state.overage_price_usd is 'Dollars per overage query. Null: no overage.';
comment on column private.funding_state.allows_overage is 'Whether the plan and the user allow overage.';
comment on column private.funding_state.own_key_pays is 'Whether an own key pays for the next query.';
comment on column private.funding_state.funding is 'What pays for the next query if no own key does. Null: nothing.';
comment on column private.funding_state.reason is 'The reason, as can_user_query returns it.';
comment on column private.funding_state.requires_payment is 'Whether it costs money, or a payment would help.';
comment on column private.funding_state.resets_at is 'When the quota or limit that decides resets. Null: never.';
comment on column private.funding_state.included_until is
  'Until when the daily quota pays first, unless the subscription changes. Null: it does not pay first.';
comment on column private.funding_state.reason_code is 'The reason as a code of public.reasons.';
comment on column private.funding_state.blocked_at is 'When an operator blocked the account. Null: never.';
comment on column private.funding_state.unpaid_overage is
  'Overage of all periods that is not paid, dollars, holds included.';
revoke all on private.funding_state from public, anon, authenticated, service_role;
grant select on private.funding_state to authenticated, service_role;


create or replace function public.can_user_query(p_user_id uuid)
returns table (can_query boolean, reason text, requires_payment boolean)
language plpgsql stable security invoker set search_path = ''
as $$
begin
  if current_user = 'authenticated' and p_user_id is distinct from (select auth.uid()) then
    raise insufficient_privilege using message = 'You may only ask about yourself.';
  end if;
  return query
    select (s.own_key_pays or s.funding is not null) and not paused.is_paused,
           case when paused.is_paused then 'Chat paused'
                when s.own_key_pays then private.reason_of('byok', s.tier) else s.reason end,
           s.requires_payment and not s.own_key_pays and not paused.is_paused
    from private.funding_state s
    cross join lateral (select s.models = '{}' and s.blocked_at is null as is_paused) paused
    where s.user_id = p_user_id;
  if not found then
    return query select false, 'No subscription found', true;
  end if;
end
$$;
comment on function public.can_user_query(uuid) is
  'Whether something pays for the next query of a user now, the reason, and whether it costs money or a payment would '
  'help. False while the chat or every provider is paused. admit_query may still refuse it: too many queries run, or '
  'a budget of the day is spent. Read-only.';
revoke all on function public.can_user_query(uuid) from public, anon, authenticated, service_role;
grant execute on function public.can_user_query(uuid) to authenticated, service_role;


-- ==== sql/schemas/43_admit_query.sql

-- How a query starts. admit_query takes the funding and creates a hold, or records the refusal.
--
-- settle_query (answered, stopped) or release_query (failed, lost) ends the hold with exactly one usage_logs row, which
-- has the id of the hold. A failed or lost query returns its funding to where it came from.
--
-- Locks. Two advisory locks are held until the end of the transaction:
-- * the user lock, uuid_hash_extended(user id, 0): no counter and no credit pack changes without it
-- * the hold lock, uuid_hash_extended(hold id, 1): no query ends without it
-- The order is: user lock, hold lock, auth.users (key share, taken by the foreign key of the first row written), other
-- rows, and the row of daily_costs last. settle_query takes only the hold lock. tests/sql/test_lock_order.py checks it.
-- Advisory locks are faster here than row locks: the longest waits for a row that changes are ten times longer.
--
-- Functions that run for every query use few statements and call few functions, because Postgres sets up each
-- statement again in each transaction.


create or replace function private.record_refusal(
  p_user_id uuid, p_request_id text, p_chat_key uuid, p_hold_id uuid, p_limit text default null)
returns jsonb
language plpgsql volatile set search_path = ''
as $$
declare
  v_refusal public.query_refusals;
begin
  -- A refusal does not wait for the disk. A crash can lose only this record.
  perform set_config('synchronous_commit', 'off', true);
  insert into public.query_refusals as r (
    id, created_at, user_id, request_id, chat_key, reason, reason_code, requires_payment, resets_at, tier, quota_used,
    quota_limit, overage_used, overage_limit)
  select p_hold_id, s.now, s.user_id, p_request_id, p_chat_key,
         coalesce((select t.reason from public.reasons t where t.code = p_limit), s.reason),
         coalesce(p_limit, s.reason_code),
         s.requires_payment and p_limit is null,
         case when p_limit is null then s.resets_at
              when p_limit in ('too_many_failures', 'free_answers_off')
                then (s.quota_date + 1)::timestamp at time zone 'UTC' end,
         s.tier, s.included_used, s.quota_limit, s.overage_used, s.overage_limit
  from private.funding_state s where s.user_id = p_user_id
  on conflict (user_id, request_id, chat_key) do update set
    earlier_ids = case when r.id = excluded.id then r.earlier_ids else (array[r.id] || r.earlier_ids)[1:20] end,
    id = excluded.id, created_at = excluded.created_at, reason = excluded.reason, reason_code = excluded.reason_code,
    requires_payment = excluded.requires_payment, resets_at = excluded.resets_at, tier = excluded.tier,
    quota_used = excluded.quota_used, quota_limit = excluded.quota_limit, overage_used = excluded.overage_used,
    overage_limit = excluded.overage_limit
  returning r.* into v_refusal;
  delete from public.query_refusals r
  where r.id in (
    select oldest.id from public.query_refusals oldest where oldest.user_id = p_user_id
    order by oldest.created_at desc, oldest.id offset 50);
  return jsonb_build_object(
    'decision', 'refused', 'reason', v_refusal.reason, 'reason_code', v_refusal.reason_code,
    'requires_payment', v_refusal.requires_payment, 'resets_at', v_refusal.resets_at,
    'url', (select s.open_invoice_url from public.user_subscriptions s where s.user_id = p_user_id));
end
$$;
comment on function private.record_refusal(uuid, text, uuid, uuid, text) is
  'Records why a query is refused, and returns the refusal. p_limit: the reason, where it is a limit besides the '
  'funding. Stores the newest fifty of a user. The caller holds the user lock.';
revoke all on function private.record_refusal(uuid, text, uuid, uuid, text)
  from public, anon, authenticated, service_role;


create or replace function private.free_budget_is_spent(p_day date) returns boolean
language plpgsql stable set search_path = ''
as $$
begin
  return (
    select (coalesce(sum(c.free_usd), 0) >= s.free_daily_budget_usd) is true
        or (coalesce(sum(c.total_usd), 0) >= s.platform_daily_budget_usd) is true
    from public.settings s left join public.daily_costs c on c.day = p_day
    group by s.id);
end
$$;
comment on function private.free_budget_is_spent(date) is
  'Whether free users are refused on a day, because they or all users together have cost as much as public.settings '
  'allows.';
revoke all on function private.free_budget_is_spent(date) from public, anon, authenticated, service_role;


create or replace function private.reclaim_expired_holds(p_user_id uuid, p_except_hold_id uuid, p_at timestamptz)
returns void
language plpgsql volatile set search_path = ''
as $$
declare
  v_expired constant uuid[] := array(
    select h.id from public.query_holds h
    where h.user_id = p_user_id and h.expires_at <= p_at and h.id <> p_except_hold_id);
  v_hold_id uuid;
begin
  -- The locks of all holds come before the first row.
  foreach v_hold_id in array v_expired loop
    perform pg_advisory_xact_lock(uuid_hash_extended(v_hold_id, 1));
  end loop;
  foreach v_hold_id in array v_expired loop
    perform private.refund_hold(v_hold_id, 'lost', '{}');
  end loop;
end
$$;
comment on function private.reclaim_expired_holds(uuid, uuid, timestamptz) is
  'Returns the funding of the expired holds of a user, except one hold. Without it, admission would have to wait for '
  'release_stale_holds. The caller holds the user lock.';
revoke all on function private.reclaim_expired_holds(uuid, uuid, timestamptz)
  from public, anon, authenticated, service_role;


create or replace function private.charged_query_response(p_query_id uuid) returns jsonb
language plpgsql stable set search_path = ''
as $$
begin
  return (
    select jsonb_build_object(
      'decision', 'ended',
      'answer', case when m.id is not null then jsonb_build_object(
        'id', m.id, 'content', m.content, 'step_ends', m.step_ends, 'function_calls', m.function_calls,
        'function_results', m.function_results) else w.turn -> 'answer' end,
      'keeps_history', p.history_days > 0, 'provider', u.provider, 'model', u.model, 'funding', u.funding,
      'tokens_input', u.tokens_input, 'tokens_output', u.tokens_output,
      'cache_read_tokens', u.cache_read_tokens, 'cache_write_tokens', u.cache_write_tokens,
      'cost_usd', u.cost_usd::text, 'charged_usd', u.overage_charge::text, 'finish_reason', u.finish_reason)
    from public.usage_logs u
    join public.plans p on p.tier = u.tier
    left join public.messages m on m.id = u.message_id
    left join public.pending_turns w on w.id = u.id
    where u.id = p_query_id);
end
$$;
comment on function private.charged_query_response(uuid) is
  'The response of admit_query for a request that was charged before: the stored answer if there is one.';
revoke all on function private.charged_query_response(uuid) from public, anon, authenticated, service_role;


create or replace function private.check_question(p_digest uuid, p_earlier_digest uuid) returns void
language plpgsql immutable set search_path = ''
as $$
begin
  if p_digest <> p_earlier_digest then
    raise exception using errcode = 'CONFL', message = 'This message id was used before with other words.';
  end if;
end
$$;
comment on function private.check_question(uuid, uuid) is
  'CONFL: the question is not the one that the same request asked before. Null digests are not compared.';
revoke all on function private.check_question(uuid, uuid) from public, anon, authenticated, service_role;


create or replace function private.refuse_model(
  p_provider text, p_model text, p_models jsonb, p_is_own_key boolean)
returns void
language plpgsql stable set search_path = ''
as $$
declare
  v_models constant text := (select string_agg(m, ', ') from jsonb_array_elements_text(p_models) m);
  v_is_sold constant boolean := exists (
    select from public.plans p
    where p.price_usd > 0 and (p.models -> p_provider ? p_model
                               or p_is_own_key and p.own_key_models -> p_provider ? p_model));
begin
  raise exception using errcode = 'NOMDL', message = 'The plan does not have this model.',
    hint = case when v_models is null then 'no_models' when v_is_sold then 'model_of_other_plan'
                else 'model_not_in_plan' end,
    detail = jsonb_build_object('provider', p_provider, 'models', v_models);
end
$$;
comment on function private.refuse_model(text, text, jsonb, boolean) is
  'NOMDL: the plan does not have the model. The hint says whether another plan has it, the detail which it has.';
revoke all on function private.refuse_model(text, text, jsonb, boolean) from public, anon, authenticated, service_role;


create or replace function private.paused_provider(p_tier text, p_provider text, p_model text, p_chosen text)
returns text
language plpgsql stable set search_path = ''
as $$
begin
  return (
    select paused.provider from public.plans p, unnest(p.paused_providers) paused (provider)
    where p.tier = p_tier
      and (paused.provider = p_chosen
           or p_provider is null and (p.models -> paused.provider || (p.own_key_models -> paused.provider)) ? p_model)
    order by paused.provider = p_chosen desc limit 1);
end
$$;
comment on function private.paused_provider(text, text, text, text) is
  'The paused provider that a question needs: the chosen one, or the one of a model that was named without its '
  'provider. Null: none.';
revoke all on function private.paused_provider(text, text, text, text) from public, anon, authenticated, service_role;


create or replace function private.encrypted_key(p_user_id uuid, p_provider text) returns jsonb
language plpgsql stable set search_path = ''
as $$
begin
  return (
    select jsonb_build_object(
      'id', k.id, 'encrypted_key', encode(k.encrypted_key, 'base64'),
      'encryption_iv', encode(k.encryption_iv, 'base64'), 'encryption_tag', encode(k.encryption_tag, 'base64'),
      'encryption_key_id', k.encryption_key_id)
    from public.user_api_keys k where k.user_id = p_user_id and k.provider = p_provider);
end
$$;
comment on function private.encrypted_key(uuid, text) is
  'The encrypted key of a user for a provider: {id, encrypted_key, encryption_iv, encryption_tag, encryption_key_id}, '
  'bytes in base64. Null: no key.';
revoke all on function private.encrypted_key(uuid, text) from public, anon, authenticated, service_role;


do $$
begin
  create type private.admission_state as (
    now timestamptz, tier text, name text, models jsonb, history_days integer, query_cost_limit_usd numeric,
    is_lifetime boolean, quota_limit integer, included_used integer, quota_date date,
    overage_period_start timestamptz, overage_used numeric, overage_limit numeric, own_key_pays boolean, funding text,
    is_lapsed boolean, quota_used integer, lifetime_used integer, period_start timestamptz,
    current_period_end timestamptz, overage_price_usd numeric, included_until timestamptz, updated_at timestamptz,
    failed_cost_usd numeric, failed_cost_limit_usd numeric, concurrent_queries integer, running_queries integer,
    running_hold_id uuid, charged_query_id uuid, blocked_at timestamptz, unpaid_overage numeric);
exception when duplicate_object then
  null; -- This file has run before.
end
$$;
comment on type private.admission_state is
  'What admit_query decides from: columns of private.funding_state, and the earlier attempts of the same request.';
comment on column private.admission_state.now is 'As in private.funding_state.';
comment on column private.admission_state.tier is 'As in private.funding_state.';
comment on column private.admission_state.name is 'As in private.funding_state.';
comment on column private.admission_state.models is 'As in private.funding_state.';
comment on column private.admission_state.history_days is 'As in private.funding_state.';
comment on column private.admission_state.query_cost_limit_usd is 'As in private.funding_state.';
comment on column private.admission_state.is_lifetime is 'As in private.funding_state.';
comment on column private.admission_state.quota_limit is 'As in private.funding_state.';
comment on column private.admission_state.included_used is 'As in private.funding_state, before this query.';
comment on column private.admission_state.quota_date is 'As in private.funding_state.';
comment on column private.admission_state.overage_period_start is 'As in private.funding_state.';
comment on column private.admission_state.overage_used is 'As in private.funding_state, before this query.';
comment on column private.admission_state.overage_limit is 'As in private.funding_state.';
comment on column private.admission_state.own_key_pays is 'As in private.funding_state.';
comment on column private.admission_state.funding is 'As in private.funding_state.';
comment on column private.admission_state.is_lapsed is 'As in private.funding_state.';
comment on column private.admission_state.quota_used is 'As in private.funding_state.';
comment on column private.admission_state.lifetime_used is 'As in private.funding_state.';
comment on column private.admission_state.period_start is 'As in private.funding_state.';
comment on column private.admission_state.current_period_end is 'As in private.funding_state.';
comment on column private.admission_state.overage_price_usd is 'As in private.funding_state.';
comment on column private.admission_state.included_until is 'As in private.funding_state.';
comment on column private.admission_state.updated_at is 'As in private.funding_state.';
comment on column private.admission_state.failed_cost_usd is 'As in private.funding_state.';
comment on column private.admission_state.failed_cost_limit_usd is 'As in private.funding_state.';
comment on column private.admission_state.concurrent_queries is 'As in private.funding_state.';
comment on column private.admission_state.running_queries is 'Holds of the user that have not expired.';
comment on column private.admission_state.running_hold_id is 'The hold of the same request. Null: it does not run.';
comment on column private.admission_state.charged_query_id is 'The charged query of the same request. Null: none.';
comment on column private.admission_state.blocked_at is 'As in private.funding_state.';
comment on column private.admission_state.unpaid_overage is 'As in private.funding_state, before this query.';


create or replace function public.admit_query(
  p_user_id uuid, p_request_id text, p_hold_id uuid, p_chat_id text default null, p_question_id text default null,
  p_provider text default null, p_model text default null, p_hold_seconds integer default 300,
  p_history_messages integer default 40, p_history_bytes integer default 48000, p_own_key boolean default null,
  p_providers text[] default '{anthropic,openai}', p_question_digest uuid default null,
  p_session_id uuid default null, p_waits boolean default false, p_question jsonb default null)
returns jsonb
language plpgsql volatile security definer set search_path = ''
set enable_seqscan = off set plan_cache_mode = force_generic_plan
as $$
declare
  v_state private.admission_state;
  v_now timestamptz;
  v_chat_uuid constant uuid := private.conversation_key(p_chat_id);
  v_chat_key constant uuid := coalesce(v_chat_uuid, md5(p_chat_id)::uuid);
  v_request_id text := p_request_id;
  v_is_busy boolean := false; -- whether another query of the chat runs; only the full path admits beside one
  v_place record;
  v_position integer;
  v_replaces_to integer;
  v_is_confirmed boolean;
  v_banned_until timestamptz;
  v_has_session boolean;
  v_is_released boolean;
  v_is_counted boolean;
  v_is_reclaimed boolean := false;
  v_hold public.query_holds;
  v_key_provider text;
  v_provider text;
  v_model text;
  v_paused text;
  v_pack_id uuid;
  v_charge numeric := 0.0;
  v_limit text;
  v_taken integer := 0;
  v_conversation_id uuid;
  v_key jsonb;
  v_history jsonb := '[]'::jsonb;
  v_remaining integer;
  v_resets_at timestamptz;
begin
  -- Check the arguments
  if (p_hold_seconds between 1 and 3600 and p_history_messages between 0 and 200) is not true then
    raise invalid_parameter_value using message = 'p_hold_seconds is 1 to 3600, p_history_messages 0 to 200.';
  end if;
  if p_chat_id is not null then
    v_conversation_id := private.find_conversation(p_user_id, p_chat_id, v_chat_uuid);
  end if;

  -- Lock
  perform pg_advisory_xact_lock(uuid_hash_extended(p_user_id, 0));
  v_now := private.clock();

  -- Identify the request
  if v_request_id is null then
    v_request_id := concat_ws(
      ':', 'regenerate', private.newest_answer(p_user_id, v_chat_key)::text, p_question_id);
  end if;

  -- Decide, fast path: reuse the last decision, which was that the daily quota pays. Counts the query. Whatever is
  -- wrong is left to the full path.
  update public.user_subscriptions s set quota_used = s.quota_used + 1
  from public.plans p
  where s.user_id = p_user_id and s.included_until > v_now and p.tier = s.tier
    and s.quota_used < coalesce(s.daily_quota, p.daily_quota) and p.lifetime_quota is null
    and s.failed_cost_usd < p.failed_cost_limit_usd
    and p.paused_at is null
    and p.models - p.paused_providers -> coalesce(p_provider, p_providers[1]) @> coalesce(to_jsonb(p_model), '[]')
    and (
      select count(*) filter (where h.expires_at > v_now) < p.concurrent_queries
         and count(*) filter (where h.chat_key = v_chat_key and h.expires_at > v_now
                              or h.request_id = v_request_id and h.chat_key is not distinct from v_chat_key) = 0
      from public.query_holds h where h.user_id = p_user_id)
    and not exists (
      select from public.usage_logs u
      where u.user_id = p_user_id and u.request_id = v_request_id and u.chat_key is not distinct from v_chat_key
        and u.is_charged)
    and not exists (select from public.query_refusals r where r.id = p_hold_id and r.reason = 'Timed out')
    and exists (
      select from auth.users a
      where a.id = p_user_id and a.deleted_at is null and (a.banned_until > v_now) is not true)
    and (p_session_id is null or exists (
      select from auth.sessions t
      where t.id = p_session_id and t.user_id = p_user_id and (t.not_after <= v_now) is not true))
  returning
    v_now, s.tier, p.name, p.models - p.paused_providers, p.history_days, p.query_cost_limit_usd,
    false, coalesce(s.daily_quota, p.daily_quota), s.quota_used - 1, s.quota_date,
    s.overage_period_start, s.current_overage_amount,
    case when p.overage_price_usd is not null then coalesce(s.overage_limit, p.overage_limit_usd) end,
    false, 'included'
  into v_state.now, v_state.tier, v_state.name, v_state.models, v_state.history_days, v_state.query_cost_limit_usd,
    v_state.is_lifetime, v_state.quota_limit, v_state.included_used, v_state.quota_date,
    v_state.overage_period_start, v_state.overage_used,
    v_state.overage_limit, v_state.own_key_pays, v_state.funding;
  v_is_counted := found;

  -- Check the account. A token is valid until it expires; Auth's tables show that its user or its session has ended.
  if not v_is_counted then
    select u.confirmed_at is not null and not u.is_anonymous, u.banned_until,
           exists (
             select from auth.sessions t
             where t.id = p_session_id and t.user_id = u.id and (t.not_after <= v_now) is not true),
           exists (select from public.query_refusals r where r.id = p_hold_id and r.reason = 'Timed out')
    into v_is_confirmed, v_banned_until, v_has_session, v_is_released
    from auth.users u where u.id = p_user_id and u.deleted_at is null;
    if not found or p_session_id is not null and not v_has_session then
      raise exception using errcode = 'NOUSR', message = 'The account or the session has ended.';
    elsif v_banned_until > v_now then
      raise exception using errcode = 'BANND', message = 'The account is banned.';
    elsif v_is_released then
      raise exception using errcode = 'LATER', message = 'The caller gave up, and released this query.';
    end if;
  end if;

  -- Decide, full path. A new request that the quota pays for is decided by the first read. Otherwise expired holds are
  -- reclaimed first, and the state is read again.
  while not v_is_counted loop
    select
      s.now, s.tier, s.name, s.models, s.history_days, s.query_cost_limit_usd,
      s.is_lifetime, s.quota_limit, s.included_used, s.quota_date,
      s.overage_period_start, s.overage_used, s.overage_limit, s.own_key_pays, s.funding,
      s.is_lapsed, s.quota_used, s.lifetime_used, s.period_start,
      s.current_period_end, s.overage_price_usd, s.included_until, s.updated_at,
      s.failed_cost_usd, s.failed_cost_limit_usd, s.concurrent_queries,
      (select count(*) from public.query_holds h where h.user_id = p_user_id and h.expires_at > s.now),
      (select h.id from public.query_holds h
       where h.user_id = p_user_id and h.request_id = v_request_id and h.chat_key is not distinct from v_chat_key),
      (select u.id from public.usage_logs u
       where u.user_id = p_user_id and u.request_id = v_request_id and u.chat_key is not distinct from v_chat_key
         and u.is_charged),
      s.blocked_at, s.unpaid_overage
    into v_state from private.funding_state s where s.user_id = p_user_id;
    if not found then
      return jsonb_build_object(
        'decision', 'refused', 'reason', 'No subscription found', 'reason_code', 'no_subscription',
        'requires_payment', true, 'resets_at', null);
    elsif v_state.blocked_at is not null then
      raise exception using errcode = 'BANND', message = 'The account is blocked.';
    elsif v_state.charged_query_id is not null then
      perform private.check_question(p_question_digest, u.question_digest)
      from public.usage_logs u where u.id = v_state.charged_query_id;
      return private.charged_query_response(v_state.charged_query_id);
    end if;
    exit when v_is_reclaimed or v_state.funding = 'included' and v_state.running_hold_id is null;
    perform private.reclaim_expired_holds(p_user_id, p_hold_id, v_state.now);
    v_is_reclaimed := true;
  end loop;

  if v_state.running_hold_id is not null then
    -- The same request runs already.
    select * into v_hold from public.query_holds h where h.id = v_state.running_hold_id;
    perform private.check_question(p_question_digest, v_hold.question_digest);
    if v_state.running_hold_id <> p_hold_id then
      return jsonb_build_object('decision', 'in_progress');
    end if;
    v_state.funding := v_hold.funding;
    v_state.tier := v_hold.tier;
    v_provider := v_hold.provider;
    v_model := v_hold.model;
    v_position := v_hold.position;
    v_replaces_to := v_hold.replaces_to;
  else
    if v_state.models = '{}' then
      return private.record_refusal(p_user_id, v_request_id, v_chat_key, p_hold_id, 'chat_paused')
             || jsonb_build_object('sentence', coalesce(
               private.pause_sentence('chat_paused'),
               private.pause_sentence('provider_paused', coalesce(p_provider, p_providers[1]))));
    end if;

    -- Choose the funding
    if v_state.own_key_pays and p_own_key is distinct from false then
      v_key_provider := private.own_key_provider(p_user_id, p_provider);
      if p_provider is null and not v_state.models ? v_key_provider then
        -- That provider is paused. Another own key may pay.
        v_key_provider := coalesce(
          private.own_key_provider(p_user_id, (select min(k) from jsonb_object_keys(v_state.models) k)),
          v_key_provider);
      end if;
    end if;
    if v_key_provider is not null then
      v_state.funding := 'byok';
    elsif p_own_key then
      raise invalid_parameter_value using message = 'The user has no active key of their own that the plan allows.';
    elsif v_state.funding is null then
      return private.record_refusal(p_user_id, v_request_id, v_chat_key, p_hold_id);
    elsif v_state.funding = 'credit' then
      v_pack_id := private.next_credit_pack(p_user_id, v_state.now);
    elsif v_state.funding = 'included' and v_state.is_lifetime and not v_is_confirmed then
      raise exception using errcode = 'NCONF', message = 'Free queries need a confirmed account.';
    elsif v_state.funding = 'overage' then
      v_charge := v_state.overage_price_usd;
    end if;

    -- Check the limits besides the funding. The fast path has checked them: it admits no free user.
    if not v_is_counted then
      if v_state.running_queries > 0 then
        v_is_busy := exists (
          select from public.query_holds h
          where h.user_id = p_user_id and h.chat_key = v_chat_key and h.expires_at > v_now and h.id <> p_hold_id);
      end if;
      v_limit := case
        when v_state.funding <> 'byok' and v_state.failed_cost_usd >= v_state.failed_cost_limit_usd
          then 'too_many_failures'
        when v_state.tier = 'free' and private.free_budget_is_spent(v_state.quota_date)
          then 'free_answers_off'
        when v_state.running_queries >= v_state.concurrent_queries and not (v_is_busy and p_waits)
          then 'too_many_queries'
      end;
      if v_limit is not null then
        return private.record_refusal(p_user_id, v_request_id, v_chat_key, p_hold_id, v_limit);
      end if;
    end if;

    -- Choose the model
    v_provider := coalesce(
      p_provider, v_key_provider, case when not v_state.models ? p_providers[1] then p_providers[2] end,
      p_providers[1]);
    if v_key_provider is not null then
      select jsonb_set(
        v_state.models, array[v_provider], (v_state.models -> v_provider) || (p.own_key_models -> v_provider))
      into v_state.models from public.plans p where p.tier = v_state.tier;
    end if;
    v_model := coalesce(p_model, v_state.models -> v_provider ->> 0);
    if v_model is null and p_provider is null and v_key_provider is null then
      -- The plan has no models of the default provider.
      v_provider := coalesce(
        (select p.provider from unnest(p_providers) with ordinality p (provider, place)
         where v_state.models -> p.provider ->> 0 is not null order by p.place limit 1),
        v_provider);
      v_model := v_state.models -> v_provider ->> 0;
    end if;
    if v_key_provider is null and (v_provider = any (p_providers)) is not true then
      raise exception using errcode = 'NOMDL', message = 'The platform has no account with this provider.',
        hint = 'provider_not_available', detail = jsonb_build_object('provider', v_provider);
    elsif (v_state.models -> v_provider ? v_model) is not true then
      -- Not on the fast path, which has counted: it admits no model but one of the plan.
      v_paused := private.paused_provider(v_state.tier, p_provider, p_model, v_provider);
      if v_paused is not null then
        return private.record_refusal(p_user_id, v_request_id, v_chat_key, p_hold_id, 'provider_paused')
               || jsonb_build_object(
                 'provider', v_paused, 'sentence', private.pause_sentence('provider_paused', v_paused));
      end if;
      perform private.refuse_model(v_provider, v_model, v_state.models -> v_provider, v_key_provider is not null);
    end if;

    -- Wait for the running answer of the chat
    if v_is_busy and p_waits then
      perform private.stop_chat(p_user_id, v_chat_key, v_now);
      return jsonb_build_object('decision', 'waiting');
    end if;

    -- Take the funding
    if v_chat_key is not null then
      v_place := private.place_question(p_user_id, v_chat_key, v_conversation_id, p_question_id, p_hold_id);
      v_position := v_place.question_position;
      v_replaces_to := v_place.replaces_to;
    end if;
    insert into public.query_holds (
      id, created_at, user_id, request_id, chat_key, question_digest, tier, funding, query_date, credit_pack_id,
      overage_charge, period_start, quota_used, quota_limit, overage_used, overage_limit, provider, model, expires_at,
      chat_id, conversation_id, position, replaces_to, question)
    values (
      p_hold_id, v_state.now, p_user_id, v_request_id, v_chat_key, p_question_digest, v_state.tier, v_state.funding,
      v_state.quota_date, v_pack_id, v_charge, v_state.overage_period_start, v_state.included_used,
      v_state.quota_limit, v_state.overage_used, v_state.overage_limit, v_provider, v_model,
      v_state.now + make_interval(secs => p_hold_seconds), p_chat_id, v_conversation_id,
      v_position, v_replaces_to, p_question);
    if v_replaces_to is not null and v_is_busy then
      -- After the insert, which locks auth.users
      update public.query_holds h set is_replaced = true
      where h.user_id = p_user_id and h.chat_key = v_chat_key and h.id <> p_hold_id
        and h.position between v_position and v_replaces_to;
    end if;
    if not v_is_counted then
      if v_state.is_lapsed then
        -- The canceled plan has ended, unless a webhook has renewed it since the state was read.
        update public.user_subscriptions s set
          tier = v_state.tier, next_tier = null, status = 'active', stripe_subscription_id = null,
          current_period_start = null, current_period_end = null
        where s.user_id = p_user_id and s.status = 'canceled' and s.current_period_end <= v_state.now;
      end if;
      update public.user_subscriptions s set
        quota_date = v_state.quota_date,
        quota_used = v_state.quota_used
          + case when v_state.funding = 'included' and not v_state.is_lifetime then 1 else 0 end,
        lifetime_used = v_state.lifetime_used
          + case when v_state.funding = 'included' and v_state.is_lifetime then 1 else 0 end,
        failed_cost_usd = v_state.failed_cost_usd,
        overage_period_start = v_state.overage_period_start,
        current_overage_amount = v_state.overage_used + v_charge,
        unpaid_overage_usd = s.unpaid_overage_usd + v_charge,
        -- Not if the plan changed since the state was read: webhooks do not take the user lock for that.
        included_until = case when s.updated_at = v_state.updated_at then v_state.included_until end
      where s.user_id = p_user_id;
      if v_pack_id is not null then
        update public.credit_packs c set
          credits_remaining = c.credits_remaining - 1, credits_used = c.credits_used + 1,
          depleted_at = case when c.credits_remaining = 1 then v_state.now end
        where c.id = v_pack_id;
      end if;
    end if;
    v_taken := 1;
  end if;

  -- Return
  if v_state.funding = 'byok' then
    v_key := private.encrypted_key(p_user_id, v_provider);
  elsif v_state.funding = 'included' then
    v_remaining := greatest(0, v_state.quota_limit - v_state.included_used - v_taken);
    v_resets_at := case when not v_state.is_lifetime then (v_state.quota_date + 1)::timestamp at time zone 'UTC' end;
  elsif v_state.funding = 'credit' then
    v_remaining := (
      select sum(c.credits_remaining) from public.credit_packs c
      where c.user_id = p_user_id and not c.is_frozen and (c.expires_at > v_state.now or c.expires_at is null));
  elsif v_state.funding = 'overage' then
    v_remaining := floor((v_state.overage_limit - greatest(v_state.overage_used, v_state.unpaid_overage) - v_charge)
                         / v_state.overage_price_usd);
    v_resets_at := (private.period_at(v_state.period_start, v_state.current_period_end, v_state.now)).period_end;
  end if;
  if v_conversation_id is not null and v_state.history_days > 0 then
    -- A repeated question is answered from the messages before it.
    v_history := private.recent_messages(
      v_conversation_id, case when v_replaces_to is not null then v_position end, p_history_messages, p_history_bytes);
  end if;
  return jsonb_build_object(
    'decision', 'admitted', 'funding', v_state.funding, 'tier', v_state.tier, 'provider', v_provider, 'model', v_model,
    'keeps_history', v_state.history_days > 0, 'remaining', v_remaining, 'resets_at', v_resets_at, 'history', v_history,
    'key', v_key, 'models', v_state.models, 'cost_limit_usd', v_state.query_cost_limit_usd::text);
end
$$;
comment on function public.admit_query(
  uuid, text, uuid, text, text, text, text, integer, integer, integer, boolean, text[], uuid, uuid, boolean, jsonb) is
  'Admits one query under the user lock, and returns everything that the turn needs: decision, funding, tier, '
  'provider, model, keeps_history, remaining, resets_at, recent history, the encrypted key if an own key pays, the '
  'models of the plan, cost_limit_usd. decision is admitted; refused, with reason, reason_code, requires_payment, '
  'resets_at and url (of the unpaid invoice); '
  'in_progress: another attempt at the same request runs; waiting: with p_waits, another query of the chat runs, and '
  'was requested to stop; ended: the request was charged before. Called again with the '
  'same hold id it returns the same hold, so a lost response can be requested again. p_own_key: whether an own key '
  'pays; null: if there is one. p_providers: providers that the platform has an account with, the default first. '
  'p_question_digest: of the question, where the request id does not identify it. p_session_id: of the '
  'token. p_request_id null: regenerates the newest answer. p_question_id: of a question that may have been asked '
  'before. p_question: {id, content}, for chat_messages while the query runs. CONFL: the same request asked another '
  'question before. NTFND: the conversation belongs to another user. '
  'NOMDL: the plan does not have the model. NOUSR: the account or the session has ended. BANND: the account is banned '
  'or blocked. NCONF: the free quota would pay, and the account is anonymous or not confirmed. LATER: release_query '
  'was called first.';
revoke all on function public.admit_query(
  uuid, text, uuid, text, text, text, text, integer, integer, integer, boolean, text[], uuid, uuid, boolean, jsonb)
  from public, anon, authenticated, service_role;
grant execute on function public.admit_query(
  uuid, text, uuid, text, text, text, text, integer, integer, integer, boolean, text[], uuid, uuid, boolean, jsonb)
  to service_role;


-- ==== sql/schemas/44_end_query.sql

-- How a query ends: its hold becomes one row of the ledger, which is charged or refunded. Locks: 43_admit_query.sql.

create or replace function private.close_hold(
  p_hold public.query_holds, p_at timestamptz, p_outcome text, p_is_charged boolean, p_usage jsonb,
  p_conversation_id uuid, p_message_id uuid,
  out id uuid, out outcome text, out charged_usd numeric, out cost_usd numeric, out message_id uuid,
  out used_byo_key boolean)
language plpgsql volatile set search_path = ''
as $$
declare
  v_tokens_input constant integer := coalesce((p_usage ->> 'tokens_input')::integer, 0);
  v_tokens_output constant integer := coalesce((p_usage ->> 'tokens_output')::integer, 0);
begin
  if p_hold.id is null then
    return;
  end if;
  insert into public.usage_logs as u (
    id, created_at, user_id, request_id, chat_key, question_digest, conversation_id, message_id, tier, funding,
    outcome, is_charged, finish_reason, query_date, query_timestamp, period_start, credit_pack_id, quota_used,
    quota_limit, overage_used, overage_limit, tokens_input, tokens_output, tokens_total, cache_read_tokens,
    cache_write_tokens, cost_usd, provider, model, used_byo_key, counted_against_quota, was_overage, overage_charge)
  values (
    p_hold.id, p_at, p_hold.user_id, p_hold.request_id, p_hold.chat_key, p_hold.question_digest, p_conversation_id,
    p_message_id, p_hold.tier, p_hold.funding, p_outcome, p_is_charged,
    case when p_is_charged then p_usage ->> 'finish_reason' end, p_hold.query_date, p_hold.created_at,
    p_hold.period_start, p_hold.credit_pack_id, p_hold.quota_used, p_hold.quota_limit, p_hold.overage_used,
    p_hold.overage_limit,
    v_tokens_input, v_tokens_output, v_tokens_input + v_tokens_output,
    coalesce((p_usage ->> 'cache_read_tokens')::integer, 0), coalesce((p_usage ->> 'cache_write_tokens')::integer, 0),
    coalesce((p_usage ->> 'cost_usd')::numeric, 0), coalesce(p_usage ->> 'provider', p_hold.provider),
    coalesce(p_usage ->> 'model', p_hold.model), p_hold.funding = 'byok',
    p_is_charged and p_hold.funding = 'included', p_is_charged and p_hold.funding = 'overage',
    case when p_is_charged then p_hold.overage_charge else 0 end)
  returning u.id, u.outcome, u.overage_charge, u.cost_usd, u.message_id, u.used_byo_key
  into id, outcome, charged_usd, cost_usd, message_id, used_byo_key;
  delete from public.query_holds h where h.id = p_hold.id;
end
$$;
comment on function private.close_hold(public.query_holds, timestamptz, text, boolean, jsonb, uuid, uuid) is
  'Replaces a hold by its usage_logs row, and returns columns of that row. Without a hold, id is null. The caller has '
  'read the hold under the hold lock. p_is_charged is private.is_charged(p_outcome), which the caller knows already.';
revoke all on function private.close_hold(public.query_holds, timestamptz, text, boolean, jsonb, uuid, uuid)
  from public, anon, authenticated, service_role;


create or replace function private.ended_query(
  p_hold_id uuid, out id uuid, out outcome text, out charged_usd numeric, out cost_usd numeric, out message_id uuid,
  out used_byo_key boolean)
language plpgsql stable set search_path = ''
as $$
begin
  select u.id, u.outcome, u.overage_charge, u.cost_usd, u.message_id, u.used_byo_key
  into id, outcome, charged_usd, cost_usd, message_id, used_byo_key
  from public.usage_logs u where u.id = p_hold_id;
  if id is null then
    raise exception using errcode = 'NOHLD', message = 'There is no such query.';
  end if;
end
$$;
comment on function private.ended_query(uuid) is
  'The usage_logs row of a query that has ended, with the columns of close_hold. NOHLD: the query was never admitted.';
revoke all on function private.ended_query(uuid) from public, anon, authenticated, service_role;


create or replace function private.add_daily_cost(p_hold public.query_holds, p_cost_usd numeric) returns void
language plpgsql volatile set search_path = ''
as $$
begin
  if p_cost_usd > 0 then
    update public.daily_costs c set
      day = p_hold.query_date,
      free_usd = case when c.day = p_hold.query_date then c.free_usd else 0 end
               + case when p_hold.tier = 'free' then p_cost_usd else 0 end,
      total_usd = case when c.day = p_hold.query_date then c.total_usd else 0 end + p_cost_usd
    where c.shard = pg_backend_pid() % 32 and c.day <= p_hold.query_date;
  end if;
end
$$;
comment on function private.add_daily_cost(public.query_holds, numeric) is
  'Adds what a query has cost us to the sums of its day. Call it last, because the row stays locked until the end of '
  'the transaction.';
revoke all on function private.add_daily_cost(public.query_holds, numeric)
  from public, anon, authenticated, service_role;


create or replace function private.return_funding(
  p_hold public.query_holds, p_failed_cost_usd numeric, p_is_settled boolean default false)
returns void
language plpgsql volatile set search_path = ''
as $$
begin
  if p_hold.funding <> 'byok' then
    update public.user_subscriptions s set
      lifetime_used = s.lifetime_used
        - case when p_hold.funding = 'included' and p.lifetime_quota is not null then 1 else 0 end,
      quota_used = s.quota_used
        - case when p_hold.funding = 'included' and p.daily_quota is not null and s.quota_date = p_hold.query_date
               then 1 else 0 end,
      current_overage_amount = s.current_overage_amount
        - case when s.overage_period_start = p_hold.period_start then p_hold.overage_charge else 0 end,
      unpaid_overage_usd = s.unpaid_overage_usd - case when p_is_settled then 0 else p_hold.overage_charge end,
      failed_cost_usd = s.failed_cost_usd + case when s.quota_date = p_hold.query_date then p_failed_cost_usd else 0 end
    from public.plans p
    where s.user_id = p_hold.user_id and p.tier = p_hold.tier;
  end if;
  if p_hold.funding = 'credit' then
    -- After a refund of the pack, or after it expired, a returned credit counts as revoked or expired.
    update public.credit_packs c set
      credits_used = c.credits_used - 1,
      credits_remaining = c.credits_remaining + case when returned.counts_as = 'remaining' then 1 else 0 end,
      credits_revoked = c.credits_revoked + case when returned.counts_as = 'revoked' then 1 else 0 end,
      credits_expired = c.credits_expired + case when returned.counts_as = 'expired' then 1 else 0 end,
      depleted_at = case when returned.counts_as <> 'remaining' then c.depleted_at end
    from (
      select k.id, case when k.credits_revoked < k.credits_to_revoke then 'revoked'
                        when k.lapsed_at is not null then 'expired'
                        else 'remaining' end as counts_as
      from public.credit_packs k where k.id = p_hold.credit_pack_id) returned
    where c.id = returned.id;
  end if;
end
$$;
comment on function private.return_funding(public.query_holds, numeric, boolean) is
  'Returns the funding of a query to the same day, credit pack or overage period. p_failed_cost_usd: what it has cost '
  'us, if it failed. p_is_settled: its overage was paid or voided, so the user does not owe it. The caller holds the '
  'user lock.';
revoke all on function private.return_funding(public.query_holds, numeric, boolean)
  from public, anon, authenticated, service_role;


create or replace function private.refund_hold(
  p_hold_id uuid, p_outcome text, p_usage jsonb,
  out id uuid, out outcome text, out charged_usd numeric, out cost_usd numeric, out message_id uuid,
  out used_byo_key boolean)
language plpgsql volatile set search_path = ''
as $$
declare
  v_hold public.query_holds;
begin
  -- Lock
  perform pg_advisory_xact_lock(uuid_hash_extended(p_hold_id, 1));

  -- End the query
  select * into v_hold from public.query_holds h where h.id = p_hold_id;
  select e.id, e.outcome, e.charged_usd, e.cost_usd, e.message_id, e.used_byo_key
  into id, outcome, charged_usd, cost_usd, message_id, used_byo_key
  from private.close_hold(v_hold, private.clock(), p_outcome, p_is_charged => false, p_usage => p_usage,
                          p_conversation_id => null, p_message_id => null) e;

  -- Return the funding, and count what the query has cost us
  perform private.return_funding(v_hold, cost_usd);
  if v_hold.funding <> 'byok' then
    perform private.add_daily_cost(v_hold, cost_usd);
  end if;
end
$$;
comment on function private.refund_hold(uuid, text, jsonb) is
  'Ends a query without a charge and returns its funding to the same day, credit pack or overage period. Returns what '
  'close_hold returns. The caller holds the user lock.';
revoke all on function private.refund_hold(uuid, text, jsonb) from public, anon, authenticated, service_role;


create or replace function private.next_position(p_conversation_id uuid) returns integer
language plpgsql stable set search_path = ''
as $$
begin
  return greatest(
    (select max(m.position) + 1 from public.messages m where m.conversation_id = p_conversation_id),
    (select max(w.position) + 2 from public.pending_turns w where w.conversation_id = p_conversation_id),
    1);
end
$$;
comment on function private.next_position(uuid) is
  'The position after the stored messages and the pending turns of a conversation.';
revoke all on function private.next_position(uuid) from public, anon, authenticated, service_role;


create or replace function private.store_turn(
  p_hold public.query_holds, p_at timestamptz, p_usage jsonb, p_turn jsonb, p_expires_at timestamptz default null,
  out conversation_id uuid, out is_certain boolean)
language plpgsql volatile set search_path = ''
as $$
declare
  v_chat_id constant text := p_turn ->> 'chat_id';
  v_answer constant jsonb := p_turn -> 'answer';
  v_chat_uuid uuid;
  v_tokens_input constant integer := coalesce((p_usage ->> 'tokens_input')::integer, 0);
  v_tokens_output constant integer := coalesce((p_usage ->> 'tokens_output')::integer, 0);
  v_plan record;
  v_expires_at timestamptz := p_expires_at;
  v_id uuid := p_hold.conversation_id;
  v_position integer := p_hold.position; -- of the question
  v_question_id uuid;
  v_asked_at timestamptz;
  v_replaced integer := 0;
  v_has_pending boolean := false;
begin
  if p_hold.is_replaced then
    return;
  end if;
  if v_expires_at is null then
    -- Read the plan in force, which is the stored one until included_until. Lock the user before the conversation, as
    -- a deletion of the user does.
    select (select p.history_days from public.plans p where p.tier = s.tier) as history_days,
           (select u.id from auth.users u where u.id = s.user_id for key share) as locked_user_id,
           exists (select from public.pending_turns w where w.user_id = s.user_id) as has_pending
    into v_plan
    from public.user_subscriptions s where s.user_id = p_hold.user_id and s.included_until > p_at;
    if not found then
      select s.history_days, (select u.id from auth.users u where u.id = s.user_id for key share) as locked_user_id,
             exists (select from public.pending_turns w where w.user_id = s.user_id) as has_pending
      into v_plan
      from private.current_subscriptions s where s.user_id = p_hold.user_id;
    end if;
    if (v_plan.history_days > 0) is not true then
      return; -- The plan stores no history, or the query has ended.
    end if;
    v_expires_at := p_at + v_plan.history_days * interval '1 day';
    v_has_pending := v_plan.has_pending;
  end if;

  if v_id is null then
    v_chat_uuid := private.conversation_key(v_chat_id);
    v_id := v_chat_uuid;
  end if;

  -- Update the conversation if it is not locked, or create it. The second attempt: another turn created it at the same
  -- time.
  for v_attempt in 1 .. 2 loop
    if v_id is null then
      select c.id into v_id from public.conversations c
      where c.user_id = p_hold.user_id and c.external_id = v_chat_id;
    end if;
    if v_id is not null then
      if v_has_pending then
        perform private.apply_pending_turns(v_id);
        exit when exists (select from public.pending_turns w where w.conversation_id = v_id); -- keep the order
      end if;
      update public.conversations c set
        updated_at = now(), message_count = c.message_count + 2,
        total_tokens = c.total_tokens + v_tokens_input + v_tokens_output,
        expires_at = v_expires_at, last_message_at = p_at
      where c.id = (
        select f.id from public.conversations f
        where f.id = v_id and f.user_id = p_hold.user_id for no key update skip locked)
      returning c.id into conversation_id;
      exit when found or p_hold.conversation_id is not null;
    end if;
    -- The condition: `on conflict` would wait for the lock of an existing row.
    insert into public.conversations (
      id, created_at, user_id, external_id, title, context_type, context_id, context_data, message_count,
      total_tokens, expires_at, last_message_at)
    select
      coalesce(v_chat_uuid, private.time_ordered_id()), p_at, p_hold.user_id,
      case when v_chat_uuid is null then v_chat_id end, p_turn ->> 'title',
      coalesce(p_turn -> 'context' ->> 'type', 'general'), p_turn -> 'context' ->> 'id',
      nullif(p_turn -> 'context' -> 'data', 'null'), 2, v_tokens_input + v_tokens_output, v_expires_at, p_at
    where not exists (select from public.conversations c where c.id = v_id)
    on conflict do nothing
    returning id into conversation_id;
    exit when found;
  end loop;
  if conversation_id is null then
    -- The conversation is locked. Or the user deleted it while the answer ran, or another user used this UUID first,
    -- after admission: then nothing is stored.
    is_certain := private.postpone_turn(p_hold, v_id, p_at, v_expires_at, p_turn);
    return;
  end if;
  is_certain := true;

  -- A repeated question keeps its id and its time. Its answer and what followed when it was repeated are replaced.
  if p_hold.replaces_to is not null then
    select m.id, m.created_at into v_question_id, v_asked_at from public.messages m
    where m.conversation_id = store_turn.conversation_id and m.position = v_position;
    delete from public.messages m
    where m.conversation_id = store_turn.conversation_id and m.position between v_position and p_hold.replaces_to;
    get diagnostics v_replaced = row_count;
    update public.conversations c set message_count = c.message_count - v_replaced
    where c.id = store_turn.conversation_id;
  elsif v_position is null then
    v_position := private.next_position(conversation_id); -- the query was admitted without a chat
  end if;

  -- Store the question and the answer
  insert into public.messages (
    id, created_at, conversation_id, position, role, external_id, content, step_ends, function_calls,
    function_results, finish_reason, tokens_input, tokens_output, tokens_total, provider, model, used_byo_key, cost_usd)
  values
    (coalesce(v_question_id, private.time_ordered_id()), coalesce(v_asked_at, p_hold.created_at), conversation_id,
     v_position, 'user', p_turn -> 'question' ->> 'id', p_turn -> 'question' ->> 'content', null, null, null, null, 0,
     0, 0, null, null, false, 0),
    ((v_answer ->> 'id')::uuid, p_at, conversation_id, v_position + 1, 'assistant', null, v_answer ->> 'content',
     v_answer -> 'step_ends', nullif(v_answer -> 'function_calls', 'null'),
     nullif(v_answer -> 'function_results', 'null'), v_answer ->> 'finish_reason', v_tokens_input, v_tokens_output,
     v_tokens_input + v_tokens_output,
     coalesce(p_usage ->> 'provider', p_hold.provider), coalesce(p_usage ->> 'model', p_hold.model),
     p_hold.funding = 'byok', coalesce((p_usage ->> 'cost_usd')::numeric, 0));
end
$$;
comment on function private.store_turn(public.query_holds, timestamptz, jsonb, jsonb, timestamptz) is
  'Stores a question and its answer in the conversation of the chat id. The first turn creates the conversation. '
  'Returns its id, and whether the turn is certain to be stored. conversation_id null: it is postponed because the '
  'conversation is locked or earlier turns wait; or not stored, because the plan in force stores no history, a later '
  'query replaces it, the conversation was deleted since admission, or the UUID belongs to another user. Waits for no '
  'lock of the conversation. p_expires_at: for a postponed turn, whose plan was read before.';
revoke all on function private.store_turn(public.query_holds, timestamptz, jsonb, jsonb, timestamptz)
  from public, anon, authenticated, service_role;


create or replace function public.settle_query(
  p_hold_id uuid, p_outcome text, p_usage jsonb default '{}', p_turn jsonb default null)
returns jsonb
language plpgsql volatile security definer set search_path = ''
set enable_seqscan = off set plan_cache_mode = force_generic_plan
as $$
declare
  v_hold public.query_holds;
  v_at timestamptz;
  v_stored record;
  v_ended record;
  v_conversation_id uuid;
  v_is_certain boolean;
begin
  if private.is_charged(p_outcome) is not true then
    raise invalid_parameter_value using message = 'p_outcome must be answered or stopped.';
  end if;

  -- Lock
  perform pg_advisory_xact_lock(uuid_hash_extended(p_hold_id, 1));

  v_at := private.clock();

  -- Store the turn
  select h.* into v_hold from public.query_holds h where h.id = p_hold_id;
  if p_turn is not null then
    v_stored := private.store_turn(v_hold, v_at, p_usage, p_turn);
    v_conversation_id := v_stored.conversation_id;
    v_is_certain := v_stored.is_certain;
  end if;

  -- Charge
  v_ended := private.close_hold(
    v_hold, v_at, p_outcome, p_is_charged => true, p_usage => p_usage, p_conversation_id => v_conversation_id,
    p_message_id => case when v_conversation_id is not null then (p_turn -> 'answer' ->> 'id')::uuid end);
  if v_ended.id is null then
    v_ended := private.ended_query(p_hold_id);
    v_is_certain := private.is_stored(p_hold_id, v_ended.message_id);
  elsif v_ended.used_byo_key then
    -- The provider has answered with this key. A key that was stored unchecked is therefore valid.
    update public.user_api_keys k set last_validated_at = u.created_at, validation_error = null
    from public.usage_logs u
    where u.id = p_hold_id and k.user_id = u.user_id and k.provider = u.provider and k.is_active
      and k.last_validated_at is null and k.created_at <= u.query_timestamp;
  else
    -- As private.add_daily_cost, inlined because it runs for every query.
    update public.daily_costs c set
      day = v_hold.query_date,
      free_usd = case when c.day = v_hold.query_date then c.free_usd else 0 end
               + case when v_hold.tier = 'free' then v_ended.cost_usd else 0 end,
      total_usd = case when c.day = v_hold.query_date then c.total_usd else 0 end + v_ended.cost_usd
    where c.shard = pg_backend_pid() % 32 and c.day <= v_hold.query_date;
  end if;

  -- Return
  return jsonb_build_object(
    'outcome', v_ended.outcome, 'charged_usd', v_ended.charged_usd::text, 'cost_usd', v_ended.cost_usd::text,
    'persisted', v_is_certain is true);
end
$$;
comment on function public.settle_query(uuid, text, jsonb, jsonb) is
  'Ends a query that is charged. Repeated calls charge once. p_usage: {provider, model, tokens_input, tokens_output, '
  'cache_read_tokens, cache_write_tokens, cost_usd, finish_reason}. p_turn: {chat_id, title, context {type, id, data}, '
  'question {id, content}, answer {id, content, step_ends, function_calls, function_results, finish_reason}}, stored '
  'only if the plan stores history. A turn whose conversation is locked waits in pending_turns: the charge waits for '
  'no user. Returns {outcome, charged_usd, cost_usd, persisted}; persisted: the turn is stored or certain to be. '
  'NOHLD: the query was never admitted.';
revoke all on function public.settle_query(uuid, text, jsonb, jsonb) from public, anon, authenticated, service_role;
grant execute on function public.settle_query(uuid, text, jsonb, jsonb) to service_role;


create or replace function public.release_query(
  p_hold_id uuid, p_outcome text default 'failed', p_usage jsonb default '{}', p_user_id uuid default null)
returns jsonb
language plpgsql volatile security definer set search_path = ''
set enable_seqscan = off set plan_cache_mode = force_generic_plan
as $$
declare
  v_ended record;
begin
  -- Check
  if (p_outcome in ('failed', 'lost')) is not true then
    raise invalid_parameter_value using message = 'p_outcome must be failed or lost.';
  end if;

  -- Lock
  perform pg_advisory_xact_lock(uuid_hash_extended(p_user_id, 0)) where p_user_id is not null;
  perform pg_advisory_xact_lock(uuid_hash_extended(h.user_id, 0)) from public.query_holds h where h.id = p_hold_id;

  -- Write
  v_ended := private.refund_hold(p_hold_id, p_outcome, p_usage);
  if v_ended.id is null and p_user_id is not null
     and not exists (select from public.usage_logs u where u.id = p_hold_id) then
    -- The admission may still be on its way. It will find this refusal and take nothing.
    perform private.record_refusal(p_user_id, p_hold_id::text, null, p_hold_id, 'unavailable')
    where not exists (select from public.query_refusals r where r.id = p_hold_id);
    return jsonb_build_object('outcome', 'failed', 'charged_usd', '0', 'persisted', false);
  elsif v_ended.id is null then
    v_ended := private.ended_query(p_hold_id);
  end if;

  -- Return
  return jsonb_build_object(
    'outcome', v_ended.outcome, 'charged_usd', v_ended.charged_usd::text, 'persisted', v_ended.message_id is not null);
end
$$;
comment on function public.release_query(uuid, text, jsonb, uuid) is
  'Ends a query that is not charged and returns its funding. Repeated calls do it once. p_usage as in settle_query: '
  'our cost. p_user_id is needed if the query may still be waiting for admission: the release then waits behind it, or '
  'an admission that comes later takes nothing. '
  'Returns {outcome, charged_usd, persisted}. NOHLD: the query was never admitted.';
revoke all on function public.release_query(uuid, text, jsonb, uuid) from public, anon, authenticated, service_role;
grant execute on function public.release_query(uuid, text, jsonb, uuid) to service_role;


create or replace function public.release_stale_holds() returns integer
language plpgsql volatile security definer set search_path = ''
set enable_seqscan = off set plan_cache_mode = force_generic_plan
as $$
declare
  v_at constant timestamptz := private.clock();
  v_stale record;
  v_locked uuid[] := array[]::uuid[];
  v_hold_id uuid;
  v_id uuid;
  v_released integer := 0;
begin
  -- Lock
  -- At most 100 per call, so that no user waits long for a lock. Users whose lock is taken are left to the next call.
  for v_stale in
    select oldest.id, oldest.user_id
    from (select h.id, h.user_id from public.query_holds h where h.expires_at <= v_at
          order by h.expires_at limit 100) oldest
    order by oldest.user_id, oldest.id
  loop
    continue when not pg_try_advisory_xact_lock(uuid_hash_extended(v_stale.user_id, 0));
    -- The locks of all holds come before the first row.
    perform pg_advisory_xact_lock(uuid_hash_extended(v_stale.id, 1));
    v_locked := v_locked || v_stale.id;
  end loop;

  -- End the queries
  foreach v_hold_id in array v_locked loop
    v_id := (private.refund_hold(v_hold_id, 'lost', '{}')).id;
    v_released := v_released + case when v_id is not null then 1 else 0 end;
  end loop;
  return v_released;
end
$$;
comment on function public.release_stale_holds() is
  'Returns the funding of expired holds, whose process died: at most 100 per call. Returns how many. Call until 0.';
revoke all on function public.release_stale_holds() from public, anon, authenticated, service_role;
grant execute on function public.release_stale_holds() to service_role;


-- ==== sql/schemas/45_track_query_usage.sql

-- Metering for callers that answer queries themselves.

create or replace function public.track_query_usage(
  p_user_id uuid, p_conversation_id uuid, p_message_id uuid, p_tokens_input integer, p_tokens_output integer,
  p_provider text, p_model text, p_used_byo_key boolean, p_cost_usd numeric)
returns void
language plpgsql volatile security definer set search_path = ''
as $$
declare
  v_id constant uuid := private.time_ordered_id();
  v_admission jsonb;
  v_hold public.query_holds;
  v_conversation_id uuid;
begin
  -- Check
  if not exists (select from public.conversations where id = p_conversation_id and user_id = p_user_id)
     and p_conversation_id is not null
     or not exists (select from public.messages where id = p_message_id and conversation_id = p_conversation_id)
     and p_message_id is not null then
    raise exception using errcode = 'NTFND', message = 'There is no such conversation or message.';
  end if;

  -- Take
  v_admission := public.admit_query(
    p_user_id, 'track:' || coalesce(p_message_id, v_id)::text, v_id, p_own_key => coalesce(p_used_byo_key, false),
    p_provider => case when p_used_byo_key then p_provider end);
  if v_admission ->> 'decision' = 'ended' then
    return;
  elsif v_admission ->> 'decision' <> 'admitted' then
    raise exception using errcode = 'QUOTA', message = v_admission ->> 'reason';
  end if;

  -- Charge. A conversation that is being deleted is left out: the check of the foreign key would wait for its lock.
  select h.* into v_hold from public.query_holds h where h.id = v_id;
  select c.id into v_conversation_id from public.conversations c
  where c.id = p_conversation_id for key share skip locked;
  perform private.close_hold(
    v_hold, private.clock(), 'answered', p_is_charged => true,
    p_usage => jsonb_build_object(
      'provider', p_provider, 'model', p_model, 'tokens_input', p_tokens_input, 'tokens_output', p_tokens_output,
      'cost_usd', p_cost_usd),
    p_conversation_id => v_conversation_id,
    p_message_id => case when v_conversation_id is not null then p_message_id end);
  if v_hold.funding <> 'byok' then
    perform private.add_daily_cost(v_hold, p_cost_usd);
  end if;
end
$$;
comment on function public.track_query_usage(uuid, uuid, uuid, integer, integer, text, text, boolean, numeric) is
  'Admits and settles one query in one call, by the same rules as the chat. A message is charged once. QUOTA: refused, '
  'with the reason as the message. NTFND: the conversation or message does not belong to the user.';
revoke all on function public.track_query_usage(uuid, uuid, uuid, integer, integer, text, text, boolean, numeric)
  from public, anon, authenticated, service_role;
grant execute on function public.track_query_usage(uuid, uuid, uuid, integer, integer, text, text, boolean, numeric)
  to service_role;


-- ==== sql/schemas/46_running_query.sql

-- Stop and resume a running answer from another process, through its hold.
--
-- On Lambda every request can reach another process. Everything stored here is deleted with the hold, so plans without
-- history store nothing.

create or replace function private.lock_holds(p_hold_ids uuid[], p_wait boolean) returns setof uuid
language plpgsql volatile set search_path = ''
as $$
begin
  if p_wait then
    return query
      select h.id from public.query_holds h where h.id = any (p_hold_ids) order by h.id for no key update;
  else
    return query
      select h.id from public.query_holds h where h.id = any (p_hold_ids) order by h.id for no key update skip locked;
  end if;
end
$$;
comment on function private.lock_holds(uuid[], boolean) is
  'Locks the rows of holds and returns their ids. Without p_wait, holds that are locked are skipped.';
revoke all on function private.lock_holds(uuid[], boolean) from public, anon, authenticated, service_role;


create or replace function public.note_progress(p_notes jsonb, p_is_closing boolean default false) returns jsonb
language plpgsql volatile security definer set search_path = ''
set enable_seqscan = off set plan_cache_mode = force_generic_plan
as $$
declare
  v_noted jsonb;
begin
  -- No charge depends on this, so it does not wait for the disk. A crash ends the answers too.
  perform set_config('synchronous_commit', 'off', true);
  with note as (
    select n.hold_id, n.position, n.progress
    from jsonb_to_recordset(p_notes) n (hold_id uuid, position integer, progress text)
  ), held as (
    -- Without p_is_closing, locked holds are left to the next call. With it, the one hold is waited for.
    select id from private.lock_holds(array(select n.hold_id from note n), p_wait => p_is_closing) id
  ), stored as (
    update public.query_holds h set
      -- The position makes a repeated call harmless.
      progress = case when n.progress <> '' then left(h.progress, n.position) || n.progress else h.progress end,
      is_closing = h.is_closing or p_is_closing and h.followed_to is null
    from note n
    where h.id = n.hold_id and h.id in (select id from held)
    returning h.id, h.stop_requested, h.followed_to
  )
  select coalesce(jsonb_agg(jsonb_build_object(
    'hold_id', s.id, 'stop_requested', s.stop_requested, 'followed_to', s.followed_to)), '[]')
  into v_noted from stored s;
  return v_noted;
end
$$;
comment on function public.note_progress(jsonb, boolean) is
  'Stores the new text of running queries: [{hold_id, position, progress}], where progress replaces everything from '
  'character position on. Returns [{hold_id, stop_requested, followed_to}]: whether to stop, and how far another '
  'process has read (null: none reads). p_is_closing, for one query: no process may start to read any more. Holds that '
  'are gone or locked are not returned.';
revoke all on function public.note_progress(jsonb, boolean) from public, anon, authenticated, service_role;
grant execute on function public.note_progress(jsonb, boolean) to service_role;


create or replace function private.running_query(p_user_id uuid, p_chat_id text) returns uuid
language plpgsql stable set search_path = ''
as $$
begin
  return (
    select h.id from public.query_holds h
    where h.user_id = p_user_id and h.expires_at > private.clock() and not h.is_closing
      and (h.chat_id = p_chat_id or private.conversation_key(h.chat_id) = private.conversation_key(p_chat_id))
    order by h.created_at desc, h.id desc limit 1);
end
$$;
comment on function private.running_query(uuid, text) is
  'The newest running query of a chat. Null: none runs, or it is about to be settled.';
revoke all on function private.running_query(uuid, text) from public, anon, authenticated, service_role;


create or replace function public.stop_query(p_user_id uuid, p_chat_id text) returns boolean
language plpgsql volatile security definer set search_path = ''
set enable_seqscan = off set plan_cache_mode = force_generic_plan
as $$
begin
  update public.query_holds h set stop_requested = true where h.id = private.running_query(p_user_id, p_chat_id);
  if not found then
    perform private.require_account(p_user_id);
    return false;
  end if;
  return true;
end
$$;
comment on function public.stop_query(uuid, text) is
  'Requests that the running query of a chat stops. Returns whether there was one. NOUSR: the account has ended.';
revoke all on function public.stop_query(uuid, text) from public, anon, authenticated, service_role;
grant execute on function public.stop_query(uuid, text) to service_role;


create or replace function private.other_followers(p_followers jsonb, p_follower uuid, p_at timestamptz) returns jsonb
language plpgsql stable set search_path = ''
as $$
begin
  return (
    select coalesce(jsonb_object_agg(f.key, f.value), '{}') from jsonb_each_text(p_followers) f
    where f.key <> p_follower::text and f.value::timestamptz > p_at - interval '3 seconds');
end
$$;
comment on function private.other_followers(jsonb, uuid, timestamptz) is
  'The other clients that read an answer. One that has not asked for three seconds has left.';
revoke all on function private.other_followers(jsonb, uuid, timestamptz) from public, anon, authenticated, service_role;


create or replace function public.follow_query(
  p_user_id uuid, p_chat_id text, p_follower uuid, p_hold_id uuid default null, p_from integer default 0)
returns jsonb
language plpgsql volatile security definer set search_path = ''
set enable_seqscan = off set plan_cache_mode = force_generic_plan
as $$
declare
  v_at constant timestamptz := private.clock();
  v_hold_id constant uuid := coalesce(p_hold_id, private.running_query(p_user_id, p_chat_id));
  v_followed jsonb;
begin
  perform set_config('synchronous_commit', 'off', true);

  -- Write
  update public.query_holds h set
    followed_to = p_from,
    followers = private.other_followers(h.followers, p_follower, v_at) || jsonb_build_object(p_follower, v_at)
  where h.id = v_hold_id and h.user_id = p_user_id and h.expires_at > v_at and not h.is_closing
    and (select count(*) from jsonb_object_keys(private.other_followers(h.followers, p_follower, v_at))) < 3
  returning jsonb_build_object('hold_id', h.id, 'progress', substr(h.progress, p_from + 1)) into v_followed;
  if v_followed is null then
    select jsonb_build_object('is_full', true) into v_followed
    from public.query_holds h
    where h.id = v_hold_id and h.user_id = p_user_id and h.expires_at > v_at and not h.is_closing;
  end if;
  if v_followed is null and p_hold_id is null then
    perform private.require_account(p_user_id);
  elsif v_followed is null then
    select jsonb_build_object(
      'hold_id', u.id, 'outcome', u.outcome, 'provider', u.provider, 'model', u.model, 'funding', u.funding,
      'tokens_input', u.tokens_input, 'tokens_output', u.tokens_output, 'cache_read_tokens', u.cache_read_tokens,
      'cache_write_tokens', u.cache_write_tokens, 'cost_usd', u.cost_usd::text,
      'charged_usd', u.overage_charge::text, 'persisted', private.is_stored(u.id, u.message_id),
      'finish_reason', u.finish_reason)
    into v_followed
    from public.usage_logs u where u.id = p_hold_id and u.user_id = p_user_id;
  end if;

  -- Return
  return v_followed;
end
$$;
comment on function public.follow_query(uuid, text, uuid, uuid, integer) is
  'The progress of the running query of a chat from character p_from on: {hold_id, progress}. Call again with the '
  'hold_id and the number of characters read so far. p_follower identifies the client: at most three read an answer at '
  'the same time, the others get {is_full}. After the query has ended: {hold_id, outcome, usage and charge}. '
  'Null: nothing runs, or the query was lost.';
revoke all on function public.follow_query(uuid, text, uuid, uuid, integer)
  from public, anon, authenticated, service_role;
grant execute on function public.follow_query(uuid, text, uuid, uuid, integer) to service_role;


-- ==== sql/schemas/47_pending_turns.sql

-- Stores turns whose conversation was locked when they were settled. A lock on a conversation must not delay a charge.
--
-- A turn is stored once: the row is deleted in the transaction that stores it, under the lock of the conversation.

create or replace function private.postpone_turn(
  p_hold public.query_holds, p_conversation_id uuid, p_at timestamptz, p_expires_at timestamptz, p_turn jsonb)
returns boolean
language plpgsql volatile set search_path = ''
as $$
declare
  v_is_certain boolean;
begin
  -- This lock fails beside a deletion and succeeds beside an update. While it is held, no deletion can start.
  perform from public.conversations c where c.id = p_conversation_id for key share skip locked;
  v_is_certain := found;
  insert into public.pending_turns (
    id, created_at, user_id, conversation_id, conversation_created_at, expires_at, is_certain, position, replaces_to,
    turn)
  select p_hold.id, p_at, p_hold.user_id, c.id, c.created_at, p_expires_at, v_is_certain,
         coalesce(p_hold.position, private.next_position(c.id)), p_hold.replaces_to, p_turn
  from public.conversations c where c.id = p_conversation_id and c.user_id = p_hold.user_id;
  return found and v_is_certain;
end
$$;
comment on function private.postpone_turn(public.query_holds, uuid, timestamptz, timestamptz, jsonb) is
  'Leaves a turn for later, unless the conversation does not exist or belongs to another user. Returns whether it is '
  'certain to be stored. Waits for no lock.';
revoke all on function private.postpone_turn(public.query_holds, uuid, timestamptz, timestamptz, jsonb)
  from public, anon, authenticated, service_role;


create or replace function private.is_stored(p_query_id uuid, p_message_id uuid) returns boolean
language plpgsql stable set search_path = ''
as $$
begin
  return p_message_id is not null
    or exists (select from public.pending_turns w where w.id = p_query_id and w.is_certain);
end
$$;
comment on function private.is_stored(uuid, uuid) is
  'Whether the turn of an ended query is stored or certain to be. p_message_id: that of its usage_logs row.';
revoke all on function private.is_stored(uuid, uuid) from public, anon, authenticated, service_role;


create or replace function private.apply_pending_turns(p_conversation_id uuid) returns integer
language plpgsql volatile set search_path = ''
as $$
declare
  v_is_locked boolean;
  v_done integer;
  v_pending record;
  v_hold public.query_holds;
begin
  -- Lock
  perform from auth.users u
  where u.id in (select w.user_id from public.pending_turns w where w.conversation_id = p_conversation_id)
  for key share;
  perform from public.conversations c where c.id = p_conversation_id for no key update skip locked;
  v_is_locked := found;

  -- Drop
  delete from public.pending_turns w
  where w.conversation_id = p_conversation_id and not exists (
    select from public.conversations c where c.id = w.conversation_id and c.created_at = w.conversation_created_at);
  get diagnostics v_done = row_count;
  if not v_is_locked then
    return v_done; -- The next call stores them.
  end if;

  -- Store, at most 20, because each is as much work as a settlement.
  for v_pending in
    select w.id, w.turn, w.created_at, w.expires_at, w.user_id, w.conversation_id, w.position, w.replaces_to,
           u.query_timestamp, u.funding, u.provider, u.model, u.tokens_input, u.tokens_output, u.cost_usd
    from public.pending_turns w join public.usage_logs u on u.id = w.id
    where w.conversation_id = p_conversation_id
    order by w.created_at, w.id limit 20
  loop
    v_hold.id := v_pending.id;
    v_hold.created_at := v_pending.query_timestamp;
    v_hold.user_id := v_pending.user_id;
    v_hold.conversation_id := v_pending.conversation_id;
    v_hold.position := v_pending.position;
    v_hold.replaces_to := v_pending.replaces_to;
    v_hold.funding := v_pending.funding;
    v_hold.provider := v_pending.provider;
    v_hold.model := v_pending.model;
    begin
      perform private.store_turn(
        v_hold, v_pending.created_at,
        jsonb_build_object('tokens_input', v_pending.tokens_input, 'tokens_output', v_pending.tokens_output,
                           'cost_usd', v_pending.cost_usd::text),
        v_pending.turn, v_pending.expires_at);
      update public.usage_logs u set
        conversation_id = v_pending.conversation_id, message_id = (v_pending.turn -> 'answer' ->> 'id')::uuid
      where u.id = v_pending.id;
    exception when data_exception or integrity_constraint_violation then
      raise warning 'The turn of query % cannot be stored: %', v_pending.id, sqlerrm;
    end;
    delete from public.pending_turns w where w.id = v_pending.id;
    v_done := v_done + 1;
  end loop;
  return v_done;
end
$$;
comment on function private.apply_pending_turns(uuid) is
  'Stores the pending turns of a conversation in order, at most 20, if it is not locked. Drops those of a deleted '
  'conversation. Returns how many it stored or dropped.';
revoke all on function private.apply_pending_turns(uuid) from public, anon, authenticated, service_role;


create or replace function public.apply_pending_turns() returns integer
language plpgsql volatile security definer set search_path = ''
as $$
declare
  v_pending record;
  v_done integer := 0;
begin
  -- At most 20 turns of one conversation and 100 conversations. Users that are being deleted are left out.
  for v_pending in
    select oldest.user_id, oldest.conversation_id
    from (select w.user_id, w.conversation_id from public.pending_turns w order by w.created_at, w.id limit 100) oldest
    group by oldest.user_id, oldest.conversation_id
    order by oldest.user_id, oldest.conversation_id
  loop
    perform from auth.users u where u.id = v_pending.user_id for key share skip locked;
    continue when not found;
    v_done := v_done + private.apply_pending_turns(v_pending.conversation_id);
  end loop;
  return v_done;
end
$$;
comment on function public.apply_pending_turns() is
  'Stores turns that are charged and not yet stored, those of at most 100 conversations. Locked conversations are left '
  'to the next call. Returns how many it stored or dropped. Call until 0.';
revoke all on function public.apply_pending_turns() from public, anon, authenticated, service_role;
grant execute on function public.apply_pending_turns() to service_role;


-- ==== sql/schemas/48_tool_calls.sql

-- Calls of the tools by users' own assistants, over the Model Context Protocol. They are limited, and cost no query.

create or replace function public.admit_tool_call(
  p_user_id uuid, p_calls_a_minute integer, p_session_id uuid default null)
returns jsonb
language plpgsql volatile security definer set search_path = ''
as $$
declare
  v_minute timestamptz;
  v_account record;
  v_limits record;
begin
  -- Lock
  perform pg_advisory_xact_lock(uuid_hash_extended(p_user_id, 0));
  v_minute := date_trunc('minute', private.clock());

  -- Check the account, as admit_query does
  select u.confirmed_at is not null and not u.is_anonymous as is_confirmed,
         (u.banned_until > private.clock()) is true as is_banned,
         p_session_id is null or exists (
           select from auth.sessions t
           where t.id = p_session_id and t.user_id = u.id and (t.not_after <= private.clock()) is not true)
           as has_session
  into v_account
  from auth.users u where u.id = p_user_id and u.deleted_at is null;
  if not found or not v_account.has_session then
    raise exception using errcode = 'NOUSR', message = 'The account or the session has ended.';
  elsif v_account.is_banned then
    raise exception using errcode = 'BANND', message = 'The account is banned.';
  end if;

  -- Decide
  select s.is_serving, s.is_lifetime, s.blocked_at into v_limits
  from private.subscription_limits s where s.user_id = p_user_id;
  if not found then
    return jsonb_build_object(
      'decision', 'refused', 'reason', 'No subscription found', 'reason_code', 'no_subscription',
      'requires_payment', true, 'resets_at', null);
  elsif v_limits.blocked_at is not null then
    raise exception using errcode = 'BANND', message = 'The account is blocked.';
  elsif not v_limits.is_serving then
    return (
      select jsonb_build_object(
        'decision', 'refused', 'reason', s.reason, 'reason_code', s.reason_code,
        'requires_payment', s.requires_payment, 'resets_at', s.resets_at, 'url', u.open_invoice_url)
      from private.funding_state s join public.user_subscriptions u on u.user_id = s.user_id
      where s.user_id = p_user_id);
  elsif v_limits.is_lifetime and not v_account.is_confirmed then
    raise exception using errcode = 'NCONF', message = 'Free calls need a confirmed account.';
  end if;

  -- Count. A crash may forget a count, so nothing waits for the disk.
  perform set_config('synchronous_commit', 'off', true);
  update public.user_subscriptions s set
    tool_minute = v_minute,
    tool_calls = case when s.tool_minute = v_minute then s.tool_calls + 1 else 1 end
  where s.user_id = p_user_id and (s.tool_minute is distinct from v_minute or s.tool_calls < p_calls_a_minute);
  if not found then
    return jsonb_build_object(
      'decision', 'refused', 'reason', 'Too many tool calls', 'reason_code', 'too_many_tool_calls',
      'requires_payment', false, 'resets_at', v_minute + interval '1 minute');
  end if;

  -- Return
  return jsonb_build_object('decision', 'admitted');
end
$$;
comment on function public.admit_tool_call(uuid, integer, uuid) is
  'Counts a call of a tool by the user''s own assistant: {decision: admitted}. {decision: refused, reason, '
  'reason_code, requires_payment, resets_at} if the subscription does not serve or p_calls_a_minute are reached. '
  'p_session_id: of the access token. NOUSR: the account or session has ended. BANND: it is banned or blocked. NCONF: '
  'free and not confirmed.';
revoke all on function public.admit_tool_call(uuid, integer, uuid) from public, anon, authenticated, service_role;
grant execute on function public.admit_tool_call(uuid, integer, uuid) to service_role;


-- ==== sql/schemas/50_usage.sql

-- What users see of their own metering.

create or replace function private.own_refusal() returns jsonb
language plpgsql stable security definer set search_path = ''
as $$
begin
  -- Users may not read the tables of Auth, the settings and the daily costs.
  return (
    select jsonb_build_object(
      'reason_code', t.code, 'reason', coalesce(t.reason, t.en),
      'resets_at', case when t.action = 'wait' then (s.quota_date + 1)::timestamp at time zone 'UTC' end)
    from private.funding_state s
    join auth.users u on u.id = s.user_id
    join public.reasons t on t.code = case
      when u.banned_until > s.now then 'account_blocked'
      when s.own_key_pays or s.funding is null or s.models = '{}' then null
      when s.funding = 'included' and s.is_lifetime and (u.confirmed_at is null or u.is_anonymous)
        then 'email_not_confirmed'
      when s.failed_cost_usd >= s.failed_cost_limit_usd then 'too_many_failures'
      when s.tier = 'free' and private.free_budget_is_spent(s.quota_date) then 'free_answers_off'
    end
    where s.user_id = (select auth.uid()));
end
$$;
comment on function private.own_refusal() is
  'Why admit_query would refuse the signed-in user although something pays: {reason_code, reason, resets_at}. Null: it '
  'would not. How many queries run is not considered.';
revoke all on function private.own_refusal() from public, anon, authenticated, service_role;
grant execute on function private.own_refusal() to authenticated;


create or replace function public.usage_summary() returns jsonb
language plpgsql stable security invoker set search_path = ''
as $$
declare
  v_user_id constant uuid := (select auth.uid());
  v_state private.funding_state;
  v_can record;
  v_refusal jsonb;
  v_period record;
  v_packs jsonb;
  v_credits record;
  v_alerts jsonb;
  v_own_key_models jsonb;
  v_currency text;
  v_announcements jsonb;
  v_providers jsonb;
  v_today record;
  v_month record;
  v_billing jsonb;
begin
  if v_user_id is null then
    raise insufficient_privilege using message = 'Sign in to see your usage.';
  end if;
  select * into v_state from private.funding_state s where s.user_id = v_user_id;
  if not found then
    raise exception using errcode = 'NOUSR', message = 'The account has ended.';
  end if;
  select * into v_can from public.can_user_query(v_user_id);
  v_refusal := private.own_refusal();
  select * into v_period from private.period_at(v_state.period_start, v_state.current_period_end, v_state.now);

  select coalesce(jsonb_agg(jsonb_build_object(
           'id', c.id, 'purchased', c.credits_purchased, 'remaining', c.credits_remaining,
           'bought_at', c.created_at, 'expires_at', c.expires_at, 'is_frozen', c.is_frozen)
           order by c.expires_at nulls last, c.created_at), '[]')
  into v_packs
  from public.credit_packs c
  where c.user_id = v_user_id and c.credits_remaining > 0 and (c.expires_at > v_state.now or c.expires_at is null);

  -- Packs that were used up before this period say nothing about what is left.
  select sum(c.credits_purchased - c.credits_remaining)::numeric as used, sum(c.credits_purchased)::numeric as bought
  into v_credits
  from public.credit_packs c
  where c.user_id = v_user_id and not c.is_frozen and (c.expires_at > v_state.now or c.expires_at is null)
    and (c.credits_remaining > 0 or c.depleted_at >= v_period.period_start);

  select coalesce(jsonb_agg(jsonb_build_object(
           'kind', a.kind, 'percent', case when a.used + a.next > a.available then 100 else 80 end)
           order by a.place), '[]')
  into v_alerts
  from (values
    (1, 'included', v_state.included_used::numeric, 1, v_state.quota_limit::numeric),
    (2, 'overage', v_state.overage_used, v_state.overage_price_usd,
     case when v_state.allows_overage then v_state.overage_limit end),
    (3, 'credits', v_credits.used, 1, v_credits.bought)) a (place, kind, used, next, available)
  where a.available > 0 and (a.used >= 0.8 * a.available or a.used + a.next > a.available);

  -- The policy of the table shows users the current ones.
  select coalesce(jsonb_agg(jsonb_build_object(
           'kind', a.kind, 'provider', a.provider, 'en', a.en, 'fr', a.fr, 'starts_at', a.starts_at,
           'ends_at', a.ends_at) order by a.starts_at desc, a.id), '[]')
  into v_announcements from public.announcements a;

  select p.own_key_models, p.currency into v_own_key_models, v_currency
  from public.plans p where p.tier = v_state.tier;

  select coalesce(jsonb_agg(k.provider order by k.provider), '[]') into v_providers
  from public.user_api_keys k where k.user_id = v_user_id and k.is_active;

  select count(*) filter (where u.is_charged and u.reversed_at is null) as queries,
         coalesce(sum(u.tokens_total), 0) as tokens, coalesce(sum(u.cost_usd), 0) as cost_usd
  into v_today
  from public.usage_logs u where u.user_id = v_user_id and u.query_date = (v_state.now at time zone 'UTC')::date;
  select count(*) filter (where u.is_charged and u.reversed_at is null) as queries,
         coalesce(sum(u.tokens_total), 0) as tokens, coalesce(sum(u.cost_usd), 0) as cost_usd
  into v_month
  from public.usage_logs u
  where u.user_id = v_user_id and u.query_date >= (v_period.period_start at time zone 'UTC')::date
    and u.query_timestamp >= v_period.period_start;

  select jsonb_build_object(
    'is_customer', s.stripe_customer_id is not null,
    'is_subscribed', s.stripe_subscription_id is not null and not v_state.is_lapsed,
    'ends_at', case when v_state.status = 'canceled' then s.current_period_end end,
    'next_tier', case when s.current_period_end > v_state.now then s.next_tier end,
    'past_due_since', s.past_due_since,
    'currency', v_currency,
    'to_be_billed_usd', (
      select coalesce(sum(u.overage_charge), 0)::text from public.usage_logs u
      where u.user_id = v_user_id and u.was_overage and u.invoice_item_id is null and u.reversed_at is null),
    'billed', (
      select coalesce(jsonb_agg(jsonb_build_object(
        'period_start', i.period_start, 'queries', i.queries, 'unit_price_usd', i.unit_price_usd::text,
        'amount_usd', i.amount_usd::text, 'billed_usd', (i.amount_cents / 100.0)::numeric(14,2)::text)
        order by i.period_start desc), '[]')
      from (
        select * from public.overage_invoice_items o where o.user_id = v_user_id
        order by o.period_start desc limit 12) i))
  into v_billing
  from public.user_subscriptions s where s.user_id = v_user_id;

  -- Amounts are text under names that end in _usd, so that no JSON parser turns them into floats.
  return jsonb_build_object(
    'tier', v_state.tier,
    'status', v_state.status,
    'period', jsonb_build_object('start', v_period.period_start, 'end', v_period.period_end),
    'included', jsonb_build_object(
      'limit', v_state.quota_limit, 'used', v_state.included_used,
      'remaining', greatest(0, v_state.quota_limit - v_state.included_used),
      'resets_at', case when not v_state.is_lifetime
                        then (((v_state.now at time zone 'UTC')::date + 1)::timestamp) at time zone 'UTC' end),
    'overage', jsonb_build_object(
      'allowed', v_state.allows_overage, 'currency', v_currency, 'price_usd', v_state.overage_price_usd::text,
      'limit_usd', v_state.overage_limit::text,
      'used_usd', v_state.overage_used::text),
    'credits', jsonb_build_object(
      'remaining', (
        select coalesce(sum((pack ->> 'remaining')::integer), 0) from jsonb_array_elements(v_packs) pack
        where not (pack ->> 'is_frozen')::boolean),
      'packs', v_packs),
    'byok', jsonb_build_object('allowed', v_state.allows_byok, 'providers', v_providers),
    'models', v_state.models,
    'own_key_models', v_own_key_models,
    'keeps_history', v_state.history_days > 0,
    'history_days', v_state.history_days,
    'concurrent_queries', v_state.concurrent_queries,
    'alerts', v_alerts,
    'announcements', v_announcements,
    'billing', v_billing,
    'can_query', v_can.can_query and v_refusal is null,
    'reason', coalesce(v_refusal ->> 'reason', v_can.reason),
    'reason_code', coalesce(
      v_refusal ->> 'reason_code',
      case when v_can.reason = 'Chat paused' then 'chat_paused'
           when v_state.own_key_pays then 'own_key' else v_state.reason_code end),
    'resets_at', case when v_refusal is not null then v_refusal -> 'resets_at'
                      when not v_state.own_key_pays and v_can.reason <> 'Chat paused'
                        then to_jsonb(v_state.resets_at) end,
    'requires_payment', v_can.requires_payment and v_refusal is null,
    'today', jsonb_build_object('queries', v_today.queries, 'tokens', v_today.tokens,
                                'cost_usd', v_today.cost_usd::text),
    'month', jsonb_build_object('queries', v_month.queries, 'tokens', v_month.tokens,
                                'cost_usd', v_month.cost_usd::text));
end
$$;
comment on function public.usage_summary() is
  'The response of GET /usage for the signed-in user: what the plan allows, quotas, overage, credits, bills, usage '
  'today and in this period, and alerts: [{kind, percent}] for the quota, the overage limit and the credits of which '
  '80 or 100 percent are used. announcements: [{kind, provider, en, fr, starts_at, ends_at}], newest first.';
revoke all on function public.usage_summary() from public, anon, authenticated, service_role;
grant execute on function public.usage_summary() to authenticated;


create or replace function public.explain_query(p_request_id text)
returns table (
  query_id uuid, user_id uuid, request_id text, decided_at timestamptz, decision text, reason text, funding text,
  tier text, quota_used integer, quota_limit integer, overage_used numeric, overage_limit numeric,
  credit_pack_id uuid, outcome text, charged_usd numeric, cost_usd numeric, tokens_total integer, provider text,
  model text)
language sql stable security invoker set search_path = ''
as $$
  select u.id, u.user_id, u.request_id, u.query_timestamp, 'admitted', private.reason_of(u.funding, u.tier),
         u.funding, u.tier, u.quota_used, u.quota_limit, u.overage_used, u.overage_limit, u.credit_pack_id, u.outcome,
         u.overage_charge, u.cost_usd, u.tokens_total, u.provider, u.model
  from public.usage_logs u where u.request_id = p_request_id
  union all
  select h.id, h.user_id, h.request_id, h.created_at, 'admitted', private.reason_of(h.funding, h.tier), h.funding,
         h.tier, h.quota_used, h.quota_limit, h.overage_used, h.overage_limit, h.credit_pack_id, null,
         null, null, null, h.provider, h.model
  from public.query_holds h where h.request_id = p_request_id
  union all
  select r.id, r.user_id, r.request_id, r.created_at, 'refused', r.reason, null,
         r.tier, r.quota_used, r.quota_limit, r.overage_used, r.overage_limit, null, null,
         null, null, null, null, null
  from public.query_refusals r where r.request_id = p_request_id
  order by 4
$$;
comment on function public.explain_query(text) is
  'Every attempt at a request: the decision, the state it was made from, the outcome, the charge and the cost. outcome '
  'is null while the query runs. Signed-in users see only their own requests.';
revoke all on function public.explain_query(text) from public, anon, authenticated, service_role;
grant execute on function public.explain_query(text) to authenticated, service_role;


create or replace view public.daily_quota_usage with (security_invoker = true) as
select
  u.user_id,
  u.query_date,
  count(*) filter (where u.counted_against_quota and u.reversed_at is null)::integer as queries_today,
  sum(u.tokens_total)::bigint as tokens_today,
  sum(u.cost_usd) as cost_today,
  count(*) filter (where u.was_overage and u.reversed_at is null)::integer as overage_queries,
  coalesce(sum(u.overage_charge) filter (where u.reversed_at is null), 0) as overage_charges,
  s.tier,
  case when not s.is_lifetime then s.quota_limit end as daily_quota,
  k.uses_byo_key
from public.usage_logs u
join private.funding_state s on s.user_id = u.user_id
join public.user_subscriptions k on k.user_id = u.user_id
group by u.user_id, u.query_date, s.tier, s.is_lifetime, s.quota_limit, k.uses_byo_key;
comment on view public.daily_quota_usage is
  'The usage of each user on each UTC day, from the ledger, without charges that were given back. Users see only their '
  'own rows.';
comment on column public.daily_quota_usage.user_id is 'The user.';
comment on column public.daily_quota_usage.query_date is 'The UTC day.';
comment on column public.daily_quota_usage.queries_today is 'Ended queries of the day that count against the quota.';
comment on column public.daily_quota_usage.tokens_today is 'Tokens of all queries of the day.';
comment on column public.daily_quota_usage.cost_today is 'The cost of these queries at the providers, US dollars.';
comment on column public.daily_quota_usage.overage_queries is 'Queries of the day that are charged as overage.';
comment on column public.daily_quota_usage.overage_charges is 'The overage charges of the day, dollars.';
comment on column public.daily_quota_usage.tier is 'The current tier of the user.';
comment on column public.daily_quota_usage.daily_quota is
  'The current daily quota. Null if the quota is a lifetime quota.';
comment on column public.daily_quota_usage.uses_byo_key is 'Whether the user has an active provider key now.';
revoke all on public.daily_quota_usage from public, anon, authenticated, service_role;
grant select on public.daily_quota_usage to authenticated, service_role;


-- ==== sql/schemas/51_api_keys.sql

-- Users' own provider keys: stored and returned encrypted, and only for the service role.
--
-- Every change locks auth.users first (key share), as metering does. Otherwise it could deadlock with a deletion of the
-- user: the trigger for uses_byo_key locks the key and then the subscription, a deletion does the opposite.


create or replace function private.describe_key(
  p_provider text, p_hint text, p_is_active boolean, p_last_validated_at timestamptz, p_validation_error text,
  p_created_at timestamptz)
returns jsonb
language plpgsql stable set search_path = ''
as $$
begin
  return jsonb_build_object(
    'provider', p_provider, 'hint', p_hint,
    'status', case when not p_is_active then 'invalid' when p_last_validated_at is null then 'unchecked'
                   else 'valid' end,
    'last_validated_at', p_last_validated_at, 'validation_error', p_validation_error, 'created_at', p_created_at);
end
$$;
comment on function private.describe_key(text, text, boolean, timestamptz, text, timestamptz) is
  'The metadata of a key, as its owner sees it.';
revoke all on function private.describe_key(text, text, boolean, timestamptz, text, timestamptz)
  from public, anon, authenticated, service_role;
grant execute on function private.describe_key(text, text, boolean, timestamptz, text, timestamptz)
  to authenticated, service_role;


create or replace function public.list_api_keys() returns jsonb
language plpgsql stable security invoker set search_path = ''
as $$
declare
  v_user_id constant uuid := (select auth.uid());
  v_allowed boolean;
begin
  if v_user_id is null then
    raise insufficient_privilege using message = 'Sign in to see your keys.';
  end if;
  select s.allows_byok into v_allowed from private.funding_state s where s.user_id = v_user_id;
  if not found then
    raise exception using errcode = 'NOUSR', message = 'The account has ended.';
  end if;
  perform private.refuse_blocked(v_user_id);
  return jsonb_build_object(
    'allowed', v_allowed,
    'keys', coalesce((
      select jsonb_agg(
        private.describe_key(k.provider, k.hint, k.is_active, k.last_validated_at, k.validation_error, k.created_at)
        order by k.provider)
      from public.user_api_keys k where k.user_id = v_user_id), '[]'));
end
$$;
comment on function public.list_api_keys() is
  'The metadata of the signed-in user''s keys, and whether the plan allows own keys: {allowed, keys: [...]}. '
  'NOUSR: the account has ended. BANND: it is blocked.';
revoke all on function public.list_api_keys() from public, anon, authenticated, service_role;
grant execute on function public.list_api_keys() to authenticated;


create or replace function public.put_api_key(
  p_id uuid, p_user_id uuid, p_provider text, p_encrypted_key text, p_encryption_iv text, p_encryption_tag text,
  p_encryption_key_id text, p_hint text, p_is_valid boolean)
returns jsonb
language plpgsql volatile security definer set search_path = ''
as $$
declare
  v_key public.user_api_keys;
begin
  -- Lock
  perform from auth.users where id = p_user_id for key share;

  -- Decide
  perform private.refuse_blocked(p_user_id);
  if not coalesce((select s.allows_byok from private.funding_state s where s.user_id = p_user_id), false) then
    raise exception using errcode = 'NBYOK', message = 'The plan does not allow own keys.';
  end if;

  -- Write
  -- A replaced key gets a new id, so that results of checks of the old key are not recorded for the new one.
  insert into public.user_api_keys as k (
    id, created_at, user_id, provider, encrypted_key, encryption_iv, encryption_tag, encryption_key_id, hint,
    is_active, last_validated_at)
  values (
    p_id, private.clock(), p_user_id, p_provider, decode(p_encrypted_key, 'base64'),
    decode(p_encryption_iv, 'base64'), decode(p_encryption_tag, 'base64'), p_encryption_key_id, p_hint, true,
    case when p_is_valid then private.clock() end)
  on conflict (user_id, provider) do update set
    id = excluded.id, created_at = excluded.created_at, encrypted_key = excluded.encrypted_key,
    encryption_iv = excluded.encryption_iv, encryption_tag = excluded.encryption_tag,
    encryption_key_id = excluded.encryption_key_id, hint = excluded.hint, is_active = true,
    last_validated_at = excluded.last_validated_at, validation_error = null
  returning k.* into v_key;

  -- Return
  return private.describe_key(
    v_key.provider, v_key.hint, v_key.is_active, v_key.last_validated_at, v_key.validation_error, v_key.created_at);
end
$$;
comment on function public.put_api_key(uuid, uuid, text, text, text, text, text, text, boolean) is
  'Stores an encrypted key and replaces the previous key of the user for this provider. Bytes are base64. p_is_valid: '
  'the provider has just accepted the key. Returns its metadata. NBYOK: the plan does not allow own keys. BANND: '
  'the account is blocked.';
revoke all on function public.put_api_key(uuid, uuid, text, text, text, text, text, text, boolean)
  from public, anon, authenticated, service_role;
grant execute on function public.put_api_key(uuid, uuid, text, text, text, text, text, text, boolean) to service_role;


create or replace function public.get_api_key(p_user_id uuid, p_provider text) returns jsonb
language plpgsql stable security definer set search_path = ''
as $$
declare
  v_key constant jsonb := private.encrypted_key(p_user_id, p_provider);
begin
  perform private.refuse_blocked(p_user_id);
  if v_key is null then
    perform private.require_account(p_user_id);
  end if;
  return v_key;
end
$$;
comment on function public.get_api_key(uuid, text) is
  'The encrypted key of a user for a provider, active or not. Null: no key. BANND: the account is blocked. NOUSR: it '
  'has ended.';
revoke all on function public.get_api_key(uuid, text) from public, anon, authenticated, service_role;
grant execute on function public.get_api_key(uuid, text) to service_role;


create or replace function public.note_api_key(p_id uuid, p_user_id uuid, p_is_valid boolean, p_error text)
returns jsonb
language plpgsql volatile security definer set search_path = ''
as $$
declare
  v_key public.user_api_keys;
begin
  -- Lock
  perform from auth.users where id = p_user_id for key share;

  -- Write
  update public.user_api_keys k set
    is_active = p_is_valid,
    last_validated_at = case when p_is_valid then private.clock() else k.last_validated_at end,
    validation_error = case when not p_is_valid then p_error end
  where k.id = p_id and k.user_id = p_user_id
  returning k.* into v_key;

  -- Return
  if not found then
    return null;
  end if;
  return private.describe_key(
    v_key.provider, v_key.hint, v_key.is_active, v_key.last_validated_at, v_key.validation_error, v_key.created_at);
end
$$;
comment on function public.note_api_key(uuid, uuid, boolean, text) is
  'Records whether the provider accepted a key, and returns its metadata. Null: the key was replaced or deleted.';
revoke all on function public.note_api_key(uuid, uuid, boolean, text) from public, anon, authenticated, service_role;
grant execute on function public.note_api_key(uuid, uuid, boolean, text) to service_role;


create or replace function public.delete_api_key(p_user_id uuid, p_provider text) returns boolean
language plpgsql volatile security definer set search_path = ''
as $$
begin
  -- Lock
  perform from auth.users where id = p_user_id for key share;

  -- Write
  delete from public.user_api_keys k where k.user_id = p_user_id and k.provider = p_provider;

  -- Return
  if not found then
    perform private.require_account(p_user_id);
    return false;
  end if;
  return true;
end
$$;
comment on function public.delete_api_key(uuid, text) is
  'Deletes the key of a user for a provider. Returns whether there was one. NOUSR: the account has ended.';
revoke all on function public.delete_api_key(uuid, text) from public, anon, authenticated, service_role;
grant execute on function public.delete_api_key(uuid, text) to service_role;


create or replace function public.api_keys_to_rotate(p_current text, p_after uuid, p_limit integer) returns jsonb
language plpgsql stable security definer set search_path = ''
as $$
begin
  return (
    select coalesce(jsonb_agg(jsonb_build_object(
      'id', old.id, 'user_id', old.user_id, 'provider', old.provider,
      'encrypted_key', encode(old.encrypted_key, 'base64'), 'encryption_iv', encode(old.encryption_iv, 'base64'),
      'encryption_tag', encode(old.encryption_tag, 'base64'), 'encryption_key_id', old.encryption_key_id)
      order by old.id), '[]')
    from (
      select * from public.user_api_keys k
      where k.encryption_key_id <> p_current and (k.id > p_after or p_after is null)
      order by k.id limit least(p_limit, 1000)
    ) old);
end
$$;
comment on function public.api_keys_to_rotate(text, uuid, integer) is
  'Keys that are not encrypted with the current key of the key ring, ordered by id, after p_after, at most 1,000.';
revoke all on function public.api_keys_to_rotate(text, uuid, integer) from public, anon, authenticated, service_role;
grant execute on function public.api_keys_to_rotate(text, uuid, integer) to service_role;


create or replace function public.count_keys_to_rotate(p_current text) returns integer
language plpgsql stable security definer set search_path = ''
as $$
begin
  return (select count(*) from public.user_api_keys k where k.encryption_key_id <> p_current);
end
$$;
comment on function public.count_keys_to_rotate(text) is
  'The number of keys that are not encrypted with the current key of the key ring.';
revoke all on function public.count_keys_to_rotate(text) from public, anon, authenticated, service_role;
grant execute on function public.count_keys_to_rotate(text) to service_role;


create or replace function public.rotate_api_keys(p_rows jsonb) returns integer
language plpgsql volatile security definer set search_path = ''
as $$
declare
  v_rotated integer;
begin
  -- A key that was replaced or rotated since it was read has another nonce. It is skipped.
  with reencrypted as (
    select k.id, r.encrypted_key, r.encryption_iv, r.encryption_tag, r.encryption_key_id
    from jsonb_to_recordset(p_rows) r (
      id uuid, old_iv text, encrypted_key text, encryption_iv text, encryption_tag text, encryption_key_id text)
    join public.user_api_keys k on k.id = r.id and k.encryption_iv = decode(r.old_iv, 'base64')
    order by k.id
    for no key update of k skip locked
  )
  update public.user_api_keys k set
    encrypted_key = decode(r.encrypted_key, 'base64'), encryption_iv = decode(r.encryption_iv, 'base64'),
    encryption_tag = decode(r.encryption_tag, 'base64'), encryption_key_id = r.encryption_key_id
  from reencrypted r where k.id = r.id;
  get diagnostics v_rotated = row_count;
  return v_rotated;
end
$$;
comment on function public.rotate_api_keys(jsonb) is
  'Replaces ciphertexts: [{id, old_iv, encrypted_key, encryption_iv, encryption_tag, encryption_key_id}]. Returns how '
  'many. Skips keys that changed since they were read, or that are locked.';
revoke all on function public.rotate_api_keys(jsonb) from public, anon, authenticated, service_role;
grant execute on function public.rotate_api_keys(jsonb) to service_role;


-- ==== sql/schemas/52_conversations.sql

-- What users change of their own conversations. No role of the Data API writes to the tables: a filter or an embedded
-- resource of such a request runs for as long as its author likes while the row stays locked. These functions return
-- nothing, so a request can add nothing to them.

create or replace function public.update_conversation(
  p_id uuid, p_title text default null, p_is_pinned boolean default null, p_is_archived boolean default null)
returns void
language plpgsql volatile security definer set search_path = ''
as $$
declare
  v_user_id constant uuid := (select auth.uid());
begin
  -- Check
  if v_user_id is null then
    raise insufficient_privilege using message = 'Sign in to change a conversation.';
  elsif char_length(p_title) not between 1 and 200 then
    raise invalid_parameter_value using message = 'A title must have 1 to 200 characters.';
  end if;

  -- Write
  update public.conversations c set
    title = coalesce(p_title, c.title), is_pinned = coalesce(p_is_pinned, c.is_pinned),
    is_archived = coalesce(p_is_archived, c.is_archived)
  where c.id = p_id and c.user_id = v_user_id;
  if not found then
    raise exception using errcode = 'NTFND', message = 'There is no such conversation.';
  end if;
end
$$;
comment on function public.update_conversation(uuid, text, boolean, boolean) is
  'Changes the title, pin and archive mark of a conversation of the signed-in user. Null leaves a value as it is. '
  'NTFND: not a conversation of the user.';
revoke all on function public.update_conversation(uuid, text, boolean, boolean)
  from public, anon, authenticated, service_role;
grant execute on function public.update_conversation(uuid, text, boolean, boolean) to authenticated;


create or replace function public.delete_conversation(p_id uuid) returns void
-- Ten thousand messages take 0.4 s. PostgREST applies this time-out to the call.
language plpgsql volatile security definer set search_path = '' set statement_timeout = '10s'
as $$
declare
  v_user_id constant uuid := (select auth.uid());
begin
  -- Check
  if v_user_id is null then
    raise insufficient_privilege using message = 'Sign in to delete a conversation.';
  end if;

  -- Lock
  perform from auth.users u where u.id = v_user_id for key share;
  perform from public.conversations c where c.id = p_id and c.user_id = v_user_id for update;
  if not found then
    raise exception using errcode = 'NTFND', message = 'There is no such conversation.';
  end if;

  -- Write
  while exists (select from public.conversations c where c.id = p_id) loop
    perform private.delete_conversations(array[p_id]);
  end loop;
end
$$;
comment on function public.delete_conversation(uuid) is
  'Deletes a conversation of the signed-in user with its messages. The ledger keeps the charges. NTFND: not a '
  'conversation of the user.';
revoke all on function public.delete_conversation(uuid) from public, anon, authenticated, service_role;
grant execute on function public.delete_conversation(uuid) to authenticated;


-- ==== sql/schemas/53_chat_messages.sql

-- A chat as its user sees it after a reload: the stored messages, and the questions that are being answered.

create or replace function public.chat_messages(
  p_user_id uuid, p_chat_id text, p_before integer default null, p_limit integer default 200,
  p_bytes integer default 4194304)
returns jsonb
-- Stable: all statements see the same snapshot, so a turn that is being settled is seen once.
language plpgsql stable security definer set search_path = ''
as $$
declare
  v_chat_uuid constant uuid := private.conversation_key(p_chat_id);
  v_conversation_id constant uuid := private.find_conversation(p_user_id, p_chat_id, v_chat_uuid);
  v_at constant timestamptz := private.clock();
  v_page record;
  v_conversation jsonb;
begin
  with running as (
    select h.id, h.position, h.replaces_to, h.question from public.query_holds h
    where h.user_id = p_user_id and h.chat_key = coalesce(v_chat_uuid, md5(p_chat_id)::uuid) and h.expires_at > v_at
      and h.question is not null and not h.is_replaced
  ), pending as (
    select w.id, w.created_at, w.position, w.replaces_to, w.turn from public.pending_turns w
    join public.conversations c on c.id = w.conversation_id and c.created_at = w.conversation_created_at
    where w.conversation_id = v_conversation_id
  ), repeated as (
    -- Turns that replace earlier ones: those that wait in the order in which they ended, then those that run.
    select w.created_at, w.id, int4range(w.position::integer, w.replaces_to, '[]') as positions
    from pending w where w.replaces_to is not null
    union all
    select 'infinity', h.id, int4range(h.position::integer, h.replaces_to, '[]')
    from running h where h.replaces_to is not null
  ), message as (
    (select m.position::integer as position, m.role, m.id, m.external_id, m.content, m.step_ends, m.function_calls,
            m.function_results
     from public.messages m
     where m.conversation_id = v_conversation_id and (p_before is null or m.position < p_before)
       and not exists (select from repeated r where m.position::integer <@ r.positions)
     order by m.position desc limit p_limit)
    union all
    select part.position, part.role, w.id, w.turn -> 'question' ->> 'id', part.message ->> 'content',
           part.message -> 'step_ends', nullif(part.message -> 'function_calls', 'null'),
           nullif(part.message -> 'function_results', 'null')
    from pending w
    cross join lateral (values
      (w.position::integer, 'user', w.turn -> 'question'), (w.position + 1, 'assistant', w.turn -> 'answer')
    ) part (position, role, message)
    where not exists (
      select from repeated r
      where w.position::integer <@ r.positions and (r.created_at, r.id) > (w.created_at, w.id))
    union all
    select h.position, 'user', h.id, h.question ->> 'id', h.question ->> 'content', null, null, null from running h
  ), newest as (
    select m.*, sum(
        octet_length(m.content) + coalesce(octet_length(m.function_calls::text), 0)
        + coalesce(octet_length(m.function_results::text), 0)) over newest_first as size,
      row_number() over newest_first as number
    from message m where p_before is null or m.position < p_before
    window newest_first as (order by m.position desc)
  )
  select
    min(n.position) as first_position,
    coalesce(jsonb_agg(jsonb_build_object(
      'id', case when n.role = 'user' then coalesce(n.external_id, n.id::text) else n.id::text end, 'role', n.role,
      'content', n.content, 'step_ends', n.step_ends, 'function_calls', n.function_calls,
      'function_results', n.function_results, 'finish_reason', u.finish_reason, 'provider', u.provider,
      'model', u.model, 'funding', u.funding, 'tokens_input', u.tokens_input, 'tokens_output', u.tokens_output,
      'cache_read_tokens', u.cache_read_tokens, 'cache_write_tokens', u.cache_write_tokens,
      'cost_usd', u.cost_usd::text, 'charged_usd', u.overage_charge::text) order by n.position), '[]') as messages,
    exists (select from running) as is_running
  into v_page
  from newest n
  left join public.usage_logs u on u.id = n.id and u.user_id = p_user_id and n.role = 'assistant'
  where n.number = 1 or n.size <= p_bytes and n.number <= p_limit;
  if v_page.first_position is null and v_conversation_id is null or not v_page.is_running and exists (
       select from public.conversations c
       where c.id = v_conversation_id and c.expires_at <= v_at and not c.is_pinned) then
    perform private.require_account(p_user_id);
    raise exception using errcode = 'NTFND', message = 'There is no such conversation.',
      hint = 'conversation_not_found';
  end if;

  select jsonb_build_object(
    'id', c.id, 'chat_id', p_chat_id, 'title', c.title, 'context_type', c.context_type, 'context_id', c.context_id,
    'is_pinned', coalesce(c.is_pinned, false), 'is_archived', coalesce(c.is_archived, false),
    'created_at', c.created_at, 'last_message_at', c.last_message_at, 'expires_at', c.expires_at,
    'is_running', v_page.is_running)
  into v_conversation
  from (values (v_conversation_id)) one (id) left join public.conversations c on c.id = one.id;
  return jsonb_build_object(
    'conversation', v_conversation, 'messages', v_page.messages,
    'before', case when exists (
      select from public.messages m
      where m.conversation_id = v_conversation_id and m.position < v_page.first_position)
      then v_page.first_position end);
end
$$;
comment on function public.chat_messages(uuid, text, integer, integer, integer) is
  'A chat of a user: {conversation, messages, before}. The newest p_limit messages that fit into p_bytes, oldest '
  'first, with what the ledger has of each answer. The question of a running answer is the last one, and is there too '
  'where nothing is stored yet. p_before: only messages before this position; "before" is its value for the page '
  'before, or null. NTFND: nothing is stored and nothing runs, the conversation has expired, or it belongs to another '
  'user. NOUSR: the account has ended.';
revoke all on function public.chat_messages(uuid, text, integer, integer, integer)
  from public, anon, authenticated, service_role;
grant execute on function public.chat_messages(uuid, text, integer, integer, integer) to service_role;


-- ==== sql/schemas/53_feedback.sql

-- What users say about answers.

create or replace function public.rate_message(
  p_user_id uuid, p_message_id uuid, p_rating text, p_comment text default null)
returns void
language plpgsql volatile security definer set search_path = ''
as $$
begin
  -- Lock
  perform from auth.users u where u.id = p_user_id for key share;
  if not found then
    raise exception using errcode = 'NOUSR', message = 'The account has ended.';
  end if;

  -- Decide
  if not exists (select from public.usage_logs u where u.id = p_message_id and u.user_id = p_user_id) then
    raise exception using errcode = 'NTFND', message = 'There is no such answer.';
  end if;

  -- Write
  if p_rating is null then
    delete from public.message_feedback f where f.query_id = p_message_id;
    return;
  end if;
  insert into public.message_feedback (user_id, query_id, rating, comment)
  values (p_user_id, p_message_id, p_rating, p_comment)
  on conflict (query_id) do update set
    rating = excluded.rating, comment = excluded.comment, updated_at = excluded.updated_at;
end
$$;
comment on function public.rate_message(uuid, uuid, text, text) is
  'Stores the rating of an answer, up or down, with a comment, in place of the one before. Null removes both. '
  'p_message_id: the message id in the stream, which is the id of the query, on every plan. NTFND: not an answer to '
  'the user. NOUSR: the account has ended.';
revoke all on function public.rate_message(uuid, uuid, text, text) from public, anon, authenticated, service_role;
grant execute on function public.rate_message(uuid, uuid, text, text) to service_role;


-- ==== sql/schemas/54_sharing.sql

-- Sharing a copy of a conversation with everybody who has the link.

create or replace function private.sources_of(p_function_results jsonb) returns jsonb
language plpgsql immutable set search_path = ''
as $$
begin
  return (
    select coalesce(jsonb_agg(jsonb_build_object(
      'type', 'source-url', 'sourceId', 'source-' || s.number, 'url', s.url, 'title', s.title) order by s.number), '[]')
    from (
      select row_number() over (order by min(array[r.place, o.place])) as number, o.source ->> 'url' as url,
             (array_agg(o.source ->> 'title' order by r.place, o.place))[1] as title
      from jsonb_array_elements(p_function_results) with ordinality r (result, place),
           jsonb_array_elements(coalesce(r.result -> 'sources', '[]')) with ordinality o (source, place)
      group by o.source ->> 'url') s);
end
$$;
comment on function private.sources_of(jsonb) is
  'The sources in messages.function_results as parts of a UIMessage, each URL once, in the order of their first use.';
revoke all on function private.sources_of(jsonb) from public, anon, authenticated, service_role;


create or replace function private.texts_of(p_content text, p_step_ends jsonb) returns jsonb
language plpgsql immutable set search_path = ''
as $$
begin
  return (
    select coalesce(jsonb_agg(jsonb_build_object('type', 'text', 'text', t.text) order by t.number), '[]')
    from (
      select s.number, substr(p_content, s.starts + 1, s.ends - s.starts) as text
      from (
        select e.number, e.ends::integer as ends, coalesce(lag(e.ends::integer) over (order by e.number), 0) as starts
        from jsonb_array_elements_text(coalesce(p_step_ends, jsonb_build_array(char_length(p_content))))
          with ordinality e (ends, number)) s) t
    where t.text <> '');
end
$$;
comment on function private.texts_of(text, jsonb) is
  'The texts of the steps of a message as parts of a UIMessage. A message without step_ends has one text.';
revoke all on function private.texts_of(text, jsonb) from public, anon, authenticated, service_role;


create or replace function private.snapshot_of(p_conversation_id uuid) returns jsonb
language plpgsql stable set search_path = ''
as $$
begin
  -- Message ids are positions: the stored ids are those of queries.
  return (
    select jsonb_agg(jsonb_build_object(
      'id', m.position::text, 'role', m.role,
      'metadata', jsonb_build_object('created_at', m.created_at, 'finish_reason', m.finish_reason),
      'parts', private.texts_of(m.content, m.step_ends) || private.sources_of(m.function_results)) order by m.position)
    from public.messages m where m.conversation_id = p_conversation_id);
end
$$;
comment on function private.snapshot_of(uuid) is
  'The messages of a conversation as UIMessages of the AI SDK with their texts and sources only. Null: it has none.';
revoke all on function private.snapshot_of(uuid) from public, anon, authenticated, service_role;


create or replace function public.share_conversation(p_user_id uuid, p_chat_id text, p_token text) returns jsonb
language plpgsql volatile security definer set search_path = ''
as $$
declare
  v_at constant timestamptz := private.clock();
  v_conversation public.conversations;
  v_snapshot jsonb;
  v_shared jsonb;
begin
  -- Lock
  perform from auth.users u where u.id = p_user_id for key share;
  if not found then
    raise exception using errcode = 'NOUSR', message = 'The account has ended.';
  end if;
  perform private.refuse_blocked(p_user_id);
  select * into v_conversation from public.conversations c
  where c.id = private.find_conversation(p_user_id, p_chat_id, private.conversation_key(p_chat_id)) for key share;

  -- Decide
  v_snapshot := jsonb_build_object(
    'title', v_conversation.title, 'messages', private.snapshot_of(v_conversation.id));
  if v_snapshot -> 'messages' = 'null' or v_conversation.expires_at <= v_at and not v_conversation.is_pinned then
    raise exception using errcode = 'NTFND', message = 'There is no such conversation.',
      hint = 'conversation_not_found';
  elsif octet_length(v_snapshot::text) > 1000000 then
    raise exception using errcode = 'TOBIG', message = 'The conversation is over a megabyte.',
      hint = 'conversation_too_large';
  end if;

  -- Write
  -- A second call makes a new copy under the same token, so that links that were sent stay valid.
  insert into public.shared_conversations as s (user_id, conversation_id, token, snapshot, expires_at)
  -- After a downgrade everything ends within thirty days, also what is pinned: see cleanup_expired_conversations.
  select p_user_id, v_conversation.id, p_token, v_snapshot,
         least(case when not v_conversation.is_pinned then v_conversation.expires_at
                    when p.history_days > 0 then v_at + make_interval(days => p.history_days)
                    else v_at + interval '30 days' end,
               s.downgraded_at + interval '30 days')
  from private.current_subscriptions p
  join public.user_subscriptions s on s.user_id = p.user_id
  where p.user_id = p_user_id
  on conflict (conversation_id) do update set
    -- A link that has expired stays so.
    token = case when s.expires_at > v_at then s.token else excluded.token end,
    snapshot = excluded.snapshot, updated_at = excluded.updated_at, expires_at = excluded.expires_at
  returning jsonb_build_object('token', s.token, 'expires_at', s.expires_at) into v_shared;

  -- Return
  return v_shared;
end
$$;
comment on function public.share_conversation(uuid, text, text) is
  'Shares a copy of a conversation of the user: {token, expires_at}. A shared one gets a new copy and keeps its '
  'token. p_token: for a new one. It expires with the conversation, or, if that is pinned, after the days that the '
  'plan stores conversations; after a downgrade within thirty days. NTFND: not a stored conversation of the user. '
  'TOBIG: it is over a megabyte. NOUSR: the account has ended. BANND: it is blocked.';
revoke all on function public.share_conversation(uuid, text, text) from public, anon, authenticated, service_role;
grant execute on function public.share_conversation(uuid, text, text) to service_role;


create or replace function public.unshare_conversation(p_user_id uuid, p_chat_id text) returns boolean
language plpgsql volatile security definer set search_path = ''
as $$
begin
  delete from public.shared_conversations s
  where s.user_id = p_user_id
    and s.conversation_id = private.find_conversation(p_user_id, p_chat_id, private.conversation_key(p_chat_id));
  if not found then
    perform private.require_account(p_user_id);
    return false;
  end if;
  return true;
end
$$;
comment on function public.unshare_conversation(uuid, text) is
  'Stops sharing a conversation of the user and deletes the copy. Returns whether it was shared. NTFND: it belongs to '
  'another user.';
revoke all on function public.unshare_conversation(uuid, text) from public, anon, authenticated, service_role;
grant execute on function public.unshare_conversation(uuid, text) to service_role;


create or replace function public.shared_conversation(p_token text) returns jsonb
language plpgsql stable security definer set search_path = ''
as $$
begin
  return (
    select s.snapshot || jsonb_build_object('shared_at', s.updated_at, 'expires_at', s.expires_at)
    from public.shared_conversations s
    where s.token = p_token and s.expires_at > (select private.clock()) and not private.is_blocked(s.user_id));
end
$$;
comment on function public.shared_conversation(text) is
  'A shared conversation: {title, messages, shared_at, expires_at}. Null: not shared, expired, or of a user '
  'whom an operator has blocked.';
revoke all on function public.shared_conversation(text) from public, anon, authenticated, service_role;
grant execute on function public.shared_conversation(text) to service_role;


-- ==== sql/schemas/60_checkout.sql

-- Plans and packs on sale, the Stripe customer of a user, and the overage settings.

create or replace function public.list_plans() returns jsonb
language plpgsql stable security invoker set search_path = ''
as $$
begin
  return jsonb_build_object(
    'plans', (
      select jsonb_agg(jsonb_build_object(
        'tier', p.tier, 'name', p.name, 'currency', p.currency,
        'price_usd', p.price_usd::text, 'daily_quota', p.daily_quota,
        'lifetime_quota', p.lifetime_quota, 'overage_price_usd', p.overage_price_usd::text,
        'overage_limit_usd', p.overage_limit_usd::text, 'allows_credits', p.allows_credits,
        'allows_byok', p.allows_byok, 'history_days', p.history_days, 'models', p.models,
        'own_key_models', p.own_key_models)
        order by p.price_usd, p.lifetime_quota nulls last)
      from public.plans p),
    'packs', (
      select coalesce(jsonb_agg(jsonb_build_object(
        'id', k.slug, 'name', k.name, 'credits', k.credits, 'currency', k.currency,
        'price_usd', k.price_usd::text,
        'price_per_credit_usd', round(k.price_usd / k.credits, 6)::text, 'expires_after_days', k.expires_after_days)
        order by k.credits), '[]')
      from public.packs k where k.is_sold));
end
$$;
comment on function public.list_plans() is 'The response of GET /plans: plans and credit packs on sale.';
revoke all on function public.list_plans() from public, anon, authenticated, service_role;
grant execute on function public.list_plans() to service_role;


create or replace function public.billing_profile(p_user_id uuid) returns jsonb
language plpgsql stable security definer set search_path = ''
as $$
begin
  return (
    select jsonb_build_object(
      'email', u.email, 'stripe_customer_id', s.stripe_customer_id,
      'stripe_sequence', coalesce(s.stripe_sequence, 0), 'is_blocked', private.is_blocked(u.id),
      'refusal', (
        select jsonb_build_object('reason_code', f.reason_code, 'reason', f.reason, 'url', s.open_invoice_url)
        from private.funding_state f
        where f.user_id = u.id
          and f.reason_code in ('subscription_unpaid', 'subscription_paused', 'subscription_ended')))
    from auth.users u left join public.user_subscriptions s on s.user_id = u.id where u.id = p_user_id);
end
$$;
comment on function public.billing_profile(uuid) is
  'The e-mail address of a user for Stripe, their Stripe customer, the sequence number of its newest applied state, '
  'whether an operator has blocked the account, and why the subscription serves no query, if it does not: '
  '{reason_code, reason, url}. Null: no such user.';
revoke all on function public.billing_profile(uuid) from public, anon, authenticated, service_role;
grant execute on function public.billing_profile(uuid) to service_role;


create or replace function public.link_stripe_customer(p_user_id uuid, p_customer_id text) returns text
language plpgsql volatile security definer set search_path = ''
as $$
declare
  v_customer_id text;
begin
  -- Lock
  perform pg_advisory_xact_lock(uuid_hash_extended(p_user_id, 0));
  perform from auth.users u where u.id = p_user_id for key share;
  if not found then
    return null;
  end if;

  -- Write
  insert into public.user_subscriptions as s (user_id, stripe_customer_id) values (p_user_id, p_customer_id)
  on conflict (user_id) do update set stripe_customer_id = coalesce(s.stripe_customer_id, excluded.stripe_customer_id)
  returning s.stripe_customer_id into v_customer_id;

  -- Return
  return v_customer_id;
end
$$;
comment on function public.link_stripe_customer(uuid, text) is
  'Links a user to a Stripe customer, unless they have one. Starts a subscription on free, if they have none. Returns '
  'the customer of the user. Null: no such user.';
revoke all on function public.link_stripe_customer(uuid, text) from public, anon, authenticated, service_role;
grant execute on function public.link_stripe_customer(uuid, text) to service_role;


create or replace function private.bounded_overage_limit(
  p_limit numeric, p_ceiling numeric, p_paid numeric, p_tier text)
returns numeric
language plpgsql stable set search_path = ''
as $$
declare
  -- On a plan without overage: the lowest of the others.
  v_default constant numeric := (
    select p.overage_limit_usd from public.plans p where p.overage_limit_usd is not null
    order by p.tier <> p_tier, p.overage_limit_usd limit 1);
begin
  return case when p_limit is null and (p_ceiling >= v_default) is not false then null
              else least(coalesce(p_limit, v_default), coalesce(p_ceiling, greatest(v_default, 2 * p_paid))) end;
end
$$;
comment on function private.bounded_overage_limit(numeric, numeric, numeric, text) is
  'The overage limit to store: p_limit, or that of the plan if it is null, but at most the operators'' ceiling. '
  'Without a ceiling at most twice what the user has paid in overage, and never below the limit of the plan.';
revoke all on function private.bounded_overage_limit(numeric, numeric, numeric, text)
  from public, anon, authenticated, service_role;


create or replace function public.set_overage(p_settings jsonb) returns jsonb
language plpgsql volatile security definer set search_path = ''
as $$
declare
  v_user_id constant uuid := (select auth.uid());
begin
  -- Check
  if v_user_id is null then
    raise insufficient_privilege using message = 'Sign in to change your overage settings.';
  elsif (p_settings ->> 'overage_limit_usd')::numeric not between 0 and 10000 then
    raise invalid_parameter_value using message = 'The overage limit must be 0 to 10,000 dollars.';
  end if;
  perform private.refuse_blocked(v_user_id);

  -- Lock
  perform pg_advisory_xact_lock(uuid_hash_extended(v_user_id, 0));

  -- Write
  update public.user_subscriptions s set
    allow_overages = coalesce((p_settings ->> 'allow_overages')::boolean, s.allow_overages),
    overage_limit = case when not p_settings ? 'overage_limit_usd' then s.overage_limit
                         else private.bounded_overage_limit(
                           (p_settings ->> 'overage_limit_usd')::numeric, s.overage_ceiling, s.paid_overage_usd,
                           s.tier) end
  where s.user_id = v_user_id;

  -- Return
  return public.usage_summary() -> 'overage';
end
$$;
comment on function public.set_overage(jsonb) is
  'Sets {allow_overages, overage_limit_usd} of the signed-in user. Missing fields stay unchanged; a limit of null '
  'restores the limit of the plan. A limit above overage_ceiling becomes the ceiling; without a ceiling, one above '
  'twice the overage that the user has paid becomes that, and at least the limit of the plan is allowed. '
  'Returns the overage object of usage_summary. BANND: the account is blocked.';
revoke all on function public.set_overage(jsonb) from public, anon, authenticated, service_role;
grant execute on function public.set_overage(jsonb) to authenticated;


-- ==== sql/schemas/61_stripe_events.sql

-- Stripe's webhook events: which were processed, which must be retried.

create or replace function public.claim_stripe_event(p_event_id text, p_type text) returns jsonb
language plpgsql volatile security definer set search_path = ''
as $$
declare
  v_processed_at timestamptz;
begin
  insert into public.stripe_events as e (created_at, event_id, type, attempts)
  values (private.clock(), p_event_id, p_type, 1)
  on conflict (event_id) do update set attempts = e.attempts + 1 where e.processed_at is null;
  select e.processed_at into v_processed_at from public.stripe_events e where e.event_id = p_event_id;
  return jsonb_build_object(
    'processed', v_processed_at is not null, 'sequence', nextval('private.stripe_sequence'::regclass));
end
$$;
comment on function public.claim_stripe_event(text, text) is
  'Records that processing of an event starts. Returns {processed, sequence}: whether it was processed before, and the '
  'sequence number for reading Stripe''s state now. Two processes may process one event at the same time.';
revoke all on function public.claim_stripe_event(text, text) from public, anon, authenticated, service_role;
grant execute on function public.claim_stripe_event(text, text) to service_role;


create or replace function public.next_stripe_sequence() returns bigint
language plpgsql volatile security definer set search_path = ''
as $$
begin
  return nextval('private.stripe_sequence'::regclass);
end
$$;
comment on function public.next_stripe_sequence() is
  'The sequence number for reading Stripe''s state now, without an event.';
revoke all on function public.next_stripe_sequence() from public, anon, authenticated, service_role;
grant execute on function public.next_stripe_sequence() to service_role;


create or replace function public.finish_stripe_event(
  p_event_id text, p_error text default null, p_is_final boolean default false)
returns void
language plpgsql volatile security definer set search_path = ''
as $$
begin
  update public.stripe_events e set
    last_error = p_error, processed_at = case when p_error is null or p_is_final then private.clock() end
  where e.event_id = p_event_id and e.processed_at is null;
end
$$;
comment on function public.finish_stripe_event(text, text, boolean) is
  'Records that the effect of an event is committed, or the exception type of the failure. p_is_final: no retry helps.';
revoke all on function public.finish_stripe_event(text, text, boolean) from public, anon, authenticated, service_role;
grant execute on function public.finish_stripe_event(text, text, boolean) to service_role;


create or replace function public.unfinished_stripe_events(p_after uuid default null, p_limit integer default 100)
returns table (id uuid, event_id text)
language sql stable security definer set search_path = ''
as $$
  select e.id, e.event_id from public.stripe_events e
  where e.processed_at is null and (p_after is null or e.id > p_after)
    -- Stripe stores an event for thirty days. An event of the last minutes may still be in progress.
    and e.created_at between private.clock() - interval '29 days' and private.clock() - interval '5 minutes'
  order by e.id limit least(p_limit, 1000)
$$;
comment on function public.unfinished_stripe_events(uuid, integer) is
  'Events whose effect is not committed, ordered by id, after p_after, at most 1,000.';
revoke all on function public.unfinished_stripe_events(uuid, integer) from public, anon, authenticated, service_role;
grant execute on function public.unfinished_stripe_events(uuid, integer) to service_role;


-- ==== sql/schemas/62_stripe_state.sql

-- Stripe's state becomes plans and credit packs.
--
-- An event is only a reason to read Stripe's current state. Each read takes a sequence number before it starts
-- (claim_stripe_event), and each row stores the number of the state that was applied to it. A state with a higher
-- number is at least as new, so a lower number is ignored: the order and the number of events do not matter. The
-- result depends only on Stripe's state, never on the earlier content of the row.

create or replace function public.apply_customer(
  p_customer_id text, p_sequence bigint, p_is_deleted boolean, p_subscription jsonb,
  p_open_invoice_url text default null)
returns uuid
language plpgsql volatile security definer set search_path = ''
as $$
declare
  v_user_id uuid;
  v_tier text;
begin
  -- Lock
  select s.user_id into v_user_id from public.user_subscriptions s where s.stripe_customer_id = p_customer_id;
  if v_user_id is null then
    return null;
  end if;
  perform pg_advisory_xact_lock(uuid_hash_extended(v_user_id, 0));

  -- Decide
  if p_subscription is null then
    v_tier := private.unsubscribed_tier(v_user_id, private.clock());
  else
    select p.tier into strict v_tier from public.plans p
    where p.tier = p_subscription ->> 'tier' or p_subscription -> 'paid_tiers' ? p.tier
    order by p.price_usd desc limit 1;
  end if;

  -- Write
  update public.user_subscriptions s set
    tier = v_tier,
    next_tier = case when p_subscription ->> 'status' <> 'canceled'
                     then nullif(p_subscription ->> 'tier', v_tier) end,
    status = coalesce(p_subscription ->> 'status', 'active'),
    stripe_customer_id = case when not p_is_deleted then s.stripe_customer_id end,
    stripe_subscription_id = p_subscription ->> 'id',
    current_period_start = (p_subscription ->> 'period_start')::timestamptz,
    current_period_end = (p_subscription ->> 'period_end')::timestamptz,
    canceled_at = (p_subscription ->> 'canceled_at')::timestamptz,
    past_due_since = (p_subscription ->> 'past_due_since')::timestamptz,
    paid_until = (p_subscription ->> 'paid_until')::timestamptz,
    open_invoice_url = p_open_invoice_url,
    stripe_sequence = p_sequence
  where s.user_id = v_user_id and s.stripe_customer_id = p_customer_id and s.stripe_sequence < p_sequence;

  -- Return
  return v_user_id;
end
$$;
comment on function public.apply_customer(text, bigint, boolean, jsonb, text) is
  'Applies the state of a Stripe customer to the subscription of their user, unless a newer state was applied. '
  'p_subscription: {id, tier, paid_tiers, status, period_start, period_end, canceled_at, past_due_since, '
  'paid_until}. Null: no live subscription. p_open_invoice_url: of the oldest invoice of ours that can be paid. The '
  'most expensive of tier and paid_tiers is in force until the period ends, then tier, unless canceled. Returns the '
  'user. Null: no user has this customer.';
revoke all on function public.apply_customer(text, bigint, boolean, jsonb, text)
  from public, anon, authenticated, service_role;
grant execute on function public.apply_customer(text, bigint, boolean, jsonb, text) to service_role;


create or replace function public.apply_pack(p_user_id uuid, p_sequence bigint, p_payment jsonb) returns uuid
language plpgsql volatile security definer set search_path = ''
as $$
declare
  v_session_id constant text := p_payment ->> 'session_id';
  v_credits constant integer := (p_payment ->> 'credits')::integer;
  v_paid_at constant timestamptz := (p_payment ->> 'paid_at')::timestamptz;
  v_to_revoke integer;
begin
  -- Lock
  perform pg_advisory_xact_lock(uuid_hash_extended(p_user_id, 0));
  perform from auth.users where id = p_user_id for key share;
  if not found then
    return null;
  end if;

  -- Decide
  v_to_revoke := case
    when (p_payment ->> 'is_lost')::boolean then v_credits
    -- Of a pack that cost nothing, nothing is refunded.
    else coalesce(floor(
      v_credits * (p_payment ->> 'refunded_cents')::numeric / nullif((p_payment ->> 'paid_cents')::numeric, 0)), 0) end;

  -- Write
  if v_paid_at is not null then
    insert into public.credit_packs (
      created_at, user_id, credits_purchased, credits_remaining, price_paid, stripe_payment_intent_id,
      stripe_checkout_session_id, expires_at)
    select v_paid_at, p_user_id, v_credits, v_credits, (p_payment ->> 'price_cents')::numeric / 100,
           p_payment ->> 'payment_intent_id', v_session_id,
           v_paid_at + (select k.expires_after_days * interval '1 day' from public.packs k
                        where k.slug = p_payment ->> 'pack')
    on conflict (stripe_checkout_session_id) do nothing;
  end if;
  -- Revoke the credits that were refunded, as far as they are not spent. A running query that fails later adds its
  -- credit.
  update public.credit_packs c set
    credits_to_revoke = v_to_revoke,
    credits_revoked = least(v_to_revoke, c.credits_purchased - c.credits_used),
    credits_remaining = case when c.lapsed_at is null then unspent.credits else 0 end,
    credits_expired = case when c.lapsed_at is null then 0 else unspent.credits end,
    depleted_at = case when c.lapsed_at is null and unspent.credits > 0 then null else c.depleted_at end,
    is_frozen = (p_payment ->> 'is_disputed')::boolean,
    stripe_sequence = p_sequence
  from (select k.id, greatest(0, k.credits_purchased - k.credits_used - v_to_revoke) as credits
        from public.credit_packs k where k.stripe_checkout_session_id = v_session_id) unspent
  where c.id = unspent.id and c.user_id = p_user_id and c.stripe_sequence < p_sequence;
  if found then
    perform private.set_tier_from_packs(p_user_id);
  end if;

  -- Return
  return p_user_id;
end
$$;
comment on function public.apply_pack(uuid, bigint, jsonb) is
  'Applies the state of the payment of a pack, unless a newer state was applied. A paid session grants one pack. A '
  'refund revokes credits pro rata, rounded in favour of the user; a lost dispute revokes all; an open dispute freezes '
  'the pack. p_payment: {session_id, payment_intent_id, pack, credits, paid_at, price_cents (without tax), '
  'paid_cents and refunded_cents (with tax), is_disputed, is_lost}. Returns the user. Null: the user was deleted.';
revoke all on function public.apply_pack(uuid, bigint, jsonb) from public, anon, authenticated, service_role;
grant execute on function public.apply_pack(uuid, bigint, jsonb) to service_role;


-- ==== sql/schemas/63_overage_billing.sql

-- The ledger's overage becomes Stripe invoice items.

create or replace function public.claim_overage(p_user_id uuid, p_until timestamptz, p_target jsonb) returns jsonb
language plpgsql volatile security definer set search_path = ''
as $$
begin
  -- Lock
  perform pg_advisory_xact_lock(uuid_hash_extended(p_user_id, 0));
  perform from auth.users where id = p_user_id for key share;

  -- Take
  -- Skip locked rows, whose conversation is being deleted: waiting for one while holding others could deadlock. The
  -- next call bills them.
  with due as (
    select u.id, u.period_start, u.overage_charge
    from public.usage_logs u
    where u.user_id = p_user_id and u.was_overage and u.invoice_item_id is null and u.reversed_at is null
      and u.query_timestamp < p_until
    for no key update skip locked
  ), made as (
    insert into public.overage_invoice_items as i (created_at, user_id, period_start, queries, unit_price_usd, target)
    select private.clock(), p_user_id, d.period_start, count(*), d.overage_charge, p_target from due d
    group by d.period_start, d.overage_charge
    order by d.period_start, d.overage_charge
    returning i.id, i.period_start, i.unit_price_usd
  )
  update public.usage_logs u set invoice_item_id = m.id
  from due d join made m on m.period_start = d.period_start and m.unit_price_usd = d.overage_charge
  where u.id = d.id;
  update public.overage_invoice_items i set attempts = i.attempts + 1
  where i.user_id = p_user_id and i.stripe_invoice_item_id is null;

  -- Return
  return (
    select coalesce(jsonb_agg(jsonb_build_object(
      'id', i.id, 'created_at', i.created_at, 'period_start', i.period_start, 'queries', i.queries,
      'currency', (select s.currency from public.settings s), 'unit_price_usd', i.unit_price_usd::text,
      'amount_usd', i.amount_usd::text, 'amount_cents', i.amount_cents,
      'attempts', i.attempts, 'target', i.target, 'refusals', i.refusals,
      'stripe_invoice_item_id', i.stripe_invoice_item_id) order by i.period_start, i.id), '[]')
    from public.overage_invoice_items i
    where i.user_id = p_user_id and (i.stripe_invoice_item_id is null or i.stripe_invoice_id is null));
end
$$;
comment on function public.claim_overage(uuid, timestamptz, jsonb) is
  'Collects the settled overage of a user before p_until into invoice items, one per period and price. Each query is '
  'collected once, and one that was given back not at all. p_target: parameters of the Stripe request. Returns the '
  'items that are not known to be on an invoice, those that give back included.';
revoke all on function public.claim_overage(uuid, timestamptz, jsonb) from public, anon, authenticated, service_role;
grant execute on function public.claim_overage(uuid, timestamptz, jsonb) to service_role;


create or replace function public.retarget_overage(p_id uuid, p_refusals integer, p_target jsonb) returns void
language plpgsql volatile security definer set search_path = ''
as $$
begin
  update public.overage_invoice_items i set target = p_target, refusals = i.refusals + 1
  where i.id = p_id and i.refusals = p_refusals and i.stripe_invoice_item_id is null;
end
$$;
comment on function public.retarget_overage(uuid, integer, jsonb) is
  'Changes the target of an item after Stripe permanently refused it. p_refusals: the refusals before this one, so '
  'that a repeated call changes nothing.';
revoke all on function public.retarget_overage(uuid, integer, jsonb) from public, anon, authenticated, service_role;
grant execute on function public.retarget_overage(uuid, integer, jsonb) to service_role;


create or replace function public.place_overage(p_id uuid, p_invoice_item_id text, p_invoice_id text) returns void
language plpgsql volatile security definer set search_path = ''
as $$
begin
  update public.overage_invoice_items i set
    stripe_invoice_item_id = p_invoice_item_id, stripe_invoice_id = coalesce(p_invoice_id, i.stripe_invoice_id)
  where i.id = p_id;
end
$$;
comment on function public.place_overage(uuid, text, text) is
  'Records the Stripe invoice item and the invoice of an item. Invoice null: the item waits for one.';
revoke all on function public.place_overage(uuid, text, text) from public, anon, authenticated, service_role;
grant execute on function public.place_overage(uuid, text, text) to service_role;


create or replace function public.users_to_bill(p_after uuid default null, p_limit integer default 100)
returns table (user_id uuid, stripe_customer_id text)
language sql stable security definer set search_path = ''
as $$
  select s.user_id, s.stripe_customer_id
  from public.user_subscriptions s
  where (p_after is null or s.user_id > p_after) and s.stripe_customer_id is not null
    and (exists (
           select from public.usage_logs u
           where u.user_id = s.user_id and u.was_overage and u.invoice_item_id is null and u.reversed_at is null
             and (s.stripe_subscription_id is null or u.query_timestamp < s.current_period_start
                  or s.current_period_end <= private.clock()))
         or exists (
           select from public.overage_invoice_items i
           where i.user_id = s.user_id and (i.stripe_invoice_item_id is null or i.stripe_invoice_id is null)))
  order by s.user_id limit least(p_limit, 1000)
$$;
comment on function public.users_to_bill(uuid, integer) is
  'Users with overage of an ended period that is on no invoice, ordered by id, after p_after, at most 1,000.';
revoke all on function public.users_to_bill(uuid, integer) from public, anon, authenticated, service_role;
grant execute on function public.users_to_bill(uuid, integer) to service_role;


create or replace function public.users_at_threshold(p_after uuid default null, p_limit integer default 100)
returns table (user_id uuid, stripe_customer_id text)
language sql stable security definer set search_path = ''
as $$
  select s.user_id, s.stripe_customer_id
  from public.user_subscriptions s
  join public.plans p on p.tier = s.tier
  where s.owes_overage and (p_after is null or s.user_id > p_after) and s.stripe_customer_id is not null
    -- The next query would exceed it, or the limit of the period. `case`: the ledger is read for such users only. An
    -- item without an invoice is left by a run that failed in between.
    and case when s.unpaid_overage_usd + p.overage_price_usd > least(
                    -- Not another charge to the card that did not pay the last one, until the limit is reached.
                    case when s.open_invoice_url is null then p.overage_threshold_usd end,
                    coalesce(s.overage_limit, p.overage_limit_usd))
                  or s.current_overage_amount + p.overage_price_usd > coalesce(s.overage_limit, p.overage_limit_usd)
             then 0.5 <= (
               select coalesce(sum(u.overage_charge), 0) from public.usage_logs u
               where u.user_id = s.user_id and u.was_overage and u.invoice_item_id is null
                 and u.reversed_at is null) + (
               select coalesce(sum(i.queries * i.unit_price_usd), 0) from public.overage_invoice_items i
               where i.user_id = s.user_id and i.stripe_invoice_id is null) end
  order by s.user_id limit least(p_limit, 1000)
$$;
comment on function public.users_at_threshold(uuid, integer) is
  'Users who owe as much overage as the threshold of their plan or their limit allows, or whose period is at the '
  'limit, and of which some is on no invoice, ordered by id, after p_after, at most 1,000. While an invoice of theirs '
  'is open, the threshold is the limit.';
revoke all on function public.users_at_threshold(uuid, integer) from public, anon, authenticated, service_role;
grant execute on function public.users_at_threshold(uuid, integer) to service_role;


create or replace function public.unsettled_overage(p_user_id uuid, p_invoice_id text default null) returns jsonb
language plpgsql stable security definer set search_path = ''
as $$
begin
  return (
    select coalesce(jsonb_agg(jsonb_build_object(
      'id', i.id, 'stripe_invoice_item_id', i.stripe_invoice_item_id, 'stripe_invoice_id', i.stripe_invoice_id,
      'settled_as', i.settled_as) order by i.id), '[]')
    from public.overage_invoice_items i
    where i.user_id = p_user_id and i.queries > 0 and i.stripe_invoice_item_id is not null
      and (i.settled_as is null
           or p_invoice_id is not null
              and (i.stripe_invoice_id = p_invoice_id or i.settled_as in ('credited', 'returned'))));
end
$$;
comment on function public.unsettled_overage(uuid, text) is
  'The invoice items of a user at Stripe that are not settled: {id, stripe_invoice_item_id, stripe_invoice_id, '
  'settled_as}. p_invoice_id: an invoice whose payment has changed. Then also its items, and those that are credited '
  'or returned, because the payment may have paid for a credit.';
revoke all on function public.unsettled_overage(uuid, text) from public, anon, authenticated, service_role;
grant execute on function public.unsettled_overage(uuid, text) to service_role;


create or replace function public.settle_overage(p_user_id uuid, p_sequence bigint, p_items jsonb) returns integer
language plpgsql volatile security definer set search_path = ''
as $$
declare
  v_settled integer;
begin
  -- Lock
  perform pg_advisory_xact_lock(uuid_hash_extended(p_user_id, 0));

  -- Write
  -- A payment may be returned, and a return may fail or a dispute be won, so an older state must not win.
  with settled as (
    update public.overage_invoice_items i set settled_as = p_items ->> i.id::text, stripe_sequence = p_sequence
    from public.overage_invoice_items before
    where before.id = i.id and i.user_id = p_user_id and i.queries > 0 and p_items ? i.id::text
      and i.stripe_sequence < p_sequence
    returning i.id, before.settled_as as settled_before, i.settled_as
  ), amounts as (
    select count(distinct d.id) as items,
           coalesce(sum(u.overage_charge * (
             (d.settled_as = 'returned')::integer
             - (coalesce(d.settled_before, 'returned') = 'returned')::integer)), 0) as unpaid,
           -- What was given back was paid before, and is owed as well if the payment is returned after that: the
           -- credit at Stripe stays.
           coalesce(sum(u.overage_charge * (
             (d.settled_as = 'paid')::integer - coalesce(d.settled_before = 'paid', false)::integer))
             filter (where u.reversed_at is null), 0) as paid
    from settled d
    left join public.usage_logs u on u.invoice_item_id = d.id
    where d.settled_as is distinct from d.settled_before
  ), counted as (
    update public.user_subscriptions s set
      unpaid_overage_usd = s.unpaid_overage_usd + a.unpaid, paid_overage_usd = s.paid_overage_usd + a.paid,
      -- The limit was set up to twice what had been paid.
      overage_limit = case when a.paid < 0 and s.overage_limit is not null
                           then private.bounded_overage_limit(
                             s.overage_limit, s.overage_ceiling, s.paid_overage_usd + a.paid, s.tier)
                           else s.overage_limit end
    from amounts a
    where s.user_id = p_user_id and a.items > 0
  )
  select a.items into v_settled from amounts a;

  -- Return
  return v_settled;
end
$$;
comment on function public.settle_overage(uuid, bigint, jsonb) is
  'Records how invoice items of a user were settled: {id: paid, credited, void or returned}, unless a newer state was '
  'recorded. What was returned is owed again, with the queries that were given back; the rest is not owed from then '
  'on. Only what was paid counts as paid; when that falls, the limit falls to what the user may set. p_sequence: drawn '
  'before the state was read. Returns how many changed.';
revoke all on function public.settle_overage(uuid, bigint, jsonb) from public, anon, authenticated, service_role;
grant execute on function public.settle_overage(uuid, bigint, jsonb) to service_role;


-- ==== sql/schemas/70_jobs.sql

-- Scheduled jobs. Each call does a bounded batch, so that no user waits long for a lock, and returns how much it did:
-- call until 0. A job may run twice, or at the same time as itself.

create or replace function public.reset_monthly_overages() returns integer
language plpgsql volatile security definer set search_path = ''
as $$
declare
  v_at constant timestamptz := private.clock();
  v_user_id uuid;
  v_reset integer := 0;
begin
  -- Admission does the same for users who ask something. The amount owed stays in usage_logs.
  for v_user_id in
    select s.user_id from public.user_subscriptions s
    where s.current_overage_amount > 0
      and (private.period_at(s.current_period_start, s.current_period_end, v_at)).period_start > s.overage_period_start
    limit 500
  loop
    continue when not pg_try_advisory_xact_lock(uuid_hash_extended(v_user_id, 0));
    update public.user_subscriptions s set
      current_overage_amount = 0,
      overage_period_start = (private.period_at(s.current_period_start, s.current_period_end, v_at)).period_start
    where s.user_id = v_user_id
      and (private.period_at(s.current_period_start, s.current_period_end, v_at)).period_start > s.overage_period_start;
    v_reset := v_reset + case when found then 1 else 0 end;
  end loop;
  return v_reset;
end
$$;
comment on function public.reset_monthly_overages() is
  'Resets the overage counter of ended periods, at most 500 per call. Returns how many. Call until 0. The amounts owed '
  'stay in usage_logs.';
revoke all on function public.reset_monthly_overages() from public, anon, authenticated, service_role;
grant execute on function public.reset_monthly_overages() to service_role;


create or replace function public.expire_credits() returns integer
language plpgsql volatile security definer set search_path = ''
as $$
declare
  v_at constant timestamptz := private.clock();
  v_pack record;
  v_lapsed integer := 0;
begin
  -- Admission ignores expired packs already. This records the expiry and updates the tier.
  for v_pack in
    select c.id, c.user_id from public.credit_packs c
    where c.expires_at <= v_at and c.lapsed_at is null
    order by c.expires_at limit 200
  loop
    continue when not pg_try_advisory_xact_lock(uuid_hash_extended(v_pack.user_id, 0));
    update public.credit_packs c set credits_expired = c.credits_remaining, credits_remaining = 0, lapsed_at = v_at
    where c.id = v_pack.id and c.lapsed_at is null;
    if found then
      perform private.set_tier_from_packs(v_pack.user_id);
      v_lapsed := v_lapsed + 1;
    end if;
  end loop;
  return v_lapsed;
end
$$;
comment on function public.expire_credits() is
  'Records the remaining credits of expired packs as expired, at most 200 packs per call, and returns users without '
  'another pack to the free tier. Returns how many packs. Call until 0.';
revoke all on function public.expire_credits() from public, anon, authenticated, service_role;
grant execute on function public.expire_credits() to service_role;


create or replace function public.purge_events() returns integer
language plpgsql volatile security definer set search_path = ''
as $$
declare
  v_deleted integer;
begin
  -- Stripe redelivers nothing after thirty days. Unprocessed events stay, so that reconcile reports them.
  delete from public.stripe_events e where e.id in (
    select old.id from public.stripe_events old
    where old.processed_at < private.clock() - interval '90 days'
    order by old.processed_at limit 1000 for update skip locked);
  get diagnostics v_deleted = row_count;
  return v_deleted;
end
$$;
comment on function public.purge_events() is
  'Deletes Stripe events that were processed more than 90 days ago, at most 1,000 per call. Returns how many. Call '
  'until 0.';
revoke all on function public.purge_events() from public, anon, authenticated, service_role;
grant execute on function public.purge_events() to service_role;


-- ==== sql/schemas/71_retention.sql

-- Retention: conversations expire, and a downgrade shortens expires_at.

create or replace function private.apply_downgrades() returns void
language plpgsql volatile set search_path = ''
as $$
begin
  -- At most thirty days after the downgrade. Messages after the downgrade have set expires_at from the new plan. A plan
  -- without history also removes pins; formerly pinned conversations get the thirty days.
  with affected as (
    select c.id, s.downgraded_at + interval '30 days' as until, p.history_days = 0 as removes_pin
    from public.user_subscriptions s
    join public.plans p on p.tier = s.tier
    join public.conversations c on c.user_id = s.user_id
    where s.downgraded_at is not null
      and (c.expires_at > s.downgraded_at + interval '30 days' and c.last_message_at <= s.downgraded_at
           or c.is_pinned and p.history_days = 0)
    limit 1000
    for update of c skip locked
  )
  update public.conversations c set
    expires_at = case when c.is_pinned and a.removes_pin then a.until else least(c.expires_at, a.until) end,
    is_pinned = c.is_pinned and not a.removes_pin
  from affected a where c.id = a.id;

  update public.user_subscriptions s set downgraded_at = null
  from (
    select d.id from public.user_subscriptions d
    join public.plans p on p.tier = d.tier
    where d.downgraded_at is not null and not exists (
      select from public.conversations c
      where c.user_id = d.user_id
        and (c.expires_at > d.downgraded_at + interval '30 days' and c.last_message_at <= d.downgraded_at
             or c.is_pinned and p.history_days = 0))
      -- Storing one of these sets the expires_at of the plan before.
      and not exists (select from public.pending_turns w where w.user_id = d.user_id)
    limit 1000
    for update of d skip locked
  ) done
  where s.id = done.id;
end
$$;
comment on function private.apply_downgrades() is
  'Shortens expires_at of the conversations of downgraded users, at most 1,000 per call.';
revoke all on function private.apply_downgrades() from public, anon, authenticated, service_role;


create or replace function private.delete_conversations(p_ids uuid[]) returns integer
language plpgsql volatile set search_path = ''
as $$
declare
  v_longest record;
begin
  delete from public.pending_turns w where w.conversation_id = any (p_ids);

  -- Decide
  select c.id, c.message_count into v_longest from public.conversations c
  where c.id = any (p_ids) order by c.message_count desc limit 1;
  if v_longest.message_count > 250 then
    -- Delete from the end, so that the rest stays a valid conversation.
    delete from public.messages m
    where m.conversation_id = v_longest.id and m.position >= (
      select n.position from public.messages n where n.conversation_id = v_longest.id
      order by n.position desc offset 249 limit 1);
    update public.conversations c set message_count = c.message_count - 250 where c.id = v_longest.id;
    return 1;
  end if;

  -- Write
  delete from public.message_feedback f using public.usage_logs u
  where u.conversation_id = any (p_ids) and f.query_id = u.id;
  -- One update clears both columns. A cascade would clear each of them separately, row by row.
  update public.usage_logs u set conversation_id = null, message_id = null where u.conversation_id = any (p_ids);
  delete from public.messages m where m.conversation_id = any (p_ids);
  delete from public.conversations c where c.id = any (p_ids);

  -- Return
  return cardinality(p_ids);
end
$$;
comment on function private.delete_conversations(uuid[]) is
  'Deletes conversations with their messages. If one has more than 250 messages: deletes 250 of those and nothing '
  'else. Returns how many conversations it processed. The caller has locked them.';
revoke all on function private.delete_conversations(uuid[]) from public, anon, authenticated, service_role;


create or replace function private.purge_copies_and_ratings(p_at timestamptz) returns integer
language plpgsql volatile set search_path = ''
as $$
declare
  v_copies integer;
  v_ratings integer;
begin
  delete from public.shared_conversations s using (
    select e.id from public.shared_conversations e where e.expires_at <= p_at
    order by e.expires_at limit 50 for update skip locked) expired
  where s.id = expired.id;
  get diagnostics v_copies = row_count;
  delete from public.message_feedback f using (
    select e.id from public.message_feedback e where e.updated_at <= p_at - interval '90 days'
    order by e.updated_at limit 500 for update skip locked) expired
  where f.id = expired.id;
  get diagnostics v_ratings = row_count;
  return v_copies + v_ratings;
end
$$;
comment on function private.purge_copies_and_ratings(timestamptz) is
  'Deletes shared copies past their expiry, at most 50, and ratings of answers after 90 days, at most 500. Returns how '
  'many.';
revoke all on function private.purge_copies_and_ratings(timestamptz)
  from public, anon, authenticated, service_role;


create or replace function public.cleanup_expired_conversations() returns integer
language plpgsql volatile security definer set search_path = ''
as $$
declare
  v_at constant timestamptz := private.clock();
  v_ids uuid[];
  v_deleted integer := 0;
begin
  with expired as (
    select c.id, c.expires_at, c.message_count
    from public.conversations c
    -- An update of usage_logs checks the foreign key to the user. So lock the user first, and skip users that are being
    -- deleted.
    join auth.users u on u.id = c.user_id
    where c.expires_at <= v_at and not c.is_pinned
      -- The running answer and the pending turn extend the expiry.
      and not exists (select from public.query_holds h where h.conversation_id = c.id)
      and not exists (select from public.pending_turns w where w.conversation_id = c.id)
    order by c.expires_at
    limit 100
    for key share of u skip locked
    for update of c skip locked
  ), counted as (
    select e.id, row_number() over oldest as place, sum(e.message_count) over oldest as messages
    from expired e window oldest as (order by e.expires_at, e.id)
  )
  -- At least one conversation, and more while they have at most 250 messages in total, which determine the duration.
  select array_agg(c.id) into v_ids from counted c where c.place = 1 or c.messages <= 250;
  if v_ids is not null then
    v_deleted := private.delete_conversations(v_ids);
  end if;
  -- Last: these skip locked rows, so their own locks are held only briefly.
  v_deleted := v_deleted + private.purge_copies_and_ratings(v_at);
  perform private.apply_downgrades();
  return v_deleted;
end
$$;
comment on function public.cleanup_expired_conversations() is
  'Deletes expired conversations with their messages, about 250 messages per call, except pinned ones and those with a '
  'running answer or a pending turn, and expired copies and ratings. Also shortens expires_at after downgrades. '
  'Returns how many conversations, copies and ratings it processed. Call until 0.';
revoke all on function public.cleanup_expired_conversations() from public, anon, authenticated, service_role;
grant execute on function public.cleanup_expired_conversations() to service_role;


-- ==== sql/schemas/72_reconcile.sql

-- The invariants of metering as one query, which returns violations, and the repair of counters.

create or replace view private.conversation_tokens with (security_invoker = true) as
select u.conversation_id, sum(u.tokens_total) as tokens
from public.usage_logs u
-- track_query_usage names a conversation whose totals it leaves as they are.
where u.conversation_id is not null and not (u.chat_key is null and u.request_id like 'track:%')
group by u.conversation_id;
comment on view private.conversation_tokens is 'The tokens of the stored queries of each conversation.';
comment on column private.conversation_tokens.conversation_id is 'The conversation.';
comment on column private.conversation_tokens.tokens is 'Tokens of its queries, those of replaced answers included.';
revoke all on private.conversation_tokens from public, anon, authenticated, service_role;


create or replace view private.overage_owed_again with (security_invoker = true) as
select u.user_id, sum(u.overage_charge) as owed
from public.usage_logs u join public.overage_invoice_items i on i.id = u.invoice_item_id
where u.reversed_at is not null and i.settled_as = 'returned'
group by u.user_id;
comment on view private.overage_owed_again is
  'Overage that was given back, and whose payment was returned after that.';
comment on column private.overage_owed_again.user_id is 'The user.';
comment on column private.overage_owed_again.owed is 'Its amount, dollars.';
revoke all on private.overage_owed_again from public, anon, authenticated, service_role;


create or replace function public.reconcile()
returns table (invariant text, user_id uuid, subject text, expected text, found text)
-- A million queries take seconds. PostgREST applies this time-out to the call.
language sql stable security definer set search_path = '' set statement_timeout = '120s'
as $$
  with
  -- Every query that has taken funding: charged and not given back, or held.
  taken as (
    select u.user_id, u.funding, u.tier, u.query_date, u.period_start, u.credit_pack_id, u.overage_charge,
           u.quota_limit, u.overage_limit, i.settled_as
    from public.usage_logs u left join public.overage_invoice_items i on i.id = u.invoice_item_id
    where u.is_charged and u.reversed_at is null
    union all
    select h.user_id, h.funding, h.tier, h.query_date, h.period_start, h.credit_pack_id, h.overage_charge,
           h.quota_limit, h.overage_limit, null
    from public.query_holds h
  ),
  included as (
    select t.user_id, p.lifetime_quota is not null as is_lifetime,
           case when p.lifetime_quota is null then t.query_date end as day,
           count(*) as used, max(t.quota_limit) as quota
    from taken t join public.plans p on p.tier = t.tier
    where t.funding = 'included' group by 1, 2, 3
  ),
  overage as (
    select t.user_id, t.period_start, sum(t.overage_charge) as used, max(t.overage_limit) as allowed
    from taken t where t.funding = 'overage' group by 1, 2
  ),
  exposure as (
    select t.user_id, coalesce(sum(t.overage_charge) filter (where t.settled_as is null), 0) as admitted,
           coalesce(sum(t.overage_charge) filter (where coalesce(t.settled_as, 'returned') = 'returned'), 0) as unpaid,
           coalesce(sum(t.overage_charge) filter (where t.settled_as = 'paid'), 0) as paid,
           max(t.overage_limit) filter (where t.settled_as is null) as allowed
    from taken t where t.funding = 'overage' group by 1
  ),
  credits as (
    select t.credit_pack_id, count(*) as used from taken t where t.credit_pack_id is not null group by 1
  )
  -- The limits are those at the admission of each query, because a downgrade revokes nothing.
  select 'I1', i.user_id, coalesce(i.day::text, 'lifetime'), '<= ' || i.quota, i.used::text
  from included i where i.used > i.quota
  union all
  select 'I2', o.user_id, o.period_start::text, '<= ' || o.allowed, o.used::text
  from overage o where o.used > o.allowed
  union all
  select 'I2', o.user_id, 'not paid, of all periods', '<= ' || o.allowed, o.admitted::text
  -- A payment that was returned is owed beyond the limit, which was kept at each admission.
  from exposure o where o.admitted > o.allowed
  union all
  select 'I3', c.user_id, c.id::text, coalesce(t.used, 0)::text || ' of ' || c.credits_purchased,
         concat_ws(' ', c.credits_used, 'used,', c.credits_remaining, 'left,', c.credits_revoked, 'revoked,',
                   c.credits_expired, 'expired')
  from public.credit_packs c left join credits t on t.credit_pack_id = c.id
  where c.credits_used <> coalesce(t.used, 0)
     or c.credits_remaining + c.credits_used + c.credits_revoked + c.credits_expired <> c.credits_purchased
  union all
  select 'I3', c.user_id, c.id::text, concat('credits until ', c.expires_at), 'expired at ' || c.lapsed_at
  from public.credit_packs c where c.lapsed_at < coalesce(c.expires_at, 'infinity')
  union all
  -- The pack of a query is its user's. A row that left its pack also breaks the sum above.
  select 'I3', u.user_id, u.id::text, 'a pack of the user, if credits pay',
         concat_ws(' ', u.funding, coalesce(c.id::text, 'without a pack'), 'of ' || c.user_id)
  from public.usage_logs u left join public.credit_packs c on c.id = u.credit_pack_id
  where u.is_charged and ((u.funding = 'credit') <> (c.id is not null) or u.user_id <> c.user_id)
  union all
  -- Only queries that were admitted after the price last changed: a query in progress keeps the old one.
  select 'price', u.user_id, u.id::text, coalesce(p.overage_price_usd::text, 'no overage'), u.overage_charge::text
  from public.usage_logs u join public.plans p on p.tier = u.tier
  where u.was_overage and u.reversed_at is null and u.overage_charge is distinct from p.overage_price_usd
    and (p.overage_repriced_at is null or u.query_timestamp > p.overage_repriced_at + interval '1 day')
  union all
  select 'I4', s.user_id, 'quota_used of ' || s.quota_date, coalesce(i.used, 0)::text, s.quota_used::text
  from public.user_subscriptions s
  left join included i on i.user_id = s.user_id and not i.is_lifetime and i.day = s.quota_date
  where s.quota_used <> coalesce(i.used, 0)
  union all
  select 'I4', s.user_id, 'lifetime_used', coalesce(i.used, 0)::text, s.lifetime_used::text
  from public.user_subscriptions s
  left join included i on i.user_id = s.user_id and i.is_lifetime
  where s.lifetime_used <> coalesce(i.used, 0)
  union all
  select 'I4', s.user_id, 'current_overage_amount of ' || s.overage_period_start, coalesce(o.used, 0)::text,
         s.current_overage_amount::text
  from public.user_subscriptions s
  left join overage o on o.user_id = s.user_id and o.period_start = s.overage_period_start
  where s.current_overage_amount <> coalesce(o.used, 0)
  union all
  select 'I4', s.user_id, 'unpaid_overage_usd and paid_overage_usd',
         concat_ws(' and ', coalesce(o.unpaid, 0) + coalesce(a.owed, 0), coalesce(o.paid, 0)),
         concat_ws(' and ', s.unpaid_overage_usd, s.paid_overage_usd)
  from public.user_subscriptions s
  left join exposure o on o.user_id = s.user_id
  left join private.overage_owed_again a on a.user_id = s.user_id
  where s.unpaid_overage_usd <> coalesce(o.unpaid, 0) + coalesce(a.owed, 0)
     or s.paid_overage_usd <> coalesce(o.paid, 0)
  union all
  select 'I4', s.user_id, 'failed_cost_usd of ' || s.quota_date, coalesce(f.cost, 0)::text, s.failed_cost_usd::text
  from public.user_subscriptions s
  left join (
    select u.user_id, u.query_date, sum(u.cost_usd) as cost
    from public.usage_logs u where not u.is_charged and not u.used_byo_key group by 1, 2
  ) f on f.user_id = s.user_id and f.query_date = s.quota_date
  where s.failed_cost_usd <> coalesce(f.cost, 0)
  union all
  -- Deleted users have left the ledger. What they have cost stays counted.
  select 'I4', null, 'daily_costs of ' || counted.day, '>= ' || concat_ws(' and ', spent.free, spent.total),
         concat_ws(' and ', counted.free, counted.total)
  from (
    select c.day, sum(c.free_usd) as free, sum(c.total_usd) as total
    from public.daily_costs c group by c.day order by c.day desc limit 1
  ) counted
  cross join lateral (
    select coalesce(sum(u.cost_usd) filter (where u.tier = 'free'), 0) as free, coalesce(sum(u.cost_usd), 0) as total
    from public.usage_logs u where u.query_date = counted.day and not u.used_byo_key
  ) spent
  where counted.free < spent.free or counted.total < spent.total
  union all
  select 'I4', c.user_id, 'message_count of ' || c.id, count(m.id)::text, c.message_count::text
  from public.conversations c left join public.messages m on m.conversation_id = c.id
  group by c.id having count(m.id) <> c.message_count
  union all
  select 'I4', c.user_id, 'total_tokens of ' || c.id, coalesce(t.tokens, 0)::text, c.total_tokens::text
  from public.conversations c left join private.conversation_tokens t on t.conversation_id = c.id
  where c.total_tokens <> coalesce(t.tokens, 0)
  union all
  select 'I5', h.user_id, h.id::text, 'ended by ' || h.expires_at, 'held'
  from public.query_holds h where h.expires_at < private.clock() - interval '1 hour'
  union all
  select 'I5', h.user_id, h.id::text, 'held or ended', 'held and ended'
  from public.query_holds h join public.usage_logs u on u.id = h.id
  union all
  select 'I5', w.user_id, w.id::text, 'a charged query whose turn is not stored',
         concat_ws(' ', u.outcome, u.message_id)
  from public.pending_turns w left join public.usage_logs u on u.id = w.id
  where u.is_charged is not true or u.message_id is not null
  union all
  select 'overdue', w.user_id, 'turn of ' || w.id, 'stored', 'pending since ' || w.created_at
  from public.pending_turns w where w.created_at < private.clock() - interval '1 hour'
  union all
  select 'I5', u.user_id, u.id::text, 'charged as its funding and outcome say',
         concat_ws(' ', u.funding, u.outcome, u.overage_charge)
  from public.usage_logs u
  where u.used_byo_key <> (u.funding = 'byok')
     or u.counted_against_quota <> (u.funding = 'included' and u.is_charged)
     or u.was_overage <> (u.funding = 'overage' and u.is_charged)
     or u.was_overage <> (u.overage_charge > 0)
     or u.is_charged <> private.is_charged(u.outcome)
     or u.tokens_total <> u.tokens_input + u.tokens_output
  union all
  select 'I5', u.user_id, u.id::text, 'reversed if usage_reversals has its entry',
         concat_ws(' ', u.funding, u.overage_charge, u.reversed_at, r.funding, r.overage_charge)
  from public.usage_logs u left join public.usage_reversals r on r.query_id = u.id
  where (u.reversed_at is null) <> (r.id is null) or r.id is not null and (
    not u.is_charged or (u.user_id, u.funding, u.overage_charge) <> (r.user_id, r.funding, r.overage_charge))
  union all
  select 'I5', c.user_id, m.id::text, (m.tokens_input + m.tokens_output)::text, m.tokens_total::text
  from public.messages m join public.conversations c on c.id = m.conversation_id
  where m.tokens_total <> m.tokens_input + m.tokens_output
  union all
  select 'I4', s.user_id, 'uses_byo_key', (not s.uses_byo_key)::text, s.uses_byo_key::text
  from public.user_subscriptions s
  where s.uses_byo_key <> exists (select from public.user_api_keys k where k.user_id = s.user_id and k.is_active)
  union all
  -- The decision that admission reuses must be the one that it would make.
  select 'I4', s.user_id, 'included_until', 'decided: ' || coalesce(d.funding, d.reason), s.included_until::text
  from public.user_subscriptions s
  join public.plans p on p.tier = s.tier
  join private.funding_state d on d.user_id = s.user_id
  where s.included_until > d.now and s.quota_used < coalesce(s.daily_quota, p.daily_quota)
    and p.lifetime_quota is null and d.included_until is null
  union all
  select 'I6', u.user_id, u.request_id, '1', count(*)::text
  from public.usage_logs u where u.is_charged
  group by u.user_id, u.request_id, u.chat_key having count(*) > 1
  union all
  select 'I6', h.user_id, h.request_id, 'charged or held', 'charged and held'
  from public.query_holds h
  join public.usage_logs u on u.user_id = h.user_id and u.request_id = h.request_id
                          and u.chat_key is not distinct from h.chat_key
                          and u.is_charged
  union all
  select 'I7', i.user_id, i.id::text, concat_ws(' ', i.queries, 'queries,', i.amount_usd),
         concat_ws(' ', count(u.id), 'queries,', coalesce(sum(u.overage_charge), 0))
  from public.overage_invoice_items i
  left join public.usage_logs u on u.invoice_item_id = i.id and u.user_id = i.user_id and u.was_overage
                               and u.period_start = i.period_start and u.overage_charge = i.unit_price_usd
  where i.queries > 0
  group by i.id having count(u.id) <> i.queries
  union all
  select 'I7', i.user_id, i.id::text, 'gives back one query of ' || i.unit_price_usd,
         coalesce(r.overage_charge::text, 'reverses nothing')
  from public.overage_invoice_items i left join public.usage_reversals r on r.invoice_item_id = i.id
  where i.queries < 0 and (i.queries, i.user_id, i.unit_price_usd) is distinct from (-1, r.user_id, r.overage_charge)
  union all
  -- What is left of an item after its queries were given back is rounded as if they had never been on it.
  select 'I7', i.user_id, i.id::text,
         'gives back ' || i.amount_cents - floor((i.queries - count(*)) * i.unit_price_usd * 100) || ' cents',
         concat(sum(g.gives_back_cents))
  from public.usage_reversals r
  join public.usage_logs u on u.id = r.query_id
  join public.overage_invoice_items i on i.id = u.invoice_item_id
  left join public.overage_invoice_items g on g.id = r.invoice_item_id
  group by i.id
  having count(g.id) <> count(*)
      or sum(g.gives_back_cents) <> i.amount_cents - floor((i.queries - count(*)) * i.unit_price_usd * 100)
  union all
  select 'I7', u.user_id, u.id::text, 'billed on an item of its own user, period and price', i.id::text
  from public.usage_logs u
  join public.overage_invoice_items i on i.id = u.invoice_item_id
  where not u.was_overage or u.user_id <> i.user_id or u.period_start <> i.period_start
     or u.overage_charge <> i.unit_price_usd
  union all
  -- 62 days: the longest period, and a month in which bill-overages should have billed it.
  select 'overdue', u.user_id, 'period of ' || u.period_start, 'billed',
         count(*) || ' queries not billed, ' || sum(u.overage_charge)
  from public.usage_logs u
  where u.was_overage and u.invoice_item_id is null and u.reversed_at is null
    and u.query_timestamp < private.clock() - interval '62 days'
  group by u.user_id, u.period_start
  union all
  select 'overdue', i.user_id, i.id::text, 'at Stripe', 'not there after ' || i.attempts || ' attempts'
  from public.overage_invoice_items i
  where i.stripe_invoice_item_id is null and i.created_at < private.clock() - interval '3 days'
  union all
  select 'overdue', null, e.event_id, 'processed',
         concat_ws(' ', e.type, 'failed', e.attempts, 'times:', e.last_error)
  from public.stripe_events e
  where e.processed_at is null and e.created_at < private.clock() - interval '3 days'
$$;
comment on function public.reconcile() is
  'Violations of the invariants of metering, and work that is overdue (bills, events): the invariant, the user, the '
  'subject, the expected value from the ledger, and the value found. No rows: everything is consistent.';
revoke all on function public.reconcile() from public, anon, authenticated, service_role;
grant execute on function public.reconcile() to service_role;


create or replace function public.repair_counters(p_user_id uuid) returns integer
language plpgsql volatile security definer set search_path = ''
as $$
declare
  v_repaired integer := 0;
  v_rows integer;
begin
  -- Lock
  perform pg_advisory_xact_lock(uuid_hash_extended(p_user_id, 0));
  -- In the order of settlement: the user, then conversations, then the subscription.
  perform from auth.users where id = p_user_id for key share;

  -- Write
  with counted as (
    select c.id, (select count(*) from public.messages m where m.conversation_id = c.id) as messages,
           coalesce((select t.tokens from private.conversation_tokens t where t.conversation_id = c.id), 0) as tokens
    from public.conversations c where c.user_id = p_user_id
    order by c.id
    for update
  )
  update public.conversations c set message_count = n.messages, total_tokens = n.tokens from counted n
  where c.id = n.id and (c.message_count, c.total_tokens) <> (n.messages, n.tokens);
  get diagnostics v_repaired = row_count;

  -- A query moves from query_holds to usage_logs in one transaction, so one statement counts it exactly once.
  with taken as (
    select u.funding, u.tier, u.query_date, u.period_start, u.overage_charge, i.settled_as
    from public.usage_logs u left join public.overage_invoice_items i on i.id = u.invoice_item_id
    where u.user_id = p_user_id and u.is_charged and u.reversed_at is null
    union all
    select h.funding, h.tier, h.query_date, h.period_start, h.overage_charge, null
    from public.query_holds h where h.user_id = p_user_id
  ), counted as (
    select
      count(*) filter (where t.funding = 'included' and p.lifetime_quota is null and t.query_date = s.quota_date)
        as today,
      count(*) filter (where t.funding = 'included' and p.lifetime_quota is not null) as ever,
      coalesce(sum(t.overage_charge) filter (
        where t.funding = 'overage' and t.period_start = s.overage_period_start), 0) as overage,
      coalesce(sum(t.overage_charge) filter (
        where t.funding = 'overage' and coalesce(t.settled_as, 'returned') = 'returned'), 0)
        + coalesce((select a.owed from private.overage_owed_again a where a.user_id = p_user_id), 0) as unpaid,
      coalesce(sum(t.overage_charge) filter (where t.funding = 'overage' and t.settled_as = 'paid'), 0) as paid,
      (select coalesce(sum(u.cost_usd), 0) from public.usage_logs u
       where u.user_id = p_user_id and u.query_date = s.quota_date and not u.is_charged and not u.used_byo_key)
        as failed_cost,
      exists (select from public.user_api_keys k where k.user_id = p_user_id and k.is_active) as own_key,
      exists (select from private.funding_state d where d.user_id = p_user_id and d.included_until is not null)
        as is_included
    from public.user_subscriptions s
    left join taken t on true
    left join public.plans p on p.tier = t.tier
    where s.user_id = p_user_id
    group by s.id
  )
  update public.user_subscriptions s set
    quota_used = c.today, lifetime_used = c.ever, failed_cost_usd = c.failed_cost, current_overage_amount = c.overage,
    unpaid_overage_usd = c.unpaid, paid_overage_usd = c.paid, uses_byo_key = c.own_key,
    included_until = case when c.is_included then s.included_until end
  from counted c
  where s.user_id = p_user_id
    and (s.failed_cost_usd, s.quota_used, s.lifetime_used, s.current_overage_amount, s.unpaid_overage_usd,
         s.paid_overage_usd, s.uses_byo_key, s.included_until)
        is distinct from (c.failed_cost, c.today, c.ever, c.overage, c.unpaid, c.paid, c.own_key,
                          case when c.is_included then s.included_until end);
  get diagnostics v_rows = row_count;
  return v_repaired + v_rows;
end
$$;
comment on function public.repair_counters(uuid) is
  'Sets the counters of a user to the values of the ledger, holds, keys and messages, and clears a wrong '
  'included_until. Returns how many rows changed. Changes no charge, credit or bill.';
revoke all on function public.repair_counters(uuid) from public, anon, authenticated, service_role;
grant execute on function public.repair_counters(uuid) to service_role;


create or replace function public.reconcile_operators()
returns table (invariant text, user_id uuid, subject text, expected text, found text)
language sql stable security definer set search_path = '' set statement_timeout = '30s'
as $$
  with latest as (
    select distinct on (a.subject_user_id, a.kind) a.subject_user_id as user_id, a.kind, a.action, a.after
    from (
      select o.subject_user_id, o.created_at, o.id, o.action, o.after,
             case when o.action = 'limit' then 'limit' else 'block' end as kind
      from public.operator_actions o
      where o.subject_user_id is not null and o.action in ('limit', 'block', 'unblock')) a
    order by a.subject_user_id, a.kind, a.created_at desc, a.id desc
  )
  select 'operator', s.user_id, 'block', coalesce(l.action, 'none'), case when s.blocked_at is null then 'not blocked'
                                                                          else 'blocked since ' || s.blocked_at end
  from public.user_subscriptions s left join latest l on l.user_id = s.user_id and l.kind = 'block'
  where (s.blocked_at is not null) <> (l.action is not distinct from 'block')
  union all
  -- Not overage_limit, which the user may change within bounds.
  select 'operator', s.user_id, 'limits', coalesce(recorded.limits, 'none'), set_now.limits
  from public.user_subscriptions s
  left join latest l on l.user_id = s.user_id and l.kind = 'limit'
  cross join lateral (select concat_ws(', ', s.daily_quota || ' a day', s.lifetime_quota || ' ever',
                                       '$' || s.overage_ceiling || ' at most') as limits) set_now
  cross join lateral (select concat_ws(', ', (l.after ->> 'daily_quota') || ' a day',
                                       (l.after ->> 'lifetime_quota') || ' ever',
                                       '$' || (l.after ->> 'overage_ceiling_usd') || ' at most') as limits) recorded
  where set_now.limits <> recorded.limits
  union all
  -- At most the ceiling, without one twice what was paid or the default of a plan, or what an operator set.
  select 'operator', s.user_id, 'overage limit', '<= ' || bound.allowed, s.overage_limit::text
  from public.user_subscriptions s
  left join latest l on l.user_id = s.user_id and l.kind = 'limit'
  cross join (select max(p.overage_limit_usd) as default_limit from public.plans p) d
  cross join lateral (select greatest(
    coalesce(s.overage_ceiling, greatest(d.default_limit, 2 * s.paid_overage_usd)),
    (l.after ->> 'overage_limit_usd')::numeric) as allowed) bound
  where s.overage_limit > bound.allowed
  union all
  select 'operator', a.subject_user_id, 'grant ' || a.id,
         (a.after ->> 'credits') || ' credits until ' || coalesce(a.after ->> 'expires_at', 'ever'),
         coalesce(concat_ws(' ', c.credits_purchased, 'credits of ' || c.user_id, 'until',
                            coalesce(c.expires_at::text, 'ever')), 'no pack')
  from public.operator_actions a left join public.credit_packs c on c.id = a.id
  where a.action = 'grant' and a.subject_user_id is not null
    and (c.user_id, c.credits_purchased, c.expires_at)
        is distinct from (a.subject_user_id, (a.after ->> 'credits')::integer, (a.after ->> 'expires_at')::timestamptz)
  union all
  select 'operator', coalesce(a.subject_user_id, r.user_id), 'credit back ' || coalesce(a.id, r.id),
         coalesce('reversed: ' || a.subject, 'an action'), coalesce('reversed: ' || r.query_id, 'no reversal')
  from (select * from public.operator_actions o where o.action = 'credit back' and o.subject_user_id is not null) a
  full join public.usage_reversals r on r.id = a.id
  where r.query_id::text is distinct from a.subject
$$;
comment on function public.reconcile_operators() is
  'Differences between what operators changed and operator_actions: blocks, limits, granted packs and credits back, '
  'each without its record, or recorded and not there, and overage limits beyond what a user may set. Columns as '
  'reconcile.';
revoke all on function public.reconcile_operators() from public, anon, authenticated, service_role;
grant execute on function public.reconcile_operators() to service_role;


create or replace function public.subscribers(
  p_after uuid default null, p_limit integer default 1000, p_user_id uuid default null)
returns table (
  user_id uuid, stripe_customer_id text, stripe_sequence bigint, stripe_subscription_id text, tier text,
  next_tier text, status text, period_start timestamptz, period_end timestamptz, canceled_at timestamptz,
  past_due_since timestamptz, paid_until timestamptz, open_invoice_url text, unsubscribed_tier text)
language sql stable security definer set search_path = ''
as $$
  select s.user_id, s.stripe_customer_id, s.stripe_sequence, s.stripe_subscription_id, s.tier, s.next_tier, s.status,
         s.current_period_start, s.current_period_end, s.canceled_at, s.past_due_since, s.paid_until,
         s.open_invoice_url,
         -- expire-credits ends pay as you go within a day after the pack has expired.
         private.unsubscribed_tier(
           s.user_id, private.clock() - case when s.tier = 'usage_only' then interval '2 days' else interval '0' end)
  from public.user_subscriptions s
  -- Bounds of the index: a page does not read the pages before it.
  where s.user_id >= coalesce(p_after, p_user_id, '00000000-0000-0000-0000-000000000000')
    and s.user_id <= coalesce(p_user_id, 'ffffffff-ffff-ffff-ffff-ffffffffffff') and s.user_id is distinct from p_after
    and (s.stripe_customer_id is not null or s.stripe_subscription_id is not null or s.tier <> 'free')
  order by s.user_id limit least(p_limit, 1000)
$$;
comment on function public.subscribers(uuid, integer, uuid) is
  'Users with a Stripe customer or another plan than free, to compare with Stripe, ordered by id, after p_after, at '
  'most 1,000. unsubscribed_tier: the plan that they have without a subscription. p_user_id: only that user.';
revoke all on function public.subscribers(uuid, integer, uuid) from public, anon, authenticated, service_role;
grant execute on function public.subscribers(uuid, integer, uuid) to service_role;


create or replace view private.stripe_packs with (security_invoker = true) as
select
  c.id, c.created_at, c.user_id, c.stripe_checkout_session_id as session_id, c.stripe_payment_intent_id as payment_id,
  c.credits_purchased as credits, c.credits_remaining as credits_left,
  c.price_paid::numeric as price_paid_usd, c.credits_to_revoke as to_revoke,
  c.is_frozen,
  exists (select from public.operator_actions a where a.id = c.id and a.action = 'grant') as is_recorded, c.expires_at
from public.credit_packs c;
comment on view private.stripe_packs is 'Credit packs with what is compared with their payments at Stripe.';
comment on column private.stripe_packs.id is 'The pack.';
comment on column private.stripe_packs.created_at is 'When it was paid.';
comment on column private.stripe_packs.user_id is 'The owner.';
comment on column private.stripe_packs.session_id is 'The checkout session. Null: the pack was not bought.';
comment on column private.stripe_packs.payment_id is 'The payment intent.';
comment on column private.stripe_packs.credits is 'The credits bought.';
comment on column private.stripe_packs.credits_left is 'The credits left.';
comment on column private.stripe_packs.price_paid_usd is 'The price, dollars.';
comment on column private.stripe_packs.to_revoke is 'Credits that refunds and a lost dispute are worth.';
comment on column private.stripe_packs.is_frozen is 'Whether a dispute is open.';
comment on column private.stripe_packs.is_recorded is 'Whether an operator granted it, with a record.';
comment on column private.stripe_packs.expires_at is 'When the credits left expire. Null: never.';
revoke all on private.stripe_packs from public, anon, authenticated, service_role;


create or replace function public.packs_to_compare(
  p_since timestamptz, p_after uuid default null, p_limit integer default 1000)
returns table (
  id uuid, created_at timestamptz, user_id uuid, session_id text, payment_id text, credits integer,
  price_paid_usd text, to_revoke integer, is_frozen boolean, is_recorded boolean, expires_at timestamptz)
language sql stable security definer set search_path = ''
as $$
  -- `greatest`: the time of a row that was written by hand may be -infinity.
  select s.id, greatest(s.created_at, '2000-01-01Z'), s.user_id, s.session_id, s.payment_id, s.credits,
         s.price_paid_usd::text, s.to_revoke, s.is_frozen, s.is_recorded, s.expires_at
  from private.stripe_packs s
  where (s.created_at >= p_since or s.credits_left > 0)
    and s.id > coalesce(p_after, '00000000-0000-0000-0000-000000000000')
  order by s.id limit least(p_limit, 1000)
$$;
comment on function public.packs_to_compare(timestamptz, uuid, integer) is
  'Credit packs since a time, and older ones with credits left, ordered by id, after p_after, at most 1,000, to '
  'compare with Stripe.';
revoke all on function public.packs_to_compare(timestamptz, uuid, integer)
  from public, anon, authenticated, service_role;
grant execute on function public.packs_to_compare(timestamptz, uuid, integer) to service_role;


create or replace function public.sold_packs(p_sessions text[] default '{}', p_payments text[] default '{}')
returns table (
  id uuid, created_at timestamptz, user_id uuid, session_id text, payment_id text, credits integer,
  price_paid_usd text, to_revoke integer, is_frozen boolean, is_recorded boolean, expires_at timestamptz)
language sql stable security definer set search_path = ''
as $$
  select s.id, greatest(s.created_at, '2000-01-01Z'), s.user_id, s.session_id, s.payment_id, s.credits,
         s.price_paid_usd::text, s.to_revoke, s.is_frozen, s.is_recorded, s.expires_at
  from private.stripe_packs s
  where s.session_id = any (p_sessions[1:1000]) or s.payment_id = any (p_payments[1:1000])
$$;
comment on function public.sold_packs(text[], text[]) is
  'The credit packs of checkout sessions and payment intents, at most 1,000 of each, to compare with Stripe.';
revoke all on function public.sold_packs(text[], text[]) from public, anon, authenticated, service_role;
grant execute on function public.sold_packs(text[], text[]) to service_role;


-- ==== sql/schemas/73_reports.sql

-- Reports for operators: what we billed and sold, to compare with Stripe, and the margin of a month.

create or replace function public.billed_items(
  p_since timestamptz, p_after uuid default null, p_limit integer default 1000)
returns table (
  id uuid, created_at timestamptz, user_id uuid, amount_cents integer, stripe_invoice_item_id text,
  stripe_invoice_id text, settled_as text)
language sql stable security definer set search_path = ''
as $$
  select i.* from (
    select o.id, o.created_at, o.user_id, o.amount_cents, o.stripe_invoice_item_id, o.stripe_invoice_id, o.settled_as
    from public.overage_invoice_items o where o.created_at >= p_since and (p_after is null or o.id > p_after)
    union all
    select r.id, r.created_at, null::uuid, r.amount_cents, r.stripe_invoice_item_id, r.stripe_invoice_id, null
    from public.retained_invoice_items r where r.created_at >= p_since and (p_after is null or r.id > p_after)
  ) i
  order by i.id limit least(p_limit, 1000)
$$;
comment on function public.billed_items(timestamptz, uuid, integer) is
  'Billed overage items since a time, ordered by id, after p_after, at most 1,000, to compare with Stripe. user_id '
  'null: the user was deleted.';
revoke all on function public.billed_items(timestamptz, uuid, integer) from public, anon, authenticated, service_role;
grant execute on function public.billed_items(timestamptz, uuid, integer) to service_role;


create or replace function public.price_currency() returns jsonb
language sql stable security definer set search_path = ''
as $$
  select jsonb_build_object('currency', s.currency, 'usd_per_unit', s.usd_per_unit::text) from public.settings s
$$;
comment on function public.price_currency() is
  'The currency of all prices, and US dollars for one unit of it: {currency, usd_per_unit}.';
revoke all on function public.price_currency() from public, anon, authenticated, service_role;
grant execute on function public.price_currency() to service_role;


create or replace function public.margin_report(p_month date)
returns table (
  tier text, provider text, model text, queries bigint, overage_usd text, credits_usd text, cost_usd text,
  written_off_usd text)
language sql stable security definer set search_path = '' set statement_timeout = '120s'
as $$
  with spent as (
    select u.tier, u.provider, u.model, count(*) as queries,
           coalesce(sum(u.overage_charge) filter (where u.reversed_at is null), 0) as overage,
           coalesce(sum(c.price_per_credit) filter (where u.is_charged and u.reversed_at is null), 0) as credits,
           coalesce(sum(u.cost_usd) filter (where not u.used_byo_key), 0) as cost, 0 as written_off
    from public.usage_logs u
    left join public.credit_packs c on c.id = u.credit_pack_id
    where u.query_date >= date_trunc('month', p_month)::date
      and u.query_date < (date_trunc('month', p_month) + interval '1 month')::date
    group by 1, 2, 3
    union all
    select r.tier, r.provider, r.model, r.queries, r.overage_usd, r.credits_usd,
           case when r.funding = 'byok' then 0 else r.cost_usd end, r.written_off_usd
    from public.retained_usage r where r.month = date_trunc('month', p_month)::date
  )
  select s.tier, s.provider, s.model, sum(s.queries)::bigint, sum(s.overage)::numeric(20,6)::text,
         sum(s.credits)::numeric(20,6)::text, sum(s.cost)::numeric(20,6)::text,
         sum(s.written_off)::numeric(20,6)::text
  from spent s group by 1, 2, 3 order by 1, 2, 3
$$;
comment on function public.margin_report(date) is
  'A UTC month by tier, provider and model: queries, overage charges, spent credits, and our cost at the providers '
  '(zero for own keys), as text, without charges that were given back. Overage and credits are in the currency of '
  'the prices, cost in US dollars. Plan fees are only at Stripe.';
revoke all on function public.margin_report(date) from public, anon, authenticated, service_role;
grant execute on function public.margin_report(date) to service_role;


create or replace function public.note_job_run(p_job text) returns void
language plpgsql volatile security definer set search_path = ''
as $$
begin
  insert into public.job_runs (job, finished_at) values (p_job, private.clock())
  on conflict (job) do update set finished_at = greatest(job_runs.finished_at, excluded.finished_at);
end
$$;
comment on function public.note_job_run(text) is 'Records that a scheduled job ended without an error.';
revoke all on function public.note_job_run(text) from public, anon, authenticated, service_role;
grant execute on function public.note_job_run(text) to service_role;


create or replace function public.service_state(p_jobs text[]) returns jsonb
language plpgsql volatile security definer set search_path = ''
as $$
declare
  v_at constant timestamptz := private.clock();
begin
  -- A job that has never run counts from the first question about it.
  insert into public.job_runs (job, finished_at) select job, v_at from unnest(p_jobs) job
  on conflict (job) do nothing;

  return (
    select jsonb_build_object(
      'job_ages', (
        select coalesce(jsonb_object_agg(r.job, floor(extract(epoch from v_at - r.finished_at))::integer), '{}')
        from public.job_runs r where r.job = any (p_jobs)),
      'turns_pending', (
        select count(*) from public.pending_turns w where w.created_at < v_at - interval '15 minutes'),
      'holds_overdue', (
        select count(*) from public.query_holds h where h.expires_at < v_at - interval '5 minutes'),
      'free_budget_percent', floor(100 * spent.free / nullif(s.free_daily_budget_usd, 0))::integer,
      'platform_budget_percent', floor(100 * spent.total / nullif(s.platform_daily_budget_usd, 0))::integer)
    from public.settings s
    cross join (
      select coalesce(sum(c.free_usd), 0) as free, coalesce(sum(c.total_usd), 0) as total
      from public.daily_costs c where c.day = (v_at at time zone 'UTC')::date) spent);
end
$$;
comment on function public.service_state(text[]) is
  'What an operator is alarmed about: {job_ages, turns_pending, holds_overdue, free_budget_percent, '
  'platform_budget_percent}. job_ages: seconds since each of the jobs succeeded. turns_pending: charged turns that are '
  'not stored after fifteen minutes. holds_overdue: holds five minutes past their expiry. The percentages are of the '
  'day''s budgets, null without a budget.';
revoke all on function public.service_state(text[]) from public, anon, authenticated, service_role;
grant execute on function public.service_state(text[]) to service_role;


-- ==== sql/schemas/74_leaving.sql

-- Export and deletion of all data of a user.

create or replace function public.begin_export(p_user_id uuid) returns boolean
language plpgsql volatile security definer set search_path = ''
as $$
declare
  v_at constant timestamptz := private.clock();
begin
  -- An export takes seconds of a process that other users wait for.
  update public.user_subscriptions s set exported_at = v_at
  where s.user_id = p_user_id and (s.exported_at <= v_at - interval '1 minute' or s.exported_at is null);
  if found then
    return true;
  elsif not exists (select from public.user_subscriptions s where s.user_id = p_user_id) then
    raise exception using errcode = 'NOUSR', message = 'The account has ended.';
  end if;
  return false;
end
$$;
comment on function public.begin_export(uuid) is
  'Whether the user may download their data now: once a minute. NOUSR: the account has ended.';
revoke all on function public.begin_export(uuid) from public, anon, authenticated, service_role;
grant execute on function public.begin_export(uuid) to service_role;


create or replace function public.export_user(
  p_user_id uuid, p_part text, p_after uuid default null, p_limit integer default 1000)
returns table (id uuid, record text)
language plpgsql stable security definer set search_path = ''
as $$
declare
  v_limit constant integer := least(p_limit, 1000);
begin
  -- Text, so that no JSON parser turns amounts into floats. Columns keep the order of their table.
  case p_part
    when 'account' then
      -- An allow-list, because auth.users also has password hashes and tokens.
      return query select u.id, (
        select json_object_agg(a.key, a.value)::text from jsonb_each(to_jsonb(u)) a
        where a.key in ('id', 'email', 'phone', 'created_at', 'updated_at', 'last_sign_in_at', 'email_confirmed_at',
                        'raw_user_meta_data'))
      from auth.users u where u.id = p_user_id and p_after is null;
    when 'subscription' then
      return query select s.id, row_to_json(s)::text from public.user_subscriptions s
      where s.user_id = p_user_id and p_after is null;
    when 'keys' then
      -- Without the ciphertext, which only this service can decrypt.
      return query select k.id, row_to_json(k)::text from (
        select a.id, a.created_at, a.updated_at, a.provider, a.hint, a.is_active, a.last_validated_at,
               a.validation_error
        from public.user_api_keys a where a.user_id = p_user_id and p_after is null) k order by k.id;
    when 'packs' then
      return query select c.id, row_to_json(c)::text from public.credit_packs c
      where c.user_id = p_user_id and (p_after is null or c.id > p_after) order by c.id limit v_limit;
    when 'bills' then
      return query select i.id, row_to_json(i)::text from public.overage_invoice_items i
      where i.user_id = p_user_id and (p_after is null or i.id > p_after) order by i.id limit v_limit;
    when 'conversations' then
      return query select t.id, row_to_json(t)::text from (
        select c.*, (select json_agg(row_to_json(m) order by m.position) from public.messages m
                     where m.conversation_id = c.id) as messages
        from public.conversations c
        where c.user_id = p_user_id and (p_after is null or c.id > p_after) order by c.id limit v_limit) t
      order by t.id;
    when 'usage' then
      return query select u.id, row_to_json(u)::text from public.usage_logs u
      where u.user_id = p_user_id and (p_after is null or u.id > p_after) order by u.id limit v_limit;
    when 'reversals' then
      return query select r.id, row_to_json(r)::text from public.usage_reversals r
      where r.user_id = p_user_id and (p_after is null or r.id > p_after) order by r.id limit v_limit;
    when 'operator_actions' then
      -- Without the operator, who is another person.
      return query select a.id, row_to_json(a)::text from (
        select o.id, o.created_at, o.action, o.reason, o.subject, o.before, o.after
        from public.operator_actions o
        where o.subject_user_id = p_user_id and (p_after is null or o.id > p_after) order by o.id limit v_limit) a
      order by a.id;
    when 'running' then
      return query select h.id, row_to_json(h)::text from public.query_holds h
      where h.user_id = p_user_id and (p_after is null or h.id > p_after) order by h.id limit v_limit;
    when 'pending' then
      return query select w.id, row_to_json(w)::text from public.pending_turns w
      where w.user_id = p_user_id and (p_after is null or w.id > p_after) order by w.id limit v_limit;
    when 'feedback' then
      return query select f.id, row_to_json(f)::text from public.message_feedback f
      where f.user_id = p_user_id and (p_after is null or f.id > p_after) order by f.id limit v_limit;
    when 'shared' then
      return query select s.id, row_to_json(s)::text from public.shared_conversations s
      where s.user_id = p_user_id and (p_after is null or s.id > p_after) order by s.id limit v_limit;
    when 'refusals' then
      return query select r.id, row_to_json(r)::text from public.query_refusals r
      where r.user_id = p_user_id and (p_after is null or r.id > p_after) order by r.id limit v_limit;
    else
      raise invalid_parameter_value using message = format('There is no export part %L.', p_part);
  end case;
end
$$;
comment on function public.export_user(uuid, text, uuid, integer) is
  'One part of the data of a user: account, subscription, keys, packs, bills, conversations with their messages, '
  'pending, usage, reversals, operator_actions, running, feedback, shared or refusals. JSON objects ordered by id, '
  'after p_after, at most 1,000 rows. Without ciphertexts and passwords.';
revoke all on function public.export_user(uuid, text, uuid, integer) from public, anon, authenticated, service_role;
grant execute on function public.export_user(uuid, text, uuid, integer) to service_role;


create or replace function private.retain_ledger() returns trigger
language plpgsql volatile security definer set search_path = ''
as $$
begin
  -- Ordered, so that two concurrent deletions lock the same rows in the same order.
  insert into public.retained_usage as r (
    month, tier, provider, model, funding, outcome, queries, tokens_input, tokens_output, cost_usd, overage_usd,
    credits_usd, written_off_usd)
  select date_trunc('month', u.query_date)::date, u.tier, u.provider, u.model, u.funding, u.outcome, count(*),
         sum(u.tokens_input), sum(u.tokens_output), sum(u.cost_usd),
         coalesce(sum(u.overage_charge) filter (where u.reversed_at is null), 0),
         coalesce(sum(c.price_per_credit) filter (where u.is_charged and u.reversed_at is null), 0),
         coalesce(sum(u.overage_charge) filter (where i.stripe_invoice_item_id is null and u.reversed_at is null), 0)
  from public.usage_logs u
  left join public.credit_packs c on c.id = u.credit_pack_id
  left join public.overage_invoice_items i on i.id = u.invoice_item_id
  where u.user_id = old.id
  group by 1, 2, 3, 4, 5, 6
  order by 1, 2, 3, 4, 5, 6
  on conflict (month, tier, provider, model, funding, outcome) do update set
    queries = r.queries + excluded.queries, tokens_input = r.tokens_input + excluded.tokens_input,
    tokens_output = r.tokens_output + excluded.tokens_output, cost_usd = r.cost_usd + excluded.cost_usd,
    overage_usd = r.overage_usd + excluded.overage_usd, credits_usd = r.credits_usd + excluded.credits_usd,
    written_off_usd = r.written_off_usd + excluded.written_off_usd;
  insert into public.retained_invoice_items (
    id, created_at, period_start, queries, unit_price_usd, amount_usd, amount_cents, stripe_invoice_item_id,
    stripe_invoice_id)
  select i.id, i.created_at, i.period_start, i.queries, i.unit_price_usd, i.amount_usd, i.amount_cents,
         i.stripe_invoice_item_id, i.stripe_invoice_id
  from public.overage_invoice_items i where i.user_id = old.id and i.stripe_invoice_item_id is not null
  on conflict (id) do nothing;
  insert into public.blocked_addresses (address_hash, blocked_at)
  select private.address_hash(old.email), s.blocked_at
  from public.user_subscriptions s
  where s.user_id = old.id and s.blocked_at is not null and old.email is not null
  on conflict (address_hash) do nothing;
  return old;
end
$$;
comment on function private.retain_ledger() is
  'Trigger on auth.users: before a user is deleted, stores the sums of their ledger and their invoice items for '
  'accounting, without the user. Runs as its owner, because Auth may not write to public.';
revoke all on function private.retain_ledger() from public, anon, authenticated, service_role;

create or replace trigger retain_ledger before delete on auth.users
  for each row execute function private.retain_ledger();


create or replace function private.forget_deletion() returns trigger
language plpgsql volatile security definer set search_path = ''
as $$
begin
  -- Auth logs the deletion, with the e-mail address, before it deletes the user. delete_auth_log removes older entries.
  delete from auth.audit_log_entries l
  where l.created_at > now() - interval '1 hour'
    and old.id::text in (l.payload ->> 'actor_id', l.payload -> 'traits' ->> 'user_id');
  return null;
end
$$;
comment on function private.forget_deletion() is
  'Trigger on auth.users: deletes what Auth logged about a deleted user in the last hour, the deletion included. Runs '
  'as its owner, in the transaction that deletes the user.';
revoke all on function private.forget_deletion() from public, anon, authenticated, service_role;

create or replace trigger forget_deletion after delete on auth.users
  for each row execute function private.forget_deletion();


create or replace function public.delete_history(p_user_id uuid) returns integer
language plpgsql volatile security definer set search_path = ''
as $$
declare
  v_ids uuid[];
begin
  -- Lock
  perform from auth.users where id = p_user_id for key share;

  -- Decide
  with oldest as (
    select c.id, c.message_count from public.conversations c where c.user_id = p_user_id
    order by c.id limit 100 for update
  ), counted as (
    select o.id, row_number() over by_id as place, sum(o.message_count) over by_id as messages
    from oldest o window by_id as (order by o.id)
  )
  select array_agg(c.id) into v_ids from counted c where c.place = 1 or c.messages <= 250;

  -- Write
  return case when v_ids is null then 0 else private.delete_conversations(v_ids) end;
end
$$;
comment on function public.delete_history(uuid) is
  'Deletes conversations of a user with their messages, about 250 messages per call. Returns how many conversations it '
  'processed. Call until 0.';
revoke all on function public.delete_history(uuid) from public, anon, authenticated, service_role;
grant execute on function public.delete_history(uuid) to service_role;


create or replace function public.check_deletion(p_user_id uuid, p_write_off boolean default false) returns void
language plpgsql stable security definer set search_path = ''
as $$
begin
  if exists (select from public.user_subscriptions s
             where s.user_id = p_user_id and s.stripe_subscription_id is not null) then
    raise exception using errcode = 'OWING', message = 'The user still has a subscription at Stripe.',
      hint = 'subscription_live';
  elsif not p_write_off and exists (
      select from public.usage_logs u left join public.overage_invoice_items i on i.id = u.invoice_item_id
      where u.user_id = p_user_id and u.was_overage and i.stripe_invoice_item_id is null
        and u.reversed_at is null) then
    raise exception using errcode = 'OWING', message = 'The user owes overage that has not been billed.',
      hint = 'overage_owed';
  elsif not p_write_off and exists (
      select from public.overage_invoice_items i where i.user_id = p_user_id and i.settled_as = 'returned') then
    raise exception using errcode = 'OWING', message = 'The user owes overage whose payment was returned.',
      hint = 'overage_owed';
  end if;
end
$$;
comment on function public.check_deletion(uuid, boolean) is
  'Whether a user may be deleted now, through the admin API of Auth: the foreign keys then delete all their rows, and '
  'retain_ledger stores the sums. Without a subscription no query is charged as overage any more. OWING: they still '
  'have a subscription, or p_write_off is false and overage is not billed or its payment was returned.';
revoke all on function public.check_deletion(uuid, boolean) from public, anon, authenticated, service_role;
grant execute on function public.check_deletion(uuid, boolean) to service_role;


create or replace function public.confirm_deletion(p_user_id uuid, p_session_id uuid, p_confirm text) returns boolean
language plpgsql stable security definer set search_path = ''
as $$
declare
  v_name text;
begin
  select coalesce(nullif(u.email, ''), u.id::text) into v_name
  from auth.users u
  where u.id = p_user_id and (p_session_id is null or exists (
    select from auth.sessions t
    where t.id = p_session_id and t.user_id = u.id and (t.not_after <= private.clock()) is not true));
  if not found then
    raise exception using errcode = 'NOUSR', message = 'The account or the session has ended.';
  end if;
  return lower(p_confirm) = lower(v_name);
end
$$;
comment on function public.confirm_deletion(uuid, uuid, text) is
  'Whether p_confirm is the e-mail address of the user, in any case, or the id of a user without one. p_session_id: of '
  'the access token. NOUSR: the account or the session has ended.';
revoke all on function public.confirm_deletion(uuid, uuid, text) from public, anon, authenticated, service_role;
grant execute on function public.confirm_deletion(uuid, uuid, text) to service_role;


create or replace function public.delete_auth_log(p_user_id uuid) returns integer
language plpgsql volatile security definer set search_path = ''
as $$
declare
  v_count integer;
begin
  -- Auth writes a log with e-mail addresses. It has no index for this search.
  delete from auth.audit_log_entries l using (
    select e.id from auth.audit_log_entries e
    where p_user_id::text in (e.payload ->> 'actor_id', e.payload -> 'traits' ->> 'user_id')
    limit 1000 for update skip locked) found
  where l.id = found.id;
  get diagnostics v_count = row_count;
  return v_count;
end
$$;
comment on function public.delete_auth_log(uuid) is
  'Deletes what Supabase Auth logged about a user in the database, at most 1,000 entries. Returns how many. Call until '
  '0.';
revoke all on function public.delete_auth_log(uuid) from public, anon, authenticated, service_role;
grant execute on function public.delete_auth_log(uuid) to service_role;


-- ==== sql/schemas/75_operator.sql

-- What operators change for one user. Each function records its action in operator_actions in the same transaction.
-- p_action is {id, operator, reason}; a repeated id changes nothing and returns the first result, {before, after}.

create or replace function private.operator_columns(p_user_id uuid) returns jsonb
language plpgsql stable set search_path = ''
as $$
declare
  v_columns jsonb;
begin
  select jsonb_build_object(
    'blocked_at', s.blocked_at, 'blocked_reason', s.blocked_reason, 'daily_quota', s.daily_quota,
    'lifetime_quota', s.lifetime_quota, 'overage_limit_usd', s.overage_limit::text,
    'overage_ceiling_usd', s.overage_ceiling::text)
  into v_columns from public.user_subscriptions s where s.user_id = p_user_id;
  if not found then
    raise exception using errcode = 'NTFND', message = 'There is no such user.',
      hint = 'user_not_found';
  end if;
  return v_columns;
end
$$;
comment on function private.operator_columns(uuid) is
  'The columns of a subscription that operators set, for operator_actions. NTFND: no such user.';
revoke all on function private.operator_columns(uuid) from public, anon, authenticated, service_role;


create or replace function public.block_user(p_user_id uuid, p_action jsonb) returns jsonb
language plpgsql volatile security definer set search_path = ''
as $$
declare
  v_done jsonb;
  v_before jsonb;
begin
  -- Lock
  perform pg_advisory_xact_lock(uuid_hash_extended(p_user_id, 0));
  perform from auth.users where id = p_user_id for key share;
  v_done := private.repeated_action(p_action);
  if v_done is not null then
    return v_done;
  end if;
  v_before := private.operator_columns(p_user_id);

  -- Write
  update public.user_subscriptions s set
    blocked_at = coalesce(s.blocked_at, private.clock()), blocked_reason = p_action ->> 'reason'
  where s.user_id = p_user_id;
  -- A locked hold is being ended.
  update public.query_holds h set stop_requested = true
  where h.id in (select r.id from public.query_holds r where r.user_id = p_user_id for no key update skip locked);

  -- Return
  return private.record_action(
    p_action, 'block', p_user_id, null, v_before, private.operator_columns(p_user_id));
end
$$;
comment on function public.block_user(uuid, jsonb) is
  'Blocks a user until unblock_user, whatever their subscription at Stripe is, and stops their running answers. NTFND: '
  'no such user.';
revoke all on function public.block_user(uuid, jsonb) from public, anon, authenticated, service_role;
grant execute on function public.block_user(uuid, jsonb) to service_role;


create or replace function public.unblock_user(p_user_id uuid, p_action jsonb) returns jsonb
language plpgsql volatile security definer set search_path = ''
as $$
declare
  v_done jsonb;
  v_before jsonb;
begin
  -- Lock
  perform pg_advisory_xact_lock(uuid_hash_extended(p_user_id, 0));
  perform from auth.users where id = p_user_id for key share;
  v_done := private.repeated_action(p_action);
  if v_done is not null then
    return v_done;
  end if;
  v_before := private.operator_columns(p_user_id);

  -- Write
  update public.user_subscriptions s set blocked_at = null, blocked_reason = null where s.user_id = p_user_id;
  delete from public.blocked_addresses b
  where b.address_hash = (select private.address_hash(u.email) from auth.users u where u.id = p_user_id);

  -- Return
  return private.record_action(
    p_action, 'unblock', p_user_id, null, v_before, private.operator_columns(p_user_id));
end
$$;
comment on function public.unblock_user(uuid, jsonb) is
  'Ends the block of a user, and of their address after a deletion. NTFND: no such user.';
revoke all on function public.unblock_user(uuid, jsonb) from public, anon, authenticated, service_role;
grant execute on function public.unblock_user(uuid, jsonb) to service_role;


create or replace function public.set_limits(p_user_id uuid, p_limits jsonb, p_action jsonb) returns jsonb
language plpgsql volatile security definer set search_path = ''
as $$
declare
  v_done jsonb;
  v_before jsonb;
begin
  -- Check
  if (p_limits ->> 'daily_quota')::integer not between 0 and 10000
     or (p_limits ->> 'lifetime_quota')::integer not between 0 and 10000
     or (p_limits ->> 'overage_limit_usd')::numeric not between 0 and 10000
     or (p_limits ->> 'overage_ceiling_usd')::numeric not between 0 and 10000 then
    raise invalid_parameter_value using message = 'A limit must be 0 to 10,000.';
  end if;

  -- Lock
  perform pg_advisory_xact_lock(uuid_hash_extended(p_user_id, 0));
  perform from auth.users where id = p_user_id for key share;
  v_done := private.repeated_action(p_action);
  if v_done is not null then
    return v_done;
  end if;
  v_before := private.operator_columns(p_user_id);

  -- Write
  update public.user_subscriptions s set
    daily_quota = case when p_limits ? 'daily_quota' then (p_limits ->> 'daily_quota')::integer
                       else s.daily_quota end,
    lifetime_quota = case when p_limits ? 'lifetime_quota' then (p_limits ->> 'lifetime_quota')::integer
                          else s.lifetime_quota end,
    overage_ceiling = case when p_limits ? 'overage_ceiling_usd' then (p_limits ->> 'overage_ceiling_usd')::numeric
                           else s.overage_ceiling end,
    -- Not bounded by what the user has paid.
    overage_limit = private.bounded_overage_limit(
      case when p_limits ? 'overage_limit_usd' then (p_limits ->> 'overage_limit_usd')::numeric
           else s.overage_limit end,
      case when p_limits ? 'overage_ceiling_usd' then (p_limits ->> 'overage_ceiling_usd')::numeric
           else s.overage_ceiling end,
      'Infinity', s.tier)
  where s.user_id = p_user_id;

  -- Return
  return private.record_action(
    p_action, 'limit', p_user_id, null, v_before, private.operator_columns(p_user_id));
end
$$;
comment on function public.set_limits(uuid, jsonb, jsonb) is
  'Sets limits of one user: {daily_quota, lifetime_quota, overage_limit_usd, overage_ceiling_usd}. Missing fields stay '
  'unchanged; null restores what the plan says. The user may change overage_limit_usd again, up to the ceiling, or '
  'without one up to twice what they have paid in overage. NTFND: no such user.';
revoke all on function public.set_limits(uuid, jsonb, jsonb) from public, anon, authenticated, service_role;
grant execute on function public.set_limits(uuid, jsonb, jsonb) to service_role;


create or replace function public.grant_credits(
  p_user_id uuid, p_credits integer, p_expires_at timestamptz, p_action jsonb)
returns jsonb
language plpgsql volatile security definer set search_path = ''
as $$
declare
  v_done jsonb;
  v_tier text;
  v_tier_after text;
begin
  -- Check
  if p_credits not between 1 and 10000 or p_expires_at <= private.clock() then
    return jsonb_build_object('refused', 'Grant 1 to 10,000 credits that expire in the future or never.');
  end if;

  -- Lock
  perform pg_advisory_xact_lock(uuid_hash_extended(p_user_id, 0));
  perform from auth.users where id = p_user_id for key share;
  v_done := private.repeated_action(p_action);
  if v_done is not null then
    return v_done;
  end if;
  select s.tier into v_tier from public.user_subscriptions s where s.user_id = p_user_id;
  if not found then
    raise exception using errcode = 'NTFND', message = 'There is no such user.',
      hint = 'user_not_found';
  end if;

  -- Write
  insert into public.credit_packs (
    id, created_at, user_id, credits_purchased, credits_remaining, price_paid, expires_at)
  values ((p_action ->> 'id')::uuid, private.clock(), p_user_id, p_credits, p_credits, 0, p_expires_at);
  perform private.set_tier_from_packs(p_user_id);
  select s.tier into v_tier_after from public.user_subscriptions s where s.user_id = p_user_id;

  -- Return
  return private.record_action(
    p_action, 'grant', p_user_id, p_action ->> 'id', jsonb_build_object('tier', v_tier),
    jsonb_build_object('tier', v_tier_after, 'credits', p_credits, 'expires_at', p_expires_at));
end
$$;
comment on function public.grant_credits(uuid, integer, timestamptz, jsonb) is
  'Gives a user a credit pack without a payment. p_expires_at null: it never expires. A free user becomes usage_only, '
  'because free spends no credits. NTFND: no such user.';
revoke all on function public.grant_credits(uuid, integer, timestamptz, jsonb)
  from public, anon, authenticated, service_role;
grant execute on function public.grant_credits(uuid, integer, timestamptz, jsonb) to service_role;


create or replace function public.credit_back(p_query_id uuid, p_action jsonb) returns jsonb
language plpgsql volatile security definer set search_path = ''
as $$
declare
  v_id constant uuid := (p_action ->> 'id')::uuid;
  v_at constant timestamptz := private.clock();
  v_done jsonb;
  v_query public.usage_logs;
  v_hold public.query_holds;
  v_item_id uuid;
  v_cents integer := 0;
  v_is_usable boolean;
  v_settled_as text;
begin
  -- Lock
  select * into v_query from public.usage_logs u where u.id = p_query_id;
  if not found then
    raise exception using errcode = 'NTFND', message = 'There is no ended query with this id.',
      hint = 'query_not_found';
  end if;
  perform pg_advisory_xact_lock(uuid_hash_extended(v_query.user_id, 0));
  perform from auth.users where id = v_query.user_id for key share;
  v_done := private.repeated_action(p_action);
  if v_done is not null then
    return v_done;
  end if;

  -- Decide
  select * into v_query from public.usage_logs u where u.id = p_query_id for no key update;
  if not found or not v_query.is_charged or v_query.used_byo_key then
    return jsonb_build_object('refused', 'Nothing was charged for this query.');
  elsif v_query.reversed_at is not null then
    return jsonb_build_object('refused', 'The charge of this query was given back before.');
  end if;
  select i.settled_as into v_settled_as from public.overage_invoice_items i where i.id = v_query.invoice_item_id;
  if v_settled_as = 'returned' then
    return jsonb_build_object('refused', 'The payment of this query was refunded or disputed at Stripe.');
  elsif v_settled_as = 'void' then
    return jsonb_build_object('refused', 'The invoice of this query was voided, so nothing was paid for it.');
  elsif v_query.invoice_item_id is not null and v_settled_as is null then
    -- If it were voided later, the user would keep what was given back, and would have paid nothing.
    return jsonb_build_object('refused', 'The invoice of this query is not paid yet. Give it back after the payment.');
  end if;

  -- Return the funding
  update public.usage_logs u set reversed_at = v_at where u.id = p_query_id;
  v_hold.user_id := v_query.user_id;
  v_hold.tier := v_query.tier;
  v_hold.funding := v_query.funding;
  v_hold.query_date := v_query.query_date;
  v_hold.period_start := v_query.period_start;
  v_hold.overage_charge := v_query.overage_charge;
  v_hold.credit_pack_id := v_query.credit_pack_id;
  perform private.return_funding(v_hold, 0, v_settled_as is not null);
  if v_settled_as = 'paid' then
    update public.user_subscriptions s set
      paid_overage_usd = s.paid_overage_usd - v_query.overage_charge,
      -- Not a higher limit, which an operator has set.
      overage_limit = case when s.overage_limit = private.bounded_overage_limit(
                             s.overage_limit, s.overage_ceiling, s.paid_overage_usd, s.tier)
                           then private.bounded_overage_limit(
                             s.overage_limit, s.overage_ceiling, s.paid_overage_usd - v_query.overage_charge, s.tier)
                           else s.overage_limit end
    where s.user_id = v_query.user_id;
  end if;

  -- Give back what was billed: the difference that the query made to the rounded amount of its item.
  if v_query.invoice_item_id is not null then
    insert into public.overage_invoice_items as g (
      created_at, user_id, period_start, queries, unit_price_usd, gives_back_cents, target)
    select v_at, i.user_id, i.period_start, -1, i.unit_price_usd,
           floor((i.queries - given.back) * i.unit_price_usd * 100)
             - floor((i.queries - given.back - 1) * i.unit_price_usd * 100),
           '{}'
    from public.overage_invoice_items i
    cross join lateral (
      select count(*) as back from public.usage_reversals r
      join public.usage_logs u on u.id = r.query_id where u.invoice_item_id = i.id) given
    where i.id = v_query.invoice_item_id
    returning g.id, g.gives_back_cents into v_item_id, v_cents;
  end if;
  insert into public.usage_reversals (id, created_at, user_id, query_id, funding, overage_charge, invoice_item_id)
  values (v_id, v_at, v_query.user_id, p_query_id, v_query.funding, v_query.overage_charge, v_item_id);

  -- Return
  v_is_usable := case v_query.funding
    when 'included' then exists (
      select from private.current_subscriptions s
      where s.user_id = v_query.user_id and s.tier = v_query.tier
        and (s.plan_lifetime_quota is not null or v_query.query_date = (v_at at time zone 'UTC')::date))
    when 'credit' then exists (
      select from public.credit_packs c
      join private.current_subscriptions s on s.user_id = c.user_id
      where c.id = v_query.credit_pack_id and c.credits_remaining > 0 and not c.is_frozen
        and (c.expires_at > v_at or c.expires_at is null) and s.allows_credits)
    else true end;
  return private.record_action(
    p_action, 'credit back', v_query.user_id, p_query_id::text,
    jsonb_build_object('funding', v_query.funding, 'charged_usd', v_query.overage_charge::text),
    jsonb_build_object('is_usable', v_is_usable, 'invoice_item_id', v_item_id, 'cents', v_cents));
end
$$;
comment on function public.credit_back(uuid, jsonb) is
  'Gives the charge of a query back: its funding returns to the same day, credit pack or overage period, with a '
  'reversing entry in usage_reversals. Overage that was paid gets an item that gives back its share, and no longer '
  'counts as paid: the limit falls to what the user may set, unless an operator set more; '
  'bill-overages places it at Stripe. Returns {before, after}; after has is_usable (false: that day, pack or plan is '
  'over), invoice_item_id and cents. Or {refused}, with a sentence: nothing was charged, it was given back before, or '
  'its payment was returned, or its invoice is not paid. '
  'NTFND: no ended query has this id.';
revoke all on function public.credit_back(uuid, jsonb) from public, anon, authenticated, service_role;
grant execute on function public.credit_back(uuid, jsonb) to service_role;


create or replace function public.note_action(p_user_id uuid, p_name text, p_action jsonb) returns jsonb
language plpgsql volatile security definer set search_path = ''
as $$
begin
  -- Lock
  perform pg_advisory_xact_lock(uuid_hash_extended(p_user_id, 0));

  -- Write
  return coalesce(
    private.repeated_action(p_action), private.record_action(p_action, p_name, p_user_id, null, '{}', '{}'));
end
$$;
comment on function public.note_action(uuid, text, jsonb) is
  'Records what an operator is about to do for a user outside the database: an export, a deletion, an e-mail.';
revoke all on function public.note_action(uuid, text, jsonb) from public, anon, authenticated, service_role;
grant execute on function public.note_action(uuid, text, jsonb) to service_role;


-- ==== sql/schemas/76_operations.sql

-- What operators change for everyone: pauses, announcements and the models of the plans. p_action: 75_operator.sql.
--
-- The row of settings is locked first, so that two operators do not change the same thing at once.

create or replace function private.pauses() returns jsonb
language plpgsql stable set search_path = ''
as $$
begin
  return (
    select jsonb_build_object(
      'chat_paused_at', (select max(p.paused_at) from public.plans p),
      'paused_providers', (select to_jsonb(p.paused_providers) from public.plans p order by p.tier limit 1),
      'sign_ups_paused_at', s.sign_ups_paused_at)
    from public.settings s);
end
$$;
comment on function private.pauses() is 'What is paused: {chat_paused_at, paused_providers, sign_ups_paused_at}.';
revoke all on function private.pauses() from public, anon, authenticated, service_role;


create or replace function public.pause_service(
  p_kind text, p_provider text, p_en text, p_fr text, p_action jsonb)
returns jsonb
language plpgsql volatile security definer set search_path = ''
as $$
declare
  v_done jsonb;
  v_before jsonb;
  v_at constant timestamptz := private.clock();
begin
  -- Lock
  perform from public.settings s for update;
  v_done := private.repeated_action(p_action);
  if v_done is not null then
    return v_done;
  end if;
  v_before := private.pauses();

  -- Write
  case p_kind
    when 'chat_paused' then
      update public.plans p set paused_at = v_at where p.paused_at is null;
    when 'provider_paused' then
      update public.plans p set paused_providers = array_append(p.paused_providers, p_provider)
      where p_provider <> all (p.paused_providers);
    when 'sign_ups_paused' then
      update public.settings s set sign_ups_paused_at = v_at where s.sign_ups_paused_at is null;
    else
      raise invalid_parameter_value using message = 'p_kind is chat_paused, provider_paused or sign_ups_paused.';
  end case;
  -- A new sentence replaces the earlier one.
  update public.announcements a set ends_at = greatest(a.starts_at, v_at)
  where a.kind = p_kind and a.provider is not distinct from p_provider and a.ends_at is null;
  insert into public.announcements (id, created_at, kind, provider, en, fr, starts_at)
  values ((p_action ->> 'id')::uuid, v_at, p_kind, p_provider, p_en, p_fr, v_at);

  -- Return
  return private.record_action(
    p_action, 'pause', null, concat_ws(' ', p_kind, p_provider), v_before,
    private.pauses() || jsonb_build_object('en', p_en, 'fr', p_fr));
end
$$;
comment on function public.pause_service(text, text, text, text, jsonb) is
  'Pauses the chat, a provider or sign-ups until resume_service, and shows users a sentence. Running answers go on. '
  'p_kind: chat_paused, provider_paused (with p_provider) or sign_ups_paused. Called again it replaces the sentence.';
revoke all on function public.pause_service(text, text, text, text, jsonb)
  from public, anon, authenticated, service_role;
grant execute on function public.pause_service(text, text, text, text, jsonb) to service_role;


create or replace function public.resume_service(p_kind text, p_provider text, p_action jsonb) returns jsonb
language plpgsql volatile security definer set search_path = ''
as $$
declare
  v_done jsonb;
  v_before jsonb;
  v_at constant timestamptz := private.clock();
begin
  -- Lock
  perform from public.settings s for update;
  v_done := private.repeated_action(p_action);
  if v_done is not null then
    return v_done;
  end if;
  v_before := private.pauses();

  -- Write
  case p_kind
    when 'chat_paused' then
      update public.plans p set paused_at = null where p.paused_at is not null;
    when 'provider_paused' then
      update public.plans p set paused_providers = array_remove(p.paused_providers, p_provider)
      where p_provider = any (p.paused_providers);
    when 'sign_ups_paused' then
      update public.settings s set sign_ups_paused_at = null where s.is_only_row;
    else
      raise invalid_parameter_value using message = 'p_kind is chat_paused, provider_paused or sign_ups_paused.';
  end case;
  update public.announcements a set ends_at = greatest(a.starts_at, v_at)
  where a.kind = p_kind and a.provider is not distinct from p_provider and a.ends_at is null;

  -- Return
  return private.record_action(
    p_action, 'resume', null, concat_ws(' ', p_kind, p_provider), v_before, private.pauses());
end
$$;
comment on function public.resume_service(text, text, jsonb) is
  'Ends a pause and its announcement. p_kind and p_provider as in pause_service.';
revoke all on function public.resume_service(text, text, jsonb) from public, anon, authenticated, service_role;
grant execute on function public.resume_service(text, text, jsonb) to service_role;


create or replace function public.announce(
  p_en text, p_fr text, p_starts_at timestamptz, p_ends_at timestamptz, p_action jsonb)
returns jsonb
language plpgsql volatile security definer set search_path = ''
as $$
declare
  v_done jsonb;
  v_starts_at constant timestamptz := coalesce(p_starts_at, private.clock());
begin
  -- Lock
  perform from public.settings s for update;
  v_done := private.repeated_action(p_action);
  if v_done is not null then
    return v_done;
  end if;

  -- Check
  if p_ends_at <= greatest(v_starts_at, private.clock()) then
    return jsonb_build_object('refused', 'A notice must end after it starts, and in the future.');
  end if;

  -- Write
  insert into public.announcements (id, created_at, kind, en, fr, starts_at, ends_at)
  values ((p_action ->> 'id')::uuid, private.clock(), 'notice', p_en, p_fr, v_starts_at, p_ends_at);

  -- Return
  return private.record_action(
    p_action, 'announce', null, p_action ->> 'id', '{}',
    jsonb_build_object('en', p_en, 'fr', p_fr, 'starts_at', v_starts_at, 'ends_at', p_ends_at));
end
$$;
comment on function public.announce(text, text, timestamptz, timestamptz, jsonb) is
  'Shows users a notice from p_starts_at (null: now) to p_ends_at (null: until end_announcement). {refused}: '
  'a sentence for the operator, if that is over or ends before it starts.';
revoke all on function public.announce(text, text, timestamptz, timestamptz, jsonb)
  from public, anon, authenticated, service_role;
grant execute on function public.announce(text, text, timestamptz, timestamptz, jsonb) to service_role;


create or replace function public.end_announcement(p_id uuid, p_action jsonb) returns jsonb
language plpgsql volatile security definer set search_path = ''
as $$
declare
  v_done jsonb;
  v_ended record;
begin
  -- Lock
  perform from public.settings s for update;
  v_done := private.repeated_action(p_action);
  if v_done is not null then
    return v_done;
  end if;

  -- Write
  update public.announcements a set ends_at = greatest(a.starts_at, private.clock())
  from (select n.id, n.ends_at from public.announcements n where n.id = p_id and n.kind = 'notice') old
  where a.id = old.id
  returning old.ends_at as before, a.ends_at as after into v_ended;
  if not found then
    return jsonb_build_object('refused', 'No notice has this id: see `announce`. A pause ends with `resume`.');
  end if;

  -- Return
  return private.record_action(
    p_action, 'end announcement', null, p_id::text, jsonb_build_object('ends_at', v_ended.before),
    jsonb_build_object('ends_at', v_ended.after));
end
$$;
comment on function public.end_announcement(uuid, jsonb) is
  'Stops showing a notice. {refused}: a sentence for the operator, if there is none with this id.';
revoke all on function public.end_announcement(uuid, jsonb) from public, anon, authenticated, service_role;
grant execute on function public.end_announcement(uuid, jsonb) to service_role;


create or replace function public.set_models(
  p_tier text, p_provider text, p_models text[], p_is_own_key boolean, p_action jsonb)
returns jsonb
language plpgsql volatile security definer set search_path = ''
as $$
declare
  v_done jsonb;
  v_before jsonb;
begin
  -- Check
  if p_provider not in ('anthropic', 'openai') or p_models is null or '' = any (p_models)
     or cardinality(p_models) > 20 or array_position(p_models, null) is not null then
    raise invalid_parameter_value using message = 'p_models are at most 20 names of models of anthropic or openai.';
  end if;

  -- Lock
  perform from public.settings s for update;
  v_done := private.repeated_action(p_action);
  if v_done is not null then
    return v_done;
  end if;

  -- Write
  select case when p_is_own_key then p.own_key_models else p.models end -> p_provider into v_before
  from public.plans p where p.tier = p_tier;
  if not found then
    raise exception using errcode = 'NTFND', message = 'There is no such plan.';
  end if;
  update public.plans p set
    models = case when p_is_own_key then p.models
                  else jsonb_set(p.models, array[p_provider], to_jsonb(p_models)) end,
    own_key_models = case when p_is_own_key then jsonb_set(p.own_key_models, array[p_provider], to_jsonb(p_models))
                          else p.own_key_models end
  where p.tier = p_tier;

  -- Return
  return private.record_action(
    p_action, 'models', null, concat_ws(' ', p_tier, p_provider, case when p_is_own_key then 'own key' end),
    jsonb_build_object('models', v_before), jsonb_build_object('models', to_jsonb(p_models)));
end
$$;
comment on function public.set_models(text, text, text[], boolean, jsonb) is
  'Sets the models of a plan at a provider, the default first. p_is_own_key: the further models for own keys. Applies '
  'to the next query. NTFND: no such plan.';
revoke all on function public.set_models(text, text, text[], boolean, jsonb)
  from public, anon, authenticated, service_role;
grant execute on function public.set_models(text, text, text[], boolean, jsonb) to service_role;


-- ==== sql/schemas/77_support.sql

-- What supporters read: a user at a glance, one query by any of its ids, the costliest users.

create or replace function public.find_users(p_who text) returns jsonb
language plpgsql stable security definer set search_path = ''
as $$
declare
  v_id constant uuid := case when p_who ~ '^[0-9A-Fa-f]{8}-?([0-9A-Fa-f]{4}-?){3}[0-9A-Fa-f]{12}$' then p_who::uuid end;
  v_user_id constant uuid := coalesce(
    (select u.id from auth.users u where u.id = v_id),
    (select s.user_id from public.user_subscriptions s where s.stripe_customer_id = p_who),
    (select u.user_id from public.usage_logs u where u.id = v_id),
    (select h.user_id from public.query_holds h where h.id = v_id),
    (select r.user_id from public.query_refusals r where r.id = v_id),
    (select r.user_id from public.query_refusals r where r.earlier_ids @> array[v_id] limit 1),
    (select c.user_id from public.messages m join public.conversations c on c.id = m.conversation_id where m.id = v_id),
    (select c.user_id from public.conversations c where c.id = v_id));
begin
  return (
    select coalesce(
      jsonb_agg(jsonb_build_object(
        'id', found.id, 'email', found.email, 'is_confirmed', found.confirmed_at is not null,
        'is_deleted', found.deleted_at is not null) order by found.created_at, found.id), '[]')
    from (
      select u.* from auth.users u where u.id = v_user_id
      union all
      (select u.* from auth.users u where v_user_id is null and u.email = lower(p_who) limit 20)) found);
end
$$;
comment on function public.find_users(text) is
  'The user with this id or Stripe customer, or whose request, query, message or conversation has this id. Otherwise '
  'every user with this e-mail address: an address can have several, of single sign-on or deleted softly.';
revoke all on function public.find_users(text) from public, anon, authenticated, service_role;
grant execute on function public.find_users(text) to service_role;


create or replace function private.describe_query(p_query public.usage_logs) returns jsonb
language plpgsql stable set search_path = ''
as $$
begin
  return jsonb_build_object(
    'id', p_query.id, 'request_id', p_query.request_id, 'decision', 'admitted', 'at', p_query.query_timestamp,
    'ended_at', p_query.created_at, 'tier', p_query.tier, 'funding', p_query.funding,
    'reason', private.reason_of(p_query.funding, p_query.tier), 'outcome', p_query.outcome,
    'finish_reason', p_query.finish_reason, 'is_charged', p_query.is_charged, 'provider', p_query.provider,
    'model', p_query.model, 'tokens', p_query.tokens_total, 'cost_usd', p_query.cost_usd::text,
    'charged_usd', p_query.overage_charge::text, 'quota_used', p_query.quota_used, 'quota_limit', p_query.quota_limit,
    'overage_used_usd', p_query.overage_used::text, 'overage_limit_usd', p_query.overage_limit::text,
    'credit_pack_id', p_query.credit_pack_id, 'message_id', p_query.message_id,
    'conversation_id', p_query.conversation_id,
    'invoice', (select jsonb_build_object('item', i.stripe_invoice_item_id, 'invoice', i.stripe_invoice_id,
                                          'queries', i.queries, 'amount_cents', i.amount_cents)
                from public.overage_invoice_items i where i.id = p_query.invoice_item_id),
    'reversal', (select jsonb_build_object('at', r.created_at, 'reason', a.reason, 'operator', a.operator,
                                           'cents', -g.amount_cents, 'item', g.stripe_invoice_item_id,
                                           'invoice', g.stripe_invoice_id)
                 from public.usage_reversals r
                 left join public.operator_actions a on a.id = r.id
                 left join public.overage_invoice_items g on g.id = r.invoice_item_id
                 where r.query_id = p_query.id));
end
$$;
comment on function private.describe_query(public.usage_logs) is
  'A query that ended, for supporters: decision, state at admission, outcome, cost, charge, invoice, reversal.';
revoke all on function private.describe_query(public.usage_logs) from public, anon, authenticated, service_role;


create or replace function private.describe_hold(p_hold public.query_holds) returns jsonb
language plpgsql stable set search_path = ''
as $$
begin
  return jsonb_build_object(
    'id', p_hold.id, 'request_id', p_hold.request_id, 'decision', 'admitted', 'at', p_hold.created_at,
    'tier', p_hold.tier, 'funding', p_hold.funding, 'reason', private.reason_of(p_hold.funding, p_hold.tier),
    'provider', p_hold.provider, 'model', p_hold.model, 'quota_used', p_hold.quota_used,
    'quota_limit', p_hold.quota_limit, 'overage_used_usd', p_hold.overage_used::text,
    'overage_limit_usd', p_hold.overage_limit::text, 'expires_at', p_hold.expires_at,
    'is_expired', p_hold.expires_at <= private.clock(), 'stop_requested', p_hold.stop_requested);
end
$$;
comment on function private.describe_hold(public.query_holds) is 'A query that runs, for supporters.';
revoke all on function private.describe_hold(public.query_holds) from public, anon, authenticated, service_role;


create or replace function private.describe_refusal(p_refusal public.query_refusals) returns jsonb
language plpgsql stable set search_path = ''
as $$
begin
  return to_jsonb(p_refusal) - 'user_id' - 'chat_key' - 'created_at' - 'overage_used' - 'overage_limit'
    || jsonb_build_object(
      'decision', 'refused', 'at', p_refusal.created_at, 'overage_used_usd', p_refusal.overage_used::text,
      'overage_limit_usd', p_refusal.overage_limit::text);
end
$$;
comment on function private.describe_refusal(public.query_refusals) is 'A refused query, for supporters.';
revoke all on function private.describe_refusal(public.query_refusals) from public, anon, authenticated, service_role;


create or replace function public.find_queries(p_user_id uuid, p_id text) returns jsonb
language plpgsql stable security definer set search_path = ''
as $$
declare
  v_id constant uuid := case when p_id ~ '^[0-9A-Fa-f]{8}-?([0-9A-Fa-f]{4}-?){3}[0-9A-Fa-f]{12}$' then p_id::uuid end;
  v_client_id text := p_id;
  v_chat_key uuid;
begin
  -- A stored message of the user has the id that their client gave it, which is unique in its chat only.
  select m.external_id, coalesce(md5(c.external_id)::uuid, c.id) into v_client_id, v_chat_key
  from public.messages m join public.conversations c on c.id = m.conversation_id
  where m.id = v_id and c.user_id = p_user_id and m.role = 'user';
  v_client_id := coalesce(v_client_id, p_id);
  return (
    with attempt as (
      select u.id, u.request_id, u.chat_key, u.query_timestamp as at, v_id in (u.id, u.message_id) as is_exact
      from public.usage_logs u where u.user_id = p_user_id
      union all
      select h.id, h.request_id, h.chat_key, h.created_at, h.id = v_id
      from public.query_holds h where h.user_id = p_user_id
      union all
      select r.id, r.request_id, r.chat_key, r.created_at, r.id = v_id or v_id = any (r.earlier_ids)
      from public.query_refusals r where r.user_id = p_user_id
    ), found as (
      -- The attempts at the request that the id names. Only an id that names none is a client's, which edits and
      -- repetitions have in their request id.
      select a.id, a.at, a.is_exact is true as is_exact from attempt a
      where exists (
              select from attempt e
              where e.is_exact and e.request_id = a.request_id and e.chat_key is not distinct from a.chat_key)
         or not exists (select from attempt e where e.is_exact)
            and (v_chat_key is null or a.chat_key = v_chat_key)
            and strpos(':' || a.request_id || ':', ':' || v_client_id || ':') > 0
      order by is_exact desc, a.at desc, a.id limit 50
    )
    select coalesce(
      jsonb_agg(described.query || jsonb_build_object('is_exact', f.is_exact) order by f.at, f.id), '[]')
    from found f
    cross join lateral (
      select private.describe_query(u) as query from public.usage_logs u where u.id = f.id
      union all select private.describe_hold(h) from public.query_holds h where h.id = f.id
      union all select private.describe_refusal(r) from public.query_refusals r where r.id = f.id) described);
end
$$;
comment on function public.find_queries(uuid, text) is
  'Every attempt at the query that an id belongs to, oldest first. is_exact: the id is that of this attempt or of its '
  'answer. Without such an attempt: the attempts, edits and repetitions of the user''s own message with this id, which '
  'several chats can have. At most 50: the exact and the newest.';
revoke all on function public.find_queries(uuid, text) from public, anon, authenticated, service_role;
grant execute on function public.find_queries(uuid, text) to service_role;


create or replace function public.support_summary(p_user_id uuid) returns jsonb
language plpgsql stable security definer set search_path = ''
as $$
declare
  v_state private.funding_state;
  v_can record;
begin
  select * into v_state from private.funding_state s where s.user_id = p_user_id;
  if not found then
    raise exception using errcode = 'NTFND', message = 'There is no such user.',
      hint = 'user_not_found';
  end if;
  select * into v_can from public.can_user_query(p_user_id);
  return jsonb_build_object(
    'account', (
      select jsonb_build_object(
        'id', u.id, 'email', u.email, 'created_at', u.created_at, 'confirmed_at', u.confirmed_at,
        'last_sign_in_at', u.last_sign_in_at, 'banned_until', u.banned_until, 'is_anonymous', u.is_anonymous)
      from auth.users u where u.id = p_user_id),
    'subscription', (
      select jsonb_build_object(
        'stored_tier', s.tier, 'next_tier', s.next_tier, 'status', s.status, 'customer', s.stripe_customer_id,
        'subscription', s.stripe_subscription_id, 'period_start', s.current_period_start,
        'period_end', s.current_period_end, 'canceled_at', s.canceled_at, 'past_due_since', s.past_due_since,
        'paid_until', s.paid_until, 'blocked_at', s.blocked_at, 'blocked_reason', s.blocked_reason,
        'daily_quota', s.daily_quota, 'lifetime_quota', s.lifetime_quota,
        'overage_ceiling_usd', s.overage_ceiling::text)
      from public.user_subscriptions s where s.user_id = p_user_id),
    'next', jsonb_build_object(
      'can_query', v_can.can_query, 'reason', v_can.reason,
      'reason_code', case when v_can.reason = 'Chat paused' then 'chat_paused' else v_state.reason_code end,
      'funding', case when v_state.own_key_pays then 'byok' else v_state.funding end, 'tier', v_state.tier,
      'plan', v_state.name, 'is_lifetime', v_state.is_lifetime,
      'resets_at', case when v_can.reason <> 'Chat paused' then v_state.resets_at end,
      'used', v_state.included_used, 'limit', v_state.quota_limit, 'overage_used_usd', v_state.overage_used::text,
      'overage_limit_usd', v_state.overage_limit::text, 'allows_overage', v_state.allows_overage,
      'failed_cost_usd', v_state.failed_cost_usd::text, 'failed_cost_limit_usd', v_state.failed_cost_limit_usd::text,
      'concurrent_queries', v_state.concurrent_queries),
    'running', (
      select coalesce(jsonb_agg(private.describe_hold(h) order by h.created_at), '[]')
      from public.query_holds h where h.user_id = p_user_id),
    'packs', (
      select coalesce(jsonb_agg(jsonb_build_object(
        'id', c.id, 'bought_at', c.created_at, 'bought', c.credits_purchased, 'remaining', c.credits_remaining,
        'used', c.credits_used, 'revoked', c.credits_revoked, 'expired', c.credits_expired,
        'expires_at', c.expires_at, 'is_frozen', c.is_frozen, 'price_usd', c.price_paid::text,
        'payment', c.stripe_payment_intent_id) order by c.created_at desc), '[]')
      from (select * from public.credit_packs k where k.user_id = p_user_id order by k.created_at desc limit 20) c),
    'bills', (
      select coalesce(jsonb_agg(jsonb_build_object(
        'period_start', i.period_start, 'queries', i.queries, 'amount_cents', i.amount_cents,
        'item', i.stripe_invoice_item_id, 'invoice', i.stripe_invoice_id) order by i.created_at desc), '[]')
      from (select * from public.overage_invoice_items o where o.user_id = p_user_id
            order by o.created_at desc limit 12) i),
    'to_be_billed_usd', (
      select coalesce(sum(u.overage_charge), 0)::text from public.usage_logs u
      where u.user_id = p_user_id and u.was_overage and u.invoice_item_id is null and u.reversed_at is null),
    'keys', (
      select coalesce(jsonb_agg(
        private.describe_key(k.provider, k.hint, k.is_active, k.last_validated_at, k.validation_error, k.created_at)
        order by k.provider), '[]')
      from public.user_api_keys k where k.user_id = p_user_id),
    'conversations', (select count(*) from public.conversations c where c.user_id = p_user_id),
    'queries', (
      select coalesce(jsonb_agg(
        private.describe_query(u.query) order by (u.query).query_date desc, (u.query).created_at desc), '[]')
      from (select l as query from public.usage_logs l where l.user_id = p_user_id
            order by l.query_date desc, l.created_at desc limit 5) u),
    'refusals', (
      select coalesce(jsonb_agg(private.describe_refusal(r.refusal) order by (r.refusal).created_at desc), '[]')
      from (select q as refusal from public.query_refusals q where q.user_id = p_user_id
            order by q.created_at desc limit 5) r),
    'actions', (
      select coalesce(jsonb_agg(jsonb_build_object(
        'at', a.created_at, 'operator', a.operator, 'action', a.action, 'subject', a.subject, 'reason', a.reason)
        order by a.created_at desc), '[]')
      from (select * from public.operator_actions o where o.subject_user_id = p_user_id
            order by o.created_at desc limit 10) a));
end
$$;
comment on function public.support_summary(uuid) is
  'A user at a glance, for supporters: account, subscription, what pays next and why, running queries, packs, bills, '
  'keys without their content, the newest queries, refusals and actions of operators. NTFND: no such user.';
revoke all on function public.support_summary(uuid) from public, anon, authenticated, service_role;
grant execute on function public.support_summary(uuid) to service_role;


create or replace function public.costliest_users(p_days integer default 7, p_limit integer default 20)
returns table (
  user_id uuid, email text, tier text, queries bigint, failed bigint, cost_usd text, overage_usd text, credits_usd text)
-- It reads the ledger of some days. PostgREST applies this time-out to the call.
language sql stable security definer set search_path = '' set statement_timeout = '120s'
as $$
  with spent as (
    select u.user_id, count(*) as queries, count(*) filter (where not u.is_charged) as failed,
           coalesce(sum(u.cost_usd) filter (where not u.used_byo_key), 0) as cost,
           coalesce(sum(u.overage_charge) filter (where u.reversed_at is null), 0) as overage,
           coalesce(sum(c.price_per_credit) filter (where u.is_charged and u.reversed_at is null), 0) as credits
    from public.usage_logs u left join public.credit_packs c on c.id = u.credit_pack_id
    where u.query_date > (private.clock() at time zone 'UTC')::date - p_days
    group by u.user_id
    order by cost desc, u.user_id
    limit least(p_limit, 1000)
  )
  select s.user_id, a.email::text, k.tier, s.queries, s.failed, s.cost::numeric(20,6)::text,
         s.overage::numeric(20,6)::text, s.credits::numeric(20,6)::text
  from spent s
  join public.user_subscriptions k on k.user_id = s.user_id
  join auth.users a on a.id = s.user_id
  order by s.cost desc, s.user_id
$$;
comment on function public.costliest_users(integer, integer) is
  'The users who have cost us most at the providers in the newest days, in US dollars, with what they paid for queries '
  'in that time, in the currency of the prices, as text. Plan fees are only at Stripe. At most 1,000.';
revoke all on function public.costliest_users(integer, integer) from public, anon, authenticated, service_role;
grant execute on function public.costliest_users(integer, integer) to service_role;


create or replace function public.list_operations() returns jsonb
language plpgsql stable security definer set search_path = ''
as $$
begin
  return private.pauses() || jsonb_build_object(
    'announcements', (
      select coalesce(jsonb_agg(jsonb_build_object(
        'id', a.id, 'kind', a.kind, 'provider', a.provider, 'en', a.en, 'fr', a.fr, 'starts_at', a.starts_at,
        'ends_at', a.ends_at) order by a.starts_at), '[]')
      from public.announcements a where a.ends_at is null or a.ends_at > private.clock()),
    'plans', (
      select jsonb_agg(jsonb_build_object(
        'tier', p.tier, 'models', p.models, 'own_key_models', p.own_key_models,
        'query_cost_limit_usd', p.query_cost_limit_usd::text) order by p.price_usd, p.tier)
      from public.plans p));
end
$$;
comment on function public.list_operations() is
  'What is paused, the announcements that are shown or will be, and the models and cost limits of the plans.';
revoke all on function public.list_operations() from public, anon, authenticated, service_role;
grant execute on function public.list_operations() to service_role;


-- ==== sql/schemas/80_imports.sql

-- Imports of public data. Each call is one bounded batch in one transaction; the position moves with it, so that an
-- import that was killed continues. A batch that changes nothing writes nothing but the position.

create or replace function public.start_import(p_source text, p_digest text, p_again boolean default false)
returns jsonb
language plpgsql volatile security definer set search_path = ''
as $$
declare
  v_state public.import_states;
begin
  insert into public.import_states as s (source, digest, started_at) values (p_source, p_digest, now())
  on conflict (source) do update set
    digest = excluded.digest, position = null, validator = null, started_at = excluded.started_at, finished_at = null
  where s.digest <> excluded.digest or (p_again and s.finished_at is not null);
  select s.* into strict v_state from public.import_states s where s.source = p_source;
  return jsonb_build_object('position', v_state.position, 'is_finished', v_state.finished_at is not null);
end
$$;
comment on function public.start_import(text, text, boolean) is
  'Begins or continues the import of a file with this digest. Returns {"position", "is_finished"}. p_again: also of a '
  'file that was imported completely.';
revoke all on function public.start_import(text, text, boolean) from public, anon, authenticated, service_role;
grant execute on function public.start_import(text, text, boolean) to service_role;


create or replace function public.finish_import(
  p_source text, p_digest text, p_validator text, p_records integer, p_sizes jsonb, p_position text
) returns jsonb
language plpgsql volatile security definer set search_path = ''
as $$
begin
  -- Lock
  -- Another position: another run has begun again with this file, and has not stored all of it.
  perform from public.import_states s
  where s.source = p_source and s.digest = p_digest
    and (s.finished_at is not null or s.position is not distinct from p_position)
  for update;
  if not found then
    return jsonb_build_object('is_current', false);
  end if;
  -- Write
  update public.import_states s set
    validator = p_validator, records = p_records, sizes = p_sizes, finished_at = now(), position = null
  where s.source = p_source and (
    s.finished_at is null
    or (s.validator, s.records, s.sizes) is distinct from (p_validator, p_records, p_sizes));
  return jsonb_build_object('is_current', true);
end
$$;
comment on function public.finish_import(text, text, text, integer, jsonb, text) is
  'Records that a file was imported completely, up to p_position. Returns {"is_current"}: false, and nothing is '
  'recorded, where another run has begun meanwhile.';
revoke all on function public.finish_import(text, text, text, integer, jsonb, text)
  from public, anon, authenticated, service_role;
grant execute on function public.finish_import(text, text, text, integer, jsonb, text) to service_role;


create or replace function public.import_states_of(p_prefix text) returns jsonb
language plpgsql stable security definer set search_path = ''
as $$
begin
  return coalesce((
    select jsonb_object_agg(s.source, jsonb_build_object(
      'digest', s.digest, 'validator', s.validator, 'records', s.records, 'sizes', s.sizes,
      'is_finished', s.finished_at is not null))
    from (select * from public.import_states i where starts_with(i.source, p_prefix) order by i.source limit 1000) s
  ), '{}');
end
$$;
comment on function public.import_states_of(text) is
  'The imports whose name starts with a text: {source: {"digest", "validator", "records", ...}}.';
revoke all on function public.import_states_of(text) from public, anon, authenticated, service_role;
grant execute on function public.import_states_of(text) to service_role;


create or replace function public.import_member_expenses(
  p_fiscal_year integer, p_quarter integer, p_last_digest text, p_digest text, p_rows jsonb, p_is_complete boolean
) returns jsonb
language plpgsql volatile security definer set search_path = ''
as $$
declare
  v_source constant text := format('expenses-%s-%s', p_fiscal_year, p_quarter);
  v_written integer;
  v_deleted integer := 0;
begin
  if jsonb_array_length(p_rows) > 2000 then
    raise exception using errcode = '22023', message = 'A quarter has at most 2,000 rows.';
  end if;
  -- Lock
  insert into public.import_states (source, digest, started_at) values (v_source, p_digest, now())
  on conflict (source) do nothing;
  if not found then
    -- A call that is repeated finds its own digest.
    perform from public.import_states s
    where s.source = v_source and (s.digest = p_digest or s.digest = p_last_digest) for update;
    if not found then
      return jsonb_build_object('is_current', false, 'written', 0, 'deleted', 0);
    end if;
  end if;
  -- Write
  insert into public.member_expenses as e (
    fiscal_year, quarter, name, constituency, caucus, occurrence, member_key, salaries, travel, hospitality, contracts)
  select p_fiscal_year, p_quarter, r.name, r.constituency, r.caucus, r.occurrence,
         case when private.fold(r.name) <> 'vacant' then private.person_key(r.name) end,
         r.salaries, r.travel, r.hospitality, r.contracts
  from jsonb_to_recordset(p_rows) r (
    name text, constituency text, caucus text, occurrence integer, salaries numeric, travel numeric,
    hospitality numeric, contracts numeric)
  -- A row that cannot be read may be one of a member with several: then it is not known which ones the others are.
  where p_is_complete or not exists (
    select from public.member_expenses o
    where o.fiscal_year = p_fiscal_year and o.quarter = p_quarter
      and (o.name, o.constituency, o.caucus) = (r.name, r.constituency, r.caucus)
      and o.occurrence > (
        select max(f.occurrence)
        from jsonb_to_recordset(p_rows) f (name text, constituency text, caucus text, occurrence integer)
        where (f.name, f.constituency, f.caucus) = (r.name, r.constituency, r.caucus)))
  on conflict (fiscal_year, quarter, name, constituency, caucus, occurrence) do update set
    member_key = excluded.member_key, salaries = excluded.salaries, travel = excluded.travel,
    hospitality = excluded.hospitality, contracts = excluded.contracts
  where (e.member_key, e.salaries, e.travel, e.hospitality, e.contracts)
    is distinct from
    (excluded.member_key, excluded.salaries, excluded.travel, excluded.hospitality, excluded.contracts);
  get diagnostics v_written = row_count;
  -- A file with a row that cannot be read is not known to be complete: what it seems to lack stays.
  if p_is_complete then
    delete from public.member_expenses e
    where e.fiscal_year = p_fiscal_year and e.quarter = p_quarter and not exists (
      select from jsonb_to_recordset(p_rows) r (name text, constituency text, caucus text, occurrence integer)
      where (r.name, r.constituency, r.caucus, r.occurrence) = (e.name, e.constituency, e.caucus, e.occurrence));
    get diagnostics v_deleted = row_count;
  end if;
  update public.import_states s set
    digest = p_digest, records = jsonb_array_length(p_rows), started_at = now(), finished_at = now()
  where s.source = v_source
    and (s.digest, s.records) is distinct from (p_digest, jsonb_array_length(p_rows));
  return jsonb_build_object('is_current', true, 'written', v_written, 'deleted', v_deleted);
end
$$;
comment on function public.import_member_expenses(integer, integer, text, text, jsonb, boolean) is
  'Makes a quarter''s rows those of the file. Returns {"is_current", "written", "deleted"}. p_last_digest: of the file '
  'that the caller found to be the last; where it is not, nothing is written and is_current is false. p_is_complete: '
  'whether every row of the file could be read; if not, nothing is deleted. 22023: too many rows.';
revoke all on function public.import_member_expenses(integer, integer, text, text, jsonb, boolean)
  from public, anon, authenticated, service_role;
grant execute on function public.import_member_expenses(integer, integer, text, text, jsonb, boolean) to service_role;


create or replace function public.import_registrations(
  p_digest text, p_after text, p_through text, p_rows jsonb, p_deletes boolean
) returns jsonb
language plpgsql volatile security definer set search_path = ''
as $$
declare
  v_written integer;
  v_subjects integer;
  v_deleted integer := 0;
begin
  if jsonb_array_length(p_rows) > 2000 then
    raise exception using errcode = '22023', message = 'A batch has at most 2,000 rows.';
  end if;
  -- Lock
  perform from public.import_states s where s.source = 'lobbying-registrations' and s.digest = p_digest for update;
  if not found then
    return jsonb_build_object('is_current', false, 'written', 0, 'deleted', 0);
  end if;
  -- Write
  insert into public.lobbying_registrations as g (
    number, newest_id, versions, kind, client_number, organization_en, organization_fr, firm, registrant,
    first_effective_on, effective_on, ends_on, institutions)
  select r.number, r.newest_id, r.versions, r.kind, r.client_number, r.organization_en, r.organization_fr, r.firm,
         r.registrant, r.first_effective_on, r.effective_on, r.ends_on, r.institutions
  from jsonb_to_recordset(p_rows) r (
    number text, newest_id bigint, versions integer, kind integer, client_number text, organization_en text,
    organization_fr text, firm text, registrant text, first_effective_on date, effective_on date, ends_on date,
    institutions text[])
  -- Equal rows are left out here, because the words of a row are computed before a conflict is found.
  where not exists (
    select from public.lobbying_registrations g where g.number = r.number
      and (g.newest_id, g.versions, g.kind, g.client_number, g.organization_en, g.organization_fr, g.firm,
           g.registrant, g.first_effective_on, g.effective_on, g.ends_on, g.institutions)
        is not distinct from
        (r.newest_id, r.versions, r.kind, r.client_number, r.organization_en, r.organization_fr, r.firm,
         r.registrant, r.first_effective_on, r.effective_on, r.ends_on, r.institutions))
  order by r.number
  on conflict (number) do update set
    newest_id = excluded.newest_id, versions = excluded.versions, kind = excluded.kind,
    client_number = excluded.client_number, organization_en = excluded.organization_en,
    organization_fr = excluded.organization_fr, firm = excluded.firm, registrant = excluded.registrant,
    first_effective_on = excluded.first_effective_on, effective_on = excluded.effective_on,
    ends_on = excluded.ends_on, institutions = excluded.institutions
  where p_deletes or (
    excluded.versions >= g.versions and cardinality(excluded.institutions) >= cardinality(g.institutions));
  get diagnostics v_written = row_count;

  insert into public.lobbying_subjects as s (
    registration_id, description, subjects_en, subjects_fr, starts_on, ends_on)
  select g.id, t.description, t.subjects_en, t.subjects_fr, t.starts_on, t.ends_on
  from jsonb_to_recordset(p_rows) r (number text, versions integer, subjects jsonb)
  join public.lobbying_registrations g on g.number = r.number and (p_deletes or r.versions >= g.versions)
  cross join lateral jsonb_to_recordset(r.subjects) t (
    description text, subjects_en text[], subjects_fr text[], starts_on date, ends_on date)
  where not exists (
    select from public.lobbying_subjects s
    where s.registration_id = g.id and s.description_md5 = md5(t.description)::uuid
      and (s.subjects_en, s.subjects_fr, s.starts_on, s.ends_on)
        is not distinct from (t.subjects_en, t.subjects_fr, t.starts_on, t.ends_on))
  on conflict (registration_id, description_md5) do update set
    subjects_en = excluded.subjects_en, subjects_fr = excluded.subjects_fr, starts_on = excluded.starts_on,
    ends_on = excluded.ends_on
  where p_deletes or cardinality(excluded.subjects_en) >= cardinality(s.subjects_en);
  get diagnostics v_subjects = row_count;

  if p_deletes then
    delete from public.lobbying_subjects s
    using jsonb_to_recordset(p_rows) r (number text, subjects jsonb)
    join public.lobbying_registrations g on g.number = r.number
    where s.registration_id = g.id and not exists (
      select from jsonb_to_recordset(r.subjects) t (description text)
      where md5(t.description)::uuid = s.description_md5);
    -- Registrations between the keys of the batch that the file no longer has. At most 500: the caller calls again.
    delete from public.lobbying_registrations g where g.id in (
      select old.id from public.lobbying_registrations old
      where (p_after is null or old.number > p_after) and (p_through is null or old.number <= p_through)
        and not exists (select from jsonb_to_recordset(p_rows) r (number text) where r.number = old.number)
      limit 500);
    get diagnostics v_deleted = row_count;
  end if;
  -- Not where another run of this file is at another position.
  update public.import_states s set position = p_through
  where s.source = 'lobbying-registrations' and v_deleted < 500 and p_through is not null and s.finished_at is null
    and s.position is not distinct from p_after;
  return jsonb_build_object('is_current', true, 'written', v_written + v_subjects, 'deleted', v_deleted);
end
$$;
comment on function public.import_registrations(text, text, text, jsonb, boolean) is
  'Makes the registrations with numbers after p_after and up to p_through those of p_rows, with their subjects. '
  'Without p_deletes, for a file with a row that cannot be read, nothing is deleted or replaced by less. Returns '
  '{"is_current", "written", "deleted"}; call it again while 500 were deleted. Where another file is being imported, '
  'nothing is written and is_current is false. 22023: too many rows.';
revoke all on function public.import_registrations(text, text, text, jsonb, boolean)
  from public, anon, authenticated, service_role;
grant execute on function public.import_registrations(text, text, text, jsonb, boolean) to service_role;


create or replace function public.import_communications(
  p_digest text, p_after bigint, p_through bigint, p_rows jsonb, p_deletes boolean
) returns jsonb
language plpgsql volatile security definer set search_path = ''
as $$
declare
  v_written integer;
  v_deleted integer := 0;
begin
  if jsonb_array_length(p_rows) > 2000 then
    raise exception using errcode = '22023', message = 'A batch has at most 2,000 rows.';
  end if;
  -- Lock
  perform from public.import_states s where s.source = 'lobbying-communications' and s.digest = p_digest for update;
  if not found then
    return jsonb_build_object('is_current', false, 'written', 0, 'deleted', 0);
  end if;
  -- Write
  insert into public.lobbying_communications as c (
    number, communicated_on, posted_on, kind, client_number, organization_en, organization_fr, registrant,
    is_superseded, officials, official_keys, description, subjects_en, subjects_fr)
  select r.number, r.communicated_on, r.posted_on, r.kind, r.client_number, r.organization_en, r.organization_fr,
         r.registrant, r.is_superseded, r.officials,
         array_remove(array(select distinct private.person_key(o ->> 'name') from jsonb_array_elements(r.officials) o),
                      null),
         r.description, r.subjects_en, r.subjects_fr
  from jsonb_to_recordset(p_rows) r (
    number bigint, communicated_on date, posted_on date, kind integer, client_number text, organization_en text,
    organization_fr text, registrant text, is_superseded boolean, officials jsonb, description text,
    subjects_en text[], subjects_fr text[])
  -- Equal rows are left out here, because the words of a row are computed before a conflict is found.
  where not exists (
    select from public.lobbying_communications c where c.number = r.number
      and (c.communicated_on, c.posted_on, c.kind, c.client_number, c.organization_en, c.organization_fr, c.registrant,
           c.is_superseded, c.officials, c.description, c.subjects_en, c.subjects_fr)
        is not distinct from
        (r.communicated_on, r.posted_on, r.kind, r.client_number, r.organization_en, r.organization_fr, r.registrant,
         r.is_superseded, r.officials, r.description, r.subjects_en, r.subjects_fr))
  order by r.number
  on conflict (number) do update set
    communicated_on = excluded.communicated_on, posted_on = excluded.posted_on, kind = excluded.kind,
    client_number = excluded.client_number, organization_en = excluded.organization_en,
    organization_fr = excluded.organization_fr, registrant = excluded.registrant,
    is_superseded = excluded.is_superseded, officials = excluded.officials, official_keys = excluded.official_keys,
    description = excluded.description, subjects_en = excluded.subjects_en, subjects_fr = excluded.subjects_fr
  where p_deletes or (
    jsonb_array_length(excluded.officials) >= jsonb_array_length(c.officials)
    and cardinality(excluded.subjects_en) >= cardinality(c.subjects_en)
    and char_length(excluded.description) >= char_length(c.description)
    and excluded.is_superseded >= c.is_superseded);
  get diagnostics v_written = row_count;
  if p_deletes then
    -- Reports between the keys of the batch that the file no longer has. At most 500: the caller calls again.
    delete from public.lobbying_communications c where c.id in (
      select old.id from public.lobbying_communications old
      where (p_after is null or old.number > p_after) and (p_through is null or old.number <= p_through)
        and not exists (select from jsonb_to_recordset(p_rows) r (number bigint) where r.number = old.number)
      limit 500);
    get diagnostics v_deleted = row_count;
  end if;
  -- Not where another run of this file is at another position.
  update public.import_states s set position = p_through
  where s.source = 'lobbying-communications' and v_deleted < 500 and p_through is not null and s.finished_at is null
    and s.position is not distinct from p_after::text;
  return jsonb_build_object('is_current', true, 'written', v_written, 'deleted', v_deleted);
end
$$;
comment on function public.import_communications(text, bigint, bigint, jsonb, boolean) is
  'Makes the reports with numbers after p_after and up to p_through those of p_rows. Without p_deletes, for a file '
  'with a row that cannot be read, nothing is deleted or replaced by less. Returns {"is_current", "written", '
  '"deleted"}; call it again while 500 were deleted. Where another file is being imported, nothing is written and '
  'is_current is false. 22023: too many rows.';
revoke all on function public.import_communications(text, bigint, bigint, jsonb, boolean)
  from public, anon, authenticated, service_role;
grant execute on function public.import_communications(text, bigint, bigint, jsonb, boolean) to service_role;


-- ==== sql/schemas/81_expenses.sql

-- What the chat reads of members' expenses. Amounts are exact text, Canadian dollars.

create or replace function public.expenses_of_member(p_member text, p_limit integer default 8) returns jsonb
language plpgsql stable security definer set search_path = ''
as $$
begin
  return (
    with own as (
      select e.fiscal_year, e.quarter, min(e.name) as name, string_agg(distinct e.constituency, ', ') as constituency,
             string_agg(distinct e.caucus, ', ') as caucus, sum(e.salaries) as salaries, sum(e.travel) as travel,
             sum(e.hospitality) as hospitality, sum(e.contracts) as contracts,
             sum(e.salaries + e.travel + e.hospitality + e.contracts) as total
      from public.member_expenses e
      where e.member_key = private.person_key(p_member)
      group by e.fiscal_year, e.quarter
      order by e.fiscal_year desc, e.quarter desc
      limit least(p_limit, 40)
    )
    select coalesce(jsonb_agg(jsonb_build_object(
             'fiscal_year', o.fiscal_year, 'quarter', o.quarter, 'name', o.name, 'constituency', o.constituency,
             'caucus', o.caucus, 'salaries', o.salaries::text, 'travel', o.travel::text,
             'hospitality', o.hospitality::text, 'contracts', o.contracts::text, 'total', o.total::text,
             'rank', house.rank, 'members', house.members, 'median', house.median::text
           ) order by o.fiscal_year desc, o.quarter desc), '[]')
    from own o
    cross join lateral (
      select 1 + count(*) filter (where m.total > o.total) as rank, count(*) as members,
             round((percentile_disc(0.5) within group (order by m.total)), 2) as median
      from (
        select sum(e.salaries + e.travel + e.hospitality + e.contracts) as total
        from public.member_expenses e
        where e.fiscal_year = o.fiscal_year and e.quarter = o.quarter and e.member_key is not null
        group by e.member_key
      ) m
    ) house);
end
$$;
comment on function public.expenses_of_member(text, integer) is
  'A member''s newest quarters, with the rank of the total among all members and their median.';
revoke all on function public.expenses_of_member(text, integer) from public, anon, authenticated, service_role;
grant execute on function public.expenses_of_member(text, integer) to service_role;


create or replace function public.largest_expenses(
  p_category text, p_fiscal_year integer default null, p_quarter integer default null, p_limit integer default 10
) returns jsonb
language plpgsql stable security definer set search_path = ''
as $$
declare
  v_fiscal_year integer := p_fiscal_year;
  v_quarter integer := p_quarter;
begin
  if v_fiscal_year is null or v_quarter is null then
    select e.fiscal_year, e.quarter into v_fiscal_year, v_quarter
    from public.member_expenses e
    where (e.fiscal_year = p_fiscal_year or p_fiscal_year is null) and (e.quarter = p_quarter or p_quarter is null)
    order by e.fiscal_year desc, e.quarter desc limit 1;
  end if;
  return (
    with amounts as (
      select min(e.name) as name, string_agg(distinct e.constituency, ', ') as constituency,
             string_agg(distinct e.caucus, ', ') as caucus,
             sum(case p_category
                   when 'salaries' then e.salaries when 'travel' then e.travel
                   when 'hospitality' then e.hospitality when 'contracts' then e.contracts
                   else e.salaries + e.travel + e.hospitality + e.contracts end) as amount
      from public.member_expenses e
      where e.fiscal_year = v_fiscal_year and e.quarter = v_quarter and e.member_key is not null
      group by e.member_key
    )
    select jsonb_build_object(
      'fiscal_year', v_fiscal_year, 'quarter', v_quarter, 'members', (select count(*) from amounts),
      'sum', coalesce((select sum(a.amount) from amounts a), 0)::text,
      'median', (select percentile_disc(0.5) within group (order by a.amount) from amounts a)::text,
      'items', coalesce((
        select jsonb_agg(jsonb_build_object('name', a.name, 'constituency', a.constituency, 'caucus', a.caucus,
                                            'amount', a.amount::text) order by a.amount desc, a.name)
        from (select b.* from amounts b order by b.amount desc, b.name limit least(p_limit, 50)) a), '[]')));
end
$$;
comment on function public.largest_expenses(text, integer, integer, integer) is
  'The members who spent most on a category (salaries, travel, hospitality, contracts, total) in a quarter; by default '
  'the newest.';
revoke all on function public.largest_expenses(text, integer, integer, integer)
  from public, anon, authenticated, service_role;
grant execute on function public.largest_expenses(text, integer, integer, integer) to service_role;


-- ==== sql/schemas/82_lobbying.sql

-- What the chat reads of the registry of lobbyists.
--
-- Every function reads at most the newest 250 reports and 125 registrations that match.

create or replace function private.imported_on(p_source text) returns date
language plpgsql stable set search_path = ''
as $$
begin
  return (
    select coalesce(s.finished_at, case when s.records is not null then s.started_at end)::date
    from public.import_states s where s.source = p_source);
end
$$;
comment on function private.imported_on(text) is
  'When a file was last imported; while a new version of it is, when that began. Null: never completely.';
revoke all on function private.imported_on(text) from public, anon, authenticated, service_role;


create or replace function private.newest_matches(
  p_table regclass, p_words text, p_starts text, p_ends text, p_query tsquery, p_since date, p_until date,
  p_limit integer)
returns uuid[]
language plpgsql stable set search_path = '' set enable_seqscan = off
as $$
declare
  v_newest constant text := format(
    'select array(
       select n.id from (select * from %1$s order by %3$I desc nulls last limit $5) n
       where n.%2$I @@ $1 and (n.%4$I >= $2 or n.%4$I is null) and (n.%3$I <= $3 or n.%3$I is null) limit $4)',
    p_table, p_words, p_starts, p_ends);
  v_found integer;
  v_ids uuid[];
begin
  -- How many rows have two words together cannot be estimated, so these steps find out instead of the planner.
  -- 1. Common words: among the newest rows, over the index of the day.
  execute v_newest into v_ids using p_query, p_since, p_until, p_limit, 8 * p_limit;
  if cardinality(v_ids) = p_limit then
    return v_ids;
  end if;
  -- 2. Rare words: all rows, over the index of the words.
  execute format(
    'with found as materialized (select t.id, t.%3$I, t.%4$I as until from %1$s t where t.%2$I @@ $1 limit $5)
     select count(*), array(
       select f.id from found f
       where (f.until >= $2 or f.until is null) and (f.%3$I <= $3 or f.%3$I is null)
       order by f.%3$I desc nulls last limit $4) from found',
    p_table, p_words, p_starts, p_ends)
  into v_found, v_ids using p_query, p_since, p_until, p_limit, 16 * p_limit;
  -- 3. Others: among more of the newest rows.
  if v_found = 16 * p_limit then
    execute v_newest into v_ids using p_query, p_since, p_until, p_limit, 40 * p_limit;
  end if;
  -- 4. Words that were common once.
  if v_found = 16 * p_limit and cardinality(v_ids) < p_limit then
    execute format(
      'select array(
         select m.id from (select * from %1$s t where t.%2$I @@ $1 offset 0) m
         where (m.%4$I >= $2 or m.%4$I is null) and (m.%3$I <= $3 or m.%3$I is null)
         order by m.%3$I desc nulls last limit $4)',
      p_table, p_words, p_starts, p_ends)
    into v_ids using p_query, p_since, p_until, p_limit;
  end if;
  return v_ids;
end
$$;
comment on function private.newest_matches(regclass, text, text, text, tsquery, date, date, integer) is
  'The newest rows of a table whose column p_words matches a query, and whose days from p_starts to p_ends overlap '
  'those from p_since to p_until. p_starts has an index, newest first.';
revoke all on function private.newest_matches(regclass, text, text, text, tsquery, date, date, integer)
  from public, anon, authenticated, service_role;


create or replace function private.lobbying_about(
  p_query tsquery, p_since date, p_until date, p_is_new boolean, p_limit integer)
returns jsonb
language plpgsql stable set search_path = '' set enable_seqscan = off
as $$
declare
  v_reports constant uuid[] := private.newest_matches(
    'public.lobbying_communications', 'words', 'communicated_on', 'communicated_on', p_query, p_since, p_until, 250);
  v_subjects constant uuid[] := private.newest_matches(
    'public.lobbying_subjects', 'words', 'starts_on', case when p_is_new then 'starts_on' else 'ends_on' end, p_query,
    p_since, p_until, 125);
begin
  return (
    with reports as (
      select c.number, c.organization_en, c.organization_fr, c.communicated_on, c.description
      from public.lobbying_communications c where c.id = any (v_reports)
    ), subjects as (
      select s.description, s.starts_on, s.ends_on, s.registration_id
      from public.lobbying_subjects s where s.id = any (v_subjects)
    ), registered as (
      select g.organization_en, g.organization_fr, s.description, s.starts_on, s.ends_on, g.client_number, g.newest_id
      from subjects s join public.lobbying_registrations g on g.id = s.registration_id
    ), organizations as (
      select coalesce(r.name, g.name) as name, coalesce(r.name_fr, g.name_fr) as name_fr,
             coalesce(r.reports, 0) as reports, r.last_report_on, r.last_report, r.said,
             coalesce(g.registrations, 0) as registrations, coalesce(g.is_active, false) as is_active,
             g.client_number, g.newest_id, g.registered
      from (
        select organization_en as name, min(organization_fr) as name_fr, count(*) as reports,
               max(communicated_on) as last_report_on,
               (array_agg(number order by communicated_on desc))[1] as last_report,
               (array_agg(left(description, 500) order by communicated_on desc) filter (where description <> ''))[1]
                 as said
        from reports group by organization_en
      ) r
      full join (
        select organization_en as name, min(organization_fr) as name_fr, count(distinct newest_id) as registrations,
               bool_or(ends_on is null) as is_active,
               (array_agg(client_number order by starts_on desc nulls last))[1] as client_number,
               (array_agg(newest_id order by starts_on desc nulls last))[1] as newest_id,
               (array_agg(left(description, 500) order by starts_on desc nulls last)
                 filter (where description <> ''))[1] as registered
        from registered group by organization_en
      ) g on g.name = r.name
    )
    select jsonb_build_object(
      'as_of', private.imported_on('lobbying-communications'),
      'reports', (select count(*) from reports), 'subjects', (select count(*) from subjects),
      'organizations', (select count(*) from organizations),
      'items', coalesce((
        select jsonb_agg(to_jsonb(o) order by o.reports desc, o.registrations desc, o.name)
        from (select p.* from organizations p order by p.reports desc, p.registrations desc, p.name
              limit least(p_limit, 50)) o), '[]')));
end
$$;
comment on function private.lobbying_about(tsquery, date, date, boolean, integer) is
  'The organizations whose reports or registrations match a query between two days, those with most reports first. '
  'p_is_new: not the registrations that began before.';
revoke all on function private.lobbying_about(tsquery, date, date, boolean, integer)
  from public, anon, authenticated, service_role;


create or replace function public.lobbying_on_subject(
  p_words text, p_since date default null, p_limit integer default 10
) returns jsonb
language plpgsql stable security definer set search_path = ''
as $$
begin
  return private.lobbying_about(
    private.search_query(p_words),
    coalesce(p_since, (select max(c.communicated_on) from public.lobbying_communications c) - 730, '-infinity'),
    'infinity', false, p_limit);
end
$$;
comment on function public.lobbying_on_subject(text, date, integer) is
  'The organizations that lobbied on all these words, since a day; by default in the two years before the newest '
  'report.';
revoke all on function public.lobbying_on_subject(text, date, integer) from public, anon, authenticated, service_role;
grant execute on function public.lobbying_on_subject(text, date, integer) to service_role;


create or replace function public.lobbying_on_bill(
  p_number text, p_titles text[], p_since date, p_until date default null, p_limit integer default 10
) returns jsonb
language plpgsql stable security definer set search_path = ''
as $$
begin
  return private.lobbying_about(
    private.bill_query(p_number, p_titles), p_since, coalesce(p_until, 'infinity'), true, p_limit);
end
$$;
comment on function public.lobbying_on_bill(text, text[], date, date, integer) is
  'The organizations that lobbied on a bill: texts with its number and two words of a title, since its introduction.';
revoke all on function public.lobbying_on_bill(text, text[], date, date, integer)
  from public, anon, authenticated, service_role;
grant execute on function public.lobbying_on_bill(text, text[], date, date, integer) to service_role;


create or replace function public.lobbying_by_organization(
  p_organization text, p_since date default null, p_limit integer default 10
) returns jsonb
language plpgsql stable security definer set search_path = '' set enable_seqscan = off
as $$
declare
  v_query constant tsquery := private.search_query(p_organization);
  v_reports constant uuid[] := private.newest_matches(
    'public.lobbying_communications', 'organization_words', 'communicated_on', 'communicated_on', v_query,
    coalesce(p_since, '-infinity'), 'infinity', 250);
begin
  return (
    with reports as (
      select c.number, c.organization_en, c.organization_fr, c.communicated_on, c.officials, c.subjects_en,
             c.subjects_fr, c.description
      from public.lobbying_communications c where c.id = any (v_reports)
    ), registrations as (
      select g.* from public.lobbying_registrations g
      where g.organization_words @@ v_query and (g.ends_on >= p_since or g.ends_on is null or p_since is null)
      order by g.effective_on desc nulls last limit 125
    )
    select jsonb_build_object(
      'as_of', private.imported_on('lobbying-communications'),
      'reports', (select count(*) from reports), 'registrations', (select count(*) from registrations),
      'active_registrations', (select count(*) from registrations where ends_on is null),
      'names', coalesce((
        select jsonb_agg(jsonb_build_object('name', n.name, 'name_fr', n.name_fr) order by n.mentions desc, n.name)
        from (
          select a.name, min(a.name_fr) as name_fr, count(*) as mentions from (
            select organization_en as name, organization_fr as name_fr from reports
            union all select organization_en, organization_fr from registrations
          ) a group by a.name order by count(*) desc, a.name limit 10) n), '[]'),
      'items', coalesce((
        select jsonb_agg(jsonb_build_object(
                 'number', r.number, 'organization_en', r.organization_en, 'organization_fr', r.organization_fr,
                 'communicated_on', r.communicated_on, 'officials', r.officials, 'subjects_en', r.subjects_en,
                 'subjects_fr', r.subjects_fr, 'description', left(r.description, 500)
               ) order by r.communicated_on desc, r.number desc)
        from (select * from reports order by communicated_on desc, number desc limit least(p_limit, 50)) r), '[]'),
      'registered', coalesce((
        select jsonb_agg(jsonb_build_object(
                 'newest_id', g.newest_id, 'client_number', g.client_number, 'organization_en', g.organization_en,
                 'organization_fr', g.organization_fr, 'firm', g.firm, 'registrant', g.registrant,
                 'first_effective_on', g.first_effective_on, 'ends_on', g.ends_on,
                 'description', (select left(s.description, 500) from public.lobbying_subjects s
                                 where s.registration_id = g.id and s.description <> ''
                                 order by s.starts_on desc nulls last limit 1)
               ) order by g.ends_on is null desc, g.effective_on desc nulls last)
        from (select * from registrations order by ends_on is null desc, effective_on desc nulls last limit 5) g
      ), '[]')));
end
$$;
comment on function public.lobbying_by_organization(text, date, integer) is
  'The newest reports and the registrations of organizations whose name has all these words, since a day. '
  'Registrations are also found by the name of the consultant''s firm.';
revoke all on function public.lobbying_by_organization(text, date, integer)
  from public, anon, authenticated, service_role;
grant execute on function public.lobbying_by_organization(text, date, integer) to service_role;


create or replace function public.lobbying_of_member(p_member text, p_limit integer default 10) returns jsonb
language plpgsql stable security definer set search_path = '' set plan_cache_mode = force_custom_plan
as $$
declare
  v_key constant text := private.person_key(p_member);
begin
  return (
    with reports as (
      select c.number, c.organization_en, c.organization_fr, c.communicated_on, c.officials, c.subjects_en,
             c.subjects_fr, c.description
      from public.lobbying_communications c
      where c.official_keys @> array[v_key] and not c.is_superseded
      order by c.communicated_on desc limit 250
    )
    select jsonb_build_object(
      'as_of', private.imported_on('lobbying-communications'),
      'reports', (select count(*) from reports),
      'organizations', coalesce((
        select jsonb_agg(to_jsonb(o) order by o.reports desc, o.name) from (
          select organization_en as name, min(organization_fr) as name_fr, count(*) as reports,
                 max(communicated_on) as last_report_on
          from reports group by organization_en order by count(*) desc, organization_en limit least(p_limit, 50)
        ) o), '[]'),
      'items', coalesce((
        select jsonb_agg(jsonb_build_object(
                 'number', r.number, 'organization_en', r.organization_en, 'organization_fr', r.organization_fr,
                 'communicated_on', r.communicated_on, 'subjects_en', r.subjects_en, 'subjects_fr', r.subjects_fr,
                 'description', left(r.description, 500),
                 'officials', (select coalesce(jsonb_agg(o), '[]') from jsonb_array_elements(r.officials) o
                               where private.person_key(o ->> 'name') = v_key)
               ) order by r.communicated_on desc, r.number desc)
        from (select * from reports order by communicated_on desc, number desc limit least(p_limit, 50)) r), '[]')));
end
$$;
comment on function public.lobbying_of_member(text, integer) is
  'Who lobbied a person: the newest reports that name them, and the organizations with most of these.';
revoke all on function public.lobbying_of_member(text, integer) from public, anon, authenticated, service_role;
grant execute on function public.lobbying_of_member(text, integer) to service_role;


create or replace function public.recent_lobbying(p_limit integer default 10) returns jsonb
language plpgsql stable security definer set search_path = '' set plan_cache_mode = force_custom_plan
as $$
declare
  v_until constant date := (
    select c.communicated_on from public.lobbying_communications c
    order by c.communicated_on desc nulls last limit 1);
begin
  return (
    with reports as (
      select c.organization_en, c.organization_fr, c.communicated_on
      from public.lobbying_communications c
      where c.communicated_on > v_until - 30 and not c.is_superseded
      order by c.communicated_on desc nulls last limit 20000
    )
    select jsonb_build_object(
      'as_of', private.imported_on('lobbying-communications'), 'since', v_until - 29, 'until', v_until,
      'reports', (select count(*) from reports),
      'items', coalesce((
        select jsonb_agg(to_jsonb(o) order by o.reports desc, o.name) from (
          select organization_en as name, min(organization_fr) as name_fr, count(*) as reports,
                 max(communicated_on) as last_report_on
          from reports group by organization_en order by count(*) desc, organization_en limit least(p_limit, 50)
        ) o), '[]')));
end
$$;
comment on function public.recent_lobbying(integer) is
  'The organizations with most reports in the thirty days up to the newest report.';
revoke all on function public.recent_lobbying(integer) from public, anon, authenticated, service_role;
grant execute on function public.recent_lobbying(integer) to service_role;


-- ==== sql/schemas/90_schedule.sql

-- The schedule of the jobs, if pg_cron is available. Each job calls the function of the same name. Times are UTC.
-- Without pg_cron this file schedules nothing and raises a notice. It can run again once pg_cron is available.

do $migration$
declare
  -- A top-level block, because it may commit. A procedure that sets search_path may not.
  v_work constant text := $command$
do $job$
declare
  v_end constant timestamptz := clock_timestamp() + interval '100 seconds';
  v_began timestamptz;
  v_took interval;
  v_done integer;
begin
  loop
    v_began := clock_timestamp();
    v_done := public.%I();
    -- Commit after each batch, so that no lock is held longer than one batch takes.
    commit;
    v_took := clock_timestamp() - v_began;
    -- Supabase cancels a statement after two minutes. The next run does the rest.
    exit when v_done = 0 or clock_timestamp() + 5 * v_took > v_end;
    -- Leave four fifths of the time to users.
    perform pg_sleep_for(4 * v_took);
  end loop;
end
$job$
$command$;
  -- pg_cron never deletes its log. Delete only the runs of these jobs.
  v_purge constant text := $command$
delete from cron.job_run_details
where runid in (
  select r.runid
  from cron.job_run_details r
  join cron.job j on j.jobid = r.jobid
  where j.jobname = any (%L::text[]) and coalesce(r.end_time, r.start_time) < now() - interval '14 days'
  order by r.runid
  limit 10000
)
$command$;
  v_names text[] := array['purge-job-runs'];
  v_name text;
  v_schedule text;
begin
  if not exists (select from pg_available_extensions where name = 'pg_cron') then
    raise notice 'pg_cron is not available, so no job is scheduled. Expired holds, conversations and credits stay '
      'until something else calls the functions.';
    return;
  end if;

  create extension if not exists pg_cron with schema pg_catalog;
  -- cron.schedule replaces a job of the same name.
  for v_name, v_schedule in
    values
      ('release-stale-holds', '* * * * *'),
      ('apply-pending-turns', '*/5 * * * *'),
      ('reset-monthly-overages', '0 0 1 * *'),
      ('expire-credits', '10 0 * * *'),
      ('cleanup-expired-conversations', '0 2 * * *'),
      ('purge-events', '0 3 * * *')
  loop
    perform cron.schedule(v_name, v_schedule, format(v_work, replace(v_name, '-', '_')));
    v_names := v_names || v_name;
  end loop;
  perform cron.schedule('purge-job-runs', '30 3 * * *', format(v_purge, v_names));
exception when others then
  raise notice 'pg_cron cannot be used in this database (%), so no job is scheduled. Run this file again once it can.',
    sqlerrm;
end
$migration$;
