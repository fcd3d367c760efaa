// The page's words. Every text of the page exists in both languages: a missing one is a type error.

import { useLanguage } from "../app/language.tsx";

export type Language = "en" | "fr";

// biome-ignore lint/suspicious/noExplicitAny: the arguments of a text are those that its English version declares.
type Text = string | ((...values: any[]) => string);

type Translated<T> = { [K in keyof T]: T[K] extends string ? string : T[K] };

/** Texts in both languages. A text with values is a function. */
export function words<T extends Record<string, Text>>(en: T, fr: Translated<T>): Record<Language, Translated<T>> {
  return { en: en as Translated<T>, fr };
}

/** The texts in the language of the page. */
export function useWords<T>(both: Record<Language, T>): T {
  return both[useLanguage().language];
}
