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
