// The markdown of a growing answer, without what is only half written at its end: no text changes its form later.

// A marker that stands free, as in 5 * 3, opens nothing.
const MARKERS: [string, RegExp][] = [
  ["`", /`/g],
  ["**", /\*\*(?=\S)|(?<=\S)\*\*/g],
  ["*", /(?<!\*)\*(?=[^\s*])|(?<=[^\s*])\*(?!\*)/g],
];

/** Completes or removes what is open at the end of the text. */
export function stable(text: string): string {
  const shown = withoutHalfTable(text)
    .replace(/\n[ \t]*(?:[-*+]|\d+[.)]|#+|[-=_*]+|>)?[ \t]*$/, "") // a marker before its text
    .replace(/!?\[([^\]\n]*)(?:\](?:\([^)\s]*)?)?$/, "$1"); // a link before its end
  const block = shown.slice(shown.lastIndexOf("\n") + 1).replace(/^\s*[*+-]\s/, "");
  for (const [marker, pattern] of MARKERS) {
    if ((block.match(pattern)?.length ?? 0) % 2 === 0) continue;
    return shown.endsWith(marker) ? shown.slice(0, -marker.length) : shown.trimEnd() + marker;
  }
  return shown;
}

/** A table is one only with the line below its head. */
function withoutHalfTable(text: string): string {
  const start = /(?:^|\n)(?=\|[^\n]*(?:\n[|:\- \t]*)?$)/.exec(text);
  const isInTable = start !== null && /(?:^|\n)\|[^\n]*$/.test(text.slice(0, start.index));
  return start && !isInTable ? text.slice(0, start.index) : text;
}
