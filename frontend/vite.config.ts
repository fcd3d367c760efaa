import { fileURLToPath } from "node:url";
import { defineConfig } from "vite";

const here = (path: string) => fileURLToPath(new URL(path, import.meta.url));

export default defineConfig({
  // supabase-js brings a realtime client that the page does not use: 17 KB gzipped.
  resolve: { alias: { "@supabase/realtime-js": here("src/no_realtime.ts") } },
  build: { target: "es2023", modulePreload: { polyfill: false }, reportCompressedSize: false },
  server: { strictPort: true },
});
