// One conversation: its messages, the composer, and the record of what it is about.

import { useEffect, useRef, useState } from "react";
import { chat as texts } from "../words/chat.ts";
import { useWords } from "../words/words.ts";
import { Announcer } from "./Announcer.tsx";
import { Composer } from "./Composer.tsx";
import { MessageList } from "./MessageList.tsx";
import { textOf } from "./messages.ts";
import { useConversation } from "./useConversation.ts";
import { usePinnedScroll } from "./usePinnedScroll.ts";
import "./chat.css";

type Props = { id: string; isNew: boolean; onFirstQuestion: () => void };

export function Conversation({ id, isNew, onFirstQuestion }: Props) {
  const words = useWords(texts);
  const conversation = useConversation({ id, isNew, context: () => undefined });
  const { messages, isActive, link, place } = conversation;
  const [draft, setDraft] = useState("");
  const [editing, setEditing] = useState<string | null>(null);
  const scroll = usePinnedScroll();
  const field = useRef<HTMLTextAreaElement>(null);

  function submit(text: string) {
    scroll.pin();
    setDraft("");
    setEditing(null);
    onFirstQuestion();
    void (editing ? conversation.edit(editing, text) : conversation.send(text));
  }

  function edit(messageId: string) {
    const message = messages.find((one) => one.id === messageId);
    if (!message || isActive) return;
    setEditing(messageId);
    setDraft(textOf(message));
    field.current?.focus();
  }

  function dismiss() {
    const text = conversation.dismiss();
    if (text && !draft) setDraft(text);
    field.current?.focus();
  }

  useEffect(() => {
    const shortcut = (event: KeyboardEvent) => {
      const isTyping = event.target instanceof Element && event.target.closest("input, textarea, select, dialog");
      if (event.key !== "/" || isTyping || event.ctrlKey || event.metaKey || event.altKey) return;
      event.preventDefault();
      field.current?.focus();
    };
    addEventListener("keydown", shortcut);
    return () => removeEventListener("keydown", shortcut);
  }, []);

  const isEmpty = place === "open" && messages.length === 0;
  return (
    <main className="chat">
      <h1 className="hidden">{conversation.stored?.title ?? words.newConversation}</h1>
      <div className="scroll" ref={scroll.area} onScroll={scroll.onScroll}>
        <div className="column" ref={scroll.content}>
          {place === "loading" && !link.problem && <Skeleton label={words.loading} />}
          {place === "missing" && (
            <p className="quiet">{conversation.keepsHistory === false ? words.keepsNothing : words.missing}</p>
          )}
          {isEmpty && <p className="intro">{words.intro}</p>}
          <Announcer message={messages.at(-1)} isGrowing={isActive || link.isCut} />
          <MessageList conversation={conversation} onEdit={edit} onDismiss={dismiss} />
        </div>
      </div>
      <Composer
        field={field}
        draft={draft}
        onDraft={setDraft}
        isEditing={editing !== null}
        onCancelEdit={() => {
          setEditing(null);
          setDraft("");
        }}
        onEditLast={() => {
          const last = messages.findLast(({ role }) => role === "user");
          if (last) edit(last.id);
        }}
        onSubmit={submit}
        isActive={isActive || link.isCut}
        isStopping={conversation.isStopping}
        onStop={() => void conversation.stop()}
        link={link.state}
      />
    </main>
  );
}

function Skeleton({ label }: { label: string }) {
  return (
    <div className="skeleton" role="status">
      <span className="hidden">{label}</span>
      <i />
      <i />
      <i />
    </div>
  );
}
