// Overage that was billed, and that will be. The invoices themselves are in Stripe's portal.

import type { Billing } from "../../lib/index.ts";
import { useFormats } from "../app/format.ts";
import { plans as texts } from "../words/account_dialogs.ts";
import { useWords } from "../words/words.ts";

export function Bills({ billing }: { billing: Billing }) {
  const words = useWords(texts);
  const format = useFormats();
  if (billing.billed.length === 0 && billing.to_be_billed_usd === 0) return null;
  return (
    <section>
      <h3>{words.bills}</h3>
      {billing.to_be_billed_usd > 0 && (
        <p>{words.toBeBilled(format.money(billing.to_be_billed_usd, billing.currency))}</p>
      )}
      {billing.billed.length > 0 && (
        // biome-ignore lint/a11y/noNoninteractiveTabindex: a wide table scrolls, and the keyboard must be able to
        <section className="wide" tabIndex={0} aria-label={words.bills}>
          <table>
            <thead>
              <tr>
                <th scope="col">{words.periodFrom}</th>
                <th scope="col">{words.questions}</th>
                <th scope="col">{words.each}</th>
                <th scope="col">{words.billed}</th>
              </tr>
            </thead>
            <tbody>
              {billing.billed.map((bill) => (
                <tr key={`${bill.period_start}-${bill.amount_usd}`}>
                  <td>{format.day(bill.period_start)}</td>
                  <td>{format.number(bill.queries)}</td>
                  <td>{format.money(bill.unit_price_usd, billing.currency)}</td>
                  <td>{format.money(bill.billed_usd, billing.currency)}</td>
                </tr>
              ))}
            </tbody>
          </table>
        </section>
      )}
      {billing.is_customer && <p className="quiet">{words.invoices}</p>}
    </section>
  );
}
