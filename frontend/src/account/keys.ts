// The providers that take users' own keys. Their names are the same in both languages.

import type { KeyInfo } from "../../lib/index.ts";

export type Provider = KeyInfo["provider"];

export const PROVIDERS: Provider[] = ["anthropic", "openai"];

export const PROVIDER_NAMES: Record<Provider, string> = { anthropic: "Anthropic", openai: "OpenAI" };

/** The name of a provider; of one that is not known here, the server's word. */
export const providerName = (provider: string) => PROVIDER_NAMES[provider as Provider] ?? provider;
