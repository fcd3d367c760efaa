// Quiet lines under the header: announcements of operators, what is nearly used, why the next question is refused.

import { useState } from "react";
import type { KeyInfo, PageError, Usage } from "../../lib/index.ts";
import { useAccount } from "../app/account.tsx";
import { useFormats } from "../app/format.ts";
import { notices as texts } from "../words/account.ts";
import { useWords } from "../words/words.ts";
import { ActionButton } from "./ActionButton.tsx";
import { PROVIDER_NAMES } from "./keys.ts";
import { alertsOf } from "./meter.ts";
import { useRejectedKeys } from "./useRejectedKeys.ts";

type Notice = Pick<PageError, "message" | "action"> & {
  key: string;
  isRefusal?: boolean;
  reason_code?: PageError["reason_code"];
};

export function Notices() {
  const words = useWords(texts);
  const format = useFormats();
  const { usage, error, refresh } = useAccount();
  const [hidden, setHidden] = useState<string[]>([]);
  const rejected = useRejectedKeys(usage);
  const all = usage ? noticesOf(usage, (day) => words.pastDue(format.day(day))) : [];
  all.push(...rejected.map((key) => rejectedKey(key, words.keyRejected(PROVIDER_NAMES[key.provider], key.hint))));
  if (!usage && error) all.push({ key: error.code, message: error.message, action: error.action });
  const shown = all.filter(({ key }) => !hidden.includes(key));
  return (
    <section className="notices" aria-label={words.region} aria-live="polite" hidden={shown.length === 0}>
      {shown.map(({ key, isRefusal, ...notice }) => (
        <div className="notice" key={key} data-refusal={isRefusal}>
          <p>{notice.message}</p>
          <ActionButton error={notice} onDone={usage ? undefined : () => void refresh()} />
          <button type="button" className="plain" onClick={() => setHidden([...hidden, key])}>
            {words.hide}
          </button>
        </div>
      ))}
    </section>
  );
}

const rejectedKey = ({ provider, last_validated_at }: KeyInfo, message: string): Notice => ({
  key: `${provider}:${last_validated_at}`,
  message,
  action: "reconnect_key",
});

function noticesOf(usage: Usage, pastDue: (day: string) => string): Notice[] {
  const { announcements, billing, can_query, reason_code } = usage;
  const list: Notice[] = announcements.map(({ kind, provider, starts_at, message }) => ({
    key: `${kind}:${provider}:${starts_at}`,
    message,
    action: "none",
  }));
  if (!can_query)
    list.push({
      key: reason_code,
      message: usage.message,
      action: usage.action,
      reason_code: reason_code as PageError["reason_code"],
      isRefusal: true,
    });
  else list.push(...alertsOf(usage).map(({ reason_code: key, message, action }) => ({ key, message, action })));
  if (billing.past_due_since && usage.action !== "pay_invoice")
    list.push({ key: "past_due", message: pastDue(billing.past_due_since), action: "pay_invoice" });
  return list;
}
