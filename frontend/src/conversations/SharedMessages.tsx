// The messages of a shared conversation: texts and sources.

import type { ChatMessage } from "../../lib/index.ts";
import { chat } from "../words/chat.ts";
import { conversations } from "../words/conversations.ts";
import { useWords } from "../words/words.ts";

export function SharedMessages({ messages }: { messages: ChatMessage[] }) {
  const words = useWords(chat);
  const { sources } = useWords(conversations);
  return (
    <ol className="messages">
      {messages.map((message) => {
        const links = message.parts.filter((part) => part.type === "source-url");
        return (
          <li key={message.id} data-role={message.role}>
            <h2 className="hidden">{message.role === "user" ? words.you : words.answer}</h2>
            {message.parts.map((part, at) =>
              part.type === "text" ? <p key={`${message.id}-${at}`}>{part.text}</p> : null,
            )}
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
