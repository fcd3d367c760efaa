// The user's conversations, read from Supabase under row-level security, a page at a time.

import type { SupabaseClient } from "@supabase/supabase-js";
import { useCallback, useEffect, useRef, useState } from "react";
import { onChange } from "../app/changes.ts";
import { now } from "../app/now.ts";
import { useServices } from "../app/services.tsx";

const PAGE = 30;
/** A list that was read further is read again up to here when something changes. */
const AGAIN = 300;

export type Row = {
  id: string;
  external_id: string | null;
  title: string | null;
  is_pinned: boolean;
  is_archived: boolean;
  last_message_at: string;
  /** Nothing of it is stored yet. */
  isBeingAsked?: true;
};
export type Kind = "pinned" | "recent" | "archived";

const TITLE = 80; // characters

/** The row of a conversation until its first answer is stored. */
export const beingAsked = (id: string, question: string): Row => ({
  id,
  external_id: null,
  title: question.slice(0, TITLE),
  is_pinned: false,
  is_archived: false,
  last_message_at: new Date(now()).toISOString(),
  isBeingAsked: true,
});

/** The id by which the chat knows the conversation. */
export const chatIdOf = (row: Row) => row.external_id ?? row.id;

type List = { rows: Row[]; hasMore: boolean; state: "loading" | "read" | "failed" };

/** The conversations of a kind whose title contains `search`, newest first. Read again at every change. */
export function useRows(kind: Kind, search: string, isShown = true) {
  const { supabase } = useServices();
  const [list, setList] = useState<List>({ rows: [], hasMore: false, state: "loading" });
  const [shownFor, setShownFor] = useState(search);
  const latest = useRef(0);
  const loaded = useRef<Row[]>([]);

  const read = useCallback(
    async (after: Row | undefined, count: number) => {
      const turn = ++latest.current;
      const { data } = await queryOf(supabase, kind, search, after, count + 1);
      if (turn !== latest.current) return;
      if (!data) {
        setList((before) => ({ ...before, state: "failed" }));
        return;
      }
      loaded.current = [...(after ? loaded.current : []), ...data.slice(0, count)];
      setList({ rows: loaded.current, hasMore: data.length > count, state: "read" });
      setShownFor(search);
    },
    [supabase, kind, search],
  );

  useEffect(() => {
    if (!isShown) return;
    const again = () => void read(undefined, Math.min(Math.max(loaded.current.length, PAGE), AGAIN));
    loaded.current = [];
    again();
    const end = onChange(again);
    addEventListener("online", again);
    return () => {
      latest.current++;
      end();
      removeEventListener("online", again);
    };
  }, [read, isShown]);

  /** Changes a row before the server has. */
  const patch = (id: string, change: Partial<Row> | null) => {
    loaded.current = loaded.current.flatMap((row) => (row.id !== id ? [row] : change ? [{ ...row, ...change }] : []));
    setList((before) => ({ ...before, rows: loaded.current }));
  };

  return {
    ...list,
    state: shownFor === search ? list.state : "loading",
    more: () => read(loaded.current.at(-1), PAGE),
    again: () => void read(undefined, PAGE),
    patch,
  };
}

function queryOf(supabase: SupabaseClient, kind: Kind, search: string, after: Row | undefined, limit: number) {
  let query = supabase
    .from("conversations")
    .select("id,external_id,title,is_pinned,is_archived,last_message_at")
    .eq("is_archived", kind === "archived")
    .order("last_message_at", { ascending: false })
    .order("id", { ascending: false });
  if (kind !== "archived") query = query.eq("is_pinned", kind === "pinned");
  if (search) query = query.ilike("title", patternOf(search));
  if (after) {
    const at = `"${after.last_message_at}"`;
    query = query.or(`last_message_at.lt.${at},and(last_message_at.eq.${at},id.lt.${after.id})`);
  }
  return query.limit(limit).overrideTypes<Row[], { merge: false }>();
}

/** The pattern for titles that contain the text. PostgREST reads * as %, and cannot escape it: _ matches it. */
export function patternOf(text: string): string {
  return `%${text.replace(/[\\%_]/g, "\\$&").replaceAll("*", "_")}%`;
}
