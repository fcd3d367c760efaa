// The page's language: the user's choice, else the browser's.

import { createContext, type ReactNode, useContext, useEffect, useMemo, useState } from "react";
import type { Language } from "../words/words.ts";

const STORED = "language";

type Chosen = { language: Language; setLanguage: (language: Language) => void };

const Context = createContext<Chosen>({ language: "en", setLanguage: () => {} });

/** The language to start with. */
function initial(): Language {
  const stored = localStorage.getItem(STORED);
  if (stored === "en" || stored === "fr") return stored;
  return navigator.language.toLowerCase().startsWith("fr") ? "fr" : "en";
}

let current: Language = initial();

/** The language at this moment, for code outside of components. */
export const currentLanguage = () => current;

export function LanguageProvider({ children }: { children: ReactNode }) {
  const [language, setState] = useState(current);
  useEffect(() => {
    document.documentElement.lang = language;
  }, [language]);
  const chosen = useMemo(
    () => ({
      language,
      setLanguage: (next: Language) => {
        localStorage.setItem(STORED, next);
        current = next;
        setState(next);
      },
    }),
    [language],
  );
  return <Context value={chosen}>{children}</Context>;
}

export const useLanguage = () => useContext(Context);
