// A client of the HTTP API, typed by the routes of openapi.d.ts.
import {
  ApiError,
  failure,
  isRecord,
  type Language,
  languageOf,
  parsed,
  responseError,
  strangeResponse,
} from "./errors.ts";
import type { Routes } from "./openapi.d.ts";

/** The addresses of the functions. On AWS each has its own; `make run` serves all of them on one. */
export type FunctionUrls = { chat: string; keys: string; checkout: string; account: string };

export type Connection = {
  functions: FunctionUrls;
  /** Supabase's access token of the user. Null: without a user. */
  token: () => Promise<string | null>;
  /** The language of answers and of error messages. */
  language: () => Language;
};

export type Route = keyof Routes;
type Fields<R extends Route> = Omit<Routes[R], "on" | "response"> & { signal?: AbortSignal };
/** The path parameters, query and body of a route. Optional where the route needs none of them. */
export type Input<R extends Route> = Record<never, never> extends Fields<R> ? [input?: Fields<R>] : [input: Fields<R>];

export type Client = Connection & {
  /** Calls a route: `call("PUT /keys/{provider}", { path: { provider }, body: { api_key } })`. Throws ApiError. */
  call: <R extends Route>(route: R, ...input: Input<R>) => Promise<Routes[R]["response"]>;
};

type AnyInput = { path?: object; query?: object; body?: object; signal?: AbortSignal };

export function createClient(options: Connection): Client {
  const connection = { ...options, language: () => languageOf(options.language()) };
  async function call<R extends Route>(route: R, ...input: Input<R>): Promise<Routes[R]["response"]> {
    const { path = {}, query = {}, body, signal }: AnyInput = input[0] ?? {};
    const language = connection.language();
    let status = 0;
    try {
      const [method, template] = route.split(" ") as [string, string];
      let url = urlOf(connection, SERVED_BY[route], template);
      for (const [name, value] of Object.entries(path)) url = url.replace(`{${name}}`, encodeURIComponent(value));
      const search = new URLSearchParams(Object.entries(query).filter(([, value]) => value != null));
      if (search.size) url += `?${search}`;
      const headers: Record<string, string> = { ...(await headersOf(connection)), accept: "application/json" };
      if (body) headers["content-type"] = "application/json";
      const response = await fetch(url, { method, headers, body: body && JSON.stringify(body), signal });
      status = response.status;
      if (!response.ok) throw await responseError(response, language);
      const read = parsed(await response.text());
      if (!isRecord(read)) throw strangeResponse(response, language);
      return read as Routes[R]["response"];
    } catch (error) {
      if (error instanceof ApiError) throw error;
      throw new ApiError(failure(error, language, signal), status);
    }
  }
  return { ...connection, call };
}

/** The address of a path at a function. The URL of a function on AWS ends with a slash. */
export function urlOf({ functions }: Connection, name: keyof FunctionUrls, path: string): string {
  return functions[name].replace(/\/$/, "") + path;
}

/** The headers of every request. CORS allows them. Throws ApiError if there is an error instead of a token. */
export async function headersOf({ token, language }: Connection): Promise<Record<string, string>> {
  const bearer = await (async () => token())().catch((error: unknown) => {
    throw new ApiError(failure(error, language()), 0);
  });
  const headers = { "accept-language": language() };
  return bearer === null ? headers : { ...headers, authorization: `Bearer ${bearer}` };
}

// A route that is missing here, or at a function that does not have it, is a type error.
const SERVED_BY: { [R in Route]: Routes[R]["on"] & keyof FunctionUrls } = {
  "DELETE /account": "account",
  "GET /account/export": "account",
  "POST /chat": "chat",
  "GET /chat/{chat_id}/messages": "chat",
  "DELETE /chat/{chat_id}/share": "account",
  "POST /chat/{chat_id}/share": "account",
  "POST /chat/{chat_id}/stop": "account", // also answers while every process of the chat is busy
  "POST /checkout": "checkout",
  "GET /health": "chat",
  "GET /keys": "keys",
  "DELETE /keys/{provider}": "keys",
  "PUT /keys/{provider}": "keys",
  "POST /keys/{provider}/validate": "keys",
  "PUT /messages/{message_id}/feedback": "account",
  "GET /openapi.json": "account",
  "PATCH /overage": "checkout",
  "GET /plans": "checkout",
  "POST /portal": "checkout",
  "GET /shared/{token}": "account",
  "GET /usage": "account",
};
