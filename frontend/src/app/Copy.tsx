// A button that copies a text.

import { useState } from "react";
import { app } from "../words/app.ts";
import { useWords } from "../words/words.ts";

export function Copy({ text, label }: { text: string; label: string }) {
  const words = useWords(app);
  const [state, setState] = useState<"copied" | "notCopied" | null>(null);
  async function copy() {
    try {
      await navigator.clipboard.writeText(text);
      setState("copied");
    } catch {
      setState("notCopied");
    }
  }
  return (
    <>
      <button type="button" className="plain" onClick={() => void copy()}>
        {label}
      </button>
      <span role="status">{state && words[state]}</span>
    </>
  );
}
