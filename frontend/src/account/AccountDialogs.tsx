// The dialogs of the account, by the address's hash: #plans, #keys, #data.

import { Dialog } from "../app/Dialog.tsx";
import { closeDialog, useDialog } from "../app/route.ts";
import { account } from "../words/account.ts";
import { useWords } from "../words/words.ts";

const NAMES = ["plans", "keys", "data"] as const;

export function AccountDialogs() {
  const words = useWords(account);
  const open = useDialog();
  const name = NAMES.find((one) => one === open);
  if (!name) return null;
  return (
    <Dialog key={name} title={words[name]} onClose={closeDialog}>
      {null}
    </Dialog>
  );
}
