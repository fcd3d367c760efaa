// The rating of an answer: up or down, and a comment if the user likes.

import { type FormEvent, useEffect, useRef, useState } from "react";
import type { Feedback as Stored } from "../../lib/index.ts";
import { useServices } from "../app/services.tsx";
import { useTask } from "../app/useTask.ts";
import { feedback as texts } from "../words/account.ts";
import { useWords } from "../words/words.ts";
import { readRating } from "./ratings.ts";

const NONE: Stored = { rating: null, comment: null };

/** `messageId`: the id of the answer's message, which is the server's. */
export function Feedback({ messageId }: { messageId: string }) {
  const words = useWords(texts);
  const { api, supabase } = useServices();
  const [stored, setStored] = useState(NONE);
  const [isOpen, setOpen] = useState(false);
  const [said, setSaid] = useState<"thanks" | "removed" | null>(null);
  const task = useTask();
  const buttons = useRef<HTMLDivElement>(null);

  useEffect(() => {
    let isLeft = false;
    void readRating(supabase, messageId).then((found) => {
      if (found && !isLeft) setStored(found);
    });
    return () => {
      isLeft = true;
    };
  }, [supabase, messageId]);

  async function put(next: Stored) {
    setSaid(null);
    const body = next.comment === null ? { rating: next.rating } : next;
    const done = await task.run(async () => {
      setStored(await api.call("PUT /messages/{message_id}/feedback", { path: { message_id: messageId }, body }));
    });
    if (done) setSaid(next.rating === null ? "removed" : "thanks");
    return done;
  }

  function rate(rating: "up" | "down") {
    if (task.isBusy) return;
    const isSame = stored.rating === rating;
    setOpen(!isSame);
    void put(isSame ? NONE : { rating, comment: stored.comment });
  }

  async function comment(event: FormEvent<HTMLFormElement>) {
    event.preventDefault();
    const text = String(new FormData(event.currentTarget).get("comment")).trim();
    if (await put({ ...stored, comment: text || null })) close();
  }

  function close() {
    buttons.current?.querySelector<HTMLElement>("[aria-pressed=true]")?.focus();
    setOpen(false);
  }

  return (
    <div className="feedback" ref={buttons}>
      {(["up", "down"] as const).map((rating) => (
        <button
          type="button"
          className="plain"
          key={rating}
          aria-pressed={stored.rating === rating}
          aria-disabled={task.isBusy}
          onClick={() => rate(rating)}
        >
          {words[rating]}
        </button>
      ))}
      <span role="status" className="quiet">
        {said && words[said]}
      </span>
      {task.error && <span role="alert">{task.error.message}</span>}
      {isOpen && stored.rating && (
        <form onSubmit={(event) => void comment(event)}>
          <label>
            {words.comment}
            <textarea name="comment" maxLength={2000} rows={2} defaultValue={stored.comment ?? ""} />
          </label>
          <button type="submit" aria-disabled={task.isBusy}>
            {words.send}
          </button>
          <button type="button" className="plain" onClick={close}>
            {words.noComment}
          </button>
        </form>
      )}
    </div>
  );
}
