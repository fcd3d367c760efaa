// The dialog #data: how long things are kept, the export, signing out, and deleting the account.

import { useAccount } from "../app/account.tsx";
import { closeDialog } from "../app/route.ts";
import { useServices, useSession } from "../app/services.tsx";
import { rememberSignOut } from "../app/stack.ts";
import { useTask } from "../app/useTask.ts";
import { data as texts } from "../words/account_dialogs.ts";
import { app } from "../words/app.ts";
import { useWords } from "../words/words.ts";
import { DeleteAccount } from "./DeleteAccount.tsx";
import { Problem } from "./Problem.tsx";
import "./dialogs.css";

export default function Data() {
  const words = useWords(texts);
  const { signOut } = useWords(app);
  const { supabase } = useServices();
  const email = useSession()?.user.email ?? "";
  const days = useAccount().usage?.history_days;
  return (
    <div className="sheet">
      <section>
        <h3>{words.kept}</h3>
        {days !== undefined && <p>{days > 0 ? words.keptDays(days) : words.keptNothing}</p>}
        <p>{words.keptAlways}</p>
      </section>
      <Export />
      <section>
        <h3>{words.session}</h3>
        <p>{words.signedInAs(email)}</p>
        <button
          type="button"
          onClick={() => {
            closeDialog();
            rememberSignOut();
            void supabase.auth.signOut();
          }}
        >
          {signOut}
        </button>
      </section>
      <DeleteAccount email={email} />
    </div>
  );
}

function Export() {
  const words = useWords(texts);
  const { api } = useServices();
  const task = useTask();
  async function download() {
    const everything = await api.call("GET /account/export");
    const file = new Blob([JSON.stringify(everything, null, 2)], { type: "application/json" });
    const link = document.createElement("a");
    link.href = URL.createObjectURL(file);
    link.download = "account.json";
    link.click();
    setTimeout(() => URL.revokeObjectURL(link.href));
  }
  return (
    <section>
      <h3>{words.export}</h3>
      <p>{words.exportHelp}</p>
      <button type="button" aria-disabled={task.isBusy} onClick={() => void task.run(download)}>
        {words.download}
      </button>
      <p role="status">{task.isBusy && words.downloading}</p>
      <Problem error={task.error} onAgain={() => void task.run(download)} onDismiss={task.clear} />
    </section>
  );
}
