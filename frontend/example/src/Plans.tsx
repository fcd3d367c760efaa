// src/Plans.tsx: the price list.
import { useEffect, useState } from "react";
import { buy, openPortal } from "./checkout.ts";
import { type PageError, type PriceList, readError } from "./lib/index.ts";
import { api } from "./services.ts";
import { useUsage } from "./usage.ts";
import { language, money, planName, sentence, words } from "./words.ts";

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
      {prices?.plans.map((plan) => (
        <p key={plan.tier}>
          {planName(plan)}: {money.format(plan.price_usd)}{" "}
          {plan.tier !== "free" && plan.tier !== usage?.tier && (
            <button type="button" onClick={() => pay(buy({ plan: plan.tier as "basic" | "pro" | "usage_only" }))}>
              {words.choose} {planName(plan)}
            </button>
          )}
        </p>
      ))}
      {prices?.packs.map(({ id, credits, price_usd }) => (
        <p key={id}>
          {credits} {words.credits}: {money.format(price_usd)}{" "}
          <button type="button" onClick={() => pay(buy({ pack: id }))}>
            {words.choose} {credits} {words.credits}
          </button>
        </p>
      ))}
      {usage?.billing.is_customer && (
        <button type="button" onClick={() => pay(openPortal())}>
          {words.portal}
        </button>
      )}
      {error && <p role="alert">{sentence(error)}</p>}
    </section>
  );
}
