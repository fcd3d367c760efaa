// src/words.ts: the page's own words. Everything else comes from the backend in the same language.
import type { Language } from "./lib/index.ts";

const saved = localStorage.getItem("language") ?? navigator.language;
export const language: Language = saved.startsWith("fr") ? "fr" : "en";
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

export const money = new Intl.NumberFormat(`${language}-CA`, { style: "currency", currency: "USD" });

export const time = (iso: string) =>
  new Date(iso).toLocaleString(`${language}-CA`, { dateStyle: "short", timeStyle: "short" });
