// The language of a text, for screen readers and hyphenation. Undefined if it is not certain.

const WORDS = {
  en: /\b(?:the|of|and|to|is|was|in|on|for|that|what|who|how|did|about|not|with|by)\b/gi,
  fr: /\b(?:le|la|les|des|du|de|et|est|une|un|pour|dans|sur|qui|que|au|aux|pas|par)\b|\b[ldcnsj]’/gi,
};
const READ_CHARACTERS = 600;

export function languageOf(text: string): "en" | "fr" | undefined {
  const start = text.slice(0, READ_CHARACTERS).replaceAll("'", "’");
  const count = (words: RegExp) => start.match(words)?.length ?? 0;
  const [english, french] = [count(WORDS.en), count(WORDS.fr)];
  if (english === french) return undefined;
  return french > english ? "fr" : "en";
}
