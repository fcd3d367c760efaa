// Sign in or sign up with e-mail and password. A local stack also offers its seeded users, and signs a newcomer in at
// once as one of them.

import { isAuthRetryableFetchError } from "@supabase/supabase-js";
import { type FormEvent, useEffect, useRef, useState } from "react";
import { signIn as texts, tiers } from "../words/app.ts";
import { useWords } from "../words/words.ts";
import { LanguageSwitch } from "./LanguageSwitch.tsx";
import { currentLanguage } from "./language.tsx";
import { useServices } from "./services.tsx";
import { FIRST_USER, hasSignedOut, rememberSignIn, type SeededUser, useSeededUsers, wasDeleted } from "./stack.ts";

type Texts = (typeof texts)["en"];

export function SignIn() {
  const words = useWords(texts);
  const names: Record<string, string> = useWords(tiers);
  const { config, supabase } = useServices();
  const [isNew, setNew] = useState(false);
  const [email, setEmail] = useState("");
  const [password, setPassword] = useState("");
  const [message, setMessage] = useState<keyof Texts | null>(null);
  const [isBusy, setBusy] = useState(false);
  const users = useSeededUsers(config.stack === true);
  const begun = useRef(false);
  const isGone = wasDeleted();

  async function enter(user: { email: string; password: string }, create: boolean) {
    setBusy(true);
    setMessage(null);
    const { data, error } = create
      ? await supabase.auth.signUp({ ...user, options: { data: { language: currentLanguage() } } })
      : await supabase.auth.signInWithPassword(user);
    setBusy(false);
    if (error) setMessage(reasonOf(error));
    else if (!data.session) setMessage("checkMail");
    else rememberSignIn();
  }

  useEffect(() => {
    const first = users.find((user) => user.tier === FIRST_USER);
    if (!first || begun.current || hasSignedOut()) return;
    begun.current = true;
    void supabase.auth.signInWithPassword(first);
  }, [users, supabase]);

  function submit(event: FormEvent) {
    event.preventDefault();
    void enter({ email: email.trim(), password }, isNew);
  }

  return (
    <main className="alone sign-in">
      <LanguageSwitch />
      <h1>{isNew ? words.signUp : words.title}</h1>
      <p role={isGone ? "status" : undefined}>{isGone ? words.farewell : words.intro}</p>
      <form onSubmit={submit}>
        <label>
          {words.email}
          <input type="email" autoComplete="email" required value={email} onChange={(e) => setEmail(e.target.value)} />
        </label>
        <label>
          {words.password}
          <input
            type="password"
            autoComplete={isNew ? "new-password" : "current-password"}
            required
            value={password}
            onChange={(e) => setPassword(e.target.value)}
          />
        </label>
        <p role="alert">{message && words[message]}</p>
        <button type="submit" className="primary" disabled={isBusy}>
          {isNew ? words.signUp : words.submit}
        </button>
        <button type="button" className="plain" onClick={() => setNew(!isNew)}>
          {isNew ? words.toSignIn : words.toSignUp}
        </button>
      </form>
      {users.length > 0 && (
        <section className="seeded">
          <h2>{words.seeded}</h2>
          {users.map((user: SeededUser) => (
            <button type="button" key={user.email} disabled={isBusy} onClick={() => void enter(user, false)}>
              {names[user.tier] ?? user.tier}
            </button>
          ))}
        </section>
      )}
    </main>
  );
}

/** The text for an error of Supabase Auth. Its codes are in its documentation, "Error codes". */
function reasonOf(error: { code?: string }): keyof Texts {
  if (isAuthRetryableFetchError(error)) return "unreachable";
  if (error.code === "user_already_exists" || error.code === "email_exists") return "exists";
  if (error.code === "weak_password") return "weak";
  return "failed";
}
