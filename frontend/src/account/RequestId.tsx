// The id by which support finds a request, with a button that copies it.

import { Copy } from "../app/Copy.tsx";
import { why as texts } from "../words/account_dialogs.ts";
import { useWords } from "../words/words.ts";

export function RequestId({ id }: { id: string | null }) {
  const words = useWords(texts);
  if (!id) return null;
  return (
    <p className="quiet">
      {words.request} <code lang="zxx">{id}</code> <Copy text={id} label={words.copyId} />
    </p>
  );
}
