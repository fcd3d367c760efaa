// What the question is about, as a chip that can be removed, and the button that chooses it.

import { lazy, type RefObject, useState } from "react";
import { LazyPart } from "../app/LazyPart.tsx";
import { context as texts } from "../words/chat_context.ts";
import { useWords } from "../words/words.ts";
import { GENERAL, type PageContext, useContextName } from "./context.ts";

const ContextPicker = lazy(() => import("./ContextPicker.tsx"));

type Props = {
  context: PageContext;
  onContext: (context: PageContext) => void;
  field: RefObject<HTMLTextAreaElement | null>;
};

export function ContextChip({ context, onContext, field }: Props) {
  const words = useWords(texts);
  const [isOpen, setOpen] = useState(false);
  const name = useContextName()(context);
  return (
    <div className="about">
      {name ? (
        <span className="chip">
          <button type="button" className="plain" title={words.change} onClick={() => setOpen(true)}>
            {words.about(name)}
          </button>
          <button
            type="button"
            className="plain"
            aria-label={words.remove(name)}
            onClick={() => {
              onContext(GENERAL);
              field.current?.focus();
            }}
          >
            ×
          </button>
        </span>
      ) : (
        <span className="chip">
          <button type="button" className="plain" onClick={() => setOpen(true)}>
            {words.choose}
          </button>
        </span>
      )}
      {isOpen && (
        <LazyPart isQuiet>
          <ContextPicker
            initial={context}
            onClose={() => setOpen(false)}
            onChosen={(next) => {
              setOpen(false);
              onContext(next);
              requestAnimationFrame(() => field.current?.focus());
            }}
          />
        </LazyPart>
      )}
    </div>
  );
}
