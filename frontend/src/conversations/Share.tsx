// The button that opens the dialog to share a conversation.

import { lazy, useState } from "react";
import { LazyPart } from "../app/LazyPart.tsx";
import { conversations } from "../words/conversations.ts";
import { useWords } from "../words/words.ts";

const ShareDialog = lazy(() => import("./ShareDialog.tsx"));

/** `conversationId`: the stored conversation's id, needed where the chat's id is not a UUID. */
export function Share({ chatId, conversationId }: { chatId: string; conversationId?: string | null }) {
  const words = useWords(conversations);
  const [isOpen, setOpen] = useState(false);
  return (
    <>
      <button type="button" className="plain" onClick={() => setOpen(true)}>
        {words.share}
      </button>
      {isOpen && (
        <LazyPart isQuiet>
          <ShareDialog chatId={chatId} conversationId={conversationId ?? chatId} onClose={() => setOpen(false)} />
        </LazyPart>
      )}
    </>
  );
}
