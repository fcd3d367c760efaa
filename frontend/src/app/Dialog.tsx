// A dialog in front of the page. Esc, the close button and the browser's Back close it.

import { type ReactNode, useId, useLayoutEffect, useRef } from "react";
import { createPortal } from "react-dom";
import { app } from "../words/app.ts";
import { useWords } from "../words/words.ts";

export function Dialog({ title, onClose, children }: { title: string; onClose: () => void; children: ReactNode }) {
  const words = useWords(app);
  const element = useRef<HTMLDialogElement>(null);
  const label = useId();
  // A layout effect ends while the element is still in the page: close() then returns the focus to what opened it.
  useLayoutEffect(() => {
    const dialog = element.current;
    if (dialog && !dialog.open) dialog.showModal();
    return () => dialog?.close();
  }, []);
  // At the end of the page, so that it looks the same wherever the button is that opens it.
  return createPortal(
    <dialog
      ref={element}
      aria-labelledby={label}
      onCancel={(event) => {
        event.preventDefault();
        onClose();
      }}
    >
      <header>
        <h2 id={label}>{title}</h2>
        <button type="button" className="plain" onClick={onClose}>
          {words.close}
        </button>
      </header>
      {children}
    </dialog>,
    document.body,
  );
}
