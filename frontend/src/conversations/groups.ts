// Conversations by the day of their last message, in the reader's time zone.

import { useFormats } from "../app/format.ts";
import { now } from "../app/now.ts";
import { conversations } from "../words/conversations.ts";
import { useWords } from "../words/words.ts";
import type { Row } from "./rows.ts";

export type Group = { name: string; rows: Row[] };

/** The rows, which are newest first, under today, yesterday, this week, and months. */
export function useGroups(rows: Row[]): Group[] {
  const words = useWords(conversations);
  const format = useFormats();
  const today = new Date(now());
  const daysAgo = (days: number) => new Date(today.getFullYear(), today.getMonth(), today.getDate() - days).getTime();
  const nameOf = (iso: string) => {
    const time = Date.parse(iso);
    if (time >= daysAgo(0)) return words.today;
    if (time >= daysAgo(1)) return words.yesterday;
    return time >= daysAgo(7) ? words.thisWeek : format.month(iso);
  };
  const groups: Group[] = [];
  for (const row of rows) {
    const name = nameOf(row.last_message_at);
    const last = groups.at(-1);
    if (last?.name === name) last.rows.push(row);
    else groups.push({ name, rows: [row] });
  }
  return groups;
}
