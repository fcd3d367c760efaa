// The user's keys that their provider no longer accepts. GET /usage only has the active ones.

import { useEffect, useState } from "react";
import type { KeyInfo, Usage } from "../../lib/index.ts";
import { onChange } from "../app/changes.ts";
import { useServices } from "../app/services.tsx";

/** Read when the active keys change, and when this tab or another one changes a key. */
export function useRejectedKeys(usage: Usage | null): KeyInfo[] {
  const { api } = useServices();
  const [rejected, setRejected] = useState<KeyInfo[]>([]);
  const isAllowed = usage?.byok.allowed === true && usage.reason_code !== "account_blocked";
  const active = usage?.byok.providers.join();

  // biome-ignore lint/correctness/useExhaustiveDependencies: an active key that became none is a rejected one
  useEffect(() => {
    setRejected([]);
    if (!isAllowed) return;
    const leaving = new AbortController();
    const read = () =>
      api
        .call("GET /keys", { signal: leaving.signal })
        .then(({ keys }) => setRejected(keys.filter(({ status }) => status === "invalid")))
        .catch(() => {}); // the dialog of the keys says what fails
    void read();
    const end = onChange((what) => what === "account" && void read());
    return () => {
      end();
      leaving.abort();
    };
  }, [api, isAllowed, active]);

  return rejected;
}
