// src/ErrorCard.tsx: the sentence of an error, and the one action that helps.
import { type ReactNode, useState } from "react";
import { openPortal } from "./checkout.ts";
import { type PageError, readError } from "./lib/index.ts";
import { api, supabase } from "./services.ts";
import { currentUsage, refreshUsage } from "./usage.ts";
import { language, sentence, time, words } from "./words.ts";

type Props = { error: PageError; retry: () => void };

export function ErrorCard({ error, retry }: Props) {
  const [note, setNote] = useState("");

  const button = (label: string, act: () => unknown): ReactNode => (
    <button
      type="button"
      onClick={async () => {
        try {
          await act();
        } catch (failure) {
          setNote(sentence(readError(failure, language)));
        }
      }}
    >
      {label}
    </button>
  );

  async function setOverage(body: { allow_overages?: boolean; overage_limit_usd?: number }) {
    await api.call("PATCH /overage", { body });
    await refreshUsage();
    retry();
  }

  async function confirmEmail() {
    const { data } = await supabase.auth.getUser();
    await supabase.auth.resend({ type: "signup", email: data.user?.email ?? "" });
    setNote(words.sent);
  }

  function action(): ReactNode {
    switch (error.action) {
      case "upgrade":
      case "buy_pack":
        return <a href="#plans">{words.seePlans}</a>;
      case "pay_invoice":
      case "update_card":
        return button(words.pay, () => (error.url ? location.assign(error.url) : openPortal()));
      case "enable_overage":
        return button(words.allowOverage, () => setOverage({ allow_overages: true }));
      case "raise_limit":
        return button(words.raiseLimit, () =>
          setOverage({ overage_limit_usd: (currentUsage()?.overage.limit_usd ?? 0) + 10 }),
        );
      case "confirm_email":
        return button(words.confirmEmail, confirmEmail);
      case "reconnect_key":
        return <a href="#own-key">{words.ownKey}</a>;
      case "wait":
        return button(words.retry, retry);
      case "contact_support":
        return <a href={`mailto:support@example.com?subject=${error.request_id}`}>{words.support}</a>;
      case "none":
        if (error.code === "not_found") return <a href="?">{words.newChat}</a>;
        return error.code === "unauthenticated" && button(words.signOut, () => supabase.auth.signOut());
    }
  }

  return (
    <div role="alert">
      <p>{sentence(error)}</p>
      {error.resets_at && (
        <p>
          {words.until} {time(error.resets_at)}
        </p>
      )}
      {action()} {note}
    </div>
  );
}
