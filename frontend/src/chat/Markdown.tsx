// Markdown as React elements, from marked's tokens: no HTML of a model is ever parsed.

import { lexer, type Token, type Tokens } from "marked";
import { createContext, memo, type ReactNode, useContext, useMemo } from "react";
import { stable } from "./stable.ts";

/** The numbers of the sources by their addresses: links to them have these. */
export const SourceNumbers = createContext<ReadonlyMap<string, number>>(new Map());

type Props = { text: string; isGrowing: boolean };

export function Markdown({ text, isGrowing }: Props) {
  const tokens = useMemo(() => lexer(isGrowing ? stable(text) : text), [text, isGrowing]);
  return tokens.map((token, at) => <Block key={at} token={token} />);
}

/** A block is rendered again only if its source has changed. */
const Block = memo(
  ({ token }: { token: Token }) => block(token),
  (before, after) => before.token.raw === after.token.raw && before.token.type === after.token.type,
);

function block(token: Token, key?: number): ReactNode {
  switch (token.type) {
    case "heading": {
      const Heading = token.depth <= 2 ? "h3" : "h4"; // below the page's own headings
      return <Heading key={key}>{inline(token.tokens)}</Heading>;
    }
    case "paragraph":
      return <p key={key}>{inline(token.tokens)}</p>;
    case "list": {
      const list = token as Tokens.List;
      const items = list.items.map((item, at) => <li key={at}>{item.tokens.map(block)}</li>);
      return list.ordered ? (
        <ol key={key} start={Number(list.start) || 1}>
          {items}
        </ol>
      ) : (
        <ul key={key}>{items}</ul>
      );
    }
    case "blockquote":
      return <blockquote key={key}>{token.tokens?.map(block)}</blockquote>;
    case "code":
      return (
        <pre key={key}>
          <code>{token.text}</code>
        </pre>
      );
    case "table":
      return <Table key={key} table={token as Tokens.Table} />;
    case "hr":
      return <hr key={key} />;
    case "space":
    case "def":
      return null;
    case "text":
      return <span key={key}>{token.tokens ? inline(token.tokens) : unescaped(token.text)}</span>;
    default:
      return <p key={key}>{token.raw}</p>; // HTML is shown as it is written
  }
}

function Table({ table }: { table: Tokens.Table }) {
  return (
    // biome-ignore lint/a11y/noNoninteractiveTabindex: a region that scrolls has to be reached with the keyboard
    <div className="table" tabIndex={0}>
      <table>
        <thead>
          <tr>
            {table.header.map((cell, at) => (
              <th key={at} scope="col">
                {inline(cell.tokens)}
              </th>
            ))}
          </tr>
        </thead>
        <tbody>
          {table.rows.map((row, at) => (
            <tr key={at}>
              {row.map((cell, column) => (
                <td key={column}>{inline(cell.tokens)}</td>
              ))}
            </tr>
          ))}
        </tbody>
      </table>
    </div>
  );
}

function inline(tokens: Token[] | undefined): ReactNode {
  return tokens?.map((token, key) => {
    switch (token.type) {
      case "strong":
        return <strong key={key}>{inline(token.tokens)}</strong>;
      case "em":
        return <em key={key}>{inline(token.tokens)}</em>;
      case "del":
        return <del key={key}>{inline(token.tokens)}</del>;
      case "codespan":
        return <code key={key}>{unescaped(token.text)}</code>;
      case "br":
        return <br key={key} />;
      case "link":
        return <Link key={key} link={token as Tokens.Link} />;
      case "image":
        return token.text; // pictures of other sites are not loaded
      case "escape":
        return token.text;
      case "text":
        return "tokens" in token && token.tokens ? inline(token.tokens) : unescaped(token.text);
      default:
        return token.raw;
    }
  });
}

function Link({ link }: { link: Tokens.Link }) {
  const number = useContext(SourceNumbers).get(link.href);
  const content = inline(link.tokens);
  if (!isWebAddress(link.href)) return content;
  return (
    <a href={link.href} target="_blank" rel="noopener">
      {content}
      {number && <sup aria-hidden="true">{number}</sup>}
    </a>
  );
}

/** The text of tokens without markup. */
export function plainText(tokens: Token[]): string {
  return tokens
    .map((token) => {
      if (token.type === "list") return (token as Tokens.List).items.map((item) => plainText(item.tokens)).join("\n");
      if (token.type === "table") {
        const { header, rows } = token as Tokens.Table;
        return [header, ...rows].map((row) => row.map((cell) => plainText(cell.tokens)).join(", ")).join("\n");
      }
      if ("tokens" in token && token.tokens) return plainText(token.tokens);
      return "text" in token ? unescaped(token.text) : "";
    })
    .join("");
}

/** Whether a link leads to a page, and not to a script or a file. */
export const isWebAddress = (href: string) => /^https?:\/\//i.test(href);

const ENTITIES: Record<string, string> = { "&amp;": "&", "&lt;": "<", "&gt;": ">", "&quot;": '"', "&#39;": "'" };

/** marked writes these five characters as entities. */
const unescaped = (text: string) => text.replace(/&(?:amp|lt|gt|quot|#39);/g, (entity) => ENTITIES[entity] ?? entity);
