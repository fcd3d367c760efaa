// The ratings of answers. Those of all answers that appear together are read in one request.

import type { SupabaseClient } from "@supabase/supabase-js";
import type { Feedback } from "../../lib/index.ts";

type Waiting = { id: string; resolve: (rating: Feedback | null) => void };

const AT_ONCE = 100;
let waiting: Waiting[] = [];

/** The user's rating of an answer; null where there is none, or it cannot be read. */
export function readRating(supabase: SupabaseClient, id: string): Promise<Feedback | null> {
  return new Promise((resolve) => {
    if (waiting.length === 0) setTimeout(() => void readAll(supabase));
    waiting.push({ id, resolve });
  });
}

async function readAll(supabase: SupabaseClient) {
  const all = waiting;
  waiting = [];
  for (let at = 0; at < all.length; at += AT_ONCE) {
    const some = all.slice(at, at + AT_ONCE);
    const ids = [...new Set(some.map(({ id }) => id))];
    const { data } = await supabase.from("message_feedback").select("query_id,rating,comment").in("query_id", ids);
    const found = new Map((data ?? []).map(({ query_id, ...rating }) => [query_id, rating as Feedback]));
    for (const { id, resolve } of some) resolve(found.get(id) ?? null);
  }
}
