// One group of conversations. The last group of a list has the button for the next page.

import { useId, useState } from "react";
import { conversations } from "../words/conversations.ts";
import { useWords } from "../words/words.ts";
import { ConversationRow } from "./ConversationRow.tsx";
import type { Kind, useRows } from "./rows.ts";

type Props = {
  kind: Kind;
  name: string;
  list: Pick<ReturnType<typeof useRows>, "rows" | "hasMore" | "more" | "patch">;
  isLast: boolean;
  current: string;
  onChosen: () => void;
};

export function Rows({ kind, name, list, isLast, current, onChosen }: Props) {
  const words = useWords(conversations);
  const heading = useId();
  const [isBusy, setBusy] = useState(false);
  if (list.rows.length === 0) return null;
  return (
    <section className="group">
      {kind !== "archived" && <h2 id={heading}>{name}</h2>}
      <ul aria-labelledby={kind === "archived" ? undefined : heading}>
        {list.rows.map((row) => (
          <ConversationRow key={row.id} row={row} current={current} onChosen={onChosen} onPatch={list.patch} />
        ))}
      </ul>
      {isLast && list.hasMore && (
        <button
          type="button"
          className="plain"
          disabled={isBusy}
          onClick={() => {
            setBusy(true);
            void list.more().finally(() => setBusy(false));
          }}
        >
          {words.more}
          <span className="hidden"> ({name})</span>
        </button>
      )}
    </section>
  );
}
