// The messages of a shared conversation: texts and sources.

import { useMemo, useRef } from "react";
import type { ChatMessage } from "../../lib/index.ts";
import { languageOf } from "../chat/languageOf.ts";
import { Markdown, SourceNumbers } from "../chat/Markdown.tsx";
import { sourcesOf, textOf } from "../chat/messages.ts";
import { Sources } from "../chat/Sources.tsx";
import { chat } from "../words/chat.ts";
import { useWords } from "../words/words.ts";
import "../chat/answer.css";
import "../chat/chat.css";

export function SharedMessages({ messages }: { messages: ChatMessage[] }) {
  return (
    <ol className="messages">
      {messages.map((message) =>
        message.role === "user" ? (
          <Question key={message.id} text={textOf(message)} />
        ) : (
          <Answer key={message.id} message={message} />
        ),
      )}
    </ol>
  );
}

function Question({ text }: { text: string }) {
  const words = useWords(chat);
  return (
    <li className="question" data-role="user">
      <span className="hidden">{words.you}</span>
      <p lang={languageOf(text)}>{text}</p>
    </li>
  );
}

function Answer({ message }: { message: ChatMessage }) {
  const words = useWords(chat);
  const element = useRef<HTMLLIElement>(null);
  const sources = useMemo(() => sourcesOf(message), [message]);
  const numbers = useMemo(() => new Map(sources.map(({ url }, at) => [url, at + 1])), [sources]);
  return (
    <li className="answer" data-role="assistant" ref={element}>
      <span className="hidden">{words.answer}</span>
      <div className="text" lang={languageOf(textOf(message))}>
        <SourceNumbers value={numbers}>
          {message.parts.map((part, at) =>
            part.type === "text" ? <Markdown key={at} text={part.text} isGrowing={false} /> : null,
          )}
        </SourceNumbers>
      </div>
      <Sources sources={sources} answer={element} isGrowing={false} />
    </li>
  );
}
