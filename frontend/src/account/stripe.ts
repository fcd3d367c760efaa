// The way to Stripe's pages, and what the page knows after the return.

import { useCallback, useEffect, useState } from "react";
import type { Usage } from "../../lib/index.ts";
import { useAccount } from "../app/account.tsx";
import { announceChange } from "../app/changes.ts";
import { go } from "../app/route.ts";
import { useServices } from "../app/services.tsx";

export type PlanName = "basic" | "pro" | "usage_only";
export type Order = { plan: PlanName } | { pack: string };

/** The address to return to. `paid` says what was bought, so that the page can wait for it. */
function returnTo(paid?: string): string {
  const search = paid === undefined ? "" : `?paid=${encodeURIComponent(paid)}`;
  return `${location.origin}${location.pathname}${search}#plans`;
}

/** Opens Stripe's pages. Both resolve when the browser leaves. */
export function useStripe() {
  const { api } = useServices();
  const { usage } = useAccount();
  const credits = usage?.credits.remaining ?? 0;

  const buy = useCallback(
    async (order: Order) => {
      const paid = "plan" in order ? order.plan : `credits-${credits}`;
      const urls = { success_url: returnTo(paid), cancel_url: returnTo("portal") };
      const { url } = await api.call("POST /checkout", { body: { ...order, ...urls } });
      location.assign(url);
    },
    [api, credits],
  );

  const openPortal = useCallback(async () => {
    const { url } = await api.call("POST /portal", { body: { return_url: returnTo("portal") } });
    location.assign(url);
  }, [api]);

  return { buy, openPortal };
}

const POLL_MS = 1000;
const POLLS = 30;
/** A change in the portal is not announced: there may have been none. */
const POLLS_AFTER_PORTAL = 5;

/** `waiting`: Stripe has the payment, and its event has not arrived. `late`: it has not arrived in half a minute. */
export type Return = "waiting" | "arrived" | "late" | null;

const BOUGHT = /^(basic|pro|usage_only|portal|credits-\d+)$/;

/** After the return from Stripe: reads the account until what was bought has arrived. */
export function useReturn(): Return {
  const { refresh } = useAccount();
  const [paid] = useState(() => BOUGHT.exec(new URLSearchParams(location.search).get("paid") ?? "")?.[0] ?? null);
  const [state, setState] = useState<Return>(paid === null || paid === "portal" ? null : "waiting");

  useEffect(() => {
    if (paid === null) return;
    go(`${location.pathname}${location.hash}`, { replace: true });
    let polls = 0;
    let timer: ReturnType<typeof setTimeout>;
    const poll = async () => {
      const usage = await refresh();
      polls++;
      if (usage && hasArrived(paid, usage)) {
        setState("arrived");
        announceChange("account", { here: false });
      } else if (paid === "portal" ? polls < POLLS_AFTER_PORTAL : polls < POLLS) {
        timer = setTimeout(poll, POLL_MS);
      } else if (paid !== "portal") {
        setState("late");
      }
    };
    void poll();
    return () => clearTimeout(timer);
  }, [paid, refresh]);

  return state;
}

function hasArrived(paid: string, usage: Usage): boolean {
  const before = /^credits-(\d+)$/.exec(paid)?.[1];
  return before === undefined ? usage.tier === paid : usage.credits.remaining > Number(before);
}
