// `node --import ./sdk.mjs` with AI_SDK=6 or 7: "ai" is that version, also for the files of frontend/lib.
import { registerHooks } from "node:module";

const parentURL = { 6: import.meta.resolve("@ai-sdk/react6"), 7: import.meta.url }[process.env.AI_SDK];
registerHooks({
  resolve: (name, context, next) => next(name, name === "ai" ? { ...context, parentURL } : context),
});
