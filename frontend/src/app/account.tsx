// What GET /usage says about the user's plan. Read again after every answer, on return to the page, and when another
// tab reports a change.

import { createContext, type ReactNode, useCallback, useContext, useEffect, useMemo, useRef, useState } from "react";
import type { PageError, Usage } from "../../lib/index.ts";
import { readError } from "../../lib/index.ts";
import { onChange } from "./changes.ts";
import { useLanguage } from "./language.tsx";
import { useServices, useSession } from "./services.tsx";

type Account = {
  usage: Usage | null;
  error: PageError | null;
  /** Reads it again. Resolves to what was read; to null on a failure, which `error` then has. */
  refresh: () => Promise<Usage | null>;
};

const Context = createContext<Account>({ usage: null, error: null, refresh: async () => null });

export function AccountProvider({ children }: { children: ReactNode }) {
  const { api } = useServices();
  const userId = useSession()?.user.id;
  const { language } = useLanguage();
  const [usage, setUsage] = useState<Usage | null>(null);
  const [error, setError] = useState<PageError | null>(null);
  const latest = useRef(0);

  const refresh = useCallback(async () => {
    const turn = ++latest.current;
    try {
      const read = await api.call("GET /usage");
      if (turn === latest.current) {
        setUsage(read);
        setError(null);
      }
      return read;
    } catch (failure) {
      if (turn === latest.current) setError(readError(failure));
      return null;
    }
  }, [api]);

  // biome-ignore lint/correctness/useExhaustiveDependencies: its sentences are in the page's language
  useEffect(() => {
    if (!userId) {
      latest.current++;
      setUsage(null);
      return;
    }
    void refresh();
    const visible = () => document.visibilityState === "visible" && void refresh();
    document.addEventListener("visibilitychange", visible);
    const end = onChange(() => void refresh());
    return () => {
      document.removeEventListener("visibilitychange", visible);
      end();
    };
  }, [userId, language, refresh]);

  const account = useMemo(() => ({ usage, error, refresh }), [usage, error, refresh]);
  return <Context value={account}>{children}</Context>;
}

export const useAccount = () => useContext(Context);
