// What an answer's metadata says, in sentences.

import type { Metadata } from "../../lib/index.ts";
import { useAccount } from "../app/account.tsx";
import { useFormats } from "../app/format.ts";
import { why as texts } from "../words/account_dialogs.ts";
import { useWords } from "../words/words.ts";
import { providerName } from "./keys.ts";
import { useMeterText } from "./Meter.tsx";
import { RequestId } from "./RequestId.tsx";
import "./dialogs.css";

type Funding = "byok" | "included" | "credit" | "overage";

export default function WhyAnswer({ metadata }: { metadata: Metadata }) {
  const words = useWords(texts);
  const format = useFormats();
  const meter = useMeterText();
  const account = useAccount();
  const { funding, remaining, resets_at, charged_usd, cost_usd, usage, finish_reason } = metadata;
  const provider = providerName(metadata.provider);
  const isFailed = metadata.error !== undefined || metadata.outcome === "lost";
  const paid = words[funding as Funding];
  return (
    <div className="sheet">
      {isFailed ? <p>{words.notCharged}</p> : <p>{typeof paid === "function" ? paid(provider) : paid}</p>}
      {!isFailed && charged_usd !== null && charged_usd > 0 && (
        <p>{words.charged(format.money(charged_usd, account.usage?.overage.currency ?? "usd"))}</p>
      )}
      {remaining !== null && <p>{words.left(remaining, format.number(remaining))}</p>}
      {remaining !== null && resets_at && <p>{words.resets(format.time(resets_at))}</p>}
      {meter && <p>{words.now(meter)}</p>}
      <p>{words.model(metadata.model, provider)}</p>
      {cost_usd !== null && (
        <p>{(funding === "byok" ? words.costToYou : words.costToUs)(format.money(cost_usd, "usd"), provider)}</p>
      )}
      <p>
        {words.tokens(
          format.number(usage.input_tokens),
          format.number(usage.output_tokens),
          format.number(usage.cache_read_tokens),
        )}
      </p>
      {finish_reason === "stopped" && <p>{words.stopped}</p>}
      <p>{metadata.persisted ? words.kept : words.notKept}</p>
      <RequestId id={metadata.request_id} />
    </div>
  );
}
