// The top bar: the name, the language, the quota meter, the account menu.

import { AccountMenu } from "../account/AccountMenu.tsx";
import { Meter } from "../account/Meter.tsx";
import { app } from "../words/app.ts";
import { useWords } from "../words/words.ts";
import { LanguageSwitch } from "./LanguageSwitch.tsx";
import { go } from "./route.ts";
import type { useDrawer } from "./useDrawer.ts";

export function Header({ drawer }: { drawer: ReturnType<typeof useDrawer> }) {
  const words = useWords(app);
  return (
    <header className="top">
      <button
        ref={drawer.button}
        type="button"
        className="drawer plain"
        aria-expanded={drawer.isOpen}
        aria-controls="conversations"
        onClick={drawer.toggle}
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
