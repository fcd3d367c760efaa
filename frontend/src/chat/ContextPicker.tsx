// Chooses what a question is about, by a search in the public record.

import { useEffect, useState } from "react";
import { Dialog } from "../app/Dialog.tsx";
import { useLanguage } from "../app/language.tsx";
import { useServices } from "../app/services.tsx";
import { context as texts } from "../words/chat_context.ts";
import { useWords } from "../words/words.ts";
import { KINDS, type Kind, type PageContext } from "./context.ts";
import { type Match, search } from "./publicRecord.ts";
import "./picker.css";

const WAIT_MS = 150; // after the last letter

/** What is searched for each kind of page. */
const SEARCHED: Partial<Record<Kind, ("bill" | "mp")[]>> = {
  bill: ["bill"],
  mp: ["mp"],
  spending: ["mp"],
  lobbying: ["bill", "mp"],
};

type Props = { initial: PageContext; onChosen: (context: PageContext) => void; onClose: () => void };

export default function ContextPicker({ initial, onChosen, onClose }: Props) {
  const words = useWords(texts);
  const [kind, setKind] = useState<Kind>(initial.type === "general" ? "bill" : initial.type);
  const kinds = SEARCHED[kind];
  return (
    <Dialog title={words.title} onClose={onClose}>
      <fieldset className="kinds">
        <legend className="hidden">{words.kinds}</legend>
        {KINDS.map((one) => (
          <label key={one}>
            <input type="radio" name="kind" checked={one === kind} onChange={() => setKind(one)} />
            {words[one]}
          </label>
        ))}
      </fieldset>
      {kinds ? (
        <Search
          key={kind}
          kind={kind}
          kinds={kinds}
          onChosen={(match) =>
            onChosen({ type: kind, id: match?.id ?? null, name: match?.kind === "mp" ? match.name : null })
          }
        />
      ) : (
        <button type="button" className="primary" onClick={() => onChosen({ type: kind, id: null, name: null })}>
          {words[kind]}
        </button>
      )}
    </Dialog>
  );
}

type SearchProps = { kind: Kind; kinds: ("bill" | "mp")[]; onChosen: (match: Match | null) => void };
type Found = { matches: Match[]; count: number } | "searching" | "failed";

function Search({ kind, kinds, onChosen }: SearchProps) {
  const words = useWords(texts);
  const { language } = useLanguage();
  const { config } = useServices();
  const [query, setQuery] = useState("");
  const [found, setFound] = useState<Found>("searching");
  const isOptional = kind === "spending" || kind === "lobbying";

  // biome-ignore lint/correctness/useExhaustiveDependencies: the kinds belong to the component's key
  useEffect(() => {
    let isOld = false;
    const timer = setTimeout(async () => {
      const next = await search(config.parliament_url, kinds, query, language).catch(() => "failed" as const);
      if (!isOld) setFound(next);
    }, WAIT_MS);
    return () => {
      isOld = true;
      clearTimeout(timer);
    };
  }, [query, language, config]);

  const status =
    found === "searching"
      ? words.searching
      : found === "failed"
        ? words.failed
        : found.count === 0
          ? words.none
          : words.found(found.count);
  return (
    <>
      <label>
        {kinds.length > 1 ? words.searchBoth : kind === "bill" ? words.searchBill : words.searchMember}
        <input
          type="search"
          autoComplete="off"
          value={query}
          onChange={(event) => setQuery(event.target.value)}
          onKeyDown={(event) => {
            const first = typeof found === "object" && found.matches[0];
            if (event.key === "Enter" && first && query) onChosen(first);
          }}
        />
      </label>
      <p className="quiet" role="status">
        {status}
      </p>
      <ul className="matches">
        {isOptional && query === "" && (
          <li>
            <button type="button" onClick={() => onChosen(null)}>
              {words.newest}
            </button>
          </li>
        )}
        {typeof found === "object" &&
          found.matches.map((match) => (
            <li key={match.id}>
              <button type="button" onClick={() => onChosen(match)}>
                <strong>{match.kind === "bill" ? words.billName(match.name) : match.name}</strong>
                <span className="quiet">{match.detail}</span>
              </button>
            </li>
          ))}
      </ul>
    </>
  );
}
