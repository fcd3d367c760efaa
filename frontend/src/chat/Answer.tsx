// An answer: what was looked up for it, its text, its sources, how it ended, and what can be done with it.

import { lazy, type ReactNode, useMemo, useRef } from "react";
import type { ChatMessage, Metadata } from "../../lib/index.ts";
import { Feedback } from "../account/Feedback.tsx";
import { Why } from "../account/Why.tsx";
import { Copy } from "../app/Copy.tsx";
import { LazyPart } from "../app/LazyPart.tsx";
import { chat as texts } from "../words/chat.ts";
import { useWords } from "../words/words.ts";
import { languageOf } from "./languageOf.ts";
import { Markdown, SourceNumbers } from "./Markdown.tsx";
import { sourcesOf, textOf } from "./messages.ts";
import { Sources } from "./Sources.tsx";
import { ToolCall } from "./ToolCall.tsx";
import { callsOf, isFields } from "./tools.ts";
import type { Stopped } from "./useConversation.ts";

const Votes = lazy(() => import("./Votes.tsx"));

type Props = {
  message: ChatMessage;
  isGrowing: boolean;
  /** How it was stopped; null: not known. */
  stopped: Stopped | null;
  isLast: boolean;
  /** A card below says why it failed, and that nothing was charged. */
  isExplained: boolean;
  onRegenerate?: () => void;
  share?: ReactNode;
};

export function Answer({ message, isGrowing, stopped, isLast, isExplained, onRegenerate, share }: Props) {
  const words = useWords(texts);
  const element = useRef<HTMLLIElement>(null);
  const text = textOf(message);
  const calls = callsOf(message);
  const sources = sourcesOf(message);
  const urls = sources.map(({ url }) => url).join(" ");
  const numbers = useMemo(() => new Map(urls.split(" ").map((url, at) => [url, at + 1])), [urls]);
  const hasVotes = calls.some(({ output }) => isFields(output) && (output.parties || output.votes));
  const { metadata } = message;
  return (
    <li className="answer" data-role="assistant" ref={element} aria-busy={isGrowing || undefined}>
      <span className="hidden">{words.answer}</span>
      {calls.length > 0 && (
        <ul className="tools">
          {calls.map((call) => (
            <ToolCall key={call.id} call={call} isGrowing={isGrowing} />
          ))}
        </ul>
      )}
      {hasVotes && (
        <LazyPart isQuiet>
          <Votes calls={calls} />
        </LazyPart>
      )}
      <div className="text" lang={languageOf(text)}>
        <SourceNumbers value={numbers}>
          {message.parts.map((part, at) =>
            part.type === "text" ? <Markdown key={at} text={part.text} isGrowing={isGrowing} /> : null,
          )}
        </SourceNumbers>
      </div>
      {!isGrowing && <Ending metadata={metadata} {...{ stopped, isLast, isExplained }} />}
      <Sources sources={sources} answer={element} isGrowing={isGrowing} />
      {!isGrowing && metadata && (
        <div className="actions">
          <Copy
            text={[text, ...sources.map((one, at) => `${at + 1}. ${one.title} ${one.url}`)].join("\n")}
            label={words.copy}
          />
          {onRegenerate && (
            <button type="button" className="plain" onClick={onRegenerate}>
              {words.regenerate}
            </button>
          )}
          {!metadata.error && metadata.outcome !== "lost" && <Feedback messageId={message.id} />}
          {metadata.persisted && share}
          <Why metadata={metadata} />
        </div>
      )}
    </li>
  );
}

/** How the answer ended, if it is not complete. */
type EndingProps = Pick<Props, "stopped" | "isLast" | "isExplained"> & { metadata: Metadata | undefined };

function Ending({ metadata, stopped, isLast, isExplained }: EndingProps) {
  const words = useWords(texts);
  if (!metadata) return null;
  const reason = metadata.error ? "failed" : (metadata.outcome ?? metadata.finish_reason ?? "stop");
  const known = ENDINGS[reason];
  // A newer question is shown once this tab has read it.
  const isUnclear = stopped === null || (stopped === "replaced" && isLast);
  const ending = known === "stopped" ? (isUnclear ? "ended" : stopped) : known;
  return ending ? (
    <p className="ending" data-ending={ending}>
      {words[ending]} {ending === "failed" && !isExplained && words.notCharged}
    </p>
  ) : null;
}

const ENDINGS: Record<string, "stopped" | "cut" | "refused" | "limited" | "failed" | "lost" | undefined> = {
  stopped: "stopped",
  length: "cut",
  "content-filter": "refused",
  limit: "limited",
  failed: "failed",
  lost: "lost",
};
