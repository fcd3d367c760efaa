import { words } from "./words.ts";

export const votes = words(
  {
    title: (number: number, day: string) => `Vote ${number} of ${day}`,
    totals: (yea: number, nay: number) => `${yea} yea, ${nay} nay`,
    yea: (count: number) => `${count} yea`,
    nay: (count: number) => `${count} nay`,
    paired: (count: number) => `${count} paired`,
    did_not_vote: (count: number) => `${count} did not vote`,
    differed: "Voted against most of their party:",
    member: (name: string, party: string, ballot: string) => `${name} (${party}): ${ballot}`,
    more: (count: number) => `and ${count} more`,
  },
  {
    title: (number: number, day: string) => `Vote nº ${number} du ${day}`,
    totals: (yea: number, nay: number) => `${yea} pour, ${nay} contre`,
    yea: (count: number) => `${count} pour`,
    nay: (count: number) => `${count} contre`,
    paired: (count: number) => `${count} ${count > 1 ? "pairés" : "pairé"}`,
    did_not_vote: (count: number) => (count > 1 ? `${count} n’ont pas voté` : "1 n’a pas voté"),
    differed: "Ont voté contre la majorité de leur parti :",
    member: (name: string, party: string, ballot: string) => `${name} (${party}) : ${ballot}`,
    more: (count: number) => `et ${count} de plus`,
  },
);
