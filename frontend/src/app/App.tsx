// The page: sign-in, or the three columns with the header above and the dialogs in front.

import { lazy, useState } from "react";
import { AccountDialogs } from "../account/AccountDialogs.tsx";
import { Notices } from "../account/Notices.tsx";
import { Conversation } from "../chat/Conversation.tsx";
import { ConversationList } from "../conversations/ConversationList.tsx";
import { app } from "../words/app.ts";
import { useWords } from "../words/words.ts";
import { AccountProvider } from "./account.tsx";
import { Header } from "./Header.tsx";
import { LazyPart } from "./LazyPart.tsx";
import { go, useRoute } from "./route.ts";
import { SignIn } from "./SignIn.tsx";
import { useServices, useSession } from "./services.tsx";
import { useDrawer } from "./useDrawer.ts";

const SharedPage = lazy(() => import("../conversations/SharedPage.tsx"));
const Developer = lazy(() => import("../developer/Panel.tsx"));

export function App() {
  const { config } = useServices();
  const session = useSession();
  const route = useRoute();
  return (
    <>
      {route.page === "shared" ? (
        <LazyPart isQuiet>
          <SharedPage token={route.token} />
        </LazyPart>
      ) : route.page === "unknown" ? (
        <NotFound />
      ) : session === undefined ? null : session === null ? (
        <SignIn />
      ) : (
        <AccountProvider>
          <Workspace key={session.user.id} chatId={route.page === "conversation" ? route.id : null} />
        </AccountProvider>
      )}
      {config.stack && (
        <LazyPart isQuiet>
          <Developer />
        </LazyPart>
      )}
    </>
  );
}

/** The page of a signed-in user. `chatId` null: a new conversation. */
function Workspace({ chatId }: { chatId: string | null }) {
  const words = useWords(app);
  // A new conversation keeps its id, and so its component and its stream, when its address becomes /c/<id>.
  const [draft, setDraft] = useState(newDraft);
  const drawer = useDrawer();
  if (chatId === null && draft.asked !== null) setDraft(newDraft());
  const id = chatId ?? draft.id;
  return (
    <div className="workspace" data-drawer={drawer.isOpen ? "open" : "closed"}>
      <a className="skip" href="#question">
        {words.skip}
      </a>
      <Header drawer={drawer} />
      <Notices />
      <nav className="conversations" id="conversations" aria-label={words.conversations} ref={drawer.list}>
        <ConversationList current={id} asked={id === draft.id ? draft.asked : null} onChosen={drawer.close} />
      </nav>
      <Conversation
        key={id}
        id={id}
        isNew={id === draft.id && draft.asked === null}
        onFirstQuestion={(asked) => {
          if (chatId === null) go(`/c/${id}`);
          setDraft((now) => (now.id === id && now.asked === null ? { ...now, asked } : now));
        }}
      />
      <AccountDialogs />
    </div>
  );
}

/** `asked`: its first question. */
const newDraft = () => ({ id: crypto.randomUUID() as string, asked: null as string | null });

function NotFound() {
  const words = useWords(app);
  return (
    <main className="alone">
      <p>{words.notFound}</p>
      <a className="button primary" href="/">
        {words.home}
      </a>
    </main>
  );
}
