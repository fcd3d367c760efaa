// Shares a copy of a conversation: the link, until when it works, and how to end it.

import { useCallback, useEffect, useRef, useState } from "react";
import { Problem } from "../account/Problem.tsx";
import { Copy } from "../app/Copy.tsx";
import { Dialog } from "../app/Dialog.tsx";
import { useFormats } from "../app/format.ts";
import { now } from "../app/now.ts";
import { useServices } from "../app/services.tsx";
import { useTask } from "../app/useTask.ts";
import { app } from "../words/app.ts";
import { conversations } from "../words/conversations.ts";
import { useWords } from "../words/words.ts";

type Props = { chatId: string; conversationId: string; onClose: () => void };
type Shared = { token: string; expires_at: string };

/** The page's own address: the one in the response is that of the function. */
const linkOf = ({ token }: Shared) => `${location.origin}/shared/${token}`;

export default function ShareDialog({ chatId, conversationId, onClose }: Props) {
  const words = useWords(conversations);
  const { loading } = useWords(app);
  const format = useFormats();
  const { api, supabase } = useServices();
  /** Undefined: not known yet. Null: not shared. */
  const [shared, setShared] = useState<Shared | null | undefined>(undefined);
  const [isUnreadable, setUnreadable] = useState(false);
  const [said, setSaid] = useState<"renewed" | "unshared" | null>(null);
  const task = useTask();
  /** What "Try again" repeats. */
  const again = useRef(share);

  const read = useCallback(async () => {
    setUnreadable(false);
    const { data, error } = await supabase
      .from("shared_conversations")
      .select("token,expires_at")
      .eq("conversation_id", conversationId)
      .maybeSingle<Shared>();
    if (error) setUnreadable(true);
    else setShared(data && Date.parse(data.expires_at) > now() ? data : null);
  }, [supabase, conversationId]);

  useEffect(() => void read(), [read]);

  async function share() {
    if (task.isBusy) return;
    again.current = share;
    setSaid(null);
    const isNew = !shared;
    const done = await task.run(async () => {
      setShared(await api.call("POST /chat/{chat_id}/share", { path: { chat_id: chatId } }));
    });
    if (done && !isNew) setSaid("renewed");
  }

  async function unshare() {
    if (task.isBusy) return;
    again.current = unshare;
    setSaid(null);
    const done = await task.run(async () => {
      await api.call("DELETE /chat/{chat_id}/share", { path: { chat_id: chatId } });
      setShared(null);
    });
    if (done) setSaid("unshared");
  }

  return (
    <Dialog title={words.shareTitle} onClose={onClose}>
      <p>{words.shareHelp}</p>
      {shared === undefined && !isUnreadable && <p className="quiet">{loading}</p>}
      {isUnreadable && (
        <div className="problem" role="alert">
          <p>{words.shareUnreadable}</p>
          <button type="button" onClick={() => void read()}>
            {words.again}
          </button>
        </div>
      )}
      {shared === null && (
        <button type="button" className="primary" aria-disabled={task.isBusy} onClick={() => void share()}>
          {words.createLink}
        </button>
      )}
      {shared && (
        <>
          <label>
            {words.link}
            <input readOnly value={linkOf(shared)} onFocus={(event) => event.target.select()} />
          </label>
          <div className="row">
            <Copy text={linkOf(shared)} label={words.copyLink} />
            <a href={linkOf(shared)} target="_blank" rel="noreferrer">
              {words.openLink}
            </a>
          </div>
          <p>{words.worksUntil(format.time(shared.expires_at))}</p>
          <p className="quiet">{words.isACopy}</p>
          <div className="row">
            <button type="button" aria-disabled={task.isBusy} onClick={() => void share()}>
              {words.renew}
            </button>
            <button type="button" aria-disabled={task.isBusy} onClick={() => void unshare()}>
              {words.unshare}
            </button>
          </div>
        </>
      )}
      <p role="status">{said && words[said]}</p>
      <Problem error={task.error} onDismiss={task.clear} onAgain={() => void again.current()} />
    </Dialog>
  );
}
