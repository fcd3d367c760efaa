// The record: what the conversation is about, and the facts that were found, with their pages. A column at the right of
// wide windows, folded above the conversation in narrow ones.

import { useId, useState } from "react";
import type { ChatMessage } from "../../lib/index.ts";
import { useFormats } from "../app/format.ts";
import { record as texts } from "../words/chat_record.ts";
import { useWords } from "../words/words.ts";
import { type PageContext, useContextName } from "./context.ts";
import { type Fact, factsOf } from "./facts.ts";
import { isWebAddress } from "./Markdown.tsx";
import { recordOf } from "./messages.ts";
import "./record.css";

export default function Record({ context, messages }: { context: PageContext; messages: ChatMessage[] }) {
  const words = useWords(texts);
  const name = useContextName()(context);
  const format = useFormats();
  const facts = factsOf(messages);
  const [isOpen, setOpen] = useState(false);
  const content = useId();
  const answer = messages.findLast(({ role, metadata }) => role === "assistant" && metadata);
  const found = messages.map((message) => (message.role === "assistant" ? recordOf(message) : null)).findLast(Boolean);
  if (!name && messages.length === 0) return null;
  return (
    <aside className="record" aria-label={words.title} data-open={isOpen || undefined}>
      <button
        type="button"
        className="plain"
        aria-expanded={isOpen}
        aria-controls={content}
        onClick={() => setOpen(!isOpen)}
      >
        {words.folded(name ?? "", facts.length)}
      </button>
      <div id={content}>
        <h2>{words.title}</h2>
        {name && <p className="about">{name}</p>}
        {name && found && isWebAddress(found.url) && (
          <p>
            {words.found}{" "}
            <a href={found.url} target="_blank" rel="noopener">
              {found.title && format.inText(found.title)}
            </a>
          </p>
        )}
        {name && !found && answer && <p className="quiet">{words.notFound}</p>}
        {facts.length === 0 && <p className="quiet">{words.nothing}</p>}
        {facts.length > 0 && (
          <ul>
            {facts.map((fact) => (
              <li key={fact.url}>
                <FactText fact={fact} />
              </li>
            ))}
          </ul>
        )}
      </div>
    </aside>
  );
}

function FactText({ fact: { kind, url, fields } }: { fact: Fact }) {
  const words = useWords(texts);
  const format = useFormats();
  const day = (date: unknown) => format.day(`${date}T12:00:00`);
  const lines: (string | null)[] = [];
  let title = "";
  if (kind === "bill") {
    title = words.bill(String(fields.bill));
    lines.push(text(fields.short_title) ?? text(fields.title), text(fields.status));
    if (fields.introduced) lines.push(words.introduced(day(fields.introduced)));
  } else if (kind === "mp") {
    title = String(fields.name);
    lines.push([fields.party, fields.riding].filter(Boolean).join(", "));
  } else {
    title = words.vote(Number(fields.vote), fields.date ? day(fields.date) : "");
    lines.push(text(fields.about), words.result(String(fields.result), Number(fields.yea), Number(fields.nay)));
    if (text(fields.ballot)) lines.push(text(fields.ballot));
  }
  return (
    <>
      {isWebAddress(url) ? (
        <a href={url} target="_blank" rel="noopener">
          {title}
        </a>
      ) : (
        title
      )}
      {lines.map((line) => line && <span key={line}>{line}</span>)}
    </>
  );
}

const text = (value: unknown) => (typeof value === "string" && value ? value : null);
