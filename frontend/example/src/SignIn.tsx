// src/SignIn.tsx
import { type FormEvent, useState } from "react";
import { supabase } from "./services.ts";
import { refusal, words } from "./words.ts";

export function SignIn() {
  const [message, setMessage] = useState("");

  async function submit(event: FormEvent<HTMLFormElement>) {
    event.preventDefault();
    const form = new FormData(event.currentTarget, (event.nativeEvent as SubmitEvent).submitter);
    const user = { email: String(form.get("email")), password: String(form.get("password")) };
    const isNew = form.get("intent") === "sign-up";
    const { data, error } = isNew ? await supabase.auth.signUp(user) : await supabase.auth.signInWithPassword(user);
    if (error) setMessage(refusal(error.code));
    else if (!data.session) setMessage(words.checkMail);
  }

  return (
    <form onSubmit={submit}>
      <label>
        {words.email} <input name="email" type="email" autoComplete="email" required />
      </label>
      <label>
        {words.password} <input name="password" type="password" autoComplete="current-password" required />
      </label>
      <button type="submit" name="intent" value="sign-in">
        {words.signIn}
      </button>
      <button type="submit" name="intent" value="sign-up">
        {words.signUp}
      </button>
      <p role="alert">{message}</p>
    </form>
  );
}
