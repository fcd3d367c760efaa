// Why a question was refused: the error, and the account as it is now.

import type { PageError } from "../../lib/index.ts";
import { useAccount } from "../app/account.tsx";
import { useFormats } from "../app/format.ts";
import { why as texts } from "../words/account_dialogs.ts";
import { tiers } from "../words/app.ts";
import { useWords } from "../words/words.ts";
import { useMeterText } from "./Meter.tsx";
import { RequestId } from "./RequestId.tsx";
import { Sentence } from "./Sentence.tsx";
import "./dialogs.css";

export default function WhyRefusal({ error }: { error: PageError }) {
  const words = useWords(texts);
  const names = useWords(tiers);
  const format = useFormats();
  const { usage } = useAccount();
  const meter = useMeterText();
  const overage = usage?.overage;
  return (
    <div className="sheet">
      <p>
        <Sentence error={error} />
      </p>
      <p>{words.notCharged}</p>
      {error.resets_at && <p>{words.ends(format.time(error.resets_at))}</p>}
      {usage && (
        <ul>
          <li>{words.plan(names[usage.tier])}</li>
          <li>{words.now(meter)}</li>
          {usage.included.limit > 0 && <li>{words.includedUsed(usage.included.used, usage.included.limit)}</li>}
          <li>{words.credits(usage.credits.remaining, format.number(usage.credits.remaining))}</li>
          {overage && overage.price_usd !== null && (
            <li>
              {overage.allowed && overage.limit_usd !== null
                ? words.overageOn(
                    format.money(overage.used_usd, overage.currency),
                    format.money(overage.limit_usd, overage.currency),
                  )
                : words.overageOff}
            </li>
          )}
        </ul>
      )}
      <p className="quiet">
        {words.reason} <code lang="zxx">{error.reason_code}</code>
      </p>
      <RequestId id={error.request_id} />
    </div>
  );
}
