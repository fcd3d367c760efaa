// Credits that are left, and the packs on sale.

import type { Credits, Pack } from "../../lib/index.ts";
import { useFormats } from "../app/format.ts";
import { plans as texts } from "../words/account_dialogs.ts";
import { useWords } from "../words/words.ts";
import { OrderButton } from "./OrderButton.tsx";

export function Packs({ packs, credits }: { packs: Pack[]; credits: Credits }) {
  const words = useWords(texts);
  const format = useFormats();
  return (
    <section data-section="packs">
      <h3>{words.packs}</h3>
      <p>{words.packsHelp}</p>
      {credits.packs.length > 0 && (
        <ul>
          {credits.packs.map((pack) => (
            <li key={pack.id}>
              {words.bought(format.number(pack.remaining), format.number(pack.purchased), format.day(pack.bought_at))}
              {pack.expires_at && ` ${words.packExpires(format.day(pack.expires_at))}`}
              {pack.is_frozen && ` ${words.frozen}`}
            </li>
          ))}
        </ul>
      )}
      <ul className="cards">
        {packs.map((pack) => (
          <li key={pack.id}>
            <h4>{words.pack(format.number(pack.credits))}</h4>
            <p>
              {words.packPrice(
                format.money(pack.price_usd, pack.currency),
                format.money(pack.price_per_credit_usd, pack.currency),
              )}
            </p>
            <p className="quiet">
              {pack.expires_after_days === null ? words.neverExpires : words.expiresAfter(pack.expires_after_days)}
            </p>
            <OrderButton order={{ pack: pack.id }} label={words.buyPack(format.number(pack.credits))} />
          </li>
        ))}
      </ul>
    </section>
  );
}
