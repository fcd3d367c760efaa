// Why a request failed, and the one way on.

import type { PageError } from "../../lib/index.ts";
import { fields as texts } from "../words/account_dialogs.ts";
import { useWords } from "../words/words.ts";
import { ActionButton } from "./ActionButton.tsx";
import { Sentence } from "./Sentence.tsx";

type Props = { error: PageError | null; onAgain?: () => void; onDismiss?: () => void };

export function Problem({ error, onAgain, onDismiss }: Props) {
  const words = useWords(texts);
  if (!error) return null;
  const field = error.fields?.[0]?.field;
  return (
    <div className="problem" role="alert">
      <p>{field !== undefined && field in words ? words[field as keyof typeof words] : <Sentence error={error} />}</p>
      <ActionButton error={error} onDone={onAgain} onDismiss={onDismiss} />
    </div>
  );
}
