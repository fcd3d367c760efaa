// What a question is about: the page that the user chose.

import type { Context } from "../../lib/index.ts";
import { context as texts } from "../words/chat_context.ts";
import { useWords } from "../words/words.ts";
import { named } from "./tools.ts";

export type Kind = NonNullable<Context["type"]>;

/** `name` is the member's; a bill is known by its number. */
export type PageContext = { type: Kind; id: string | null; name: string | null };

export const GENERAL: PageContext = { type: "general", id: null, name: null };
export const KINDS: Kind[] = ["general", "bill", "mp", "spending", "lobbying", "dashboard"];

const BILL = /^(?:\d{2}-\d\/)?([CS]-\d{1,4}[A-Z]?)$/i;

/** Names what a context is about, in the page's language; null for Parliament in general. */
export function useContextName(): (context: PageContext) => string | null {
  const words = useWords(texts);
  return ({ type, id, name }) => {
    if (type === "general") return null;
    const bill = BILL.exec(id ?? "")?.[1]?.toUpperCase();
    const one = bill ? words.billName(bill) : (name ?? (id && named(id)));
    if (type === "spending") return one ? words.spendingOf(one) : words.spending;
    if (type === "lobbying") return one ? words.lobbyingOf(one) : words.lobbying;
    return one ?? words[type];
  };
}
