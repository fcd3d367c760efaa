// The sentence of an error. After a change of the page's language it is read in that language: the database has both.

import { useEffect, useState } from "react";
import type { PageError } from "../../lib/index.ts";
import { useLanguage } from "../app/language.tsx";
import { useServices } from "../app/services.tsx";
import { providerName } from "./keys.ts";

type Read = { of: string; en: string; fr: string };

export function Sentence({ error }: { error: PageError }) {
  const { supabase } = useServices();
  const { language } = useLanguage();
  const { message, reason_code } = error;
  const [written, setWritten] = useState({ message, language });
  if (written.message !== message) setWritten({ message, language });
  const [read, setRead] = useState<Read | null>(null);
  const isOther = written.message === message && written.language !== language;

  useEffect(() => {
    if (!isOther || read?.of === reason_code) return;
    const found = supabase.from("reasons").select("en,fr").eq("code", reason_code).maybeSingle<Omit<Read, "of">>();
    void found.then(({ data }) => data && setRead({ of: reason_code, ...data }));
  }, [supabase, isOther, reason_code, read]);

  if (!isOther) return message;
  if (read?.of === reason_code) return filled(read[language], error);
  return <span lang={written.language}>{message}</span>;
}

/** The sentence with the details of the error. */
function filled(sentence: string, error: PageError): string {
  const details: Record<string, unknown> = { ...error, provider: error.provider && providerName(error.provider) };
  return sentence.replace(/\{(\w+)\}/g, (name, detail) => String(details[detail] ?? name));
}
