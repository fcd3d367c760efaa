// Searches the bills and members of openparliament.ca from the browser: its API allows every origin to read.
// It has no search by words of titles and names, so the lists are read once. It refuses requests at the same time, so
// they are made one after the other.

import type { Language } from "../words/words.ts";

type Texts = { en?: string; fr?: string };
type BillRow = { session: string; number: string; name: Texts; introduced: string | null };
type MemberRow = { name: string; url: string; current_riding?: { name: Texts; province: string } };
type Page<Row> = { objects: Row[]; pagination: { next_url: string | null } };

/** A bill or a member: its id as a context, its name, and what tells it apart. */
export type Match = { kind: "bill" | "mp"; id: string; name: string; detail: string };

const PAGE = 500; // the most of the API
const MOST_PAGES = 4;
const MOST_MATCHES = 12;
const NUMBER = /^([cs])-?(\d{1,4}[a-z]?)$/i;

let line: Promise<unknown> = Promise.resolve();
const lists = new Map<string, Promise<unknown[]>>();

async function read<Row>(base: string, path: string): Promise<Page<Row>> {
  const turn = line.then(async () => {
    const response = await fetch(base + path, { headers: { accept: "application/json" } });
    if (!response.ok) throw new TypeError(`fetch: ${response.status}`);
    return response.json();
  });
  line = turn.catch(() => {});
  return turn;
}

/** All rows of a list. Read once; again if it failed. */
function list<Row>(base: string, path: () => string | Promise<string>, name: string): Promise<Row[]> {
  const known = lists.get(base + name);
  if (known) return known as Promise<Row[]>;
  const reading = (async () => {
    const rows: Row[] = [];
    let next: string | null = await path();
    for (let page = 0; next && page < MOST_PAGES; page++) {
      const { objects, pagination }: Page<Row> = await read(base, next);
      rows.push(...objects);
      next = pagination.next_url;
    }
    return rows;
  })();
  lists.set(base + name, reading);
  reading.catch(() => lists.delete(base + name));
  return reading;
}

/** The bills of the current session; for a number, those of every session. */
async function bills(base: string, query: string): Promise<BillRow[]> {
  const number = NUMBER.exec(query.trim());
  if (number) {
    const exact = `${number[1]}-${number[2]}`.toUpperCase();
    return list<BillRow>(base, () => `/bills/?number=${exact}&limit=${PAGE}`, exact);
  }
  return list<BillRow>(base, async () => `/bills/?session=${await session(base)}&limit=${PAGE}`, "bills");
}

/** The session of the newest vote. */
async function session(base: string): Promise<string> {
  const { objects } = await read<{ session: string }>(base, "/votes/?limit=1");
  return objects[0]?.session ?? "";
}

const members = (base: string) => list<MemberRow>(base, () => `/politicians/?limit=${PAGE}`, "members");

/** The bills or members that have all words, in any language. Without words: the newest bills, the first members. */
export async function search(
  base: string,
  kinds: ("bill" | "mp")[],
  query: string,
  language: Language,
): Promise<{ matches: Match[]; count: number }> {
  const site = base.replace(/\/$/, "");
  const words = fold(query).split(/\s+/).filter(Boolean);
  const found: Match[] = [];
  if (kinds.includes("bill")) {
    const rows = (await bills(site, query)).toSorted((a, b) => (b.introduced ?? "").localeCompare(a.introduced ?? ""));
    const isNumber = NUMBER.test(query.trim());
    for (const { session, number, name } of rows) {
      const id = `${session}/${number}`;
      if (!isNumber && !hasAll(words, number, name.en, name.fr)) continue;
      found.push({ kind: "bill", id, name: number, detail: `${name[language] ?? name.en ?? ""} (${session})` });
    }
  }
  if (kinds.includes("mp")) {
    for (const { name, url, current_riding: riding } of await members(site)) {
      if (!hasAll(words, name, riding?.name.en, riding?.name.fr)) continue;
      const place = riding?.name[language] ?? riding?.name.en;
      const id = url.split("/").filter(Boolean).at(-1) ?? "";
      found.push({ kind: "mp", id, name, detail: place ? `${place} (${riding?.province})` : "" });
    }
  }
  return { matches: found.slice(0, MOST_MATCHES), count: found.length };
}

const fold = (text: string) => text.normalize("NFD").replace(/\p{M}/gu, "").toLowerCase();

const hasAll = (words: string[], ...texts: (string | undefined)[]) => {
  const text = fold(texts.filter(Boolean).join(" "));
  return words.every((word) => text.includes(word));
};
