// What happens before the first word.

import type { ChatMessage } from "../../lib/index.ts";
import { chat as texts } from "../words/chat.ts";
import { useWords } from "../words/words.ts";

export function Thinking({ message }: { message: ChatMessage | null }) {
  const words = useWords(texts);
  return (
    <p className="thinking quiet" role="status" data-id={message?.id}>
      {words.thinking}
    </p>
  );
}
