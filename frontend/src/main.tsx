import "./app/style.css";
import { StrictMode } from "react";
import { createRoot } from "react-dom/client";
import { App } from "./app/App.tsx";
import { loadConfig } from "./app/config.ts";
import { ErrorBoundary } from "./app/ErrorBoundary.tsx";
import { LanguageProvider } from "./app/language.tsx";
import { createServices, ServicesProvider } from "./app/services.tsx";

const services = createServices(await loadConfig());

createRoot(document.getElementById("root") as HTMLElement).render(
  <StrictMode>
    <LanguageProvider>
      <ErrorBoundary>
        <ServicesProvider services={services}>
          <App />
        </ServicesProvider>
      </ErrorBoundary>
    </LanguageProvider>
  </StrictMode>,
);
