// src/OwnKey.tsx: the user's own key of a provider, which pays instead of the plan.
import { type FormEvent, useEffect, useState } from "react";
import { type KeyInfo, readError } from "./lib/index.ts";
import { api } from "./services.ts";
import { refreshUsage, useUsage } from "./usage.ts";
import { language, sentence, words } from "./words.ts";

const PROVIDERS = ["anthropic", "openai"] as const;

export function OwnKey() {
  const usage = useUsage();
  const [keys, setKeys] = useState<KeyInfo[]>([]);
  const [message, setMessage] = useState("");

  // Nothing of a key but its last characters ever comes back.
  async function change(request: () => Promise<unknown>) {
    setMessage("");
    try {
      await request();
      setKeys((await api.call("GET /keys")).keys);
      await refreshUsage();
    } catch (failure) {
      setMessage(sentence(readError(failure, language)));
    }
  }

  useEffect(() => {
    api.call("GET /keys").then(({ keys }) => setKeys(keys), console.error);
  }, []);

  function save(event: FormEvent<HTMLFormElement>) {
    event.preventDefault();
    const form = new FormData(event.currentTarget);
    const provider = PROVIDERS.find((name) => name === form.get("provider")) ?? "anthropic";
    void change(() =>
      api.call("PUT /keys/{provider}", { path: { provider }, body: { api_key: String(form.get("key")) } }),
    );
    event.currentTarget.reset();
  }

  if (!usage?.byok.allowed) return null;
  return (
    <section id="own-key">
      <h2>{words.ownKey}</h2>
      {keys.map(({ provider, hint, status, validation_error }) => (
        <p key={provider}>
          {provider} {hint} {status} {validation_error}{" "}
          <button
            type="button"
            onClick={() => change(() => api.call("DELETE /keys/{provider}", { path: { provider } }))}
          >
            {words.remove}
          </button>
        </p>
      ))}
      <form onSubmit={save}>
        <select name="provider" aria-label={words.ownKey}>
          {PROVIDERS.map((name) => (
            <option key={name}>{name}</option>
          ))}
        </select>
        <input name="key" type="password" autoComplete="off" required aria-label={words.ownKey} />
        <button type="submit">{words.save}</button>
      </form>
      <p role="alert">{message}</p>
    </section>
  );
}
