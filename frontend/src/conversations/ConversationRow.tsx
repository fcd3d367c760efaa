// One conversation of the list: its link, and what can be done with it.

import { lazy, useEffect, useRef, useState } from "react";
import { flushSync } from "react-dom";
import { Disclosure } from "../app/Disclosure.tsx";
import { LazyPart } from "../app/LazyPart.tsx";
import { go } from "../app/route.ts";
import { languageOf } from "../chat/languageOf.ts";
import { conversations } from "../words/conversations.ts";
import { useWords } from "../words/words.ts";
import { type Change, type Failure, useConversationChanges } from "./changes.ts";
import { Rename } from "./Rename.tsx";
import { chatIdOf, type Row } from "./rows.ts";

const ShareDialog = lazy(() => import("./ShareDialog.tsx"));
const DeleteDialog = lazy(() => import("./DeleteDialog.tsx"));

/** The conversation that is moved to another group, where it is a new element: the focus follows it. */
let moving: string | null = null;

type Props = {
  row: Row;
  current: string;
  onChosen: () => void;
  onPatch: (id: string, change: Partial<Row> | null) => void;
};

export function ConversationRow({ row, current, onChosen, onPatch }: Props) {
  const words = useWords(conversations);
  const { update } = useConversationChanges();
  const [open, setOpen] = useState<"rename" | "share" | "delete" | null>(null);
  const [failure, setFailure] = useState<Failure | null>(null);
  const link = useRef<HTMLAnchorElement>(null);
  const chatId = chatIdOf(row);
  const isCurrent = chatId === current;
  const title = row.title ?? words.untitled;

  useEffect(() => {
    if (moving !== row.id) return;
    moving = null;
    link.current?.focus();
  }, [row.id]);

  async function change(values: Change) {
    setFailure(null);
    if (values.is_pinned !== undefined) moving = row.id;
    if (values.is_archived !== undefined) focusFirst();
    // A change of the pin or the archive mark moves the row: the list is read again.
    if (values.title !== undefined) onPatch(row.id, { title: values.title });
    setFailure(await update(row, values));
  }

  function closeRename() {
    setOpen(null);
    setTimeout(() => link.current?.focus());
  }

  if (open === "rename")
    return (
      <li>
        <Rename
          title={row.title ?? ""}
          onCancel={closeRename}
          onSave={(next) => {
            closeRename();
            void change({ title: next });
          }}
        />
      </li>
    );
  return (
    <li>
      <a
        ref={link}
        href={`/c/${encodeURIComponent(chatId)}`}
        lang={languageOf(row.title ?? "")}
        aria-current={isCurrent ? "page" : undefined}
        onClick={(event) => {
          if (event.metaKey || event.ctrlKey || event.shiftKey) return; // a new tab or window
          event.preventDefault();
          go(`/c/${encodeURIComponent(chatId)}`);
          onChosen();
        }}
      >
        {title}
      </a>
      {!row.isBeingAsked && (
        <Disclosure label={words.options} name={words.optionsOf(title)}>
          <button type="button" className="plain" onClick={() => setOpen("rename")}>
            {words.rename}
          </button>
          <button type="button" className="plain" onClick={() => void change({ is_pinned: !row.is_pinned })}>
            {row.is_pinned ? words.unpin : words.pin}
          </button>
          <button type="button" className="plain" onClick={() => void change({ is_archived: !row.is_archived })}>
            {row.is_archived ? words.unarchive : words.archive}
          </button>
          <button type="button" className="plain" onClick={() => setOpen("share")}>
            {words.share}
          </button>
          <button type="button" className="plain" onClick={() => setOpen("delete")}>
            {words.delete}
          </button>
        </Disclosure>
      )}
      {failure && <p role="alert">{words[failure]}</p>}
      <LazyPart isQuiet>
        {open === "share" && <ShareDialog chatId={chatId} conversationId={row.id} onClose={() => setOpen(null)} />}
        {open === "delete" && (
          <DeleteDialog
            row={row}
            title={title}
            onClose={() => setOpen(null)}
            onDeleted={() => {
              // At once: while the dialog is open, nothing behind it takes the focus.
              flushSync(() => {
                setOpen(null);
                onPatch(row.id, null);
              });
              if (isCurrent) go("/");
              focusFirst();
            }}
          />
        )}
      </LazyPart>
    </li>
  );
}

/** Where the focus goes when its conversation leaves the list. */
function focusFirst() {
  document.querySelector<HTMLElement>(".conversations .create")?.focus();
}
