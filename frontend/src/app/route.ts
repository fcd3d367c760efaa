// The page's addresses: / is a new conversation, /c/<id> a conversation, /shared/<token> a shared one. A hash opens a
// dialog on top of it, such as #plans.

import { useSyncExternalStore } from "react";

export type Route =
  | { page: "home" }
  | { page: "conversation"; id: string }
  | { page: "shared"; token: string }
  | { page: "unknown" };

const CHANGED = "page:route";

function subscribe(changed: () => void) {
  for (const event of ["popstate", "hashchange", CHANGED]) addEventListener(event, changed);
  return () => {
    for (const event of ["popstate", "hashchange", CHANGED]) removeEventListener(event, changed);
  };
}

/** The route of a path. */
export function routeOf(path: string): Route {
  const [first, second, ...rest] = path.split("/").filter(Boolean).map(decoded);
  if (first === undefined) return { page: "home" };
  if (second === undefined || rest.length) return { page: "unknown" };
  if (first === "c") return { page: "conversation", id: second };
  if (first === "shared") return { page: "shared", token: second };
  return { page: "unknown" };
}

function decoded(part: string): string {
  try {
    return decodeURIComponent(part);
  } catch {
    return part; // a % that encodes nothing
  }
}

export function useRoute(): Route {
  return routeOf(useSyncExternalStore(subscribe, () => location.pathname));
}

/** The name of the open dialog, such as plans, or a part of it, such as plans-packs; empty if none is open. */
export function useDialog(): string {
  return useSyncExternalStore(subscribe, () => location.hash.slice(1));
}

/** Goes to an address of the page. `replace` leaves no entry in the history. */
export function go(address: string, { replace = false } = {}) {
  if (replace) history.replaceState(null, "", address);
  else history.pushState(null, "", address);
  dispatchEvent(new Event(CHANGED));
}

export const openDialog = (name: string) => go(`${location.pathname}#${name}`);
export const closeDialog = () => go(location.pathname, { replace: true });
