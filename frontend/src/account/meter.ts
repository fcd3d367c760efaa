// What the meter shows: the funding that pays for the next query, or that is used up.

import type { Usage } from "../../lib/index.ts";

export type Reading =
  | { kind: "own_key" | "blocked" | "unpaid" | "overage_off" | "none" }
  | { kind: "free" | "daily"; left: number; limit: number; resets_at: string | null; used: number }
  | { kind: "credits"; left: number }
  | { kind: "overage"; used_usd: number; limit_usd: number; used: number };

/** `used` is the used share of the limit, from 0 to 1, for the bar. */
export function readMeter(usage: Usage): Reading {
  const { reason_code, included, overage, credits, tier } = usage;
  if (reason_code === "account_blocked") return { kind: "blocked" };
  if (reason_code === "own_key") return { kind: "own_key" };
  const unpaid = ["subscription_unpaid", "subscription_paused", "payment_failed"];
  if (unpaid.includes(reason_code)) return { kind: "unpaid" };
  if (reason_code === "subscription_ended" || reason_code === "no_subscription") return { kind: "none" };
  const isOverage = reason_code === "overage" || reason_code.startsWith("overage_");
  if (credits.remaining > 0 && (reason_code === "credits" || included.remaining === 0))
    return { kind: "credits", left: credits.remaining };
  if (isOverage && reason_code !== "overage_off" && overage.limit_usd !== null)
    return {
      kind: "overage",
      used_usd: overage.used_usd,
      limit_usd: overage.limit_usd,
      used: share(overage.used_usd, overage.limit_usd),
    };
  if (included.limit > 0)
    return {
      kind: tier === "free" ? "free" : "daily",
      left: included.remaining,
      limit: included.limit,
      resets_at: included.resets_at,
      used: share(included.used, included.limit),
    };
  if (reason_code === "credits_used" || reason_code === "no_quota") return { kind: "credits", left: 0 };
  return { kind: reason_code === "overage_off" ? "overage_off" : "none" };
}

const share = (used: number, limit: number) => (limit > 0 ? Math.min(1, used / limit) : 1);

/** The alerts about what pays now, or about what has just run out. */
export function alertsOf(usage: Usage) {
  const reading = readMeter(usage);
  const kinds: Partial<Record<Reading["kind"], string[]>> = {
    free: ["included"],
    daily: ["included"],
    credits: ["credits"],
    overage: ["included", "overage"],
  };
  return usage.alerts.filter((alert) => kinds[reading.kind]?.includes(alert.kind));
}
