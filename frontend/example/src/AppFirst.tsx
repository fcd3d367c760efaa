// src/App.tsx, for now
import { useEffect, useState } from "react";
import { Chat } from "./Chat.tsx";
import { SignIn } from "./SignIn.tsx";
import { useSession } from "./services.ts";
import { refreshUsage } from "./usage.ts";

export default function App() {
  const session = useSession();
  const [id] = useState(() => crypto.randomUUID());
  const userId = session?.user.id;
  useEffect(() => {
    if (userId) refreshUsage().catch(console.error);
  }, [userId]);
  if (session === undefined) return null;
  if (session === null) return <SignIn />;
  return <Chat id={id} isNew showError={({ message }) => <p role="alert">{message}</p>} />;
}
