// The calls of tools in an answer: what was asked, and how much was found.

import type { ChatMessage } from "../../lib/index.ts";
import { categories, tools } from "../words/chat_tools.ts";
import { useWords } from "../words/words.ts";

export type Fields = Record<string, unknown>;
export type Call = {
  id: string;
  name: string;
  input: Fields;
  output: Fields | null;
  error: string | null;
  isRunning: boolean;
};

export const isFields = (value: unknown): value is Fields =>
  typeof value === "object" && value !== null && !Array.isArray(value);

/** The calls of the message, in their order. */
export function callsOf(message: ChatMessage): Call[] {
  return message.parts.flatMap((part) => {
    if (!part.type.startsWith("tool-") || !("toolCallId" in part)) return [];
    return {
      id: part.toolCallId,
      name: part.type.slice("tool-".length),
      input: isFields(part.input) ? part.input : {},
      output: part.state === "output-available" && isFields(part.output) ? part.output : null,
      error: part.state === "output-error" ? part.errorText : null,
      isRunning: part.state.startsWith("input"),
    };
  });
}

/** How many results an output has, and how many more there are. */
export function countOf(output: Fields): { shown: number; all: number } {
  const list = [output, ...Object.values(output)].find((value) => isFields(value) && Array.isArray(value.items));
  if (Array.isArray(output.votes)) return { shown: output.votes.length, all: output.votes.length };
  if (!isFields(list) || !Array.isArray(list.items) || output.bill || output.mp || output.vote)
    return { shown: 1, all: 1 };
  const { length } = list.items;
  return { shown: length, all: length + (typeof list.left_out === "number" ? list.left_out : 0) };
}

// Not what the call is about.
const MINOR = new Set(["limit", "session", "since", "until", "quarters", "former", "secretaries", "only_dissent"]);

/** Says what a call looks up, in the page's language: Bill C-5. */
export function useSubject(): (call: Call) => string {
  const words = useWords(tools);
  const names = useWords(categories);
  return ({ name, input }) => {
    const main = Object.entries(input).flatMap(([field, value]) => {
      if (MINOR.has(field) || (typeof value !== "string" && typeof value !== "number")) return [];
      if (field === "category") return names[value as keyof typeof names] ?? [];
      return field === "slug" || field === "mp" || field === "sponsor" ? named(String(value)) : String(value);
    });
    const phrase = words[name as "other"] ?? words.other;
    return main.length ? phrase.replace("{}", main.join(", ")) : phrase.replace(/\s?:?\s*\{\}/, "");
  };
}

/** A slug as a name: jane-doe is Jane Doe. */
export const named = (slug: string) =>
  slug.includes(" ")
    ? slug
    : slug.replace(/(^|-)(\p{L})/gu, (_, dash, letter) => (dash ? " " : "") + letter.toUpperCase());
