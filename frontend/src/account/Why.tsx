// "Why?" on each answer and refusal: what paid, what is left, what it cost.

import { lazy, useState } from "react";
import type { Metadata, PageError } from "../../lib/index.ts";
import { Dialog } from "../app/Dialog.tsx";
import { LazyPart } from "../app/LazyPart.tsx";
import { why as texts } from "../words/account.ts";
import { useWords } from "../words/words.ts";

const WhyAnswer = lazy(() => import("./WhyAnswer.tsx"));
const WhyRefusal = lazy(() => import("./WhyRefusal.tsx"));

type Props = { metadata: Metadata } | { error: PageError };

export function Why(props: Props) {
  const words = useWords(texts);
  const [isOpen, setOpen] = useState(false);
  return (
    <>
      <button type="button" className="plain" onClick={() => setOpen(true)}>
        {words.why}
      </button>
      {isOpen && (
        <Dialog title={"error" in props ? words.whyRefused : words.whyAnswer} onClose={() => setOpen(false)}>
          <LazyPart>
            {"error" in props ? <WhyRefusal error={props.error} /> : <WhyAnswer metadata={props.metadata} />}
          </LazyPart>
        </Dialog>
      )}
    </>
  );
}
