// The user's conversations: search, the pinned ones, the others by date, and the archived ones.

import { useState } from "react";
import { useAccount } from "../app/account.tsx";
import { go, useRoute } from "../app/route.ts";
import { useDelayed } from "../app/useDelayed.ts";
import { conversations } from "../words/conversations.ts";
import { useWords } from "../words/words.ts";
import { useGroups } from "./groups.ts";
import { Rows } from "./Rows.tsx";
import { beingAsked, chatIdOf, type Kind, useRows } from "./rows.ts";
import "./conversations.css";

const SEARCH_MS = 250;

/** `asked`: the first question of the current conversation, which is stored with its answer. */
type Props = { current: string; asked: string | null; onChosen: () => void };

export function ConversationList({ current, asked, onChosen }: Props) {
  const words = useWords(conversations);
  const { usage } = useAccount();
  const [text, setText] = useState("");
  const search = useDelayed(text.trim(), SEARCH_MS);
  const [hasArchive, setArchive] = useState(false);
  const pinned = useRows("pinned", search);
  const recent = useRows("recent", search);
  const archived = useRows("archived", search, hasArchive);
  const isRead = recent.state === "read" && pinned.state === "read";
  const isEmpty = isRead && recent.rows.length === 0 && pinned.rows.length === 0;
  const isListed = [...pinned.rows, ...recent.rows].some((row) => chatIdOf(row) === current);
  const keepsNothing = usage?.keeps_history === false;
  const [wasListed, setWasListed] = useState<string | null>(null); // then it may be archived
  if (isListed && wasListed !== current) setWasListed(current);
  const isBeingAsked = asked !== null && wasListed !== current && isRead && !isListed && !keepsNothing && !search;
  const groups = useGroups(isBeingAsked ? [beingAsked(current, asked), ...recent.rows] : recent.rows);

  const list = (kind: Kind, name: string, from: typeof recent, rows = from.rows, isLast = true) => (
    <Rows key={name} kind={kind} name={name} list={{ ...from, rows }} isLast={isLast} {...{ current, onChosen }} />
  );

  return (
    <>
      <button
        type="button"
        className="create"
        onClick={() => {
          go("/");
          onChosen();
        }}
      >
        {words.create}
      </button>
      {keepsNothing && <KeepsNothing isEmpty={isEmpty} isListed={isListed} />}
      {!(keepsNothing && isEmpty && !search) && (
        <label className="search">
          <span className="hidden">{words.search}</span>
          <input
            type="search"
            placeholder={words.search}
            value={text}
            onChange={(event) => setText(event.target.value)}
          />
        </label>
      )}
      <p role="status" className="quiet">
        {isEmpty && search && words.nothingFound}
        {isEmpty && !search && !keepsNothing && !isBeingAsked && words.empty}
      </p>
      {recent.state === "failed" && (
        <div role="alert">
          <p>{words.unreadable}</p>
          <button
            type="button"
            onClick={() => {
              pinned.again();
              recent.again();
            }}
          >
            {words.again}
          </button>
        </div>
      )}
      {list("pinned", words.pinned, pinned)}
      {groups.map(({ name, rows }, at) => list("recent", name, recent, rows, at === groups.length - 1))}
      {!keepsNothing && (
        <details className="archive" onToggle={(event) => setArchive(event.currentTarget.open)}>
          <summary>{words.archived}</summary>
          {archived.state === "read" && archived.rows.length === 0 && <p className="quiet">{words.noneArchived}</p>}
          {hasArchive && list("archived", words.archived, archived)}
        </details>
      )}
    </>
  );
}

/** In place of a list: the plan keeps nothing. A conversation that is open is only in this page. */
function KeepsNothing({ isEmpty, isListed }: { isEmpty: boolean; isListed: boolean }) {
  const words = useWords(conversations);
  const isOpen = useRoute().page === "conversation";
  return (
    <>
      <p className="quiet">{isEmpty ? words.keepsNothing : words.keptBefore}</p>
      {isOpen && !isListed && <p aria-current="page">{words.onlyHere}</p>}
    </>
  );
}
