// Six questions to start with.

import { suggestions as texts } from "../words/chat_context.ts";
import { useWords } from "../words/words.ts";
import { type PageContext, useContextName } from "./context.ts";
import "./picker.css";

export function Suggestions({ context, onAsk }: { context: PageContext; onAsk: (question: string) => void }) {
  const words = useWords(texts);
  const name = useContextName()(context);
  const lines = words[context.type](name ?? "").split("\n");
  return (
    <ul className="suggestions">
      {lines.map((line) => (
        <li key={line}>
          <button type="button" onClick={() => onAsk(line)}>
            {line}
          </button>
        </li>
      ))}
    </ul>
  );
}
