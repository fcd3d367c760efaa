// An answer that is read again from its start does not shrink on the page: it is shown as it was until the new reading
// has passed that point.

import { useRef } from "react";
import type { ChatMessage } from "../../lib/index.ts";
import { textOf } from "./messages.ts";

export function useUnshrunk(messages: ChatMessage[], isGrowing: boolean): ChatMessage[] {
  const longest = useRef<{ message: ChatMessage; size: number } | null>(null);
  const last = messages.at(-1);
  if (!isGrowing || last?.role !== "assistant") {
    if (!isGrowing) longest.current = null;
    return messages;
  }
  const size = last.parts.length + textOf(last).length;
  if (longest.current?.message.id === last.id && size < longest.current.size)
    return [...messages.slice(0, -1), longest.current.message];
  longest.current = { message: last, size };
  return messages;
}
