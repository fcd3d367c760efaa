// The dialogs of the account, by the address's hash: #plans (also #plans-packs and #plans-overage), #keys, #data.

import { lazy } from "react";
import { Dialog } from "../app/Dialog.tsx";
import { LazyPart } from "../app/LazyPart.tsx";
import { closeDialog, useDialog } from "../app/route.ts";
import { account } from "../words/account.ts";
import { useWords } from "../words/words.ts";
import { useReturn } from "./stripe.ts";

export const DIALOGS = ["plans", "keys", "data"] as const;

const Plans = lazy(() => import("./Plans.tsx"));
const Keys = lazy(() => import("./Keys.tsx"));
const Data = lazy(() => import("./Data.tsx"));

export function AccountDialogs() {
  const words = useWords(account);
  const [open, section] = useDialog().split("-");
  const returned = useReturn();
  const name = DIALOGS.find((one) => one === open);
  if (!name) return null;
  return (
    <Dialog key={name} title={words[name]} onClose={closeDialog}>
      <LazyPart>
        {name === "plans" && <Plans section={section} returned={returned} />}
        {name === "keys" && <Keys />}
        {name === "data" && <Data />}
      </LazyPart>
    </Dialog>
  );
}
