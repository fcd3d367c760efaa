// The seeded users of a local stack. Elsewhere there are none.

import { useEffect, useState } from "react";

export type SeededUser = { tier: string; email: string; password: string };

/** A newcomer to a local stack is signed in as the user of this tier. */
export const FIRST_USER = "basic";

const SIGNED_OUT = "signed-out";

export const hasSignedOut = () => localStorage.getItem(SIGNED_OUT) !== null;
export const rememberSignOut = () => localStorage.setItem(SIGNED_OUT, "1");
export const rememberSignIn = () => {
  localStorage.removeItem(SIGNED_OUT);
  sessionStorage.removeItem(DELETED);
};

const DELETED = "deleted";

/** The account was deleted in this tab: the sign-in page says so. */
export const rememberDeletion = () => sessionStorage.setItem(DELETED, "1");
export const wasDeleted = () => sessionStorage.getItem(DELETED) !== null;

/** The users; empty until they are loaded, and where this is no local stack. */
export function useSeededUsers(isStack: boolean): SeededUser[] {
  const [users, setUsers] = useState<SeededUser[]>([]);
  useEffect(() => {
    if (!isStack) return;
    const leaving = new AbortController();
    fetch("/_stack", { signal: leaving.signal })
      .then((response) => (response.ok ? response.json() : { users: [] }))
      .then((stack) => setUsers(stack.users))
      .catch(() => setUsers([])); // the form works without them
    return () => leaving.abort();
  }, [isStack]);
  return users;
}
