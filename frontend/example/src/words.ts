// src/words.ts: the page's own words. Sentences about errors and usage come from the backend in the same language.
import { languageOf, type PageError, type Plan } from "./lib/index.ts";

export const language = languageOf(localStorage.getItem("language") ?? navigator.language);
document.documentElement.lang = language;

export function switchLanguage() {
  localStorage.setItem("language", language === "fr" ? "en" : "fr");
  location.reload();
}

const en = {
  otherLanguage: "Français",
  email: "E-mail",
  password: "Password",
  signIn: "Sign in",
  signUp: "Create an account",
  signOut: "Sign out",
  notSignedIn: "That did not work. Check the address and the password.",
  refusals: {
    weak_password: "This password is too short or too simple.",
    user_already_exists: "There is an account with this address. Sign in instead.",
    email_not_confirmed: "Confirm the address first: open the link in the e-mail that we sent you.",
    over_request_rate_limit: "There were too many attempts. Wait a few minutes.",
  },
  checkMail: "Open the link in the e-mail that we sent you.",
  newChat: "New conversation",
  untitled: "Untitled",
  question: "Your question",
  send: "Send",
  stop: "Stop",
  retry: "Try again",
  sources: "Sources",
  cut: {
    length: "The answer was cut at its maximum length.",
    limit: "The answer reached its limit.",
    stopped: "Stopped.",
  },
  plans: "Plans and credits",
  tiers: { free: "Free", basic: "Basic", pro: "Pro", usage_only: "Pay as you go" },
  seePlans: "See the plans",
  choose: "Choose",
  portal: "Open billing",
  pay: "Pay the invoice",
  allowOverage: "Allow overage",
  raiseLimit: "Raise the limit by $10",
  confirmEmail: "Send the confirmation e-mail again",
  sent: "Sent.",
  until: "Available again:",
  support: "Contact support",
  left: "left of",
  credits: "credits",
  thisMonth: "this month, of at most",
  ownKey: "Your own key",
  save: "Check and save",
  remove: "Delete",
};

const fr: typeof en = {
  otherLanguage: "English",
  email: "Courriel",
  password: "Mot de passe",
  signIn: "Se connecter",
  signUp: "Créer un compte",
  signOut: "Se déconnecter",
  notSignedIn: "Cela n’a pas fonctionné. Vérifiez l’adresse et le mot de passe.",
  refusals: {
    weak_password: "Ce mot de passe est trop court ou trop simple.",
    user_already_exists: "Un compte existe avec cette adresse. Connectez-vous plutôt.",
    email_not_confirmed: "Confirmez d’abord l’adresse : ouvrez le lien du courriel que nous vous avons envoyé.",
    over_request_rate_limit: "Il y a eu trop d’essais. Attendez quelques minutes.",
  },
  checkMail: "Ouvrez le lien du courriel que nous vous avons envoyé.",
  newChat: "Nouvelle conversation",
  untitled: "Sans titre",
  question: "Votre question",
  send: "Envoyer",
  stop: "Arrêter",
  retry: "Réessayer",
  sources: "Sources",
  cut: {
    length: "La réponse a été coupée à sa longueur maximale.",
    limit: "La réponse a atteint sa limite.",
    stopped: "Arrêtée.",
  },
  plans: "Forfaits et crédits",
  tiers: { free: "Gratuit", basic: "Base", pro: "Pro", usage_only: "Paiement à l’usage" },
  seePlans: "Voir les forfaits",
  choose: "Choisir",
  portal: "Ouvrir la facturation",
  pay: "Payer la facture",
  allowOverage: "Autoriser le dépassement",
  raiseLimit: "Augmenter la limite de 10 $",
  confirmEmail: "Renvoyer le courriel de confirmation",
  sent: "Envoyé.",
  until: "De nouveau disponible :",
  support: "Communiquer avec le soutien",
  left: "restantes sur",
  credits: "crédits",
  thisMonth: "ce mois-ci, sur au plus",
  ownKey: "Votre propre clé",
  save: "Vérifier et enregistrer",
  remove: "Supprimer",
};

export const words = language === "fr" ? fr : en;

/** The name of a plan. GET /plans has it in English only. */
export const planName = ({ tier, name }: Plan) => wordOf(words.tiers, tier) ?? name;

/** Why a sign-in was refused, by Supabase's error code. */
export const refusal = (code: string | undefined) => wordOf(words.refusals, code) ?? words.notSignedIn;

/** The sentence of an error, and what is wrong with which field. */
export const sentence = ({ message, fields = [] }: PageError) =>
  [message, ...fields.map(({ field, message }) => `${field}: ${message}`)].join(" ");

function wordOf(some: Record<string, string>, key: string | undefined): string | undefined {
  return key === undefined ? undefined : some[key];
}

export const money = new Intl.NumberFormat(`${language}-CA`, { style: "currency", currency: "USD" });

export const time = (iso: string) =>
  new Date(iso).toLocaleString(`${language}-CA`, { dateStyle: "short", timeStyle: "short" });
