// src/App.tsx
import { useEffect, useState } from "react";
import { Chat } from "./Chat.tsx";
import { Conversations } from "./Conversations.tsx";
import { completePurchase } from "./checkout.ts";
import { ErrorCard } from "./ErrorCard.tsx";
import { Meter } from "./Meter.tsx";
import { OwnKey } from "./OwnKey.tsx";
import { Plans } from "./Plans.tsx";
import { SignIn } from "./SignIn.tsx";
import { supabase, useSession } from "./services.ts";
import { refreshUsage } from "./usage.ts";
import { switchLanguage, words } from "./words.ts";

export default function App() {
  const session = useSession();
  const [chat] = useState(openChat);
  const userId = session?.user.id;

  useEffect(() => {
    if (userId) refreshUsage().then(completePurchase).catch(console.error);
  }, [userId]);

  if (session === undefined) return null;
  return (
    <main>
      <h1>CanadaGPT</h1>
      <button type="button" onClick={switchLanguage}>
        {words.otherLanguage}
      </button>
      {session === null ? (
        <SignIn />
      ) : (
        <>
          <button type="button" onClick={() => void supabase.auth.signOut()}>
            {words.signOut}
          </button>
          <Meter />
          <Conversations />
          <Chat {...chat} showError={(error, retry) => <ErrorCard error={error} retry={retry} />} />
          <Plans />
          <OwnKey />
        </>
      )}
    </main>
  );
}

/** The conversation of the address, which a reload shows again; without one, a new conversation. */
function openChat() {
  const here = new URL(location.href);
  const id = here.searchParams.get("chat") ?? crypto.randomUUID();
  const isNew = !here.searchParams.has("chat");
  here.searchParams.set("chat", id);
  history.replaceState(null, "", here);
  return { id, isNew };
}
