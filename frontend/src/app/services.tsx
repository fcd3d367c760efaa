// The clients of the backend, created once from the configuration: Supabase's and ours.

import { createClient as createSupabase, type Session, type SupabaseClient } from "@supabase/supabase-js";
import { createContext, type ReactNode, useContext, useEffect, useState } from "react";
import { type Client, createClient } from "../../lib/index.ts";
import { forgetQuestions } from "../chat/unanswered.ts";
import type { Config } from "./config.ts";
import { currentLanguage } from "./language.tsx";

export type Services = {
  config: Config;
  supabase: SupabaseClient;
  api: Client;
  /** A valid access token; null without a user. supabase-js renews it. */
  token: () => Promise<string | null>;
  /** Signs out where the user is deleted. supabase-js would send a request that the deleted session cannot make. */
  forgetUser: () => Promise<void>;
};

/** Creates the clients. */
export function createServices(config: Config): Services {
  const storageKey = `sb-${new URL(config.supabase_url).hostname.split(".")[0]}-auth-token`; // as supabase-js names it
  const supabase = createSupabase(config.supabase_url, config.publishable_key, { auth: { storageKey } });
  const token = async () => (await supabase.auth.getSession()).data.session?.access_token ?? null;
  const api = createClient({ functions: config.functions, token, language: currentLanguage });
  const forgetUser = async () => {
    localStorage.removeItem(storageKey);
    await supabase.auth.signOut({ scope: "local" }); // without a session it sends nothing, and informs every tab
  };
  return { config, supabase, api, token, forgetUser };
}

const Context = createContext<Services | null>(null);
const SessionContext = createContext<Session | null | undefined>(undefined);

export function ServicesProvider({ services, children }: { services: Services; children: ReactNode }) {
  const [session, setSession] = useState<Session | null | undefined>(undefined);
  useEffect(() => {
    const { data } = services.supabase.auth.onAuthStateChange((event, next) => {
      if (event === "SIGNED_OUT") forgetQuestions();
      setSession(next);
    });
    return () => data.subscription.unsubscribe();
  }, [services]);
  return (
    <Context value={services}>
      <SessionContext value={session}>{children}</SessionContext>
    </Context>
  );
}

export function useServices(): Services {
  const services = useContext(Context);
  if (!services) throw new Error("useServices needs a ServicesProvider");
  return services;
}

/** The session: undefined until it is known, null without a user. */
export const useSession = () => useContext(SessionContext);
