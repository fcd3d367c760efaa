// What a frontend of this backend needs besides the AI SDK. Nothing here depends on a framework or a page.
export * from "./api.ts";
export { type Action, ApiError, type Language, languageOf, type PageError, readError } from "./errors.ts";
export { type ChatMessage, type History, loadHistory, toUIMessages } from "./messages.ts";
export type * from "./openapi.d.ts";
export { chatTransport, stopAnswer, type TransportOptions } from "./transport.ts";
