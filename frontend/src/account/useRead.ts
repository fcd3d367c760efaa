// Reads something when the component appears, and again on demand. What was read stays shown meanwhile.

import { useCallback, useEffect, useRef, useState } from "react";
import { type PageError, readError } from "../../lib/index.ts";
import { currentLanguage } from "../app/language.tsx";

export function useRead<T>(read: (signal: AbortSignal) => Promise<T>) {
  const [value, setValue] = useState<T | null>(null);
  const [error, setError] = useState<PageError | null>(null);
  const leaving = useRef<AbortController>(null);

  const again = useCallback(async () => {
    leaving.current?.abort();
    const controller = new AbortController();
    const { signal } = controller;
    leaving.current = controller;
    try {
      const found = await read(signal);
      if (signal.aborted) return;
      setValue(found);
      setError(null);
    } catch (failure) {
      if (!signal.aborted) setError(readError(failure, currentLanguage()));
    }
  }, [read]);

  useEffect(() => {
    void again();
    return () => leaving.current?.abort();
  }, [again]);

  return { value, setValue, error, again: () => void again() };
}
