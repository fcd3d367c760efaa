// src/services.ts: Supabase's client, and the backend's.
import { createClient as createSupabase, type Session } from "@supabase/supabase-js";
import { useEffect, useState } from "react";
import { createClient, type FunctionUrls } from "./lib/index.ts";
import { language } from "./words.ts";

type Config = { functions: FunctionUrls; supabase_url: string; publishable_key: string };
const config: Config = await (await fetch("/config.json")).json();

export const supabase = createSupabase(config.supabase_url, config.publishable_key);

export const api = createClient({
  functions: config.functions,
  token: async () => (await supabase.auth.getSession()).data.session?.access_token ?? null,
  language: () => language,
});

/** The session: undefined until it is known, null without a user. */
export function useSession() {
  const [session, setSession] = useState<Session | null>();
  useEffect(() => {
    const { data } = supabase.auth.onAuthStateChange((event, next) => {
      // A fresh page: nothing of this user is left for the next one, not even the conversation in the address.
      if (event === "SIGNED_OUT") location.assign("/");
      else setSession(next);
    });
    return () => data.subscription.unsubscribe();
  }, []);
  return session;
}
