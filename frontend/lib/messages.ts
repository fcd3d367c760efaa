// A chat's messages as useChat reads them.
import type { UIMessage } from "ai";
import type { Client } from "./api.ts";
import { ApiError } from "./errors.ts";
import type { ChatMessages, Conversation, Metadata, SharedConversation } from "./openapi.d.ts";

/** A message of useChat. The metadata of an answer says what paid for it, what is left, and how it ended. */
export type ChatMessage = UIMessage<Metadata>;

/** A page of a chat. `before` is the parameter of the page before this one; null: there is none. */
export type History = { conversation: Conversation; messages: ChatMessage[]; before: number | null };

/** The messages of a stored or shared conversation, for useChat. The server returns what the streams built. */
export function toUIMessages({ messages }: Pick<ChatMessages | SharedConversation, "messages">): ChatMessage[] {
  return messages as unknown as ChatMessage[];
}

/**
 * The newest messages of a chat. Null: nothing is stored and nothing runs. If `conversation.is_running` is true, the
 * last message is the question that is being answered: resume it.
 */
export async function loadHistory(client: Client, chatId: string, before?: number): Promise<History | null> {
  try {
    const page = await client.call("GET /chat/{chat_id}/messages", { path: { chat_id: chatId }, query: { before } });
    return { ...page, messages: toUIMessages(page) };
  } catch (error) {
    if (error instanceof ApiError && error.problem.code === "not_found") return null;
    throw error;
  }
}
