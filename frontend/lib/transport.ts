// How useChat sends questions and follows answers.
import { DefaultChatTransport, parseJsonEventStream, type UIMessageChunk, uiMessageChunkSchema } from "ai";
import { type Client, headersOf, urlOf } from "./api.ts";
import { isRecord, languageOf, readError, responseError, strangeResponse } from "./errors.ts";
import { type ChatMessage, isMessage } from "./messages.ts";
import type { ChatRequest, Metadata } from "./openapi.d.ts";

export type TransportOptions = {
  client: Client;
  /** Whether the user's plan stores conversations: `keeps_history` of GET /usage. */
  keepsHistory: () => boolean;
  /** What a question is about, and who answers it. */
  settings?: () => Pick<ChatRequest, "context" | "provider" | "model">;
  /** Where a running answer is followed, if not at the chat function: docs/deploy.md, "An empty answer ends". */
  resumeUrl?: (chatId: string) => string;
};

/**
 * The transport of useChat. Create it once, not at each render: it remembers the question that has no answer yet.
 * Every error is one that `readError` reads completely.
 */
export function chatTransport(options: TransportOptions): Transport {
  return new Transport(options);
}

/** Ends the running answer. useChat's own `stop` only disconnects: the answer continues. Call both. */
export async function stopAnswer(client: Client, chatId: string): Promise<void> {
  await client.call("POST /chat/{chat_id}/stop", { path: { chat_id: chatId } });
}

type Sending = Parameters<DefaultChatTransport<ChatMessage>["sendMessages"]>[0];

class Transport extends DefaultChatTransport<ChatMessage> {
  #unanswered: Sending | undefined;

  constructor({ client, keepsHistory, settings, resumeUrl }: TransportOptions) {
    super({
      api: urlOf(client, "chat", "/chat"),
      headers: () => headersOf(client),
      fetch: async (url, init) => {
        const response = await fetch(url, init);
        if (!response.ok) throw await responseError(response, client.language());
        // Nothing to resume is 204. A question always has an answer.
        if (init?.method === "POST" && !response.body) throw strangeResponse(response, client.language());
        return response;
      },
      prepareReconnectToStreamRequest: resumeUrl && (({ id }) => ({ api: resumeUrl(id) })),
      prepareSendMessagesRequest: ({ id, messages, trigger, messageId, body }) => {
        const valid = messages.filter(isMessage);
        const sent = keepsHistory() ? valid.slice(-1) : textsOf(valid);
        return {
          body: {
            language: languageOf(client.language()),
            ...settings?.(),
            ...body,
            id,
            trigger,
            messageId,
            messages: sent,
          },
        };
      },
    });
  }

  /** Sends a question. One that is sent again before it has an answer is the same request, and charged once. */
  override async sendMessages(options: Sending) {
    const before = this.#unanswered;
    const isRepeated = before !== undefined && asksTheSame(before, options);
    const sending = isRepeated ? { ...options, trigger: before.trigger, messageId: before.messageId } : options;
    this.#unanswered = sending;
    try {
      return await super.sendMessages(sending);
    } catch (error) {
      // The first request arrived, and its answer is still running: follow that.
      const isRunning = isRepeated && readError(error).code === "request_in_progress";
      const running = isRunning ? await this.reconnectToStream(options) : null;
      if (running === null) throw error;
      return running;
    }
  }

  protected override processResponseStream(body: ReadableStream<Uint8Array<ArrayBuffer>>) {
    const answered = () => {
      this.#unanswered = undefined;
    };
    return parseJsonEventStream({ stream: body, schema: uiMessageChunkSchema })
      .pipeThrough(new TransformStream({ transform: passKnown }))
      .pipeThrough(new TransformStream(new Ending(answered)));
  }
}

// What an answer cannot lose: a damaged one ends it.
const NEEDED = ["start", "text-start", "text-delta", "text-end", "error", "abort", "finish"];

type Parsed =
  ReturnType<typeof parseJsonEventStream<UIMessageChunk>> extends ReadableStream<infer Result> ? Result : never;

/** Passes the parts that the installed AI SDK knows. A newer backend may send others, at which it would stop. */
function passKnown(part: Parsed, controller: TransformStreamDefaultController<UIMessageChunk>) {
  if (part.success) return controller.enqueue(part.value);
  const type = isRecord(part.rawValue) ? part.rawValue.type : undefined;
  if (typeof type !== "string" || NEEDED.includes(type)) throw part.error;
}

/** Whether `next` asks what `before` asked, and `before` was not ended by the user. */
function asksTheSame(before: Sending, next: Sending): boolean {
  const [old, question] = [before.messages.at(-1), next.messages.at(-1)];
  return (
    before.chatId === next.chatId &&
    !before.abortSignal?.aborted &&
    old?.id === question?.id &&
    JSON.stringify(old?.parts) === JSON.stringify(question?.parts) &&
    (next.messageId === undefined || next.messageId === question?.id || next.messageId === before.messageId)
  );
}

// The server reads at most 40 messages and 48,000 bytes of what came before the question, and refuses large bodies.
const EARLIER_MESSAGES = 40;
const EARLIER_CHARACTERS = 48_000;

/** The newest messages, without the results of tools: only their texts, and how the answers ended. */
function textsOf(messages: ChatMessage[]): object[] {
  const sent: object[] = messages.slice(-1);
  let characters = 0;
  for (const { id, role, parts, metadata } of messages.slice(-1 - EARLIER_MESSAGES, -1).reverse()) {
    const texts = parts.flatMap((part) => (part.type === "text" ? [{ type: "text", text: part.text }] : []));
    characters += texts.reduce((sum, { text }) => sum + text.length, 0);
    if (characters > EARLIER_CHARACTERS) break;
    sent.unshift({ id, role, parts: texts, metadata: metadata && { finish_reason: metadata.finish_reason } });
  }
  return sent;
}

/** Makes the end of every answer one that the page learns about. */
class Ending implements Transformer<UIMessageChunk, UIMessageChunk> {
  #answered: () => void;
  #failure: string | undefined;
  #hasEnded = false;

  constructor(answered: () => void) {
    this.#answered = answered;
  }

  transform(part: UIMessageChunk, controller: TransformStreamDefaultController<UIMessageChunk>) {
    if (part.type === "error") {
      this.#failure = part.errorText;
    } else if (part.type === "finish" && this.#failure !== undefined) {
      this.#fail(controller, part.messageMetadata as Metadata | undefined);
    } else {
      if (part.type === "finish" || part.type === "abort") {
        this.#hasEnded = true;
        this.#answered();
      }
      controller.enqueue(part);
    }
  }

  flush(controller: TransformStreamDefaultController<UIMessageChunk>) {
    if (this.#failure !== undefined) this.#fail(controller);
    // The AI SDK takes a response that ends early for a complete answer.
    else if (!this.#hasEnded) controller.error(new TypeError("network error: the answer was cut"));
  }

  // The AI SDK reads nothing after an `error`, which has only a sentence. The metadata comes first, and the error is
  // written as the body of a response is.
  #fail(controller: TransformStreamDefaultController<UIMessageChunk>, metadata?: Metadata) {
    const usual = { code: "internal", reason_code: "answer_failed" };
    const error = { ...usual, ...metadata?.error, message: this.#failure, request_id: metadata?.request_id };
    if (metadata) controller.enqueue({ type: "message-metadata", messageMetadata: metadata });
    controller.enqueue({ type: "error", errorText: JSON.stringify({ error }) });
    this.#failure = undefined;
    this.#hasEnded = true;
  }
}
