// Why there is no answer, or no complete one: the server's sentence, and the one way on.

import type { PageError } from "../../lib/index.ts";
import { ActionButton } from "../account/ActionButton.tsx";
import { Sentence } from "../account/Sentence.tsx";
import { Why } from "../account/Why.tsx";
import { chat as texts } from "../words/chat.ts";
import { useWords } from "../words/words.ts";

type Props = {
  error: PageError;
  /** What it is about: the last question, an answer that failed, or reading the conversation. */
  of: "question" | "answer" | "conversation";
  onAgain: () => void;
  onDismiss: () => void;
};

export function Refusal({ error, of, onAgain, onDismiss }: Props) {
  const words = useWords(texts);
  const fields = error.fields?.map(({ message }) => message).join(" ");
  return (
    <section className="refusal" aria-label={words.refusal}>
      <div role="alert">
        <p>{fields || <Sentence error={error} />}</p>
        <ActionButton error={error} onDone={onAgain} onDismiss={onDismiss} />
      </div>
      <div className="actions">
        {of !== "answer" && error.action !== "wait" && error.action !== "none" && (
          <button type="button" className="plain" onClick={onAgain}>
            {of === "question" ? words.sendAgain : words.readAgain}
          </button>
        )}
        {of === "question" && error.action !== "none" && (
          <button type="button" className="plain" onClick={onDismiss}>
            {words.takeBack}
          </button>
        )}
        <Why error={error} />
      </div>
    </section>
  );
}
