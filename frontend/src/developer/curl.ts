// The curl command of a logged request. Its body is an example, because the log has none.

import { type Connection, type FunctionUrls, urlOf } from "../../lib/index.ts";
import type { LoggedRequest } from "./stack.ts";

/** The newest request that a person can send again: not Stripe's, and not one whose path is hidden. */
export const repeatable = (requests: LoggedRequest[]) =>
  requests.find(({ path }) => !path.startsWith("/webhooks/") && !path.startsWith("/shared/"));

export function curlOf({ method, path, query }: LoggedRequest, connection: Connection, token: string): string {
  // A quote would end the shell's string.
  const address = encodeURI(path).replaceAll("'", "%27") + (query && `?${query.replaceAll("'", "%27")}`);
  const parts = [`curl -N -X ${method} '${urlOf(connection, servedBy(path), address)}'`];
  parts.push(`-H 'authorization: Bearer ${token}'`);
  const body = exampleOf(method, path);
  if (body) parts.push("-H 'content-type: application/json'", `-d '${JSON.stringify(body)}'`);
  return parts.join(" \\\n  ");
}

function servedBy(path: string): keyof FunctionUrls {
  if (/^\/(plans|checkout|portal|overage)$/.test(path)) return "checkout";
  if (path.startsWith("/keys")) return "keys";
  return /^\/(chat|mcp)/.test(path) && !/\/(share|stop)$/.test(path) ? "chat" : "account";
}

function exampleOf(method: string, path: string): object | null {
  const here = `${location.origin}/`;
  switch (`${method} ${path.replace(/^\/(keys|messages)\/.*/, "/$1/…")}`) {
    case "POST /chat": {
      const text = "How did members vote on C-5?";
      const question = { id: crypto.randomUUID(), role: "user", parts: [{ type: "text", text }] };
      return { id: crypto.randomUUID(), messages: [question] };
    }
    case "POST /checkout":
      return { plan: "basic", success_url: here, cancel_url: here };
    case "POST /portal":
      return { return_url: here };
    case "PATCH /overage":
      return { allow_overages: true };
    case "PUT /keys/…":
      return { api_key: "…" };
    case "PUT /messages/…":
      return { rating: "up" };
    default:
      return null;
  }
}
