// The key of one provider: its state, and the commands for it.

import { type FormEvent, useRef, useState } from "react";
import type { KeyInfo } from "../../lib/index.ts";
import { useFormats } from "../app/format.ts";
import { useServices } from "../app/services.tsx";
import { useTask } from "../app/useTask.ts";
import { keys as texts } from "../words/account_dialogs.ts";
import { useWords } from "../words/words.ts";
import { PROVIDER_NAMES, type Provider } from "./keys.ts";
import { Problem } from "./Problem.tsx";

type Props = { provider: Provider; stored: KeyInfo | null; onChanged: () => void };

export function ProviderKey({ provider, stored, onChanged }: Props) {
  const words = useWords(texts);
  const format = useFormats();
  const { api } = useServices();
  const [isDeleting, setDeleting] = useState(false);
  const [said, setSaid] = useState<"checked" | "deleted" | "stored" | null>(null);
  const task = useTask();
  const name = PROVIDER_NAMES[provider];
  const section = useRef<HTMLElement>(null);
  // In this dialog already: another key is entered above.
  const problem = task.error?.action === "reconnect_key" ? { ...task.error, action: "none" as const } : task.error;

  /** Moves the focus to an element, where the button that had it is gone. */
  const focus = (selector: string) => setTimeout(() => section.current?.querySelector<HTMLElement>(selector)?.focus());

  async function run(done: typeof said, request: () => Promise<unknown>) {
    if (task.isBusy) return;
    setSaid(null);
    setDeleting(false);
    if (await task.run(request)) setSaid(done);
    if (done === "deleted") focus("input");
    onChanged(); // also after a failure: a check that fails changes the state
  }

  function add(event: FormEvent<HTMLFormElement>) {
    event.preventDefault();
    const form = event.currentTarget;
    const api_key = String(new FormData(form).get("api_key")).trim();
    if (!api_key || task.isBusy) return;
    form.reset(); // the key is in no state, and no longer in the page
    void run("stored", () => api.call("PUT /keys/{provider}", { path: { provider }, body: { api_key } }));
  }

  return (
    <section aria-label={name} ref={section}>
      <h3>{name}</h3>
      {stored && (
        <>
          <p data-status={stored.status} className={stored.status === "invalid" ? "near" : undefined}>
            {words.key(stored.hint)} · {words[stored.status]}
            {stored.last_validated_at && ` · ${words.checkedAt(format.time(stored.last_validated_at))}`}
          </p>
          {stored.status === "invalid" && <p>{words.rejected(name)}</p>}
          <div className="row">
            <button
              type="button"
              aria-disabled={task.isBusy}
              onClick={() =>
                void run("checked", () => api.call("POST /keys/{provider}/validate", { path: { provider } }))
              }
            >
              {words.validate}
              <span className="hidden"> ({name})</span>
            </button>
            {isDeleting ? (
              <>
                <span>{words.reallyDelete}</span>
                <button
                  type="button"
                  className="primary"
                  // biome-ignore lint/a11y/noAutofocus: the button that was pressed is gone
                  autoFocus
                  aria-disabled={task.isBusy}
                  onClick={() => void run("deleted", () => api.call("DELETE /keys/{provider}", { path: { provider } }))}
                >
                  {words.confirmDelete}
                </button>
                <button
                  type="button"
                  onClick={() => {
                    setDeleting(false);
                    focus(".delete");
                  }}
                >
                  {words.keep}
                </button>
              </>
            ) : (
              <button type="button" className="delete" aria-disabled={task.isBusy} onClick={() => setDeleting(true)}>
                {words.delete}
                <span className="hidden"> ({name})</span>
              </button>
            )}
          </div>
        </>
      )}
      <form className="limit" onSubmit={add}>
        <label>
          {stored ? words.replace(name) : words.add(name)}
          <input type="password" name="api_key" autoComplete="off" spellCheck={false} required />
        </label>
        <button type="submit" aria-disabled={task.isBusy}>
          {words.save}
          <span className="hidden"> ({name})</span>
        </button>
      </form>
      <p role="status">{task.isBusy ? words.busy : said && words[said]}</p>
      <Problem error={problem} onDismiss={task.clear} onAgain={task.clear} />
    </section>
  );
}
