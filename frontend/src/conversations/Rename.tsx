// Changes a title in place. Enter saves, Esc cancels.

import { useEffect, useRef } from "react";
import { conversations } from "../words/conversations.ts";
import { useWords } from "../words/words.ts";

type Props = { title: string; onSave: (title: string) => void; onCancel: () => void };

export function Rename({ title, onSave, onCancel }: Props) {
  const words = useWords(conversations);
  const input = useRef<HTMLInputElement>(null);
  useEffect(() => input.current?.select(), []);
  return (
    <form
      className="rename"
      onSubmit={(event) => {
        event.preventDefault();
        const next = input.current?.value.trim() ?? "";
        if (next && next !== title) onSave(next);
        else onCancel();
      }}
    >
      <input
        ref={input}
        defaultValue={title}
        maxLength={200}
        aria-label={words.newTitle}
        onKeyDown={(event) => {
          if (event.key !== "Escape") return;
          event.stopPropagation();
          onCancel();
        }}
      />
      <button type="submit">{words.save}</button>
    </form>
  );
}
