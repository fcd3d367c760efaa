// The dialog #plans: the present plan, the plans and packs on sale, overage with its limit, and bills.

import { useCallback, useEffect, useRef } from "react";
import { useAccount } from "../app/account.tsx";
import { useFormats } from "../app/format.ts";
import { useServices } from "../app/services.tsx";
import { useTask } from "../app/useTask.ts";
import { plans as texts } from "../words/account_dialogs.ts";
import { app, tiers } from "../words/app.ts";
import { useWords } from "../words/words.ts";
import { Bills } from "./Bills.tsx";
import { useMeterText } from "./Meter.tsx";
import { Overage } from "./Overage.tsx";
import { Packs } from "./Packs.tsx";
import { PlanList } from "./PlanList.tsx";
import { Problem } from "./Problem.tsx";
import { type Return, useStripe } from "./stripe.ts";
import { useRead } from "./useRead.ts";
import "./dialogs.css";

type Props = { section: string | undefined; returned: Return };

export default function Plans({ section, returned }: Props) {
  const words = useWords(texts);
  const names = useWords(tiers);
  const { loading } = useWords(app);
  const { api } = useServices();
  const { usage, error, refresh } = useAccount();
  const prices = useRead(useCallback((signal) => api.call("GET /plans", { signal }), [api]));
  const body = useRef<HTMLDivElement>(null);
  const isReady = usage !== null && prices.value !== null;

  useEffect(() => {
    if (!isReady || !section) return;
    const part = body.current?.querySelector<HTMLElement>(`[data-section=${CSS.escape(section)}]`);
    part?.scrollIntoView();
    part?.querySelector<HTMLElement>("input, button")?.focus();
  }, [isReady, section]);

  return (
    <div className="sheet" ref={body}>
      <p role="status">{returned && words[returned]}</p>
      <Problem error={usage ? null : error} onAgain={() => void refresh()} />
      <Problem error={prices.error} onAgain={prices.again} />
      {!isReady && !error && !prices.error && <p className="quiet">{loading}</p>}
      {usage && prices.value && (
        <>
          <Current name={names[usage.tier]} />
          <PlanList plans={prices.value.plans} usage={usage} />
          <Packs packs={prices.value.packs} credits={usage.credits} />
          <Overage overage={usage.overage} />
          <Bills billing={usage.billing} />
        </>
      )}
    </div>
  );
}

/** The present plan, its state, and the portal. */
function Current({ name }: { name: string }) {
  const words = useWords(texts);
  const names = useWords(tiers);
  const format = useFormats();
  const { usage } = useAccount();
  const { openPortal } = useStripe();
  const meter = useMeterText();
  const task = useTask();
  if (!usage) return null;
  const { ends_at, next_tier, past_due_since, is_customer } = usage.billing;
  return (
    <section>
      <h3>{words.current(name)}</h3>
      <p>{meter}</p>
      {past_due_since && <p className="near">{words.pastDue(format.day(past_due_since))}</p>}
      {ends_at && <p>{words.endsAt(format.day(ends_at))}</p>}
      {!ends_at && next_tier && <p>{words.nextTier(names[next_tier], format.day(usage.period.end))}</p>}
      {!ends_at && !next_tier && usage.billing.is_subscribed && <p>{words.renews(format.day(usage.period.end))}</p>}
      {is_customer && (
        <>
          <button type="button" aria-disabled={task.isBusy} onClick={() => void task.run(openPortal)}>
            {words.portal}
          </button>
          <p className="quiet">{words.portalHelps}</p>
        </>
      )}
      <Problem error={task.error} onAgain={() => void task.run(openPortal)} onDismiss={task.clear} />
    </section>
  );
}
