// What is shown if a component throws: the fallback, or in place of the whole page a sentence.

import { Component, type ReactNode } from "react";
import { app } from "../words/app.ts";
import { currentLanguage } from "./language.tsx";

type Props = { children: ReactNode; fallback?: ReactNode };

export class ErrorBoundary extends Component<Props, { failed: boolean }> {
  override state = { failed: false };

  static getDerivedStateFromError() {
    return { failed: true };
  }

  override render() {
    if (!this.state.failed) return this.props.children;
    return this.props.fallback ?? <Broken />;
  }
}

/** In place of the whole page. */
export function Broken() {
  const words = app[currentLanguage()];
  return (
    <main className="alone">
      <p>{words.broken}</p>
      <Reload />
    </main>
  );
}

export function Reload() {
  return (
    <button type="button" className="primary" onClick={() => location.reload()}>
      {app[currentLanguage()].reload}
    </button>
  );
}
