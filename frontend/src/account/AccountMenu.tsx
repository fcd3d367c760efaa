// The account menu of the header.

import { openDialog } from "../app/route.ts";
import { useServices, useSession } from "../app/services.tsx";
import { rememberSignOut } from "../app/stack.ts";
import { account } from "../words/account.ts";
import { app } from "../words/app.ts";
import { useWords } from "../words/words.ts";

export function AccountMenu() {
  const words = useWords(account);
  const { supabase } = useServices();
  const email = useSession()?.user.email;
  return (
    <details className="menu">
      <summary className="button plain">{useWords(app).account}</summary>
      <div>
        <p className="quiet">{email}</p>
        {(["plans", "keys", "data"] as const).map((name) => (
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
          {useWords(app).signOut}
        </button>
      </div>
    </details>
  );
}
