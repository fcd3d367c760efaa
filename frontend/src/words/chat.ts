import { words } from "./words.ts";

export const chat = words(
  {
    intro: "Ask about Canada’s Parliament: members, bills, votes, debates, spending and lobbying.",
    question: "Your question",
    send: "Send",
    stop: "Stop",
    you: "You",
    answer: "Answer",
  },
  {
    intro:
      "Posez vos questions sur le Parlement du Canada : députés, projets de loi, votes, débats, dépenses, lobbying.",
    question: "Votre question",
    send: "Envoyer",
    stop: "Arrêter",
    you: "Vous",
    answer: "Réponse",
  },
);
