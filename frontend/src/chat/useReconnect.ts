// A connection that broke: continues the running answer, by itself, as often as it takes.

import type { Chat } from "@ai-sdk/react";
import { type RefObject, useCallback, useEffect, useMemo, useRef, useState } from "react";
import { type ChatMessage, type PageError, readError } from "../../lib/index.ts";
import { useLanguage } from "../app/language.tsx";
import { type Attempt, isAnswered } from "./messages.ts";

/** What the line above the composer says. */
export type LinkState = "ok" | "offline" | "reconnecting" | "resumed" | "lost";

const DELAYS_MS = [300, 1_000, 2_000, 4_000, 8_000, 15_000];
const RESUMED_MS = 4_000;
// While it reconnects: the server or what is before it is not there yet.
const AWAY = new Set(["offline", "unavailable", "internal"]);

type Options = {
  chat: Chat<ChatMessage>;
  error: Error | undefined;
  status: string;
  load: () => Promise<void>;
  attempt: RefObject<Attempt | null>;
  keeps: () => boolean;
};

export function useReconnect({ chat, error, status, load, attempt, keeps }: Options) {
  const { language } = useLanguage();
  const [state, setState] = useState<LinkState>("ok");
  const [failure, setFailure] = useState<Error | null>(null); // of reading the conversation
  const tries = useRef(0);
  const problem = useMemo(() => {
    const one = error ?? failure;
    return one ? readError(one, language) : null;
  }, [error, failure, language]);
  const isCut = problem !== null && (problem.code === "offline" || (tries.current > 0 && AWAY.has(problem.code)));

  /** Continues the answer; finds one that has ended meanwhile; sends a question that did not arrive. */
  const recover = useCallback(async () => {
    const arrived = () => {
      tries.current = 0;
      setState("resumed");
    };
    if (chat.messages.length === 0) {
      await load();
      setFailure(null);
      return arrived();
    }
    await chat.resumeStream();
    if (chat.status !== "ready" || isAnswered(chat.messages)) return;
    const shown = chat.messages;
    if (keeps()) await load();
    // The newest answer may be one of before.
    const isOld = attempt.current !== null && chat.messages.at(-1)?.id === attempt.current.before.at(-1)?.id;
    if (isAnswered(chat.messages) && !isOld) return arrived();
    chat.messages = shown;
    // Only this tab knows that its question is not a new one.
    if (attempt.current) {
      await chat.regenerate();
      if (!chat.error || readError(chat.error).code !== "already_answered") return;
      chat.messages = shown;
      chat.clearError();
    }
    tries.current = 0;
    setState("lost");
  }, [chat, load, attempt, keeps]);

  // biome-ignore lint/correctness/useExhaustiveDependencies: each failure is one more reason to try again
  useEffect(() => {
    if (!isCut) return;
    setState(navigator.onLine ? "reconnecting" : "offline");
    const delay = DELAYS_MS[Math.min(tries.current, DELAYS_MS.length - 1)];
    const next = () => {
      clearTimeout(timer);
      removeEventListener("online", next);
      tries.current++;
      setState("reconnecting");
      recover().catch(setFailure);
    };
    const timer = setTimeout(next, delay);
    addEventListener("online", next);
    return () => {
      clearTimeout(timer);
      removeEventListener("online", next);
    };
  }, [error, failure]);

  useEffect(() => {
    if (status !== "streaming" || tries.current === 0) return;
    tries.current = 0;
    setState("resumed");
  }, [status]);

  useEffect(() => {
    if (state !== "resumed") return;
    const timer = setTimeout(() => setState("ok"), RESUMED_MS);
    return () => clearTimeout(timer);
  }, [state]);

  useEffect(() => {
    if (problem === null || isCut) return;
    tries.current = 0;
    setState("ok");
  }, [problem, isCut]);

  // After the network was away, the connection may be dead without an error.
  useEffect(() => {
    const back = async () => {
      if (chat.status !== "submitted" && chat.status !== "streaming")
        return setState((now) => (now === "offline" ? "ok" : now));
      tries.current = Math.max(tries.current, 1);
      setState("reconnecting");
      await chat.stop();
      await recover();
    };
    const online = () => void back().catch(setFailure);
    const offline = () => setState("offline");
    addEventListener("online", online);
    addEventListener("offline", offline);
    return () => {
      removeEventListener("online", online);
      removeEventListener("offline", offline);
    };
  }, [chat, recover]);

  const clear = useCallback(() => {
    tries.current = 0;
    chat.clearError();
    setFailure(null);
    setState("ok");
  }, [chat]);

  return {
    state,
    /** Why the question was refused, or the answer failed. A connection that is being restored is no problem. */
    problem: isCut ? null : (problem as PageError | null),
    /** An answer is expected, though nothing is being read. */
    isCut: isCut || state === "reconnecting",
    clear,
    fail: setFailure,
  };
}
