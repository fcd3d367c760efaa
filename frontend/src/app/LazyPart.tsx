// A part of the page whose code is loaded when it is needed. If that fails, only this part is missing.

import { type ReactNode, Suspense } from "react";
import { app } from "../words/app.ts";
import { useWords } from "../words/words.ts";
import { ErrorBoundary, Reload } from "./ErrorBoundary.tsx";

/** `isQuiet`: shows nothing while it is loaded, because it appears elsewhere. */
export function LazyPart({ children, isQuiet }: { children: ReactNode; isQuiet?: boolean }) {
  const words = useWords(app);
  const missing = (
    <div role="alert">
      <p>{words.partMissing}</p>
      <Reload />
    </div>
  );
  return (
    <ErrorBoundary fallback={missing}>
      <Suspense fallback={isQuiet ? null : <p className="quiet">{words.loading}</p>}>{children}</Suspense>
    </ErrorBoundary>
  );
}
