// What is asked of messages: their texts, their sources, how they ended.

import type { ChatMessage } from "../../lib/index.ts";

/** What the user did last: the messages before it, and the text of the question, if there is a new one. */
export type Attempt = { text: string | null; before: ChatMessage[] };

export type Part = ChatMessage["parts"][number];
export type Source = Extract<Part, { type: "source-url" }>;

export const textOf = (message: ChatMessage) =>
  message.parts.map((part) => (part.type === "text" ? part.text : "")).join("");

export const sourcesOf = (message: ChatMessage): Source[] => message.parts.filter((part) => part.type === "source-url");

export const lastQuestion = (messages: ChatMessage[]) => messages.findLast(({ role }) => role === "user") ?? null;

/** The messages before the last question. */
export function withoutAnswer(messages: ChatMessage[]): ChatMessage[] {
  const at = messages.findLastIndex(({ role }) => role === "user");
  return at < 0 ? messages : messages.slice(0, at);
}

/** The last question, if the server does not have it: it was refused, or did not arrive. */
export function unsentQuestion(shown: ChatMessage[], stored: ChatMessage[]): ChatMessage | null {
  const last = shown.at(-1);
  return last?.role === "user" && !stored.some(({ id }) => id === last.id) ? last : null;
}

/** The messages of a plan without history, and the question that runs in another tab. */
export function mergeRunning(shown: ChatMessage[], running: ChatMessage[]): ChatMessage[] {
  const known = new Set(shown.map(({ id }) => id));
  return [...shown, ...running.filter(({ id }) => !known.has(id))];
}

/** Whether the last question has an answer that has ended. */
export function isAnswered(messages: ChatMessage[]): boolean {
  const last = messages.at(-1);
  return last?.role === "assistant" && last.metadata !== undefined;
}

/**
 * The record of the page that the question was about: the sources before the first tool and the first word. The server
 * sends it first.
 */
export function recordOf(message: ChatMessage): Source | null {
  const first = message.parts.find(({ type }) => type !== "step-start");
  return first?.type === "source-url" ? first : null;
}

// Plans without history: a tab keeps its conversations until it is closed.
const inThisTab = new Map<string, ChatMessage[]>();

export const keepInTab = (key: string, messages: ChatMessage[]) => inThisTab.set(key, messages);
export const keptInTab = (key: string) => inThisTab.get(key);
