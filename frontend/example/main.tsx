// The entry of Vite's template "react-ts".
import { StrictMode } from "react";
import { createRoot } from "react-dom/client";
import App from "./src/App.tsx";

createRoot(document.getElementById("root") as HTMLElement).render(
  <StrictMode>
    <App />
  </StrictMode>,
);
