// The arguments and the results of a tool's call, as tables.

import type { ReactNode } from "react";
import { fields as names, details as texts } from "../words/chat_fields.ts";
import { categories } from "../words/chat_tools.ts";
import { useWords } from "../words/words.ts";
import { languageOf } from "./languageOf.ts";
import { isWebAddress } from "./Markdown.tsx";
import { useSiteName } from "./site.ts";
import { type Call, type Fields, isFields } from "./tools.ts";

const MOST_COLUMNS = 6;
const MOST_ROWS = 20;

export default function ToolDetails({ call }: { call: Call }) {
  const words = useWords(texts);
  const hasInput = Object.keys(call.input).length > 0;
  return (
    <div className="details">
      {hasInput && <Record title={words.asked} fields={call.input} />}
      {call.output && <Output output={call.output} />}
      {/* What comes after the semicolon is advice for the model. */}
      {call.error && <p lang={languageOf(call.error)}>{call.error.split(";")[0]}</p>}
    </div>
  );
}

function Output({ output }: { output: Fields }) {
  const words = useWords(texts);
  const { items, left_out, more, ...rest } = output;
  const simple = Object.fromEntries(Object.entries(rest).filter(([, value]) => !listOf(value)));
  const lists = Object.entries(rest).flatMap(([name, value]) => (listOf(value) ? [[name, value] as const] : []));
  return (
    <>
      {Object.keys(simple).length > 0 && <Record title={words.found} fields={simple} />}
      {Array.isArray(items) && <List rows={items} leftOut={Number(left_out ?? 0)} />}
      {lists.map(([field, value]) => (
        <List
          key={field}
          title={<Name field={field} />}
          rows={listOf(value) ?? []}
          leftOut={isFields(value) ? Number(value.left_out ?? 0) : 0}
        />
      ))}
    </>
  );
}

/** The list that a value is: an array of records, or one with a count of what it leaves out. */
function listOf(value: unknown): unknown[] | null {
  const list = isFields(value) && Array.isArray(value.items) ? value.items : value;
  return Array.isArray(list) && list.length > 0 ? list : null;
}

function Record({ title, fields }: { title: string; fields: Fields }) {
  return (
    <Frame>
      <table>
        <caption>{title}</caption>
        <tbody>
          {Object.entries(fields).map(([field, value]) =>
            isEmpty(value) || FOR_THE_MODEL.has(field) ? null : (
              <tr key={field}>
                <th scope="row">
                  <Name field={field} />
                </th>
                <td>
                  <Value field={field} value={value} />
                </td>
              </tr>
            ),
          )}
        </tbody>
      </table>
    </Frame>
  );
}

function List({ title, rows, leftOut }: { title?: ReactNode; rows: unknown[]; leftOut: number }) {
  const words = useWords(texts);
  const shown = rows.slice(0, MOST_ROWS);
  const rest = leftOut + rows.length - shown.length;
  const records = shown.filter(isFields);
  const columns = [...new Set(records.flatMap(Object.keys))]
    .filter(
      (field) =>
        !LINKS.has(field) && !(field === "mp" && records[0]?.name) && records.some((record) => !isEmpty(record[field])),
    )
    .slice(0, MOST_COLUMNS);
  return (
    <>
      {records.length === 0 ? (
        <p>
          {title}
          {title && ": "}
          {shown.length ? shown.map(String).join(", ") : words.nothing}
        </p>
      ) : (
        <Frame>
          <table>
            {title && <caption>{title}</caption>}
            <thead>
              <tr>
                {columns.map((field) => (
                  <th key={field} scope="col">
                    <Name field={field} />
                  </th>
                ))}
              </tr>
            </thead>
            <tbody>
              {records.map((record, row) => (
                <tr key={row}>
                  {columns.map((field) => (
                    <td key={field}>
                      <Linked url={field === columns.find((one) => !isEmpty(record[one])) ? record.url : null}>
                        <Value field={field} value={record[field]} />
                      </Linked>
                    </td>
                  ))}
                </tr>
              ))}
            </tbody>
          </table>
        </Frame>
      )}
      {rest > 0 && <p className="quiet">{words.more(rest)}</p>}
    </>
  );
}

/** A region that scrolls sideways has to be reached with the keyboard. */
function Frame({ children }: { children: ReactNode }) {
  return (
    // biome-ignore lint/a11y/noNoninteractiveTabindex: see above
    <div className="table" tabIndex={0}>
      {children}
    </div>
  );
}

function Linked({ url, children }: { url: unknown; children: ReactNode }) {
  if (typeof url !== "string" || !isWebAddress(url)) return children;
  return (
    <a href={url} target="_blank" rel="noopener">
      {children}
    </a>
  );
}

function Name({ field }: { field: string }) {
  const words = useWords(names);
  const known = words[field as keyof typeof words];
  return known ?? <span lang="en">{field.replaceAll("_", " ")}</span>;
}

function Value({ field, value }: { field: string; value: unknown }): ReactNode {
  const words = useWords(texts);
  const kinds = useWords(categories);
  const siteName = useSiteName();
  if (isEmpty(value)) return null;
  if (typeof value === "boolean") return value ? words.yes : words.no;
  if (typeof value === "string" && isWebAddress(value)) return <Linked url={value}>{siteName(value)}</Linked>;
  if (field === "category" || field === "largest") return kinds[value as keyof typeof kinds] ?? String(value);
  if (Array.isArray(value)) return value.map((one, at) => <Value key={at} field="" value={one} />);
  if (!isFields(value)) return <span lang={languageOf(String(value))}>{String(value)}</span>;
  if (Array.isArray(value.items)) return String(value.items.length + Number(value.left_out ?? 0));
  const { url, ...rest } = value;
  const main = rest.name ?? rest.bill ?? rest.title;
  const text = main
    ? String(main)
    : Object.values(rest)
        .filter((one) => !isEmpty(one) && !isFields(one))
        .join(", ");
  return <Linked url={url}>{text}</Linked>;
}

// Codes and rules, most of them in one language only.
const FOR_THE_MODEL = new Set(["as_of", "status_code", "free_vote_rule", "excerpts_in", "offices"]);
const LINKS = new Set(["url", "legisinfo", "registry", "text_url"]);
const isEmpty = (value: unknown) => value === null || value === undefined || value === "";
