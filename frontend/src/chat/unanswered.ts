// The last question of a conversation, until it has an answer. The server stores nothing of a question that failed, so
// that this tab keeps it over a reload.

import type { PageContext } from "./context.ts";

export type Question = { text: string; context: PageContext };

const PREFIX = "question ";

export const keepQuestion = (key: string, question: Question) =>
  sessionStorage.setItem(PREFIX + key, JSON.stringify(question));

export function keptQuestion(key: string): Question | null {
  const kept = sessionStorage.getItem(PREFIX + key);
  return kept === null ? null : JSON.parse(kept);
}

export const forgetQuestion = (key: string) => sessionStorage.removeItem(PREFIX + key);

/** After a sign-out, nothing of the user is left. */
export function forgetQuestions() {
  for (const key of Object.keys(sessionStorage)) if (key.startsWith(PREFIX)) sessionStorage.removeItem(key);
}
