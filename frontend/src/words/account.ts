// The texts of the header, the notices and the actions. Those of the dialogs are loaded with them.

import { words } from "./words.ts";

const s = (n: number) => (n === 1 ? "" : "s");
/** In French, 0 and 1 are singular. */
const pl = (n: number) => (n < 2 ? "" : "s");

export const account = words(
  {
    plans: "Plan and payments",
    keys: "Your own keys",
    data: "Your data",
  },
  {
    plans: "Forfait et paiements",
    keys: "Vos propres clés",
    data: "Vos données",
  },
);

export const meter = words(
  {
    free: (left: number, limit: number) => `${left} of ${limit} free questions left`,
    daily: (left: number, limit: number) => `${left} of ${limit} left today`,
    back: (time: string) => `back in ${time}`,
    credits: (n: number, shown: string) => `${shown} credit${s(n)}`,
    overage: (used: string, limit: string) => `${used} of ${limit} this month`,
    own_key: "Your key · unlimited",
    blocked: "Account blocked",
    unpaid: "Payment due",
    overage_off: "Paying per question is off",
    none: "No plan",
    opens: "Opens your plan and payments",
  },
  {
    free: (left: number, limit: number) => `Il reste ${left} question${pl(left)} gratuite${pl(left)} sur ${limit}`,
    daily: (left: number, limit: number) => `Il reste ${left} sur ${limit} aujourd’hui`,
    back: (time: string) => `retour dans ${time}`,
    credits: (n: number, shown: string) => `${shown} crédit${pl(n)}`,
    overage: (used: string, limit: string) => `${used} sur ${limit} ce mois-ci`,
    own_key: "Votre clé · illimité",
    blocked: "Compte bloqué",
    unpaid: "Paiement dû",
    overage_off: "Le paiement à la question est désactivé",
    none: "Aucun forfait",
    opens: "Ouvre votre forfait et vos paiements",
  },
);

export const until = words(
  {
    minutes: (n: number) => `${n} min`,
    hours: (n: number) => `${n} h`,
    days: (n: number) => `${n} day${s(n)}`,
  },
  {
    minutes: (n: number) => `${n} min`,
    hours: (n: number) => `${n} h`,
    days: (n: number) => `${n} jour${pl(n)}`,
  },
);

export const actions = words(
  {
    upgrade: "See the plans",
    buyPack: "Buy credits",
    updateCard: "Update the card",
    payInvoice: "Pay the invoice",
    enableOverage: "Turn on paying per question",
    overageTerms: (price: string, limit: string) => `${price} a question, up to ${limit} a month.`,
    raiseLimit: "Raise the limit",
    confirmEmail: "Send the e-mail again",
    mailSent: (email: string) => `Sent to ${email}. Open the link in it.`,
    mailLater: "It was sent a moment ago. Wait a minute before you send it again.",
    mailFailed: "It could not be sent. Check your connection and try again.",
    reconnectKey: "Check your keys",
    signIn: "Sign in again",
    again: "Try again",
    defaultModel: "Ask with the default model",
    againAt: (time: string) => `Possible again on ${time}.`,
    contactSupport: "Contact support",
    supportSubject: (id: string) => `Request ${id}`,
    supportUnknown: (id: string) =>
      id ? `Tell the people who run this service the request id: ${id}.` : "Contact the people who run this service.",
    dismiss: "Close",
  },
  {
    upgrade: "Voir les forfaits",
    buyPack: "Acheter des crédits",
    updateCard: "Changer la carte",
    payInvoice: "Payer la facture",
    enableOverage: "Activer le paiement à la question",
    overageTerms: (price: string, limit: string) => `${price} par question, jusqu’à ${limit} par mois.`,
    raiseLimit: "Augmenter la limite",
    confirmEmail: "Renvoyer le courriel",
    mailSent: (email: string) => `Envoyé à ${email}. Ouvrez le lien qu’il contient.`,
    mailLater: "Il vient d’être envoyé. Attendez une minute avant de le renvoyer.",
    mailFailed: "Il n’a pas pu être envoyé. Vérifiez votre connexion et réessayez.",
    reconnectKey: "Vérifier vos clés",
    signIn: "Se reconnecter",
    again: "Réessayer",
    defaultModel: "Demander au modèle par défaut",
    againAt: (time: string) => `Possible de nouveau le ${time}.`,
    contactSupport: "Écrire au soutien",
    supportSubject: (id: string) => `Demande ${id}`,
    supportUnknown: (id: string) =>
      id
        ? `Donnez le numéro de la demande aux responsables de ce service : ${id}.`
        : "Communiquez avec les responsables de ce service.",
    dismiss: "Fermer",
  },
);

export const notices = words(
  {
    region: "Notices",
    hide: "Hide",
    pastDue: (day: string) => `Your payment of ${day} failed. Pay the open invoice to keep your plan.`,
    keyRejected: (name: string, hint: string) =>
      `${name} no longer accepts your key ${hint}, so your plan pays for your questions.`,
  },
  {
    region: "Avis",
    hide: "Masquer",
    pastDue: (day: string) => `Votre paiement du ${day} a échoué. Payez la facture ouverte pour garder votre forfait.`,
    keyRejected: (name: string, hint: string) =>
      `${name} n’accepte plus votre clé ${hint}; votre forfait paie donc vos questions.`,
  },
);

export const why = words(
  {
    why: "Why?",
    whyAnswer: "What this answer used",
    whyRefused: "Why this was refused",
  },
  {
    why: "Pourquoi?",
    whyAnswer: "Ce que cette réponse a utilisé",
    whyRefused: "Pourquoi ce refus",
  },
);

export const feedback = words(
  {
    up: "Helpful",
    down: "Not helpful",
    thanks: "Thank you.",
    removed: "Your rating is removed.",
    comment: "What was good or wrong? (optional)",
    send: "Send the comment",
    noComment: "No comment",
  },
  {
    up: "Utile",
    down: "Pas utile",
    thanks: "Merci.",
    removed: "Votre évaluation est retirée.",
    comment: "Qu’est-ce qui était bon ou faux? (facultatif)",
    send: "Envoyer le commentaire",
    noComment: "Sans commentaire",
  },
);
