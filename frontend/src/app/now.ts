// The time, for what is shown relative to it.

import { useEffect, useState } from "react";

const MINUTE_MS = 60_000;

let offset = 0;

/** The developer's panel of a local stack moves the server's clock, and this one with it. */
export function setClockOffset(seconds: number) {
  offset = seconds * 1000;
}

export const now = () => Date.now() + offset;

/** The time in milliseconds. The component renders again each minute, and at `at`. */
export function useNow(at?: string | null): number {
  const [time, setTime] = useState(now);
  useEffect(() => {
    const left = at ? Date.parse(at) - now() : 0;
    const timer = setTimeout(() => setTime(now()), left > 0 && left < MINUTE_MS ? left + 50 : MINUTE_MS);
    return () => clearTimeout(timer);
  });
  return Math.max(time, now());
}
