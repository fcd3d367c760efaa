import { words } from "./words.ts";

export const record = words(
  {
    title: "The record",
    folded: (name: string, facts: number) =>
      `The record: ${[name, facts === 0 ? "" : facts === 1 ? "1 fact" : `${facts} facts`].filter(Boolean).join(" · ") || "nothing yet"}`,
    nothing: "No facts were looked up yet.",
    found: "Found in the public record:",
    notFound: "No record of this page was found. The answer looked it up by itself.",
    bill: (number: string) => `Bill ${number}`,
    introduced: (day: string) => `Introduced on ${day}`,
    vote: (number: number, day: string) => (day ? `Vote ${number}, ${day}` : `Vote ${number}`),
    result: (result: string, yea: number, nay: number) => `${result}: ${yea} yea, ${nay} nay`,
  },
  {
    title: "Le dossier",
    folded: (name: string, facts: number) =>
      `Le dossier : ${[name, facts === 0 ? "" : facts === 1 ? "1 fait" : `${facts} faits`].filter(Boolean).join(" · ") || "rien encore"}`,
    nothing: "Aucun fait n’a encore été consulté.",
    found: "Trouvé dans les registres publics :",
    notFound: "Aucun dossier n’a été trouvé pour cette page. La réponse a fait ses propres recherches.",
    bill: (number: string) => `Projet de loi ${number}`,
    introduced: (day: string) => `Déposé le ${day}`,
    vote: (number: number, day: string) => (day ? `Vote nº ${number}, ${day}` : `Vote nº ${number}`),
    result: (result: string, yea: number, nay: number) => `${result} : ${yea} pour, ${nay} contre`,
  },
);
