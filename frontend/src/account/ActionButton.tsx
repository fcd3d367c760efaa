// The one way on after a refusal: the button of the error's `action`.

import type { PageError } from "../../lib/index.ts";
import { openDialog } from "../app/route.ts";
import { account } from "../words/account.ts";
import { useWords } from "../words/words.ts";

/** `onDone`: called when what the action needs is done, such as overage turned on. */
export function ActionButton({ error, onDone }: { error: PageError; onDone?: () => void }) {
  const words = useWords(account);
  const isPlans = error.action !== "none" && error.action !== "wait";
  return (
    <button type="button" className="primary" onClick={() => (isPlans ? openDialog("plans") : onDone?.())}>
      {isPlans ? words.plans : words.again}
    </button>
  );
}
