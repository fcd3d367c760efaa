// The facts that the tools found in a conversation: bills, members and votes, each with its page.

import type { ChatMessage } from "../../lib/index.ts";
import { callsOf, type Fields, isFields } from "./tools.ts";

export type Fact = { kind: "bill" | "mp" | "vote"; url: string; fields: Fields };

const MOST = 8;
const FROM_LISTS = 3; // of each list

/** The newest first, each page once. */
export function factsOf(messages: ChatMessage[]): Fact[] {
  const facts = new Map<string, Fact>();
  for (const message of messages.toReversed()) {
    for (const { output } of callsOf(message)) {
      if (output) for (const fact of found(output)) if (!facts.has(fact.url)) facts.set(fact.url, fact);
      if (facts.size >= MOST) return [...facts.values()].slice(0, MOST);
    }
  }
  return [...facts.values()];
}

function found(fields: Fields): Fact[] {
  const url = fields.url;
  const kind =
    "status" in fields ? "bill" : "vote" in fields ? "vote" : "riding" in fields && "name" in fields ? "mp" : null;
  const own: Fact[] = kind && typeof url === "string" ? [{ kind, url, fields }] : [];
  const inner = Object.values(fields).flatMap((value) => {
    if (Array.isArray(value)) return value.slice(0, FROM_LISTS).filter(isFields).flatMap(found);
    return isFields(value) ? found(value) : [];
  });
  return [...own, ...inner];
}
