// Where the services are. The same build runs anywhere: /config.json says it.

import type { FunctionUrls } from "../../lib/index.ts";

export type Config = {
  functions: FunctionUrls;
  supabase_url: string;
  publishable_key: string;
  /** The public record, which the search for a context reads. */
  parliament_url: string;
  /** Where users write to. Without it, the page tells them to contact the operator. */
  support_email?: string;
  /** A local stack: its seeded users and the developer's panel are shown. */
  stack?: boolean;
};

/** Reads /config.json. */
export async function loadConfig(): Promise<Config> {
  const response = await fetch("/config.json", { cache: "no-cache" });
  if (!response.ok) throw new Error(`/config.json: ${response.status}`);
  return response.json();
}
