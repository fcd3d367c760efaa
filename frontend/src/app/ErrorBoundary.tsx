// What is shown if a component throws.

import { Component, type ReactNode } from "react";
import { app } from "../words/app.ts";
import { currentLanguage } from "./language.tsx";

export class ErrorBoundary extends Component<{ children: ReactNode }, { failed: boolean }> {
  override state = { failed: false };

  static getDerivedStateFromError() {
    return { failed: true };
  }

  override render() {
    if (!this.state.failed) return this.props.children;
    const words = app[currentLanguage()];
    return (
      <main className="alone">
        <p>{words.broken}</p>
        <button type="button" className="primary" onClick={() => location.reload()}>
          {words.reload}
        </button>
      </main>
    );
  }
}
