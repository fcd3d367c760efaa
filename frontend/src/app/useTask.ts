// One request that a button starts: whether it runs, and how it failed.

import { useCallback, useEffect, useRef, useState } from "react";
import { type PageError, readError } from "../../lib/index.ts";
import { currentLanguage } from "./language.tsx";

export function useTask() {
  const [isBusy, setBusy] = useState(false);
  const [error, setError] = useState<PageError | null>(null);
  const isRunning = useRef(false);
  const isShown = useRef(true);

  useEffect(() => {
    isShown.current = true;
    return () => {
      isShown.current = false;
    };
  }, []);

  /** Runs it, unless one runs. Resolves to whether it succeeded; `error` then says why not. */
  const run = useCallback(async (task: () => Promise<unknown>) => {
    if (isRunning.current) return false;
    isRunning.current = true;
    setBusy(true);
    setError(null);
    try {
      await task();
      return true;
    } catch (failure) {
      if (isShown.current) setError(readError(failure, currentLanguage()));
      return false;
    } finally {
      isRunning.current = false;
      if (isShown.current) setBusy(false);
    }
  }, []);

  const clear = useCallback(() => setError(null), []);
  return { isBusy, error, run, clear };
}
