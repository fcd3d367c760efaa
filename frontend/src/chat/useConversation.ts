// One conversation: what is shown of it, and everything that can be done with it. The answer runs on the server: a
// connection that breaks is continued, and a question that is sent twice is charged once.

import { Chat, useChat } from "@ai-sdk/react";
import { useCallback, useEffect, useMemo, useRef, useState } from "react";
import { type ChatMessage, type ChatRequest, type Conversation, chatTransport, loadHistory } from "../../lib/index.ts";
import { useAccount } from "../app/account.tsx";
import { announceChange, onChange } from "../app/changes.ts";
import { useServices, useSession } from "../app/services.tsx";
import type { PageContext } from "./context.ts";
import {
  type Attempt,
  isAnswered,
  keepInTab,
  keptInTab,
  lastQuestion,
  mergeRunning,
  textOf,
  unsentQuestion,
  withoutAnswer,
} from "./messages.ts";
import { forgetQuestion, keepQuestion, keptQuestion, type Question } from "./unanswered.ts";
import { useReconnect } from "./useReconnect.ts";
import { useUnshrunk } from "./useUnshrunk.ts";

/** loading: not known yet; open: shown; missing: the server has nothing at this address. */
type Place = "loading" | "open" | "missing";

/** How an answer that this tab followed was stopped: by the user, or by the server for a newer question. */
export type Stopped = "stopped" | "replaced";

const RENDER_MS = 50; // between two renderings of a growing answer
const STOP_MS = 4_000; // the server ends an answer within three seconds
const STOP_AGAIN_MS = 400;

type Options = { id: string; isNew: boolean; context: () => PageContext };

/** The change that a tab announces when its user stops an answer. */
const stopOf = (id: string) => `stop ${id}`;

export function useConversation({ id, isNew, context }: Options) {
  const { api } = useServices();
  const tabKey = `${useSession()?.user.id} ${id}`;
  const { usage, error: noUsage } = useAccount();
  const [place, setPlace] = useState<Place>(isNew ? "open" : "loading");
  const [stored, setStored] = useState<Conversation | null>(null);
  const [before, setBefore] = useState<number | null>(null);
  const [isStopping, setStopping] = useState(false);
  const [unanswered, setUnanswered] = useState<Question | null>(null);
  const isRestored = useRef(isNew);
  const [stops, setStops] = useState<ReadonlyMap<string, Stopped>>(new Map());
  const isUserStop = useRef(false); // of the running answer, in any tab
  const attempt = useRef<Attempt | null>(null);
  const latest = useRef({ keeps: false, mayKeep: true, context });
  const keepsHistory = usage?.keeps_history;
  latest.current = { keeps: keepsHistory ?? false, mayKeep: keepsHistory ?? true, context };
  const isPlanKnown = usage !== null || noUsage !== null;
  const isAnnouncing = useRef(false);
  const isOutdated = useRef(false);

  const announce = useCallback(
    (here: boolean) => {
      isAnnouncing.current = true;
      announceChange(id, { here });
      isAnnouncing.current = false;
    },
    [id],
  );

  const transport = useMemo(
    () =>
      chatTransport({
        client: api,
        keepsHistory: () => latest.current.keeps,
        settings: () => ({ context: contextOf(latest.current.context()) }),
      }),
    [api],
  );
  const chat = useMemo(
    () =>
      new Chat<ChatMessage>({
        id,
        messages: keptInTab(tabKey),
        transport,
        onFinish: ({ isDisconnect, isError, message: { id: answerId, metadata } }) => {
          if (!isDisconnect) announce(true);
          if (metadata && !isError && !isDisconnect && metadata.outcome !== "lost") forgetQuestion(tabKey);
          if (metadata?.finish_reason === "stopped") {
            const stopped = isUserStop.current ? "stopped" : "replaced";
            setStops((before) => new Map(before).set(answerId, stopped));
          }
          isUserStop.current = false;
        },
      }),
    [id, tabKey, transport, announce],
  );
  const { messages, status, error } = useChat({ chat, throttle: RENDER_MS });

  /** Once: the question that got no answer before this page was loaded. */
  const restore = useCallback(() => {
    const kept = isRestored.current ? null : keptQuestion(tabKey);
    isRestored.current = true;
    if (kept === null) return;
    const question = lastQuestion(chat.messages);
    if (!question || textOf(question) !== kept.text) setUnanswered(kept);
    else if (isAnswered(chat.messages)) forgetQuestion(tabKey);
  }, [chat, tabKey]);

  /** Reads what is stored, and follows an answer that is running. */
  const load = useCallback(
    async (mayRepeat = true): Promise<void> => {
      // Without history there is only a running answer and its question.
      const { keeps, mayKeep } = latest.current;
      const running = mayKeep ? null : await transport.reconnectToStream({ chatId: id });
      await running?.cancel();
      const page = mayKeep || running ? await loadHistory(api, id) : null;
      if (chat.status === "submitted" || chat.status === "streaming") {
        isOutdated.current = true;
        return;
      }
      if (page === null) {
        if (keeps) chat.messages = [];
        setPlace(chat.messages.length ? "open" : "missing");
        restore();
        return;
      }
      const unsent = unsentQuestion(chat.messages, page.messages);
      if (!keeps) chat.messages = mergeRunning(chat.messages, page.messages);
      else chat.messages = unsent ? [...page.messages, unsent] : page.messages;
      if (!unsent) chat.clearError();
      setStored(page.conversation);
      setBefore(page.before);
      setPlace("open");
      restore();
      if (!page.conversation.is_running) return;
      await chat.resumeStream();
      // Nothing was followed: the answer ended meanwhile, and is stored.
      if (keeps && mayRepeat && chat.status === "ready" && !isAnswered(chat.messages)) await load(false);
    },
    [api, id, chat, transport, restore],
  );

  const link = useReconnect({ chat, error, status, load, attempt, keeps: () => latest.current.keeps });

  // Leaving it ends only the reading.
  useEffect(
    () => () => {
      if (!latest.current.mayKeep) keepInTab(tabKey, chat.messages);
      void chat.stop();
    },
    [chat, tabKey],
  );

  // biome-ignore lint/correctness/useExhaustiveDependencies: once, when the plan is known; a new one has nothing to read
  useEffect(() => {
    if (place === "loading" && isPlanKnown) void load().catch(link.fail);
  }, [chat, isPlanKnown]);

  useEffect(
    () =>
      onChange((what) => {
        if (what === id && !isAnnouncing.current) void load().catch(() => {});
        if (what === stopOf(id)) isUserStop.current = true;
      }),
    [id, load],
  );

  // A change that came during an answer, such as the deletion by another tab, is read after it.
  useEffect(() => {
    if (status !== "ready" || !isOutdated.current) return;
    isOutdated.current = false;
    void load().catch(() => {});
  }, [status, load]);

  // Other tabs follow the answer from its first word on.
  useEffect(() => {
    if (status === "streaming") announce(false);
  }, [status, announce]);

  /** Does what changes the conversation. A refused question that is still shown gives way. */
  const begin = useCallback(
    async (text: string | null, act: () => Promise<void>) => {
      const refused = attempt.current;
      if (chat.error && refused && chat.lastMessage?.role === "user") chat.messages = refused.before;
      attempt.current = { text, before: chat.messages };
      isUserStop.current = false;
      setUnanswered(null);
      if (text !== null) keepQuestion(tabKey, { text, context: latest.current.context() });
      await act();
    },
    [chat, tabKey],
  );

  const actions = useMemo(
    () => ({
      send: (text: string) => begin(text, () => chat.sendMessage({ text })),
      edit: (messageId: string, text: string) => begin(text, () => chat.sendMessage({ text, messageId })),
      regenerate: (messageId: string) => begin(null, () => chat.regenerate({ messageId })),
      /** Sends what failed once more. The server knows the question: it is charged once. */
      again: () => {
        if (chat.messages.length) return chat.regenerate();
        link.clear();
        return load().catch(link.fail);
      },
      /** Asks a question whose answer was lost as a new one. */
      askAgain: () => {
        const question = chat.messages.findLast(({ role }) => role === "user");
        link.clear();
        chat.messages = withoutAnswer(chat.messages);
        return question ? begin(textOf(question), () => chat.sendMessage({ text: textOf(question) })) : undefined;
      },
      /** Removes a refused question. Returns its text. */
      dismiss: () => {
        const { text = null, before = withoutAnswer(chat.messages) } = attempt.current ?? {};
        if (chat.lastMessage?.role === "user") chat.messages = before;
        link.clear();
        return text;
      },
      earlier: async () => {
        const page = before === null ? null : await loadHistory(api, id, before).catch(() => null);
        if (!page) return;
        chat.messages = [...page.messages, ...chat.messages];
        setBefore(page.before);
      },
    }),
    [api, id, before, chat, begin, link.clear, link.fail, load],
  );

  const stop = useCallback(async () => {
    if (link.isCut) return link.clear(); // the user does not want to wait
    setStopping(true);
    isUserStop.current = true;
    announceChange(stopOf(id), { here: false });
    const stopped = attempt.current; // the user may send the next question at once
    const isRunning = () => attempt.current === stopped && (chat.status === "submitted" || chat.status === "streaming");
    const deadline = Date.now() + STOP_MS;
    try {
      while (isRunning() && Date.now() < deadline) {
        // An answer that is not admitted yet cannot be stopped: ask again.
        await api.call("POST /chat/{chat_id}/stop", { path: { chat_id: id } });
        await new Promise((done) => setTimeout(done, STOP_AGAIN_MS));
      }
    } catch {
      // Not reachable: the page stops reading.
    }
    if (isRunning()) await chat.stop();
    setStopping(false);
  }, [api, id, chat, link]);

  /** An answer is being read, or will be. */
  const isActive = status === "submitted" || status === "streaming" || link.isCut;
  return {
    id,
    messages: useUnshrunk(messages, isActive),
    place: place === "missing" && messages.length ? "open" : place,
    stored,
    before,
    stops,
    unanswered,
    /** The user removed the question that got no answer. */
    forgetUnanswered: () => forgetQuestion(tabKey),
    status,
    isActive,
    isStopping,
    link,
    keepsHistory,
    stop,
    ...actions,
  };
}

/** The context as the server reads it. */
function contextOf({ type, id, name }: PageContext): ChatRequest["context"] {
  return type === "general" ? undefined : { type, id, data: name === null ? null : { name } };
}

export type ConversationState = ReturnType<typeof useConversation>;
