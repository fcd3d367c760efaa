import { words } from "./words.ts";

export const conversations = words(
  {
    create: "New conversation",
    untitled: "Untitled",
    shared: "Shared conversation",
  },
  {
    create: "Nouvelle conversation",
    untitled: "Sans titre",
    shared: "Conversation partagée",
  },
);
