// What happens before the first word: the question is read, or a tool looks something up.

import type { ChatMessage } from "../../lib/index.ts";
import { chat as texts } from "../words/chat.ts";
import { tools } from "../words/chat_tools.ts";
import { useWords } from "../words/words.ts";
import { callsOf, useSubject } from "./tools.ts";

export function Thinking({ message }: { message: ChatMessage | null }) {
  const words = useWords(texts);
  const { lookingUp } = useWords(tools);
  const subject = useSubject();
  const calls = message ? callsOf(message) : [];
  const running = calls.filter(({ isRunning, input }) => isRunning && Object.keys(input).length > 0).at(-1);
  const line = running ? lookingUp(subject(running)) : calls.length > 0 ? words.writing : words.thinking;
  return (
    <p className="thinking quiet" role="status">
      {line}
    </p>
  );
}
