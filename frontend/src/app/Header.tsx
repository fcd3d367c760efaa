// The top bar: the name, the language, the quota meter, the account menu.

import { AccountMenu } from "../account/AccountMenu.tsx";
import { Meter } from "../account/Meter.tsx";
import { app } from "../words/app.ts";
import { useWords } from "../words/words.ts";
import { LanguageSwitch } from "./LanguageSwitch.tsx";
import { go } from "./route.ts";

export function Header({ onDrawer, isDrawerOpen }: { onDrawer: () => void; isDrawerOpen: boolean }) {
  const words = useWords(app);
  return (
    <header className="top">
      <button
        type="button"
        className="drawer plain"
        aria-expanded={isDrawerOpen}
        aria-controls="conversations"
        onClick={onDrawer}
      >
        {words.conversations}
      </button>
      <a
        className="name"
        href="/"
        onClick={(event) => {
          event.preventDefault();
          go("/");
        }}
      >
        {words.name}
      </a>
      <div className="end">
        <Meter />
        <LanguageSwitch />
        <AccountMenu />
      </div>
    </header>
  );
}
