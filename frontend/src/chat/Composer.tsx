// Where questions are written. Enter sends, Shift+Enter breaks the line, Esc stops, the up arrow edits the last one.

import { type FormEvent, type KeyboardEvent, type RefObject, useLayoutEffect } from "react";
import { chat as texts } from "../words/chat.ts";
import { useWords } from "../words/words.ts";
import { ContextChip } from "./ContextChip.tsx";
import type { PageContext } from "./context.ts";
import type { LinkState } from "./useReconnect.ts";

const MOST_BYTES = 16_000; // of a question, on the server
const NEAR_BYTES = 14_000;

type Props = {
  context: PageContext;
  onContext: (context: PageContext) => void;
  field: RefObject<HTMLTextAreaElement | null>;
  draft: string;
  onDraft: (text: string) => void;
  isEditing: boolean;
  onCancelEdit: () => void;
  onEditLast: () => void;
  onSubmit: (text: string) => void;
  isActive: boolean;
  isStopping: boolean;
  onStop: () => void;
  link: LinkState;
};

export function Composer(props: Props) {
  const { field, draft, isEditing, isActive, isStopping, link } = props;
  const words = useWords(texts);
  const bytes = draft.length * 3 < NEAR_BYTES ? 0 : new TextEncoder().encode(draft).length;
  const isTooLong = bytes > MOST_BYTES;
  const canSend = draft.trim() !== "" && !isTooLong && !isActive;

  // biome-ignore lint/correctness/useExhaustiveDependencies: the field grows with its text
  useLayoutEffect(() => {
    const element = field.current;
    if (!element) return;
    element.style.height = "auto";
    element.style.height = `${element.scrollHeight + 2}px`;
  }, [draft, field]);

  function submit(event?: FormEvent) {
    event?.preventDefault();
    if (canSend) props.onSubmit(draft.trim());
  }

  function onKey(event: KeyboardEvent) {
    if (event.nativeEvent.isComposing) return; // an input method takes the key
    if (event.key === "Enter" && !event.shiftKey) {
      event.preventDefault();
      submit();
    } else if (event.key === "Escape") {
      if (isActive) props.onStop();
      else if (isEditing) props.onCancelEdit();
    } else if (event.key === "ArrowUp" && draft === "" && !isActive) {
      event.preventDefault();
      props.onEditLast();
    }
  }

  const line = isTooLong
    ? words.tooLong(bytes - MOST_BYTES)
    : link in LINES
      ? words[LINES[link as keyof typeof LINES]]
      : "";
  return (
    <form className="composer" onSubmit={submit}>
      <p className="line" role="status">
        {line}
      </p>
      {isEditing && (
        <p className="editing">
          {words.editing}
          <button type="button" className="plain" onClick={props.onCancelEdit}>
            {words.cancelEdit}
          </button>
        </p>
      )}
      <ContextChip context={props.context} onContext={props.onContext} field={field} />
      <div className="row">
        <label>
          <span className="hidden">{words.question}</span>
          <textarea
            id="question"
            ref={field}
            rows={1}
            value={draft}
            placeholder={words.placeholder}
            aria-invalid={isTooLong || undefined}
            onChange={(event) => props.onDraft(event.target.value)}
            onKeyDown={onKey}
          />
        </label>
        {isActive ? (
          <button type="button" className="primary" disabled={isStopping} onClick={props.onStop}>
            {isStopping ? words.stopping : words.stop}
          </button>
        ) : (
          <button type="submit" className="primary" disabled={!canSend}>
            {words.send}
          </button>
        )}
      </div>
    </form>
  );
}

const LINES = { offline: "offline", reconnecting: "reconnecting", resumed: "resumed" } as const;
