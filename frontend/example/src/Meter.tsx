// src/Meter.tsx: what pays for the next question, and what is left.
import { useUsage } from "./usage.ts";
import { money, time, words } from "./words.ts";

export function Meter() {
  const usage = useUsage();
  if (!usage) return null;
  const { included, credits, overage, alerts } = usage;

  function amount() {
    switch (usage?.reason_code) {
      case "own_key":
        return null;
      case "credits":
        return `${credits.remaining} ${words.credits}`;
      case "overage":
        return `${money.format(overage.used_usd)} ${words.thisMonth} ${money.format(overage.limit_usd ?? 0)}`;
      default:
        return `${included.remaining} ${words.left} ${included.limit}`;
    }
  }

  const left = amount();
  const isUsedUp = included.limit > 0 && included.remaining === 0; // a plan that includes nothing has no next day
  return (
    <p>
      {left && <strong>{left}.</strong>} {alerts[0]?.message ?? usage.message}{" "}
      {isUsedUp && included.resets_at && `${words.until} ${time(included.resets_at)}`}
    </p>
  );
}
