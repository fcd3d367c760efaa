// What a frontend of this backend needs besides the AI SDK. Nothing here depends on a framework or a page.
export * from "./api.ts";
export * from "./errors.ts";
export * from "./messages.ts";
export type * from "./openapi.d.ts";
export { chatTransport, stopAnswer, type TransportOptions } from "./transport.ts";
