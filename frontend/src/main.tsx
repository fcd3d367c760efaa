import "./app/style.css";
import { StrictMode } from "react";
import { createRoot } from "react-dom/client";
import { App } from "./app/App.tsx";
import { loadConfig } from "./app/config.ts";
import { Broken, ErrorBoundary } from "./app/ErrorBoundary.tsx";
import { LanguageProvider } from "./app/language.tsx";
import { createServices, ServicesProvider } from "./app/services.tsx";

const root = createRoot(document.getElementById("root") as HTMLElement);

try {
  const services = createServices(await loadConfig());
  root.render(
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
} catch (error) {
  console.error(error);
  root.render(<Broken />);
}
