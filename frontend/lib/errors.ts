// What went wrong, in one form, wherever it comes from: a response, useChat, the network, the end of an answer.
import type { ErrorDetails } from "./openapi.d.ts";

export type Language = "en" | "fr";
export type Action = ErrorDetails["action"];

/** An error for the user. `offline`: no response, or only a part of one. `aborted`: the page ended the request. */
export type PageError = Omit<ErrorDetails, "code" | "reason_code" | "request_id"> & {
  code: ErrorDetails["code"] | "offline" | "aborted";
  reason_code: ErrorDetails["reason_code"] | "offline" | "aborted";
  request_id: string | null;
};

/** A failed request. `status` is 0 where there was no response. */
export class ApiError extends Error {
  readonly problem: PageError;
  readonly status: number;

  constructor(problem: PageError, status: number) {
    super(problem.message);
    this.name = "ApiError";
    this.problem = problem;
    this.status = status;
  }
}

/**
 * Reads any error: what `call` throws, `error` of useChat (whose message is often the raw body), `metadata.error` of an
 * answer, or a body. `language` is for the errors that have no sentence of the server.
 */
export function readError(error: unknown, language: Language = "en"): PageError {
  if (error instanceof ApiError) return error.problem;
  if (!isThrown(error)) return fromBody(error, language);
  // The AI SDK's own transport: version 7 has the status and the body beside the message.
  const { statusCode, responseBody } = error as { statusCode?: number; responseBody?: unknown };
  if (statusCode !== undefined) return fromBody(responseBody, language, statusCode);
  // useChat makes a plain Error of a body, and of the sentence of an `error` part. Other messages are for developers.
  if (error.name !== "Error" || NETWORK.test(error.message)) return failure(error, language);
  const problem = fromBody(error.message, language);
  return SENTENCE.test(error.message) && error.message !== EMPTY ? { ...problem, message: error.message } : problem;
}

/** A failure without a response of ours: its message is for developers. `signal`: what may have ended the request. */
export function failure(error: unknown, language: Language, signal?: AbortSignal | null): PageError {
  const { name, message } = isThrown(error) ? error : { name: "", message: "" };
  if (name === "TimeoutError") return local("offline", language);
  if (name === "AbortError" || signal?.aborted) return local("aborted", language);
  return local(name === "NetworkError" || NETWORK.test(message) ? "offline" : "internal", language);
}

/** The error of a response. Reads its body. */
export async function responseError(response: Response, language: Language): Promise<ApiError> {
  const problem = fromBody(await response.text().catch(() => ""), language, response.status);
  const seconds = Number(response.headers.get("retry-after") ?? "");
  if (problem.action === "wait" && seconds > 0 && seconds < A_YEAR)
    problem.resets_at ??= new Date(Date.now() + seconds * 1000).toISOString();
  problem.request_id ??= response.headers.get("x-request-id");
  return new ApiError(problem, response.status);
}

/** The error of a response that has the status of a success, but not our body: a proxy's page, or nothing. */
export function strangeResponse({ status }: Response, language: Language): ApiError {
  return new ApiError(local("unavailable", language), status);
}

/** The language of a tag such as fr-CA. */
export function languageOf(tag: unknown): Language {
  return /^fr\b/i.test(String(tag)) ? "fr" : "en";
}

export function isRecord(value: unknown): value is Record<string, unknown> {
  return typeof value === "object" && value !== null;
}

/** The value of a JSON text; undefined if it is none. */
export function parsed(text: string): unknown {
  try {
    return JSON.parse(text);
  } catch {
    return undefined;
  }
}

const A_YEAR = 366 * 86_400;
const SENTENCE = /^[^<>{}]+[.!?]$/;
const EMPTY = "The response body is empty."; // of the AI SDK 6

// How the messages of failed requests start: Chromium and Node, Firefox, Safari, and answers that were cut.
const NETWORK =
  /^(failed to fetch|fetch failed|network ?error|load failed|the (network|internet) connection|could not connect|error in (input|body) stream|terminated)/i;

function isThrown(error: unknown): error is Error {
  return error instanceof Error || (isRecord(error) && error instanceof DOMException);
}

function fromBody(body: unknown, language: Language, status?: number): PageError {
  const read = typeof body === "string" ? parsed(body) : body;
  const details = isRecord(read) && isRecord(read.error) ? read.error : read;
  const isOurs = isRecord(details) && isText(details.code) && isText(details.reason_code);
  return isOurs ? described(details, language) : local(codeOf(status), language);
}

/** An error of ours. A field that is unknown, or that has a value of another kind, is ignored. */
function described(details: Record<string, unknown>, language: Language): PageError {
  const isLocal = Object.hasOwn(SENTENCES, String(details.code));
  const usual = local(isLocal ? (details.code as LocalCode) : "internal", language);
  if (!isLocal) usual.action = "none";
  if (details.message === undefined) usual.message = SENTENCES.answer_failed[languageOf(language)];
  const valid = Object.entries(FIELDS).filter(([name, isValid]) => isValid(details[name]));
  return { ...usual, ...Object.fromEntries(valid.map(([name]) => [name, details[name]])) };
}

const isText = (value: unknown) => typeof value === "string" && value !== "";

// All of them: a field or an action that is missing here is a type error.
const FIELDS: { [Field in keyof PageError]-?: (value: unknown) => boolean } = {
  code: isText,
  message: isText,
  reason_code: isText,
  action: (value) => isText(value) && Object.hasOwn(KNOWN_ACTIONS, String(value)),
  request_id: isText,
  reason: isText,
  requires_payment: (value) => typeof value === "boolean",
  resets_at: (value) => isText(value) && !Number.isNaN(Date.parse(String(value))),
  url: isText,
  provider: isText,
  model: isText,
  models: isText,
  limit_kib: (value) => typeof value === "number",
  fields: (value) =>
    Array.isArray(value) && value.every((one) => isRecord(one) && isText(one.field) && isText(one.message)),
};

const KNOWN_ACTIONS: Record<Action, true> = {
  upgrade: true,
  buy_pack: true,
  update_card: true,
  pay_invoice: true,
  enable_overage: true,
  raise_limit: true,
  confirm_email: true,
  reconnect_key: true,
  wait: true,
  contact_support: true,
  none: true,
};

/** The code of a response that is not ours: a gateway's page, or no body. */
function codeOf(status?: number): LocalCode {
  if (status === 401) return "unauthenticated";
  if (status === 413) return "too_large";
  if (status === 429) return "too_many_requests";
  return status !== undefined && status >= 502 ? "unavailable" : "internal";
}

type LocalCode =
  | "offline"
  | "aborted"
  | "unauthenticated"
  | "too_large"
  | "too_many_requests"
  | "unavailable"
  | "internal";

function local(code: LocalCode, language: Language): PageError {
  const reason_code = code === "too_many_requests" ? "too_many_queries" : code;
  const message = SENTENCES[code][languageOf(language)];
  return { code, message, reason_code, action: ACTIONS[code] ?? "wait", request_id: null };
}

const ACTIONS: Partial<Record<LocalCode, Action>> = {
  aborted: "none",
  unauthenticated: "none",
  too_large: "none",
  internal: "contact_support",
};

const SENTENCES: Record<LocalCode | "answer_failed", Record<Language, string>> = {
  offline: {
    en: "The connection was lost. Check your network and try again.",
    fr: "La connexion a été perdue. Vérifiez votre réseau et réessayez.",
  },
  aborted: { en: "The request was canceled.", fr: "La demande a été annulée." },
  unauthenticated: { en: "Sign in again to continue.", fr: "Connectez-vous de nouveau pour continuer." },
  too_large: { en: "The request is too large.", fr: "La demande est trop volumineuse." },
  too_many_requests: {
    en: "There are too many requests at the moment. Wait a little and try again.",
    fr: "Il y a trop de demandes en ce moment. Attendez un peu et réessayez.",
  },
  unavailable: {
    en: "The service cannot be reached at the moment. Try again in a few minutes.",
    fr: "Le service est inaccessible en ce moment. Réessayez dans quelques minutes.",
  },
  internal: {
    en: "Something went wrong. Try again, or contact support.",
    fr: "Une erreur s’est produite. Réessayez ou communiquez avec le soutien.",
  },
  answer_failed: {
    en: "The answer could not be completed. Nothing was charged.",
    fr: "La réponse n’a pas pu être terminée. Rien n’a été facturé.",
  },
};
