// The account menu of the header.

import { Disclosure } from "../app/Disclosure.tsx";
import { openDialog } from "../app/route.ts";
import { useServices, useSession } from "../app/services.tsx";
import { rememberSignOut } from "../app/stack.ts";
import { account } from "../words/account.ts";
import { app } from "../words/app.ts";
import { useWords } from "../words/words.ts";
import { DIALOGS } from "./AccountDialogs.tsx";

export function AccountMenu() {
  const words = useWords(account);
  const { account: label, signOut } = useWords(app);
  const { supabase } = useServices();
  const email = useSession()?.user.email;
  return (
    <Disclosure label={label}>
      <p className="quiet">{email}</p>
      {DIALOGS.map((name) => (
        <button type="button" className="plain" key={name} onClick={() => openDialog(name)}>
          {words[name]}
        </button>
      ))}
      <button
        type="button"
        className="plain"
        onClick={() => {
          rememberSignOut();
          void supabase.auth.signOut();
        }}
      >
        {signOut}
      </button>
    </Disclosure>
  );
}
