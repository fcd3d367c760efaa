// Drives a real browser: opens pages, presses buttons and reports what the page shows.
//
// Jobs on standard input, one JSON object a line, {url, press?: "the text of a button"}; for each one line on standard
// output, {url, text}. Chromium comes with an npm package, Linux x64 only; elsewhere CHROMIUM names one.

import { writeFile } from "node:fs/promises";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { createInterface } from "node:readline";
import { chromium as playwright } from "playwright-core";

async function launch() {
  if (process.env.CHROMIUM) return playwright.launch({ executablePath: process.env.CHROMIUM });
  // With this value the package also unpacks the shared libraries that Chromium needs; servers often lack them.
  process.env.AWS_EXECUTION_ENV = "AWS_Lambda_nodejs22.x";
  process.env.HOME = tmpdir();
  process.env.FONTCONFIG_FILE = await fontConfig(tmpdir());
  const { default: packed } = await import("@sparticuz/chromium");
  return playwright.launch({ executablePath: await packed.executablePath(), args: packed.args });
}

// Fontconfig settings for the folder that the package unpacks into. Its own file names /tmp, whatever TMPDIR is, and
// without a font Chromium lays out no text.
async function fontConfig(folder) {
  const path = join(folder, "fonts.conf");
  const paths = `<dir>${folder}/fonts</dir><cachedir>${folder}/fonts-cache</cachedir>`;
  await writeFile(path, `<?xml version="1.0"?><fontconfig>${paths}</fontconfig>\n`);
  return path;
}

const browser = await launch();
const page = await browser.newPage();
for await (const line of createInterface({ input: process.stdin })) {
  const { url, press } = JSON.parse(line);
  await page.goto(url);
  if (press) {
    await page.getByRole("button", { name: press, exact: true }).click();
    await page.waitForURL((now) => now.href !== url);
  }
  console.log(JSON.stringify({ url: page.url(), text: await page.innerText("body") }));
}
await browser.close();
