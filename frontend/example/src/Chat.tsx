// src/Chat.tsx: one conversation.
import { useChat } from "@ai-sdk/react";
import { type FormEvent, type ReactNode, useEffect } from "react";
import {
  type ChatMessage,
  type Context,
  chatTransport,
  loadHistory,
  type PageError,
  readError,
  stopAnswer,
} from "./lib/index.ts";
import { api } from "./services.ts";
import { currentUsage, refreshUsage } from "./usage.ts";
import { language, words } from "./words.ts";

// Created once, outside of the component: it knows which question has no answer yet.
const transport = chatTransport({ client: api, keepsHistory: () => currentUsage()?.keeps_history ?? false });

type Props = {
  id: string;
  /** Nothing can be stored yet. */
  isNew: boolean;
  /** What the questions are about: the page that the user is on. */
  context?: Context;
  showError: (error: PageError, retry: () => void) => ReactNode;
};

export function Chat({ id, isNew, context, showError }: Props) {
  const { messages, setMessages, sendMessage, regenerate, resumeStream, status, error } = useChat<ChatMessage>({
    id,
    transport,
    onFinish: () => void refreshUsage().catch(console.error),
  });
  const about = { body: { context } };
  const isAnswering = status === "submitted" || status === "streaming";

  // After a reload: the stored messages, and the answer that is still running.
  useEffect(() => {
    if (isNew) return;
    let isOpen = true;
    const load = async () => {
      const history = await loadHistory(api, id);
      if (!isOpen || !history) return;
      setMessages(history.messages);
      if (history.conversation.is_running) await resumeStream();
    };
    load().catch(console.error);
    return () => {
      isOpen = false;
    };
  }, [id, isNew, setMessages, resumeStream]);

  function ask(event: FormEvent<HTMLFormElement>) {
    event.preventDefault();
    const text = String(new FormData(event.currentTarget).get("question")).trim();
    if (!text || isAnswering) return;
    event.currentTarget.reset();
    void sendMessage({ text }, about);
  }

  return (
    <section>
      <div aria-live="polite">
        {messages.map((message) => (
          <Message key={message.id} message={message} />
        ))}
      </div>
      {error && showError(readError(error, language), () => void regenerate(about))}
      <form onSubmit={ask}>
        <label>
          {words.question} <input name="question" autoComplete="off" />
        </label>
        {isAnswering ? (
          // useChat's own `stop` only disconnects: the answer would continue, and be charged.
          <button type="button" onClick={() => void stopAnswer(api, id).catch(console.error)}>
            {words.stop}
          </button>
        ) : (
          <button type="submit">{words.send}</button>
        )}
      </form>
    </section>
  );
}

function Message({ message: { role, parts, metadata } }: { message: ChatMessage }) {
  const sources = parts.filter((part) => part.type === "source-url");
  const ending = metadata?.finish_reason;
  return (
    <article data-role={role}>
      {parts.map((part, at) => {
        // Markdown, here as plain text.
        if (part.type === "text")
          return (
            <p key={at} style={{ whiteSpace: "pre-wrap" }}>
              {part.text}
            </p>
          );
        if (part.type.startsWith("tool-")) return <small key={at}>{part.type.slice("tool-".length)} </small>;
        return null;
      })}
      {ending && ending in words.cut && <p>{words.cut[ending as keyof typeof words.cut]}</p>}
      {sources.length > 0 && (
        <ol aria-label={words.sources}>
          {sources.map((source) => (
            <li key={source.sourceId}>
              <a href={source.url} target="_blank" rel="noreferrer">
                {source.title ?? source.url}
              </a>
            </li>
          ))}
        </ol>
      )}
    </article>
  );
}
