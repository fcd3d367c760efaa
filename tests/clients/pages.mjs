// A real browser for a person who buys something: opens pages and presses buttons, and says what is then to be seen.
//
// Jobs on standard input, one JSON object a line, {url, press?: "a button's words"}; for each one line on standard
// output, {url, text}. Chromium comes with an npm package, Linux x64 only; elsewhere CHROMIUM names one.

import { createInterface } from "node:readline";
import { chromium as playwright } from "playwright-core";

async function browser() {
  if (process.env.CHROMIUM) return playwright.launch({ executablePath: process.env.CHROMIUM });
  // So told, the package brings the libraries that Chromium needs, too: a machine of servers and CI has none.
  process.env.AWS_EXECUTION_ENV = "AWS_Lambda_nodejs22.x";
  const { default: packed } = await import("@sparticuz/chromium");
  return playwright.launch({ executablePath: await packed.executablePath(), args: packed.args });
}

const running = await browser();
const page = await running.newPage();
for await (const line of createInterface({ input: process.stdin })) {
  const { url, press } = JSON.parse(line);
  await page.goto(url);
  if (press) {
    await page.getByRole("button", { name: press, exact: true }).click();
    await page.waitForURL((now) => now.href !== url);
  }
  console.log(JSON.stringify({ url: page.url(), text: await page.innerText("body") }));
}
await running.close();
