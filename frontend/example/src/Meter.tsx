// src/Meter.tsx: what pays for the next question, and what is left.
import { useUsage } from "./usage.ts";
import { money, time, words } from "./words.ts";

export function Meter() {
  const usage = useUsage();
  if (!usage) return null;
  const { included, credits, overage, alerts } = usage;
  return (
    <p>
      {usage.reason_code === "credits" ? (
        <strong>
          {credits.remaining} {words.credits}
        </strong>
      ) : usage.reason_code === "overage" ? (
        <strong>
          {money.format(overage.used_usd)} {words.thisMonth} {money.format(overage.limit_usd ?? 0)}
        </strong>
      ) : (
        usage.reason_code !== "own_key" && (
          <strong>
            {included.remaining} {words.left} {included.limit}
          </strong>
        )
      )}{" "}
      {alerts[0]?.message ?? usage.message} {included.remaining === 0 && included.resets_at && time(included.resets_at)}
    </p>
  );
}
