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

/** A response that is an error. `status` is 0 where there was no response. */
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
  if (!(error instanceof Error)) return fromBody(error, language);
  if (error.name === "AbortError") return local("aborted", language);
  if (error.name === "TimeoutError" || (error instanceof TypeError && NETWORK.test(error.message)))
    return local("offline", language);
  // The AI SDK's own transport: version 7 has the status and the body beside the message.
  const { statusCode, responseBody } = error as { statusCode?: number; responseBody?: string };
  return fromBody(responseBody ?? error.message, language, statusCode);
}

/** The error of a response. Reads its body. */
export async function responseError(response: Response, language: Language): Promise<ApiError> {
  const problem = fromBody(await response.text().catch(() => ""), language, response.status);
  const seconds = Number(response.headers.get("retry-after") ?? "");
  if (problem.action === "wait" && seconds > 0)
    problem.resets_at ??= new Date(Date.now() + seconds * 1000).toISOString();
  problem.request_id ??= response.headers.get("x-request-id");
  return new ApiError(problem, response.status);
}

// Fetch's failures: Chromium and Node ("fetch"), Firefox ("NetworkError"), Safari ("Load failed"), a cut response.
const NETWORK = /fetch|network|load failed|terminated/i;

function fromBody(body: unknown, language: Language, status?: number): PageError {
  const read = typeof body === "string" ? parsed(body) : body;
  const details = isRecord(read) && isRecord(read.error) ? read.error : read;
  const usual = local(codeOf(status), language);
  if (isRecord(details) && typeof details.code === "string")
    return { ...usual, message: SENTENCES.answer_failed[language], ...(details as Partial<PageError>) };
  if (isRecord(details) && typeof details.message === "string" && read !== details)
    return { ...usual, message: details.message };
  // The sentence of an `error` part: the AI SDK makes an Error of it that has nothing else.
  if (status === undefined && typeof read === "string" && read && !read.includes("<")) usual.message = read;
  return usual;
}

function parsed(text: string): unknown {
  try {
    return JSON.parse(text);
  } catch {
    return text.trim();
  }
}

function isRecord(value: unknown): value is Record<string, unknown> {
  return typeof value === "object" && value !== null;
}

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
  return { code, message: SENTENCES[code][language], reason_code, action: ACTIONS[code] ?? "wait", request_id: null };
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
