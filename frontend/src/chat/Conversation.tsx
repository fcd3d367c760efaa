// One conversation: its messages, the composer, and the record of what it is about.

import { lazy, useEffect, useRef, useState } from "react";
import { LazyPart } from "../app/LazyPart.tsx";
import { chat as texts } from "../words/chat.ts";
import { useWords } from "../words/words.ts";
import { Composer } from "./Composer.tsx";
import { GENERAL, type PageContext } from "./context.ts";
import { textOf } from "./messages.ts";
import { Suggestions } from "./Suggestions.tsx";
import { useConversation } from "./useConversation.ts";
import { usePinnedScroll } from "./usePinnedScroll.ts";
import "./chat.css";

const loadMessages = () => import("./MessageList.tsx");
const MessageList = lazy(loadMessages);
const Record = lazy(() => import("./Record.tsx"));

type Props = { id: string; isNew: boolean; onFirstQuestion: (text: string) => void };

export function Conversation({ id, isNew, onFirstQuestion }: Props) {
  const words = useWords(texts);
  const [chosen, setChosen] = useState<PageContext | null>(null);
  const latest = useRef(GENERAL);
  const conversation = useConversation({ id, isNew, context: () => latest.current });
  const { messages, isActive, link, place, stored, unanswered } = conversation;
  const context =
    chosen ?? (stored?.context_type ? { type: stored.context_type, id: stored.context_id, name: null } : GENERAL);
  latest.current = context;
  const [draft, setDraft] = useState("");
  const [editing, setEditing] = useState<string | null>(null);
  const scroll = usePinnedScroll(messages.length === 0);
  const field = useRef<HTMLTextAreaElement>(null);

  /** Not where that opens a keyboard on the screen. */
  const focusField = () => matchMedia("(hover: hover)").matches && field.current?.focus();

  function stop() {
    focusField();
    void conversation.stop();
  }

  function submit(text: string) {
    scroll.pin();
    setDraft("");
    setEditing(null);
    onFirstQuestion(text);
    focusField();
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
    if (!unanswered) return;
    setDraft((draft) => draft || unanswered.text);
    setChosen(unanswered.context);
  }, [unanswered]);

  const keys = useRef<(event: KeyboardEvent) => void>(() => {});
  keys.current = (event) => {
    const target = event.target instanceof Element ? event.target : document.body;
    if (event.defaultPrevented || target.closest("dialog")) return;
    if (event.key === "Escape" && isActive && target !== field.current) stop();
    if (event.key !== "/" || target.closest("input, textarea, select")) return;
    if (event.ctrlKey || event.metaKey || event.altKey) return;
    event.preventDefault();
    field.current?.focus();
  };

  // biome-ignore lint/correctness/useExhaustiveDependencies: once; a new conversation is one to write in
  useEffect(() => {
    const listener = (event: KeyboardEvent) => keys.current(event);
    addEventListener("keydown", listener);
    if (isNew && document.activeElement === document.body && !location.hash) focusField();
    return () => removeEventListener("keydown", listener);
  }, []);

  const isEmpty = place === "open" && messages.length === 0;
  return (
    <main className="chat">
      <h1 className="hidden">{stored?.title ?? words.newConversation}</h1>
      <div className="scroll" ref={scroll.area} onScroll={scroll.onScroll}>
        <div className="column" ref={scroll.content}>
          {place === "loading" && !link.problem && <Skeleton label={words.loading} />}
          {place === "missing" && !unanswered && (
            <p className="quiet">{conversation.keepsHistory === false ? words.keepsNothing : words.missing}</p>
          )}
          {isEmpty && (
            <>
              <p className="intro">{words.intro}</p>
              <Suggestions context={context} onAsk={submit} />
            </>
          )}
          {!isEmpty && (
            <LazyPart isQuiet>
              <MessageList conversation={conversation} onEdit={edit} onDismiss={dismiss} />
            </LazyPart>
          )}
          {unanswered && (
            <p className="quiet" role="status">
              {words.unanswered}
            </p>
          )}
        </div>
      </div>
      <LazyPart isQuiet>
        <Record context={context} messages={messages} />
      </LazyPart>
      <Composer
        context={context}
        onContext={setChosen}
        field={field}
        draft={draft}
        onDraft={(text) => {
          setDraft(text);
          if (text === "") conversation.forgetUnanswered();
          loadMessages().catch(() => {}); // before the answer needs it, which says what fails
        }}
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
        isActive={isActive}
        isStopping={conversation.isStopping}
        onStop={stop}
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
