// A shared conversation, which anyone with its address can read.

import { conversations } from "../words/conversations.ts";
import { useWords } from "../words/words.ts";

export function SharedPage({ token }: { token: string }) {
  const words = useWords(conversations);
  return (
    <main className="alone" data-token={token}>
      <h1>{words.shared}</h1>
    </main>
  );
}
