// The name of the site of a page. A local stack has invented pages of every site at one address.

import { useServices } from "../app/services.tsx";
import { chat as texts } from "../words/chat.ts";
import { useWords } from "../words/words.ts";

// By the beginning of the path in the sample of Parliament; everything else is openparliament.ca's.
const SAMPLE: [RegExp, "ourcommons" | "parl" | "lobbying"][] = [
  [/^\/legisinfo/i, "parl"],
  [/^\/(?:ProactiveDisclosure|Members)/i, "ourcommons"],
  [/^\/(?:app\/|en\/|fr\/)/i, "lobbying"],
];

export function useSiteName(): (url: string) => string {
  const words = useWords(texts);
  const { config } = useServices();
  return (url) => {
    const { host, hostname, pathname } = new URL(url);
    if (!config.stack || host !== new URL(config.parliament_url).host) return hostname.replace(/^www\./, "");
    const site = SAMPLE.find(([path]) => path.test(pathname))?.[1];
    return words.sample(site ? words[site] : "openparliament.ca");
  };
}
