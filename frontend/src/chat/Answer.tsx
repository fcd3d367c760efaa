// An answer: its text, how it ended, and what can be done with it.

import type { ChatMessage } from "../../lib/index.ts";
import { Feedback } from "../account/Feedback.tsx";
import { Why } from "../account/Why.tsx";
import { Copy } from "../app/Copy.tsx";
import { chat as texts } from "../words/chat.ts";
import { useWords } from "../words/words.ts";
import { languageOf } from "./languageOf.ts";
import { Markdown } from "./Markdown.tsx";
import { textOf } from "./messages.ts";

type Props = { message: ChatMessage; isGrowing: boolean; onRegenerate?: () => void };

export function Answer({ message, isGrowing, onRegenerate }: Props) {
  const words = useWords(texts);
  const text = textOf(message);
  return (
    <li className="answer" data-role="assistant" aria-busy={isGrowing || undefined}>
      <span className="hidden">{words.answer}</span>
      <div className="text" lang={languageOf(text)}>
        {message.parts.map((part, at) =>
          part.type === "text" ? <Markdown key={at} text={part.text} isGrowing={isGrowing} /> : null,
        )}
      </div>
      <Ending message={message} isGrowing={isGrowing} />
      {!isGrowing && message.metadata && (
        <div className="actions">
          <Copy text={text} label={words.copy} />
          {onRegenerate && (
            <button type="button" className="plain" onClick={onRegenerate}>
              {words.regenerate}
            </button>
          )}
          {message.metadata.persisted && <Feedback messageId={message.id} />}
          <Why metadata={message.metadata} />
        </div>
      )}
    </li>
  );
}

/** How the answer ended, if it is not complete. */
function Ending({ message: { metadata }, isGrowing }: { message: ChatMessage; isGrowing: boolean }) {
  const words = useWords(texts);
  if (isGrowing || !metadata) return null;
  const line = metadata.error
    ? words.failed
    : metadata.outcome === "lost"
      ? words.lost
      : ENDINGS[metadata.finish_reason ?? "stop"];
  const text = line && (line in words ? words[line as keyof typeof words] : line);
  return text ? <p className="ending">{text as string}</p> : null;
}

const ENDINGS: Record<string, "stopped" | "cut" | "refused" | "limited" | null> = {
  stop: null,
  stopped: "stopped",
  length: "cut",
  "content-filter": "refused",
  limit: "limited",
};
