// The developer's panel of a local stack: a tab at the right edge, closed at first.

import { type ReactNode, useId, useRef, useState } from "react";
import { useLanguage } from "../app/language.tsx";
import { go } from "../app/route.ts";
import { useServices, useSession } from "../app/services.tsx";
import { rememberSignIn, type SeededUser } from "../app/stack.ts";
import { tiers } from "../words/app.ts";
import { developer } from "../words/developer.ts";
import { useWords } from "../words/words.ts";
import { Clocks } from "./Clocks.tsx";
import { Requests } from "./Requests.tsx";
import { type Stack, setFault, useStack } from "./stack.ts";
import "./developer.css";

export default function Panel() {
  const words = useWords(developer);
  const [isOpen, setOpen] = useState(false);
  const userId = useSession()?.user.id;
  const { stack, requests, isLost, read } = useStack(isOpen, userId);
  const tab = useRef<HTMLButtonElement>(null);
  const body = useId();
  return (
    <aside
      className="developer"
      aria-label={words.title}
      data-open={isOpen || undefined}
      onKeyDown={(event) => {
        if (event.key !== "Escape" || !isOpen) return;
        event.stopPropagation();
        setOpen(false);
        tab.current?.focus();
      }}
    >
      <button
        ref={tab}
        type="button"
        className="tab"
        aria-expanded={isOpen}
        aria-controls={body}
        onClick={() => setOpen(!isOpen)}
      >
        {words.tab}
      </button>
      <div id={body} hidden={!isOpen}>
        <p role="status">{isLost && words.unreachable}</p>
        {isOpen && stack && (
          <>
            <Users users={stack.users} />
            {stack.faults.length > 0 && <Faults stack={stack} userId={userId} onChanged={read} />}
            {stack.clock && <Clocks clock={stack.clock} stripeUrl={stack.stripe_url} onMoved={read} />}
            <Requests requests={requests} />
            <Services places={stack.places} />
          </>
        )}
      </div>
    </aside>
  );
}

/** A part of the panel with its heading. */
export function Part({ title, children }: { title: string; children: ReactNode }) {
  const heading = useId();
  return (
    <section aria-labelledby={heading}>
      <h2 id={heading}>{title}</h2>
      {children}
    </section>
  );
}

function Users({ users }: { users: SeededUser[] }) {
  const words = useWords(developer);
  const names: Record<string, string> = useWords(tiers);
  const { supabase } = useServices();
  const current = useSession()?.user.email;
  const [hasFailed, setFailed] = useState(false);

  async function enter({ email, password }: SeededUser) {
    const { error } = await supabase.auth.signInWithPassword({ email, password });
    setFailed(error !== null);
    if (error) return;
    rememberSignIn();
    go("/"); // the open conversation belongs to the user before
  }

  if (users.length === 0) return null;
  return (
    <Part title={words.users}>
      <div className="choices">
        {users.map((user) => (
          <button type="button" key={user.tier} aria-pressed={user.email === current} onClick={() => void enter(user)}>
            {names[user.tier] ?? user.tier}
          </button>
        ))}
      </div>
      <p role="alert">{hasFailed && words.notSignedIn}</p>
    </Part>
  );
}

type FaultsProps = { stack: Stack; userId: string | undefined; onChanged: () => Promise<unknown> };

function Faults({ stack, userId, onChanged }: FaultsProps) {
  const words = useWords(developer);
  const { language } = useLanguage();
  return (
    <Part title={words.faults}>
      <label>
        {words.faultOf}
        <select
          value={stack.fault ?? ""}
          onChange={(event) => void setFault(event.target.value || null, userId).then(onChanged, onChanged)}
        >
          <option value="">{words.noFault}</option>
          {stack.faults.map((fault) => (
            <option key={fault.name} value={fault.directive}>
              {fault[language]}
            </option>
          ))}
        </select>
      </label>
      <p role="status">{stack.fault && words.armed}</p>
    </Part>
  );
}

function Services({ places }: { places: Stack["places"] }) {
  const words = useWords(developer);
  const { language } = useLanguage();
  return (
    <Part title={words.services}>
      <ul>
        {places.map(({ name, fr, url }) => (
          <li key={url}>
            {language === "fr" ? fr : name}{" "}
            {url.startsWith("http") ? (
              <a href={url} target="_blank" rel="noreferrer">
                {url.replace("http://", "")}
              </a>
            ) : (
              <code lang="en">{url}</code>
            )}
          </li>
        ))}
      </ul>
    </Part>
  );
}
