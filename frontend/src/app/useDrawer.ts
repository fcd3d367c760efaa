// The list of conversations: a column on a wide window, a drawer on a narrow one.

import { useCallback, useEffect, useRef, useState, useSyncExternalStore } from "react";

const wide = matchMedia("(width >= 64rem)"); // as in app.css

function subscribe(changed: () => void) {
  wide.addEventListener("change", changed);
  return () => wide.removeEventListener("change", changed);
}

export function useDrawer() {
  const isWide = useSyncExternalStore(subscribe, () => wide.matches);
  const [chosen, setChosen] = useState({ isWide, isOpen: isWide });
  // The choice is for this width: a column that was closed is no open drawer.
  const isOpen = chosen.isWide === isWide ? chosen.isOpen : isWide;
  const list = useRef<HTMLElement>(null);
  const button = useRef<HTMLButtonElement>(null);

  const toggle = () => setChosen({ isWide, isOpen: !isOpen });

  /** Closes the drawer, after a choice. The column stays. */
  const close = useCallback(() => {
    if (wide.matches) return;
    button.current?.focus();
    setChosen({ isWide: false, isOpen: false });
  }, []);

  useEffect(() => {
    if (isWide || !isOpen) return;
    const elsewhere = (event: PointerEvent) => {
      const target = event.target as Node;
      // A dialog of the list is not in it.
      if (list.current?.contains(target) || button.current?.contains(target) || document.querySelector("dialog"))
        return;
      setChosen({ isWide: false, isOpen: false });
    };
    const onEscape = (event: KeyboardEvent) => {
      const target = event.target as Node;
      const isHere = list.current?.contains(target) || button.current?.contains(target);
      if (event.key === "Escape" && isHere) close();
    };
    document.addEventListener("pointerdown", elsewhere);
    document.addEventListener("keydown", onEscape);
    return () => {
      document.removeEventListener("pointerdown", elsewhere);
      document.removeEventListener("keydown", onEscape);
    };
  }, [isWide, isOpen, close]);

  return { isOpen, toggle, close, list, button };
}
