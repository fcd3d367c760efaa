// What the local stack tells about itself at /_stack, read again every moment while the panel is open.

import { useCallback, useEffect, useState } from "react";
import { announceChange, onChange } from "../app/changes.ts";
import { setClockOffset } from "../app/now.ts";
import type { SeededUser } from "../app/stack.ts";

const EVERY_MS = 2000;
const EVERY_MS_OF_A_MOVE = 400;
const CLOCK = "clock"; // the change that a move of the clocks announces

type Clock = { now: string; offset_s: number; moving: { day: number; days: number } | null };

export type Stack = {
  places: { name: string; fr: string; url: string }[];
  users: SeededUser[];
  faults: { name: string; directive: string; en: string; fr: string }[];
  /** The directive of this user's next answer. */
  fault: string | null;
  /** Null: the database or Stripe is a real one. */
  clock: Clock | null;
  stripe_url: string | null;
};

/** A request to the functions. `ms` is null until its response has ended. */
export type LoggedRequest = {
  at: string;
  method: string;
  path: string;
  query: string;
  status: number;
  request_id: string;
  ms: number | null;
};

/** The counts of each job. */
export type Jobs = Record<string, Record<string, number>>;

async function call<T>(path: string, body?: object): Promise<T> {
  const response = await fetch(`/_stack${path}`, body && { method: "POST", body: JSON.stringify(body) });
  const answer = await response.json();
  if (!response.ok) throw new Error(answer.error.message);
  return answer;
}

export const setFault = (directive: string | null, user_id?: string) => call("/fault", { directive, user_id });
export const tokenOf = async (tier: string) => (await call<{ access_token: string }>("/token", { tier })).access_token;

/** Moves the clocks, and the page's with them. Resolves to what the jobs did. Rejects with a sentence in English. */
export async function moveClock(days: number): Promise<Jobs> {
  const { clock, jobs } = await call<{ clock: Clock; jobs: Jobs }>("/clock", { days });
  setClockOffset(clock.offset_s);
  announceChange(CLOCK);
  return jobs;
}

/** The stack and its last requests. `stack` null: not read yet; `isLost`: it did not answer the last time. */
export function useStack(isOpen: boolean, userId: string | undefined) {
  const [stack, setStack] = useState<Stack | null>(null);
  const [requests, setRequests] = useState<LoggedRequest[]>([]);
  const [isLost, setLost] = useState(false);

  const read = useCallback(async () => {
    try {
      const [about, log] = await Promise.all([
        call<Stack>(userId ? `?user_id=${userId}` : ""),
        isOpen ? call<LoggedRequest[]>("/requests") : Promise.resolve([]),
      ]);
      setStack(about);
      setRequests(log);
      setLost(false);
      return about;
    } catch {
      setLost(true);
      return null;
    }
  }, [isOpen, userId]);

  // Once, and after a move in another tab: this page's clock is the stack's.
  useEffect(() => {
    async function follow() {
      const clock = (await call<Stack>("").catch(() => null))?.clock;
      if (!clock?.offset_s) return;
      setClockOffset(clock.offset_s);
      announceChange("account");
    }
    void follow();
    return onChange((what) => what === CLOCK && void follow());
  }, []);

  useEffect(() => {
    if (!isOpen) return;
    let timer: ReturnType<typeof setTimeout>;
    let isShown = true;
    async function repeat() {
      const about = document.visibilityState === "visible" ? await read() : null;
      if (isShown) timer = setTimeout(repeat, about?.clock?.moving ? EVERY_MS_OF_A_MOVE : EVERY_MS);
    }
    void repeat();
    return () => {
      isShown = false;
      clearTimeout(timer);
    };
  }, [isOpen, read]);

  return { stack, requests, isLost, read };
}
