import { useLanguage } from "./language.tsx";

const OTHER = {
  en: { language: "fr", label: "FR", name: "Français" },
  fr: { language: "en", label: "EN", name: "English" },
} as const;

/** Switches to the other language. Its name is in that language. */
export function LanguageSwitch() {
  const { language, setLanguage } = useLanguage();
  const other = OTHER[language];
  return (
    <button
      type="button"
      className="plain"
      lang={other.language}
      aria-label={`${other.label} · ${other.name}`}
      onClick={() => setLanguage(other.language)}
    >
      {other.label}
    </button>
  );
}
