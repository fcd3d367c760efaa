import { words } from "./words.ts";

export const context = words(
  {
    choose: "Choose what it is about",
    change: "Change what it is about",
    about: (name: string) => `About: ${name}`,
    remove: (name: string) => `Remove “${name}”`,
    title: "What is your question about?",
    kinds: "Kind of page",
    general: "Parliament in general",
    bill: "A bill",
    mp: "A member",
    spending: "Spending",
    lobbying: "Lobbying",
    dashboard: "Recent activity",
    billName: (number: string) => `Bill ${number}`,
    spendingOf: (name: string) => `Spending: ${name}`,
    lobbyingOf: (name: string) => `Lobbying: ${name}`,
    searchBill: "Number or words of the title",
    searchMember: "Name or riding",
    searchBoth: "A bill or a member",
    newest: "All, the newest",
    none: "Nothing matches. Check the spelling, or try fewer words.",
    searching: "Searching the public record …",
    failed: "The public record cannot be reached. You can ask without it.",
    found: (count: number) => (count === 1 ? "1 match" : `${count} matches`),
    session: (session: string) => `session ${session}`,
  },
  {
    choose: "Choisir le sujet",
    change: "Changer de sujet",
    about: (name: string) => `Sujet : ${name}`,
    remove: (name: string) => `Retirer « ${name} »`,
    title: "Sur quoi porte votre question?",
    kinds: "Genre de page",
    general: "Le Parlement en général",
    bill: "Un projet de loi",
    mp: "Un député",
    spending: "Dépenses",
    lobbying: "Lobbying",
    dashboard: "Activité récente",
    billName: (number: string) => `projet de loi ${number}`,
    spendingOf: (name: string) => `Dépenses : ${name}`,
    lobbyingOf: (name: string) => `Lobbying : ${name}`,
    searchBill: "Numéro ou mots du titre",
    searchMember: "Nom ou circonscription",
    searchBoth: "Un projet de loi ou un député",
    newest: "Tout, le plus récent",
    none: "Aucune correspondance. Vérifiez l’orthographe ou essayez moins de mots.",
    searching: "Recherche dans les registres publics …",
    failed: "Les registres publics sont injoignables. Vous pouvez poser votre question sans eux.",
    found: (count: number) => (count === 1 ? "1 correspondance" : `${count} correspondances`),
    session: (session: string) => `session ${session}`,
  },
);

/** Six questions for each kind of page, one a line. `name` is the bill or the member. */
export const suggestions = words(
  {
    general: () => `What is Bill C-5 about?
How did my MP vote on Bill C-5? I live at K1A 0A6.
What happened in the House on its last sitting day?
Who is the Minister of Finance?
Which members’ offices spent the most on travel?
Who lobbied on Bill C-5?`,
    bill: (name: string) => `What would ${name} change?
Where is ${name} now, and what comes next?
How did each party vote on ${name}?
Who voted against their party on ${name}?
What was said in the debate on ${name}?
Who lobbied on ${name}?`,
    mp: (name: string) => `How did ${name} vote recently?
When did ${name} vote against the party?
What did ${name} say in the House recently?
Which bills did ${name} introduce?
What did the office of ${name} spend?
Who lobbied ${name}?`,
    spending: () => `Which members’ offices spent the most on travel?
Which members’ offices spent the most on hospitality?
Which members’ offices spent the most on contracts?
What does a typical member’s office spend in a quarter?
How much goes to salaries?
How far can these figures be compared?`,
    lobbying: () => `Who lobbied on Bill C-5?
Who lobbied the most in the last months?
Which organizations lobbied on housing?
Which organizations lobbied on energy?
Who lobbied the Minister of Finance?
What does a report in the registry say, and what does it not say?`,
    dashboard: () => `What happened in the House on its last sitting day?
Which votes were held most recently?
Which bills were introduced most recently?
Which bills became law in this session?
Who lobbied the most in the last months?
Which members’ offices spent the most in the newest quarter?`,
  },
  {
    general: () => `Sur quoi porte le projet de loi C-5?
Comment mon député a-t-il voté sur le projet de loi C-5? J’habite au K1A 0A6.
Que s’est-il passé à la Chambre lors de sa dernière séance?
Qui est le ministre des Finances?
Quels bureaux de députés ont le plus dépensé en voyages?
Qui a fait du lobbying sur le projet de loi C-5?`,
    bill: (name: string) => `Que changerait le ${name}?
Où en est le ${name} et quelle est la suite?
Comment chaque parti a-t-il voté sur le ${name}?
Qui a voté contre son parti sur le ${name}?
Qu’a-t-on dit dans le débat sur le ${name}?
Qui a fait du lobbying sur le ${name}?`,
    mp: (name: string) => `Quels ont été les derniers votes de ${name}?
Dans quels votes ${name} s’est écarté de son parti?
Quelles ont été les dernières interventions de ${name} à la Chambre?
Quels projets de loi sont parrainés par ${name}?
Combien le bureau de ${name} a-t-il dépensé?
Qui a fait du lobbying auprès de ${name}?`,
    spending: () => `Quels bureaux de députés ont le plus dépensé en voyages?
Quels bureaux de députés ont le plus dépensé en hospitalité?
Quels bureaux de députés ont le plus dépensé en contrats?
Combien un bureau de député dépense-t-il d’habitude par trimestre?
Quelle part va aux salaires?
Jusqu’où peut-on comparer ces chiffres?`,
    lobbying: () => `Qui a fait du lobbying sur le projet de loi C-5?
Qui a fait le plus de lobbying ces derniers mois?
Quelles organisations ont fait du lobbying sur le logement?
Quelles organisations ont fait du lobbying sur l’énergie?
Qui a fait du lobbying auprès du ministre des Finances?
Que dit un rapport du registre, et que ne dit-il pas?`,
    dashboard: () => `Que s’est-il passé à la Chambre lors de sa dernière séance?
Quels ont été les derniers votes?
Quels projets de loi ont été déposés dernièrement?
Quels projets de loi ont reçu la sanction royale pendant cette session?
Qui a fait le plus de lobbying ces derniers mois?
Quels bureaux de députés ont le plus dépensé au dernier trimestre?`,
  },
);
