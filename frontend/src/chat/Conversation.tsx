// One conversation: its messages, its record, and the composer.

import { useChat } from "@ai-sdk/react";
import { useEffect, useMemo, useRef, useState } from "react";
import { type ChatMessage, chatTransport, readError, toUIMessages } from "../../lib/index.ts";
import { useAccount } from "../app/account.tsx";
import { announceChange } from "../app/changes.ts";
import { useServices } from "../app/services.tsx";
import { chat as texts } from "../words/chat.ts";
import { useWords } from "../words/words.ts";

type Props = { id: string; isNew: boolean; onFirstQuestion: () => void };

export function Conversation({ id, isNew, onFirstQuestion }: Props) {
  const words = useWords(texts);
  const { api } = useServices();
  const { usage } = useAccount();
  const keeps = useRef(false);
  keeps.current = usage?.keeps_history ?? false;
  const transport = useMemo(() => chatTransport({ client: api, keepsHistory: () => keeps.current }), [api]);
  const { messages, sendMessage, setMessages, resumeStream, status, error } = useChat<ChatMessage>({
    id,
    transport,
    onFinish: () => announceChange(id),
  });
  const [text, setText] = useState("");
  const problem = error && readError(error);

  // biome-ignore lint/correctness/useExhaustiveDependencies: once for a conversation
  useEffect(() => {
    if (isNew) return;
    const leaving = new AbortController();
    api
      .call("GET /chat/{chat_id}/messages", { path: { chat_id: id }, signal: leaving.signal })
      .then((read) => {
        setMessages(toUIMessages(read));
        if (read.conversation.is_running) void resumeStream();
      })
      .catch(() => {});
    return () => leaving.abort();
  }, [id]);

  return (
    <main className="chat">
      <ol className="messages" aria-live="polite">
        {messages.map((message) => (
          <li key={message.id} data-role={message.role}>
            <span className="hidden">{message.role === "user" ? words.you : words.answer}</span>
            {message.parts.map((part, at) =>
              part.type === "text" ? <p key={`${message.id}-${at}`}>{part.text}</p> : null,
            )}
          </li>
        ))}
      </ol>
      {messages.length === 0 && <p>{words.intro}</p>}
      {problem && <p role="alert">{problem.message}</p>}
      <form
        onSubmit={(event) => {
          event.preventDefault();
          if (!text.trim()) return;
          onFirstQuestion();
          void sendMessage({ text });
          setText("");
        }}
      >
        <label>
          {words.question}
          <textarea id="question" value={text} onChange={(event) => setText(event.target.value)} />
        </label>
        <button type="submit" className="primary" disabled={status !== "ready" && status !== "error"}>
          {words.send}
        </button>
      </form>
    </main>
  );
}
