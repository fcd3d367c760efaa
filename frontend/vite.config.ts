import { fileURLToPath } from "node:url";
import { defineConfig } from "vite";

const here = (path: string) => fileURLToPath(new URL(path, import.meta.url));

// AI_SDK=6 builds with the version before, which the tests have.
const sdk6 = here("../tests/clients/node_modules/@ai-sdk/react6");
const sdk = process.env.AI_SDK === "6" ? { "@ai-sdk/react": sdk6, ai: `${sdk6}/node_modules/ai` } : {};
// Where make run serves the stack.
const stack = `http://127.0.0.1:${8787 + Number(process.env.PORT_OFFSET ?? 0)}`;

export default defineConfig({
  // supabase-js brings clients that the page does not use: 17 and 7 KB gzipped.
  resolve: {
    alias: {
      "@supabase/realtime-js": here("src/no_realtime.ts"),
      "@supabase/storage-js": here("src/no_storage.ts"),
      ...sdk,
    },
    dedupe: ["react"],
  },
  build: { target: "es2023", modulePreload: { polyfill: false }, reportCompressedSize: false },
  // The local stack allows this origin, and its configuration says where everything is.
  server: { strictPort: true, proxy: { "/config.json": stack, "/_stack": stack } },
});
