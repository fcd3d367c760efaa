import { words } from "./words.ts";

export const account = words(
  {
    plans: "Plan and payments",
    keys: "Your own keys",
    data: "Your data",
    again: "Try again",
    included: (left: number, limit: number) => `${left} of ${limit} left`,
  },
  {
    plans: "Forfait et paiements",
    keys: "Vos propres clés",
    data: "Vos données",
    again: "Réessayer",
    included: (left: number, limit: number) => `${left} sur ${limit} restantes`,
  },
);
