// A call of a tool, as one line that opens: what was asked, and what was found.

import { lazy, useId, useState } from "react";
import { LazyPart } from "../app/LazyPart.tsx";
import { tools } from "../words/chat_tools.ts";
import { useWords } from "../words/words.ts";
import { type Call, countOf, useSubject } from "./tools.ts";

const ToolDetails = lazy(() => import("./ToolDetails.tsx"));

export function ToolCall({ call, isGrowing }: { call: Call; isGrowing: boolean }) {
  const words = useWords(tools);
  const subject = useSubject()(call);
  const [isOpen, setOpen] = useState(false);
  const details = useId();
  return (
    <li className="tool">
      <button
        type="button"
        className="plain"
        aria-expanded={isOpen}
        aria-controls={details}
        onClick={() => setOpen(!isOpen)}
      >
        {words.lookedUp(subject)} · {found()}
      </button>
      <div id={details} hidden={!isOpen}>
        {isOpen && (
          <LazyPart>
            <ToolDetails call={call} />
          </LazyPart>
        )}
      </div>
    </li>
  );

  function found(): string {
    if (call.output === null) return call.isRunning && isGrowing ? words.running : words.failed;
    const { shown, all } = countOf(call.output);
    return all > shown ? words.resultsOf(shown, all) : words.results(shown);
  }
}
