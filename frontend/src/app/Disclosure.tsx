// A button that shows a panel of commands below it. Esc, a click elsewhere, leaving it with Tab, and every command
// close it; Esc and a command return the focus to the button, so that a dialog which they open returns it there, too.

import { type ReactNode, useEffect, useId, useRef, useState } from "react";

type Props = { label: ReactNode; name?: string; className?: string; children: ReactNode };

export function Disclosure({ label, name, className = "", children }: Props) {
  const [isOpen, setOpen] = useState(false);
  const root = useRef<HTMLDivElement>(null);
  const button = useRef<HTMLButtonElement>(null);
  const panel = useId();

  useEffect(() => {
    if (!isOpen) return;
    const elsewhere = (event: Event) => {
      if (!root.current?.contains(event.target as Node)) setOpen(false);
    };
    document.addEventListener("pointerdown", elsewhere);
    document.addEventListener("focusin", elsewhere);
    return () => {
      document.removeEventListener("pointerdown", elsewhere);
      document.removeEventListener("focusin", elsewhere);
    };
  }, [isOpen]);

  function close() {
    setOpen(false);
    button.current?.focus();
  }

  return (
    // biome-ignore lint/a11y/noStaticElementInteractions: Esc closes the panel wherever the focus is in it
    <div
      ref={root}
      className={`menu ${className}`}
      onKeyDown={(event) => {
        if (event.key !== "Escape" || !isOpen) return;
        event.stopPropagation();
        close();
      }}
    >
      <button
        ref={button}
        type="button"
        className="plain"
        aria-label={name}
        aria-expanded={isOpen}
        aria-controls={panel}
        onClick={() => setOpen(!isOpen)}
      >
        {label}
      </button>
      {/* Capture: the focus is back at the button before the command opens a dialog. */}
      <div
        id={panel}
        hidden={!isOpen}
        onClickCapture={(event) => (event.target as Element).closest("button") && close()}
      >
        {children}
      </div>
    </div>
  );
}
