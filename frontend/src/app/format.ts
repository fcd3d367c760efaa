// Amounts, numbers and dates in the page's language. Amounts are the server's figures: nothing here computes with them.

import type { Language } from "../words/words.ts";
import { useLanguage } from "./language.tsx";

const LOCALES: Record<Language, string> = { en: "en-CA", fr: "fr-CA" };

const ISO_DATE = /\b\d{4}-(?:0[1-9]|1[0-2])-(?:0[1-9]|[12]\d|3[01])\b/g;

function formats(language: Language) {
  const locale = LOCALES[language];
  const options = { style: "currency", maximumFractionDigits: 6 } as const;
  const usd = new Intl.NumberFormat(locale, {
    ...options,
    currency: "USD",
    currencyDisplay: language === "fr" ? "symbol" : "narrowSymbol",
  });
  // Not the locale, in which they are "$": some amounts are US dollars.
  const cad = new Intl.NumberFormat(language, { ...options, currency: "CAD" });
  const numbers = new Intl.NumberFormat(locale);
  const days = new Intl.DateTimeFormat(locale, { dateStyle: "long" });
  const times = new Intl.DateTimeFormat(locale, { dateStyle: "medium", timeStyle: "short", hourCycle: "h23" });
  const months = new Intl.DateTimeFormat(locale, { month: "long", year: "numeric" });
  return {
    /**
     * US dollars: $1.25, or 1,25 $ US in French. Canadian dollars: CA$1.25, or 1,25 $CA. At least two decimals, and as
     * many as the amount has.
     */
    money: (amount: number, currency: string) => (currency === "cad" ? cad : usd).format(amount),
    number: (value: number) => numbers.format(value),
    day: (iso: string) => days.format(new Date(iso)),
    /** A text with its ISO dates as days: "Debates, 2026-05-26". */
    inText: (text: string) => text.replace(ISO_DATE, (iso) => days.format(new Date(`${iso}T12:00:00`))),
    time: (iso: string) => times.format(new Date(iso)),
    month: (iso: string) => months.format(new Date(iso)),
    list: (names: string[]) => new Intl.ListFormat(locale).format(names),
  };
}

const BY_LANGUAGE = { en: formats("en"), fr: formats("fr") };

export const useFormats = () => BY_LANGUAGE[useLanguage().language];
