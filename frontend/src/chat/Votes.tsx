// The recorded votes of an answer: a bar for each party, and the members who differed from most of theirs.

import { useFormats } from "../app/format.ts";
import { votes as texts } from "../words/chat_votes.ts";
import { useWords } from "../words/words.ts";
import { isWebAddress } from "./Markdown.tsx";
import type { Call, Fields } from "./tools.ts";
import { isFields } from "./tools.ts";

type Party = { party: string; yea: number; nay: number; paired: number; did_not_vote: number };

/** The votes with a count of every party in the results of the calls. */
function votesOf(calls: Call[]): Fields[] {
  const found = calls.flatMap(({ output }) => (Array.isArray(output?.votes) ? output.votes : output ? [output] : []));
  const votes = found.filter((vote): vote is Fields => isFields(vote) && Array.isArray(vote.parties) && "yea" in vote);
  return [...new Map(votes.map((vote) => [`${vote.session} ${vote.vote}`, vote])).values()];
}

export default function Votes({ calls }: { calls: Call[] }) {
  return votesOf(calls).map((vote) => <Vote key={`${vote.session} ${vote.vote}`} vote={vote} />);
}

function Vote({ vote }: { vote: Fields }) {
  const words = useWords(texts);
  const format = useFormats();
  const parties = (vote.parties as unknown[]).filter(isFields) as unknown as Party[];
  const most = Math.max(1, ...parties.map(sizeOf));
  const title = words.title(Number(vote.vote), format.day(`${vote.date}T12:00:00`));
  const differed = isFields(vote.differed_from_most_of_party) ? vote.differed_from_most_of_party : {};
  const members = Array.isArray(differed.items) ? differed.items.filter(isFields) : [];
  const asked = Array.isArray(vote.asked_about) ? vote.asked_about.filter(isFields) : [];
  const rest = Number(differed.left_out ?? 0);
  return (
    <figure className="vote">
      <figcaption>
        {typeof vote.url === "string" && isWebAddress(vote.url) ? (
          <a href={vote.url} target="_blank" rel="noopener">
            {title}
          </a>
        ) : (
          title
        )}
        : {String(vote.result)}, {words.totals(Number(vote.yea), Number(vote.nay))}
        <span className="about">{String(vote.about ?? "")}</span>
      </figcaption>
      {asked.length > 0 && (
        <ul className="members">
          {asked.map((member) => (
            <li key={String(member.name)}>
              <strong>
                {words.member(
                  String(member.name),
                  String(member.party ?? member.riding),
                  String(member.ballot ?? member.reason),
                )}
              </strong>
            </li>
          ))}
        </ul>
      )}
      <ul className="parties">
        {parties.map((party) => (
          <li key={party.party}>
            <span>{party.party}</span>
            <span className="split" aria-hidden="true">
              {KINDS.map((kind) =>
                party[kind] ? (
                  <i key={kind} data-kind={kind} style={{ width: `${(100 * party[kind]) / most}%` }} />
                ) : null,
              )}
            </span>
            <span className="counts">
              {KINDS.filter((kind) => party[kind])
                .map((kind) => words[kind](party[kind]))
                .join(", ")}
            </span>
          </li>
        ))}
      </ul>
      {members.length > 0 && (
        <>
          <p className="differed">{words.differed}</p>
          <ul className="members">
            {members.map((member) => (
              <li key={String(member.mp)}>
                {words.member(String(member.name), String(member.party), String(member.ballot))}
              </li>
            ))}
            {rest > 0 && <li>{words.more(rest)}</li>}
          </ul>
        </>
      )}
    </figure>
  );
}

const KINDS = ["yea", "nay", "paired", "did_not_vote"] as const;
const sizeOf = (party: Party) => KINDS.reduce((sum, kind) => sum + party[kind], 0);
