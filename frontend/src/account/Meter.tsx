// The quota meter: what is left, as a text first.

import { useAccount } from "../app/account.tsx";
import { account } from "../words/account.ts";
import { useWords } from "../words/words.ts";

export function Meter() {
  const words = useWords(account);
  const { usage } = useAccount();
  if (!usage) return null;
  return <span className="meter">{words.included(usage.included.remaining, usage.included.limit)}</span>;
}
