// The user's conversations, read from Supabase under row-level security.

import { useEffect, useState } from "react";
import { onChange } from "../app/changes.ts";
import { go } from "../app/route.ts";
import { useServices } from "../app/services.tsx";
import { conversations } from "../words/conversations.ts";
import { useWords } from "../words/words.ts";

type Row = { id: string; title: string | null };

export function ConversationList({ current, onChosen }: { current: string; onChosen: () => void }) {
  const words = useWords(conversations);
  const { supabase } = useServices();
  const [rows, setRows] = useState<Row[]>([]);

  useEffect(() => {
    const read = async () => {
      const { data } = await supabase
        .from("conversations")
        .select("id,title")
        .order("last_message_at", { ascending: false })
        .limit(50);
      if (data) setRows(data);
    };
    void read();
    return onChange(() => void read());
  }, [supabase]);

  return (
    <>
      <button
        type="button"
        onClick={() => {
          go("/");
          onChosen();
        }}
      >
        {words.create}
      </button>
      <ul>
        {rows.map((row) => (
          <li key={row.id}>
            <a
              href={`/c/${row.id}`}
              aria-current={row.id === current ? "page" : undefined}
              onClick={(event) => {
                event.preventDefault();
                go(`/c/${row.id}`);
                onChosen();
              }}
            >
              {row.title ?? words.untitled}
            </a>
          </li>
        ))}
      </ul>
    </>
  );
}
