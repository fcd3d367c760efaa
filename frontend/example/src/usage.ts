// src/usage.ts: the user's plan and what is left of it, shared by the whole page.
import { useSyncExternalStore } from "react";
import type { Usage } from "./lib/index.ts";
import { api } from "./services.ts";

let usage: Usage | undefined;
const listeners = new Set<() => void>();

/** Reads it again: after an answer, and after a payment. */
export async function refreshUsage(): Promise<Usage> {
  usage = await api.call("GET /usage");
  for (const listener of listeners) listener();
  return usage;
}

export const currentUsage = () => usage;

export const useUsage = () => useSyncExternalStore(subscribe, currentUsage);

function subscribe(listener: () => void) {
  listeners.add(listener);
  return () => listeners.delete(listener);
}
