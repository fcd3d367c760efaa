// Reads a growing answer to a screen reader: each paragraph once it is complete, not each word.

import { lexer } from "marked";
import { useRef } from "react";
import type { ChatMessage } from "../../lib/index.ts";
import { languageOf } from "./languageOf.ts";
import { plainText } from "./Markdown.tsx";
import { textOf } from "./messages.ts";

export function Announcer({ message, isGrowing }: { message: ChatMessage | undefined; isGrowing: boolean }) {
  // Only an answer that grew while it was shown; not one that was loaded.
  const announced = useRef<string | null>(null);
  if (isGrowing && message?.role === "assistant") announced.current = message.id;
  const text = message && announced.current === message.id ? textOf(message) : "";
  const blocks = lexer(text).filter(({ type }) => type !== "space");
  const complete = isGrowing ? blocks.slice(0, -1) : blocks;
  return (
    <div className="hidden" role="log" aria-live="polite" lang={languageOf(text)}>
      {complete.map((block, at) => (
        <p key={`${announced.current}-${at}`}>{plainText([block])}</p>
      ))}
    </div>
  );
}
