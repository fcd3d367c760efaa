// Deletes the account. The server wants the e-mail address, and a sign-in of the last five minutes.

import { isAuthRetryableFetchError } from "@supabase/supabase-js";
import { type FormEvent, useState } from "react";
import { closeDialog, go } from "../app/route.ts";
import { useServices } from "../app/services.tsx";
import { rememberDeletion, rememberSignOut } from "../app/stack.ts";
import { useTask } from "../app/useTask.ts";
import { data as texts } from "../words/account_dialogs.ts";
import { useWords } from "../words/words.ts";
import { Problem } from "./Problem.tsx";

export function DeleteAccount({ email }: { email: string }) {
  const words = useWords(texts);
  const { api, supabase, forgetUser } = useServices();
  const [isWrongPassword, setWrongPassword] = useState(false);
  const task = useTask();
  const isOld = task.error?.reason_code === "old_sign_in";
  // Stays, also while the request is repeated.
  const [asksPassword, setAsksPassword] = useState(false);
  if (isOld && !asksPassword) setAsksPassword(true);

  function submit(event: FormEvent<HTMLFormElement>) {
    event.preventDefault();
    const fields = new FormData(event.currentTarget);
    const password = fields.get("password");
    setWrongPassword(false);
    void task.run(async () => {
      if (password) {
        const { error } = await supabase.auth.signInWithPassword({ email, password: String(password) });
        if (isAuthRetryableFetchError(error)) throw new TypeError("network error");
        if (error) {
          setWrongPassword(true);
          return;
        }
      }
      await api.call("DELETE /account", { body: { confirm: String(fields.get("confirm")).trim() } });
      rememberSignOut();
      rememberDeletion();
      closeDialog();
      go("/", { replace: true });
      await forgetUser();
    });
  }

  return (
    <section>
      <h3>{words.delete}</h3>
      <p>{words.deleteHelp}</p>
      <form onSubmit={submit}>
        <label>
          {words.confirm(email)}
          <input type="email" name="confirm" autoComplete="off" required />
        </label>
        {asksPassword && (
          <>
            <p role="alert">{isWrongPassword ? words.wrongPassword : words.oldSignIn}</p>
            <label>
              {words.password}
              {/* biome-ignore lint/a11y/noAutofocus: the field that is missing */}
              <input type="password" name="password" autoComplete="current-password" autoFocus required />
            </label>
          </>
        )}
        <button type="submit" aria-disabled={task.isBusy}>
          {words.deleteNow}
        </button>
      </form>
      <p role="status">{task.isBusy && words.deleting}</p>
      {!isOld && <Problem error={task.error} onDismiss={task.clear} onAgain={task.clear} />}
    </section>
  );
}
