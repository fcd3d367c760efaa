// The pages that an answer is based on. A source marks the sentences that link to it.

import { type RefObject, useState } from "react";
import { useFormats } from "../app/format.ts";
import { chat as texts } from "../words/chat.ts";
import { useWords } from "../words/words.ts";
import { isWebAddress } from "./Markdown.tsx";
import type { Source } from "./messages.ts";
import { markSentences, unmark } from "./sentences.ts";
import { useSiteName } from "./site.ts";

/** How many are shown at first: in a narrow window less, so that the answer stays in view. */
const first = () => (matchMedia("(width < 37.5rem)").matches ? 2 : 5);

type Props = { sources: Source[]; answer: RefObject<HTMLElement | null>; isGrowing: boolean };

export function Sources({ sources, answer, isGrowing }: Props) {
  const words = useWords(texts);
  const siteName = useSiteName();
  const format = useFormats();
  const [isAll, setAll] = useState(false);
  const [count] = useState(first);
  const shown = isAll ? sources : sources.slice(0, count);
  if (sources.length === 0) return null;
  return (
    <div className="sources" data-reserved={isGrowing || undefined}>
      <ol aria-label={words.sources}>
        {shown.map((source) => (
          <li key={source.sourceId}>
            {isWebAddress(source.url) && (
              <a
                href={source.url}
                target="_blank"
                rel="noopener"
                onMouseEnter={() => markSentences(answer.current, source.url)}
                onMouseLeave={unmark}
                onFocus={() => markSentences(answer.current, source.url)}
                onBlur={unmark}
              >
                <span className="site">{siteName(source.url)}</span> {source.title && format.inText(source.title)}
              </a>
            )}
          </li>
        ))}
      </ol>
      {sources.length > shown.length && (
        <button type="button" className="plain" onClick={() => setAll(true)}>
          {words.allSources(sources.length)}
        </button>
      )}
    </div>
  );
}
