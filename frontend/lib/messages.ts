// A chat's messages as useChat reads them.
import type { UIMessage } from "ai";
import type { Client } from "./api.ts";
import { ApiError, isRecord } from "./errors.ts";
import type { ChatMessages, Conversation, Metadata, SharedConversation } from "./openapi.d.ts";

/** A message of useChat. The metadata of an answer says what paid for it, what is left, and how it ended. */
export type ChatMessage = UIMessage<Metadata>;

/** A page of a chat. `before` is the parameter of the page before this one; null: there is none. */
export type History = { conversation: Conversation; messages: ChatMessage[]; before: number | null };

/** The messages of a stored or shared conversation, for useChat. The server returns what the streams built. */
export function toUIMessages(
  stored: Pick<ChatMessages | SharedConversation, "messages"> | null | undefined,
): ChatMessage[] {
  const messages: unknown = stored?.messages;
  return Array.isArray(messages) ? messages.filter(isMessage) : [];
}

/** Whether a page can show it. */
export function isMessage(value: unknown): value is ChatMessage {
  if (!isRecord(value) || typeof value.id !== "string" || typeof value.role !== "string") return false;
  return Array.isArray(value.parts) && value.parts.every((part) => isRecord(part) && typeof part.type === "string");
}

/**
 * The newest messages of a chat. Null: nothing is stored and nothing runs. If `conversation.is_running` is true, the
 * last message is the question that is being answered: resume it.
 */
export async function loadHistory(client: Client, chatId: string, before?: number): Promise<History | null> {
  try {
    const page = await client.call("GET /chat/{chat_id}/messages", { path: { chat_id: chatId }, query: { before } });
    if (!isRecord(page.conversation)) return null;
    return { ...page, messages: toUIMessages(page), before: page.before ?? null };
  } catch (error) {
    if (error instanceof ApiError && error.problem.code === "not_found") return null;
    throw error;
  }
}
