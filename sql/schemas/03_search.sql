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
