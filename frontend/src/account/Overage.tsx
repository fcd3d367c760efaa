// Paying per question beyond the plan: on or off, and the monthly limit.

import { type FormEvent, useState } from "react";
import type { OverageRequest, OverageSettings } from "../../lib/index.ts";
import { useAccount } from "../app/account.tsx";
import { announceChange } from "../app/changes.ts";
import { useFormats } from "../app/format.ts";
import { useServices } from "../app/services.tsx";
import { useTask } from "../app/useTask.ts";
import { plans as texts } from "../words/account_dialogs.ts";
import { useWords } from "../words/words.ts";
import { Problem } from "./Problem.tsx";

// Dollars and cents, with the decimal sign of either language.
const AMOUNT = /^\d{1,5}([.,]\d{1,2})?$/;

export function Overage({ overage }: { overage: OverageSettings }) {
  const words = useWords(texts);
  const format = useFormats();
  const { api } = useServices();
  const { refresh } = useAccount();
  const [limit, setLimit] = useState(() => String(overage.limit_usd ?? ""));
  const [isWrong, setWrong] = useState(false);
  const [isSaved, setSaved] = useState(false);
  const [isLowered, setLowered] = useState(false);
  const task = useTask();
  if (overage.price_usd === null) return null;

  async function save(body: OverageRequest) {
    if (task.isBusy) return;
    setSaved(false);
    const done = await task.run(async () => {
      const { limit_usd } = await api.call("PATCH /overage", { body });
      setLowered(limit_usd !== null && limit_usd < (body.overage_limit_usd ?? 0));
      setLimit(String(limit_usd ?? ""));
      await refresh();
      announceChange("account", { here: false });
    });
    setSaved(done);
  }

  function submit(event: FormEvent) {
    event.preventDefault();
    const isAmount = AMOUNT.test(limit.trim());
    setWrong(!isAmount);
    if (isAmount) void save({ overage_limit_usd: Number(limit.trim().replace(",", ".")) });
  }

  return (
    <section data-section="overage">
      <h3>{words.overage}</h3>
      <p>{words.overageHelp(format.money(overage.price_usd, overage.currency))}</p>
      {overage.limit_usd !== null && (
        <p>
          {words.overageUsed(
            format.money(overage.used_usd, overage.currency),
            format.money(overage.limit_usd, overage.currency),
          )}
        </p>
      )}
      <form className="limit" onSubmit={submit} noValidate>
        <label>
          {words.limit(overage.currency)}
          <input
            inputMode="decimal"
            value={limit}
            aria-invalid={isWrong}
            aria-describedby="limit-wrong"
            onChange={(event) => setLimit(event.target.value)}
          />
        </label>
        <button type="submit" aria-disabled={task.isBusy}>
          {words.saveLimit}
        </button>
        <p id="limit-wrong" role="alert">
          {isWrong && words.limitWrong}
        </p>
      </form>
      <Problem error={task.error} onDismiss={task.clear} onAgain={task.clear} />
      <button type="button" aria-disabled={task.isBusy} onClick={() => void save({ allow_overages: !overage.allowed })}>
        {overage.allowed ? words.overageOff : words.overageOn}
      </button>
      <p role="status">
        {isSaved && isLowered && `${words.lowered} `}
        {isSaved &&
          (overage.allowed ? words.savedOn(format.money(overage.limit_usd ?? 0, overage.currency)) : words.savedOff)}
      </p>
    </section>
  );
}
