// Marks the sentences of an answer that link to a page, without a change of the page's elements.

const NAME = "source";

/** Marks them; nothing in browsers without the CSS Custom Highlight API. */
export function markSentences(answer: HTMLElement | null, url: string) {
  if (!answer || !("highlights" in CSS)) return;
  const links = [...answer.querySelectorAll<HTMLAnchorElement>(".text a")].filter((link) => link.href === url);
  CSS.highlights.set(NAME, new Highlight(...links.flatMap(sentenceAround)));
}

export function unmark() {
  if ("highlights" in CSS) CSS.highlights.delete(NAME);
}

function sentenceAround(link: HTMLAnchorElement): Range[] {
  const block = link.closest("p, li, td, th, h3, h4, blockquote");
  if (!block) return [];
  const before = document.createRange();
  before.setStart(block, 0);
  before.setEndBefore(link);
  const start = before.toString().length;
  const end = start + (link.textContent?.length ?? 0);
  const text = block.textContent ?? "";
  for (const { segment, index } of new Intl.Segmenter(link.closest("[lang]")?.getAttribute("lang") ?? "en", {
    granularity: "sentence",
  }).segment(text)) {
    if (index + segment.length < end || index > start) continue;
    return [rangeOf(block, index, index + segment.length)];
  }
  return [rangeOf(block, start, end)];
}

/** The range of the characters of an element's text. */
function rangeOf(element: Element, from: number, to: number): Range {
  const range = document.createRange();
  range.selectNodeContents(element);
  const walker = document.createTreeWalker(element, NodeFilter.SHOW_TEXT);
  let at = 0;
  for (let node = walker.nextNode() as Text | null; node; node = walker.nextNode() as Text | null) {
    if (from >= at && from <= at + node.length) range.setStart(node, from - at);
    if (to >= at && to <= at + node.length) {
      range.setEnd(node, to - at);
      break;
    }
    at += node.length;
  }
  return range;
}
