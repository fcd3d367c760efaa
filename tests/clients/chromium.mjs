// Unpacks the Chromium of an npm package, with its libraries and fonts, into the temporary folder (TMPDIR). Linux
// x64 only.

process.env.AWS_EXECUTION_ENV = "AWS_Lambda_nodejs22.x"; // otherwise it leaves out the libraries, which servers often lack
const { default: chromium } = await import("@sparticuz/chromium");
await chromium.executablePath();
