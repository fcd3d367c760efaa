// The dialog #keys: the user's own keys of model providers.

import { useCallback } from "react";
import { useAccount } from "../app/account.tsx";
import { announceChange } from "../app/changes.ts";
import { useServices } from "../app/services.tsx";
import { keys as texts } from "../words/account_dialogs.ts";
import { app } from "../words/app.ts";
import { useWords } from "../words/words.ts";
import { ActionButton } from "./ActionButton.tsx";
import { PROVIDERS, type Provider } from "./keys.ts";
import { Problem } from "./Problem.tsx";
import { ProviderKey } from "./ProviderKey.tsx";
import { useRead } from "./useRead.ts";
import "./dialogs.css";

export default function Keys() {
  const words = useWords(texts);
  const { loading } = useWords(app);
  const { api } = useServices();
  const { usage } = useAccount();
  const stored = useRead(useCallback((signal) => api.call("GET /keys", { signal }), [api]));
  const isAllowed = usage?.byok.allowed;

  function changed() {
    stored.again();
    announceChange("account");
  }

  const keyOf = (provider: Provider) => stored.value?.keys.find((key) => key.provider === provider) ?? null;
  return (
    <div className="sheet">
      <p>{words.intro}</p>
      <p className="quiet">{words.safety}</p>
      <Problem error={stored.error} onAgain={stored.again} />
      {!stored.value && !stored.error && <p className="quiet">{loading}</p>}
      {isAllowed === false && (
        <div className="problem">
          <p>{words.notInPlan}</p>
          <ActionButton error={{ action: "upgrade" }} />
        </div>
      )}
      {stored.value &&
        PROVIDERS.map((provider) => {
          const key = keyOf(provider);
          if (!key && !isAllowed) return null;
          return <ProviderKey key={provider} provider={provider} stored={key} onChanged={changed} />;
        })}
    </div>
  );
}
