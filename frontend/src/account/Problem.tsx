// Why a request failed, and the one way on.

import type { PageError } from "../../lib/index.ts";
import { ActionButton } from "./ActionButton.tsx";

type Props = { error: PageError | null; onAgain?: () => void; onDismiss?: () => void };

export function Problem({ error, onAgain, onDismiss }: Props) {
  if (!error) return null;
  const fields = error.fields?.map(({ message }) => message).join(" ");
  return (
    <div className="problem" role="alert">
      <p>{fields || error.message}</p>
      <ActionButton error={error} onDone={onAgain} onDismiss={onDismiss} />
    </div>
  );
}
