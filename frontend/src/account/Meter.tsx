// The quota meter: what is left, as a text first and a bar second. Opens the plan and its limits.

import { useAccount } from "../app/account.tsx";
import { useFormats } from "../app/format.ts";
import { useNow } from "../app/now.ts";
import { openDialog } from "../app/route.ts";
import { meter as texts } from "../words/account.ts";
import { useWords } from "../words/words.ts";
import { alertsOf, readMeter } from "./meter.ts";
import { useUntil } from "./until.ts";
import "./account.css";

export function Meter() {
  const { usage } = useAccount();
  const words = useWords(texts);
  const text = useMeterText();
  if (!usage || text === "") return <span className="meter" />;
  const reading = readMeter(usage);
  const alert = alertsOf(usage)[0];
  const isUsed = !usage.can_query;
  return (
    <button
      type="button"
      className="meter plain"
      data-level={alert || isUsed ? "near" : undefined}
      aria-description={words.opens}
      title={isUsed ? usage.message : alert?.message}
      onClick={() => openDialog(reading.kind === "overage" ? "plans-overage" : "plans")}
    >
      <span>{text}</span>
      {"used" in reading && (
        <span className="bar">
          <span style={{ width: `${reading.used * 100}%` }} />
        </span>
      )}
    </button>
  );
}

/** What is left, in words; empty until it is known. */
export function useMeterText(): string {
  const { usage } = useAccount();
  const words = useWords(texts);
  const format = useFormats();
  const until = useUntil();
  const time = useNow();
  if (!usage) return "";
  const reading = readMeter(usage);
  switch (reading.kind) {
    case "free":
      return words.free(reading.left, reading.limit);
    case "daily":
      // A quota of which nothing is used has nothing that comes back.
      return reading.resets_at && reading.left < reading.limit
        ? `${words.daily(reading.left, reading.limit)} · ${words.back(until(reading.resets_at, time))}`
        : words.daily(reading.left, reading.limit);
    case "credits":
      return words.credits(reading.left, format.number(reading.left));
    case "overage":
      return words.overage(
        format.money(reading.used_usd, usage.overage.currency),
        format.money(reading.limit_usd, usage.overage.currency),
      );
    default:
      return words[reading.kind];
  }
}
