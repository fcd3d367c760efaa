// The clocks of the database and of the Stripe stand-in, which move together.

import { useState } from "react";
import { useFormats } from "../app/format.ts";
import { developer } from "../words/developer.ts";
import { useWords } from "../words/words.ts";
import { Part } from "./Panel.tsx";
import { type Jobs, moveClock, type Stack } from "./stack.ts";

const DAY_S = 86_400;
const MONTH = 31; // longer than every month, so that each user's period ends

type Props = { clock: NonNullable<Stack["clock"]>; stripeUrl: string | null; onMoved: () => Promise<unknown> };

export function Clocks({ clock, stripeUrl, onMoved }: Props) {
  const words = useWords(developer);
  const format = useFormats();
  const [jobs, setJobs] = useState<Jobs | null>(null);
  const [failure, setFailure] = useState("");
  const [isBusy, setBusy] = useState(false);
  const days = Math.round(clock.offset_s / DAY_S);
  const isMoving = isBusy || clock.moving !== null;

  async function move(by: number) {
    setBusy(true);
    setFailure("");
    setJobs(null);
    try {
      const moved = moveClock(by);
      void onMoved(); // shows the progress
      setJobs(await moved);
    } catch (error) {
      setFailure(error instanceof Error ? error.message : String(error));
    }
    setBusy(false);
    await onMoved();
  }

  return (
    <Part title={words.clocks}>
      <p>{words.now(format.time(clock.now))}</p>
      {days > 0 && <p>{words.ahead(days)}</p>}
      <div className="choices">
        <button type="button" disabled={isMoving} onClick={() => void move(1)}>
          {words.day}
        </button>
        <button type="button" disabled={isMoving} onClick={() => void move(MONTH)}>
          {words.month}
        </button>
      </div>
      <div role="status">
        {clock.moving && <p>{words.moving(clock.moving.day, clock.moving.days)}</p>}
        {jobs && <Done jobs={jobs} />}
      </div>
      <p role="alert" lang="en">
        {failure}
      </p>
      {stripeUrl && (
        <p>
          <a href={stripeUrl} target="_blank" rel="noreferrer">
            {words.stripe}
          </a>
        </p>
      )}
    </Part>
  );
}

/** What each job counted, without zeros. */
function Done({ jobs }: { jobs: Jobs }) {
  const words = useWords(developer);
  return (
    <>
      <p>{words.moved}</p>
      <ul lang="en">
        {Object.entries(jobs).map(([job, counts]) => {
          const found = Object.entries(counts).filter(([, count]) => count > 0);
          return (
            <li key={job}>
              <code>{job}</code>: {found.map(([what, count]) => `${count} ${what}`).join(", ") || "–"}
            </li>
          );
        })}
      </ul>
    </>
  );
}
