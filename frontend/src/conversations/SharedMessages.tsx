// The messages of a shared conversation: texts and sources.

import type { ChatMessage } from "../../lib/index.ts";
import { languageOf } from "../chat/languageOf.ts";
import { Markdown } from "../chat/Markdown.tsx";
import { textOf } from "../chat/messages.ts";
import { chat } from "../words/chat.ts";
import { conversations } from "../words/conversations.ts";
import { useWords } from "../words/words.ts";
import "../chat/chat.css";

export function SharedMessages({ messages }: { messages: ChatMessage[] }) {
  const words = useWords(chat);
  const { sources } = useWords(conversations);
  return (
    <ol className="messages">
      {messages.map((message) => {
        const links = message.parts.filter((part) => part.type === "source-url");
        const text = textOf(message);
        const isQuestion = message.role === "user";
        return (
          <li key={message.id} className={isQuestion ? "question" : "answer"} data-role={message.role}>
            <h2 className="hidden">{isQuestion ? words.you : words.answer}</h2>
            <div className="text" lang={languageOf(text)}>
              {isQuestion ? <p>{text}</p> : <Markdown text={text} isGrowing={false} />}
            </div>
            {links.length > 0 && (
              <ol aria-label={sources}>
                {links.map((link) => (
                  <li key={link.sourceId}>
                    <a href={link.url} target="_blank" rel="noreferrer">
                      {link.title ?? link.url}
                    </a>
                  </li>
                ))}
              </ol>
            )}
          </li>
        );
      })}
    </ol>
  );
}
