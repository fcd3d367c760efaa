// The one way on after a refusal: the primary button of the error's `action`.

import { type ReactNode, useState } from "react";
import type { PageError } from "../../lib/index.ts";
import { useAccount } from "../app/account.tsx";
import { announceChange } from "../app/changes.ts";
import { useFormats } from "../app/format.ts";
import { useNow } from "../app/now.ts";
import { openDialog } from "../app/route.ts";
import { useServices, useSession } from "../app/services.tsx";
import { useTask } from "../app/useTask.ts";
import { actions as texts } from "../words/account.ts";
import { useWords } from "../words/words.ts";
import { useStripe } from "./stripe.ts";

type Props = {
  error: Pick<PageError, "action"> & Partial<PageError>;
  /** Repeats what was refused: called by "Try again", and after overage was turned on. */
  onDone?: () => void;
  /** Removes the refusal, where nothing helps. Without it, `onDone` does. */
  onDismiss?: () => void;
};

/** Waiting helps, and credits do at once: the sentences of these reasons say so. */
const CREDITS_HELP: (string | undefined)[] = ["daily_quota_used", "overage_ceiling_reached"];

export function ActionButton({ error, onDone, onDismiss = onDone }: Props) {
  const words = useWords(texts);
  const { supabase } = useServices();
  const { openPortal } = useStripe();
  if (error.code === "unauthenticated")
    return <Task label={words.signIn} run={() => supabase.auth.signOut({ scope: "local" })} />;
  switch (error.action) {
    case "upgrade":
      return <Opener dialog="plans" label={words.upgrade} />;
    case "buy_pack":
      return <Opener dialog="plans-packs" label={words.buyPack} />;
    case "raise_limit":
      return <Opener dialog="plans-overage" label={words.raiseLimit} />;
    case "reconnect_key":
      return <Opener dialog="keys" label={words.reconnectKey} />;
    case "update_card":
      return <Task label={words.updateCard} run={openPortal} />;
    case "pay_invoice":
      return error.url ? (
        <a className="button primary" href={error.url}>
          {words.payInvoice}
        </a>
      ) : (
        <Task label={words.payInvoice} run={openPortal} />
      );
    case "enable_overage":
      return <EnableOverage onDone={onDone} />;
    case "confirm_email":
      return <ConfirmEmail />;
    case "contact_support":
      return <ContactSupport requestId={error.request_id} />;
    case "wait":
      return (
        <>
          <Again at={error.resets_at} onAgain={onDone} />
          {CREDITS_HELP.includes(error.reason_code) && (
            <button type="button" onClick={() => openDialog("plans-packs")}>
              {words.buyPack}
            </button>
          )}
        </>
      );
    default:
      // The page asks for no model, so the server takes the default one.
      if (error.code === "model_not_available" && onDone)
        return <Primary label={words.defaultModel} onClick={onDone} />;
      return onDismiss ? <Primary label={words.dismiss} onClick={onDismiss} /> : null;
  }
}

function Primary({ label, onClick }: { label: string; onClick: () => void }) {
  return (
    <button type="button" className="primary" onClick={onClick}>
      {label}
    </button>
  );
}

function Opener({ dialog, label }: { dialog: string; label: string }) {
  return <Primary label={label} onClick={() => openDialog(dialog)} />;
}

/** A button that makes a request. Below it: why that failed. */
function Task({ label, run, children }: { label: string; run: () => Promise<unknown>; children?: ReactNode }) {
  const task = useTask();
  return (
    <>
      <button type="button" className="primary" aria-disabled={task.isBusy} onClick={() => void task.run(run)}>
        {label}
      </button>
      <span role="status">{children}</span>
      {task.error && <p role="alert">{task.error.message}</p>}
    </>
  );
}

function EnableOverage({ onDone }: { onDone: (() => void) | undefined }) {
  const words = useWords(texts);
  const format = useFormats();
  const { api } = useServices();
  const { usage, refresh } = useAccount();
  const { price_usd, limit_usd, currency } = usage?.overage ?? {};
  async function enable() {
    await api.call("PATCH /overage", { body: { allow_overages: true } });
    await refresh();
    announceChange("account", { here: false });
    onDone?.();
  }
  return (
    <>
      <Task label={words.enableOverage} run={enable} />
      {price_usd != null && limit_usd != null && currency && (
        <p className="quiet">
          {words.overageTerms(format.money(price_usd, currency), format.money(limit_usd, currency))}
        </p>
      )}
    </>
  );
}

function ConfirmEmail() {
  const words = useWords(texts);
  const { supabase } = useServices();
  const email = useSession()?.user.email;
  const [outcome, setOutcome] = useState<"mailSent" | "mailLater" | "mailFailed" | null>(null);
  async function resend() {
    if (!email) return;
    const { error } = await supabase.auth.resend({ type: "signup", email });
    setOutcome(!error ? "mailSent" : error.status === 429 ? "mailLater" : "mailFailed");
  }
  const text = outcome && words[outcome];
  return (
    <Task label={words.confirmEmail} run={resend}>
      {typeof text === "function" ? text(email ?? "") : text}
    </Task>
  );
}

function ContactSupport({ requestId }: { requestId: string | null | undefined }) {
  const words = useWords(texts);
  const { config } = useServices();
  if (!config.support_email) return <p>{words.supportUnknown(requestId ?? "")}</p>;
  const subject = encodeURIComponent(words.supportSubject(requestId ?? ""));
  return (
    <a className="button primary" href={`mailto:${config.support_email}?subject=${subject}`}>
      {words.contactSupport}
    </a>
  );
}

function Again({ at, onAgain }: { at: string | null | undefined; onAgain: (() => void) | undefined }) {
  const words = useWords(texts);
  const format = useFormats();
  const time = useNow(at);
  const isEarly = at != null && Date.parse(at) > time;
  return (
    <>
      {onAgain && (
        <button type="button" className="primary" disabled={isEarly} onClick={onAgain}>
          {words.again}
        </button>
      )}
      {isEarly && <p className="quiet">{words.againAt(format.time(at))}</p>}
    </>
  );
}
