// A shared conversation, which anyone with its address can read without signing in.

import { useEffect, useState } from "react";
import { type PageError, readError, type SharedConversation, toUIMessages } from "../../lib/index.ts";
import { useFormats } from "../app/format.ts";
import { LanguageSwitch } from "../app/LanguageSwitch.tsx";
import { currentLanguage, useLanguage } from "../app/language.tsx";
import { go } from "../app/route.ts";
import { useServices } from "../app/services.tsx";
import { languageOf } from "../chat/languageOf.ts";
import { app } from "../words/app.ts";
import { conversations } from "../words/conversations.ts";
import { useWords } from "../words/words.ts";
import { SharedMessages } from "./SharedMessages.tsx";
import "./conversations.css";

export default function SharedPage({ token }: { token: string }) {
  const words = useWords(conversations);
  const { name, loading, home } = useWords(app);
  const format = useFormats();
  const { language } = useLanguage();
  const { api } = useServices();
  const [shared, setShared] = useState<SharedConversation | null>(null);
  const [error, setError] = useState<PageError | null>(null);

  // biome-ignore lint/correctness/useExhaustiveDependencies: the error's sentence is in the page's language
  useEffect(() => {
    const leaving = new AbortController();
    api
      .call("GET /shared/{token}", { path: { token }, signal: leaving.signal })
      .then((read) => {
        setShared(read);
        setError(null);
      })
      .catch((failure) => {
        if (!leaving.signal.aborted) setError(readError(failure, currentLanguage()));
      });
    return () => leaving.abort();
  }, [api, token, language]);

  const title = shared?.title ?? words.shared;
  useEffect(() => {
    document.title = `${title} · ${name}`;
    return () => {
      document.title = name;
    };
  }, [title, name]);

  const ask = (
    <a
      className="button primary"
      href="/"
      onClick={(event) => {
        event.preventDefault();
        go("/");
      }}
    >
      {home}
    </a>
  );
  return (
    <>
      <header className="top">
        <span className="name">{name}</span>
        <div className="end">
          <LanguageSwitch />
        </div>
      </header>
      <main className="shared">
        <h1 lang={languageOf(shared?.title ?? "")}>{title}</h1>
        {!shared && !error && <p className="quiet">{loading}</p>}
        {error && !shared && (
          <>
            <p role="alert">{error.message}</p>
            {error.code === "not_found" ? ask : <Reload />}
          </>
        )}
        {shared && (
          <>
            <p className="quiet">{words.sharedOn(format.day(shared.shared_at), format.day(shared.expires_at))}</p>
            <SharedMessages messages={toUIMessages(shared)} />
            {ask}
          </>
        )}
      </main>
    </>
  );
}

function Reload() {
  const words = useWords(conversations);
  return (
    <button type="button" className="primary" onClick={() => location.reload()}>
      {words.again}
    </button>
  );
}
