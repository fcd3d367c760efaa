// The plans on sale, in plain words.

import type { Plan, Usage } from "../../lib/index.ts";
import { useFormats } from "../app/format.ts";
import { plans as texts } from "../words/account_dialogs.ts";
import { tiers } from "../words/app.ts";
import { useWords } from "../words/words.ts";
import { OrderButton } from "./OrderButton.tsx";
import type { PlanName } from "./stripe.ts";

type Tier = Usage["tier"];

export function PlanList({ plans, usage }: { plans: Plan[]; usage: Usage }) {
  const words = useWords(texts);
  const names = useWords(tiers);
  const format = useFormats();
  const { is_subscribed } = usage.billing;
  return (
    <section>
      <h3>{words.onSale}</h3>
      <p className="quiet">{words.amounts(usage.overage.currency)}</p>
      <ul className="cards">
        {plans.map((plan) => {
          const tier = plan.tier as Tier;
          const name = names[tier];
          const isCurrent = tier === usage.tier;
          return (
            <li key={tier} data-current={isCurrent || undefined}>
              <h4>{name}</h4>
              <p>{words.price(format.money(plan.price_usd, plan.currency))}</p>
              <Included plan={plan} />
              {isCurrent ? (
                <p className="quiet">{words.isCurrent}</p>
              ) : (
                tier !== "free" && (
                  <OrderButton
                    order={{ plan: tier as PlanName }}
                    label={is_subscribed ? words.change(name) : words.choose(name)}
                  />
                )
              )}
            </li>
          );
        })}
      </ul>
    </section>
  );
}

function Included({ plan }: { plan: Plan }) {
  const words = useWords(texts);
  const format = useFormats();
  const { lifetime_quota, daily_quota, overage_price_usd, history_days } = plan;
  const price = overage_price_usd === null ? null : format.money(overage_price_usd, plan.currency);
  return (
    <ul>
      {lifetime_quota !== null && <li>{words.lifetime(lifetime_quota)}</li>}
      {daily_quota !== null && daily_quota > 0 && <li>{words.daily(daily_quota)}</li>}
      {price && <li>{daily_quota ? words.thenOverage(price) : words.onlyOverage(price)}</li>}
      <li>{history_days > 0 ? words.keeps(history_days) : words.keepsNothing}</li>
      {plan.allows_byok && <li>{words.ownKeys}</li>}
      <li className="quiet">{words.models(format.list(Object.values(plan.models).flat()))}</li>
    </ul>
  );
}
