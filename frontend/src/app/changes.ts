// Tells this tab and the user's other tabs what changed: a conversation's id, or "account".

const channel = new BroadcastChannel("changes");
const listeners = new Set<(what: string) => void>();

channel.onmessage = (event) => {
  for (const listener of listeners) listener(event.data);
};

/** Reports a change. Listeners of this tab are called only if `here`. */
export function announceChange(what: string, { here = true } = {}) {
  channel.postMessage(what);
  if (here) for (const listener of listeners) listener(what);
}

/** Calls back at every change. Returns how to end it. */
export function onChange(listener: (what: string) => void) {
  listeners.add(listener);
  return () => {
    listeners.delete(listener);
  };
}
