// Pages that use frontend/lib. Standard input: {functions_url, tokens: one for each page}. Standard
// output: what each page did, by name, for the test to judge.
import { AbstractChat, DefaultChatTransport } from "ai";
import { once } from "node:events";
import { createServer } from "node:http";
import { text } from "node:stream/consumers";
import {
  ApiError,
  chatTransport,
  createClient,
  loadHistory,
  readError,
  stopAnswer,
  toUIMessages,
} from "../../frontend/lib/index.ts";
import { State } from "./state.mjs";

const { functions_url, tokens } = JSON.parse(await text(process.stdin));

// Requests as they leave the page.
const requests = [];
const send = globalThis.fetch;
globalThis.fetch = (url, init) => {
  requests.push({ url, method: init.method, headers: init.headers, body: init.body && JSON.parse(init.body) });
  return send(url, init);
};

// What is between a page and the functions: /html/…, /empty/… and /limited/… answer themselves, /ends/… ends an answer
// early, /newer/… has parts that no AI SDK knows, /cut/… cuts the connection of the first answer. The places of STRANGE
// answer with the status and the body there.
const EVENT = 'data: {"type":"start","messageId":"m"}\n\n';
const NEWER = ["later", "text-start", "text-delta", "later-too", "text-end", "finish"].map(
  (type) => `data: ${JSON.stringify({ type, ...(type.startsWith("text") && { id: "t" }), ...(type === "text-delta" && { delta: "Hi" }) })}\n\n`,
);
const STRANGE = {
  nothing: [204],
  blank: [200, ""],
  page: [200, "<html>Sign in to the network</html>"],
  none: [200, "null"],
  object: [200, "{}"],
  messages: [200, '{"conversation": {}, "messages": [null, {"id": "a", "role": "user", "parts": null}]}'],
};
const uncut = new Set();
const gateway = createServer(async (request, response) => {
  const [, place, path] = /^\/(\w+)(.*)/.exec(request.url);
  if (place === "html") return response.writeHead(502).end("<html><body>Bad Gateway</body></html>");
  if (place === "empty") return response.writeHead(500).end();
  if (place === "limited") return response.writeHead(429, { "retry-after": "30" }).end();
  if (place in STRANGE) return response.writeHead(STRANGE[place][0]).end(STRANGE[place][1]);
  if (place === "newer") return response.writeHead(200).end([EVENT, ...NEWER].join(""));
  if (place === "ends") return response.writeHead(200, { "content-type": "text/event-stream" }).end(EVENT);
  const { authorization } = request.headers;
  const body = request.method === "POST" ? await text(request) : undefined;
  const headers = { authorization, "content-type": "application/json" };
  const answer = await send(functions_url + path, { method: request.method, headers, body });
  response.writeHead(answer.status, Object.fromEntries(answer.headers));
  let read = "";
  for await (const piece of answer.body ?? []) {
    response.write(piece);
    read += Buffer.from(piece).toString();
    if (path === "/chat" && read.split('"text-delta"').length > 3 && !uncut.has(authorization)) {
      uncut.add(authorization);
      return response.destroy();
    }
  }
  response.end();
});
await once(gateway.listen(0, "127.0.0.1"), "listening");
const at = (place) => `http://127.0.0.1:${gateway.address().port}/${place}`;

class Page extends AbstractChat {}

function open(user, { url = functions_url, language = "en", keepsHistory = true, transport, id = crypto.randomUUID() } = {}) {
  const token = async () => tokens[user] ?? null;
  const functions = { chat: `${url}/`, keys: url, checkout: url, account: `${url}/` }; // AWS ends them with a slash
  const client = createClient({ functions, token, language: () => language });
  transport ??= chatTransport({
    client,
    keepsHistory: () => keepsHistory,
    settings: () => ({ context: { type: "bill", id: "C-5" } }),
  });
  const page = new Page({ id, transport, state: new State() });
  const sent = () => requests.filter(({ body }) => body?.id === page.id);
  const seen = () => ({
    status: page.status,
    messages: page.messages,
    problem: page.error && readError(page.error, language),
    retriesAsDisconnected: page.error instanceof TypeError,
  });
  return { page, client, sent, seen };
}

const pages = {
  async kept() {
    const { page, client, sent, seen } = open("kept");
    await page.sendMessage({ text: 'First [tool:get_bill {"number": "C-5"}]' });
    await page.sendMessage({ text: "Second" });
    const history = await loadHistory(client, page.id);
    const shown = page.messages;
    await page.sendMessage({ text: "First, edited", messageId: page.messages[0].id });
    await page.regenerate();
    return { sent: sent(), history, shown, ...seen(), usage: await client.call("GET /usage") };
  },
  async notKept() {
    const { page, client, sent, seen } = open("notKept", { keepsHistory: false });
    await page.sendMessage({ text: 'First [tool:get_bill {"number": "C-5"}]' });
    await page.sendMessage({ text: "Second" });
    return { sent: sent(), history: await loadHistory(client, page.id), ...seen() };
  },
  async long() {
    const { page, sent } = open("long", { keepsHistory: false });
    page.messages = Array.from({ length: 300 }, (_, at) => ({
      id: `m${at}`,
      role: at % 2 ? "assistant" : "user",
      parts: [{ type: "text", text: "é".repeat(at < 280 ? 10 : 4_000) }],
    }));
    await page.sendMessage({ text: "Still there?" });
    return { sent: sent(), status: page.status };
  },
  async refused() {
    const { page, seen } = open("refused", { language: "fr" });
    await page.sendMessage({ text: "Encore une" });
    return seen();
  },
  async refusedWithTheSdksTransport() {
    const headers = { authorization: `Bearer ${tokens.refused}` };
    const { page, seen } = open("refused", { transport: new DefaultChatTransport({ api: `${functions_url}/chat`, headers }) });
    await page.sendMessage({ text: "One more" });
    return seen();
  },
  async failed() {
    const { page, client, sent, seen } = open("failed");
    await page.sendMessage({ text: `Fail in the middle ${page.id} [fault:first-only drop]` });
    const first = { ...seen(), stored: readError(page.lastMessage.metadata.error, "fr") };
    await page.regenerate();
    return { first, ...seen(), sent: sent(), usage: await client.call("GET /usage") };
  },
  async overloaded() {
    const { page, seen } = open("overloaded");
    await page.sendMessage({ text: "Fail at once [fault:overloaded]" });
    return seen();
  },
  async cut(user = "cut", keepsHistory = false) {
    const { page, client, sent, seen } = open(user, { url: at("cut"), keepsHistory });
    await page.sendMessage({ text: "At length [fault:slow 0.05] [fault:long 40]" });
    const first = seen();
    if (keepsHistory) await page.resumeStream();
    else await page.regenerate();
    return { first, ...seen(), sent: sent(), usage: await client.call("GET /usage") };
  },
  resumed: () => pages.cut("resumed", true),
  async stopped() {
    const { page, client } = open("stopped");
    const asked = page.sendMessage({ text: "At length [fault:slow 0.1] [fault:long 60]" });
    while (page.status !== "streaming") await new Promise((resolve) => setTimeout(resolve, 20));
    await stopAnswer(client, page.id);
    await asked;
    return { status: page.status, metadata: page.lastMessage.metadata };
  },
  async broken() {
    const found = {};
    for (const place of ["html", "empty", "limited", "ends"]) {
      const { page, client, seen } = open("broken", { url: at(place) });
      await page.sendMessage({ text: "Hello?" });
      const called = place === "ends" ? undefined : await failure(client.call("GET /usage"));
      found[place] = { ...seen(), called };
    }
    const { page, client, seen } = open("broken", { url: "http://127.0.0.1:9", language: "fr" });
    await page.sendMessage({ text: "Hello?" });
    found.offline = { ...seen(), called: await failure(client.call("GET /usage")) };
    const abort = (reason) => open("broken").client.call("GET /usage", { signal: AbortSignal.abort(reason) });
    found.aborted = { called: await failure(abort()) };
    found.left = { called: await failure(abort("left the page")) };
    return found;
  },
  async strange() {
    const called = {};
    for (const place of Object.keys(STRANGE)) {
      const { client } = open("anonymous", { url: at(place), language: "fr-CA" });
      called[place] = await loadHistory(client, "strange").catch((error) => failure(Promise.reject(error)));
    }
    const { page, seen } = open("anonymous", { url: at("nothing") });
    await page.sendMessage({ text: "Hello?" });
    const newer = open("anonymous", { url: at("newer") });
    await newer.page.sendMessage({ text: "Hello?" });
    return { called, unanswered: seen(), newer: newer.seen() };
  },
  async thrown() {
    const own = { code: "internal", reason_code: "internal" };
    const errors = {
      bug: new TypeError("Cannot read properties of undefined (reading 'network')"),
      range: new RangeError("Invalid time value"),
      sdk: Object.assign(new Error("Type validation failed: Value: {}."), { name: "AI_TypeValidationError" }),
      json: new Error('{"error": {"message": "raw"}}'),
      stack: new Error("x is not a function"),
      text: "raw",
      nothing: undefined,
      fetch: new TypeError("Failed to fetch"),
      cut: new DOMException("The network failed", "NetworkError"),
      part: new Error("Cette réponse a été refusée."),
      untyped: { ...own, message: null, action: null, url: 5, fields: [null], resets_at: "soon", more: 1 },
      newer: { code: "later", reason_code: "later_too", message: "Later.", action: "fly" },
    };
    const read = (error) => readError(error, "fr-CA");
    const lost = Object.assign(new Error("Failed to fetch"), { name: "AuthRetryableFetchError" });
    const functions = { chat: "", keys: "", checkout: "", account: at("none") };
    const language = () => "fr";
    const noToken = (token) => failure(createClient({ functions, language, token }).call("GET /usage"));
    const client = open("anonymous").client;
    const transport = chatTransport({ client, keepsHistory: () => false });
    const messages = [null, { id: "a", role: "user", parts: null }, { id: "b", role: "user", parts: [null] }];
    return {
      read: Object.fromEntries(Object.entries(errors).map(([name, error]) => [name, read(error)])),
      offline: await noToken(() => Promise.reject(lost)),
      noToken: await noToken(() => {
        throw new Error("This message is not for users.");
      }),
      invalid: await failure(transport.sendMessages({ chatId: "x", messages, trigger: "submit-message" })),
      messages: [null, undefined, {}, { messages: null }].map(toUIMessages),
    };
  },
  async called() {
    const { client } = open("called");
    const anonymous = open("anonymous", { language: "fr" }).client;
    const path = { provider: "openai" };
    return {
      plans: (await anonymous.call("GET /plans")).plans.map(({ tier }) => tier),
      noToken: await failure(anonymous.call("GET /usage")),
      key: await client.call("PUT /keys/{provider}", { path, body: { api_key: `sk-own-${crypto.randomUUID()}` } }),
      invalid: await failure(client.call("PUT /keys/{provider}", { path, body: { api_key: "short" } })),
      missing: await failure(client.call("GET /shared/{token}", { path: { token: "no-such-token" } })),
      elsewhere: await resumedElsewhere(client),
      page: await client.call("POST /checkout", {
        body: { pack: "pack_100", success_url: `${functions_url}/`, cancel_url: `${functions_url}/` },
      }),
      headers: [...new Set(requests.flatMap(({ headers }) => Object.keys(headers)))],
    };
  },
};

/** The addresses at which an answer is followed whose page has another one for that, and what came back. */
async function resumedElsewhere(client) {
  const resumeUrl = (id) => `${functions_url}/chat/${id}-elsewhere/stream`;
  const transport = chatTransport({ client, keepsHistory: () => true, resumeUrl });
  const stream = await transport.reconnectToStream({ chatId: "one" });
  return { stream, urls: requests.map(({ url }) => url).filter((url) => url.includes("/one")) };
}

async function failure(call) {
  const error = await call.then(() => undefined, (thrown) => thrown);
  return { isApiError: error instanceof ApiError, status: error.status, ...readError(error) };
}

const results = await Promise.all(Object.entries(pages).map(async ([name, use]) => [name, await use()]));
process.stdout.write(JSON.stringify(Object.fromEntries(results)), () => process.exit());
