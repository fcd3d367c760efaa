// src/Conversations.tsx: the stored conversations. Supabase returns only the user's own.
import { useEffect, useState } from "react";
import { supabase } from "./services.ts";
import { useUsage } from "./usage.ts";
import { words } from "./words.ts";

type Row = { id: string; title: string | null };

export function Conversations() {
  const [rows, setRows] = useState<Row[]>([]);
  const usage = useUsage(); // it is read again after each answer

  // biome-ignore lint/correctness/useExhaustiveDependencies: an answer changes the list
  useEffect(() => {
    const newest = supabase.from("conversations").select("id, title").order("last_message_at", { ascending: false });
    void newest.limit(50).then(({ data }) => setRows(data ?? []));
  }, [usage]);

  return (
    <nav>
      <a href="?">{words.newChat}</a>
      {rows.map(({ id, title }) => (
        <a key={id} href={`?chat=${id}`}>
          {title ?? words.untitled}
        </a>
      ))}
    </nav>
  );
}
