// The page's build settings with version 6 of the AI SDK. Run by the page's own Vite, with --configLoader native.
import { fileURLToPath } from "node:url";
import page from "../../frontend/vite.config.ts";

const here = (path: string) => fileURLToPath(new URL(path, import.meta.url));
const sdk = here("node_modules/@ai-sdk/react6");

export default {
  ...page,
  resolve: {
    alias: { ...page.resolve?.alias, "@ai-sdk/react": sdk, ai: `${sdk}/node_modules/ai` },
    dedupe: ["react", "react-dom"], // those of the page
  },
};
