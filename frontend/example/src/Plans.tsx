// src/Plans.tsx: the price list.
import { useEffect, useState } from "react";
import { buy, openPortal } from "./checkout.ts";
import { type PageError, type PriceList, readError } from "./lib/index.ts";
import { api } from "./services.ts";
import { useUsage } from "./usage.ts";
import { language, money, words } from "./words.ts";

export function Plans() {
  const usage = useUsage();
  const [prices, setPrices] = useState<PriceList>();
  const [error, setError] = useState<PageError>();

  useEffect(() => {
    api.call("GET /plans").then(setPrices, (failure) => setError(readError(failure, language)));
  }, []);

  const pay = (payment: Promise<void>) => payment.catch((failure) => setError(readError(failure, language)));

  return (
    <section id="plans">
      <h2>{words.plans}</h2>
      {prices?.plans.map(({ tier, name, price_usd }) => (
        <p key={tier}>
          {name}: {money.format(price_usd)}{" "}
          {tier !== "free" && tier !== usage?.tier && (
            <button type="button" onClick={() => pay(buy({ plan: tier as "basic" | "pro" | "usage_only" }))}>
              {words.choose} {name}
            </button>
          )}
        </p>
      ))}
      {prices?.packs.map(({ id, name, price_usd }) => (
        <p key={id}>
          {name}: {money.format(price_usd)}{" "}
          <button type="button" onClick={() => pay(buy({ pack: id }))}>
            {words.choose} {name}
          </button>
        </p>
      ))}
      {usage?.billing.is_customer && (
        <button type="button" onClick={() => pay(openPortal())}>
          {words.portal}
        </button>
      )}
      {error && <p role="alert">{error.message}</p>}
    </section>
  );
}
