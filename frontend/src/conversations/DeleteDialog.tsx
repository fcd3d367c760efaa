// Asks before a conversation is deleted. An answer that runs in it ends.

import { useState } from "react";
import { Dialog } from "../app/Dialog.tsx";
import { conversations } from "../words/conversations.ts";
import { useWords } from "../words/words.ts";
import { type Failure, useConversationChanges } from "./changes.ts";
import type { Row } from "./rows.ts";

type Props = { row: Row; title: string; onClose: () => void; onDeleted: () => void };

export default function DeleteDialog({ row, title, onClose, onDeleted }: Props) {
  const words = useWords(conversations);
  const { remove } = useConversationChanges();
  const [isBusy, setBusy] = useState(false);
  const [failure, setFailure] = useState<Failure | null>(null);

  async function confirm() {
    setBusy(true);
    const failed = await remove(row);
    setBusy(false);
    setFailure(failed);
    if (!failed) onDeleted();
  }

  return (
    <Dialog title={words.deleteTitle} onClose={onClose}>
      <p>{words.deleteHelp(title)}</p>
      {failure && <p role="alert">{words[failure]}</p>}
      <div className="row">
        <button type="button" className="primary" disabled={isBusy} onClick={() => void confirm()}>
          {words.deleteNow}
        </button>
        <button type="button" onClick={onClose}>
          {words.keep}
        </button>
      </div>
    </Dialog>
  );
}
