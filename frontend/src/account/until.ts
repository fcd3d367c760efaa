// How long it is until a time, in the largest unit that fits: "4 h".

import { until as texts } from "../words/account.ts";
import { useWords } from "../words/words.ts";

const MINUTE_MS = 60_000;

/** Rounds up, so that nothing is promised too early. */
export function useUntil(): (iso: string, now: number) => string {
  const words = useWords(texts);
  return (iso, now) => {
    const minutes = Math.max(1, Math.ceil((Date.parse(iso) - now) / MINUTE_MS));
    if (minutes < 60) return words.minutes(minutes);
    const hours = Math.ceil(minutes / 60);
    return hours < 48 ? words.hours(hours) : words.days(Math.ceil(hours / 24));
  };
}
