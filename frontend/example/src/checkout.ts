// src/checkout.ts: payments are made on Stripe's pages, which send the user back.
import { api } from "./services.ts";
import { currentUsage, refreshUsage } from "./usage.ts";

/** Sends the user to the payment of a plan or of a credit pack. */
export async function buy(what: { plan: "basic" | "pro" | "usage_only" } | { pack: string }) {
  const success = new URL(location.href);
  success.searchParams.set("paid", bought());
  success.hash = "";
  const body = { ...what, success_url: success.href, cancel_url: location.href };
  location.assign((await api.call("POST /checkout", { body })).url);
}

/** Sends the user to Stripe's billing portal: cards, invoices, the end of a subscription. */
export async function openPortal() {
  location.assign((await api.call("POST /portal", { body: { return_url: location.href } })).url);
}

/** After the return from a payment: reads the usage until the payment is in it, usually within a second. */
export async function completePurchase() {
  const here = new URL(location.href);
  const before = here.searchParams.get("paid");
  if (before === null) return;
  here.searchParams.delete("paid");
  history.replaceState(null, "", here);
  for (let attempt = 0; attempt < 20 && bought() === before; attempt++) {
    await new Promise((resolve) => setTimeout(resolve, 1000));
    await refreshUsage();
  }
}

const bought = () => `${currentUsage()?.tier}-${currentUsage()?.credits.packs.length}`;
