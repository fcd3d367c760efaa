// A browser, as far as the chat needs one: the AI SDK's client. Standard input: one job a line, as JSON. Standard
// output: one result a line, in the same order. Long jobs have a name and run concurrently; `end` returns their result.
//   ask    {name, api, token, body}      POST; `body` as the client builds it: {id, messages, trigger, messageId, …}
//   resume {name, api, token, chat}      reconnectToStream
//   stop   {name, api, token, chat, when?: {name, type, parts}}   ... when that stream has so many parts of the type
//   until  {name, type, parts}           waits until a stream has so many parts of the type, or has ended
//   peek   {name}                        the events so far
//   disconnect {name}                    closes the connection
//   use    {name, api, token, chat, acts, body}   a page's actions, one after the other: {send: text}, {regenerate:
//                                        {messageId?}}, {edit: text, messageId}, {resume: {}}, {reload: {}};
//                                        "question" is the first message's id
//   end    {name}                        waits for the end and returns the result
//   check  {parts, body?}                the violations in them
import { AbstractChat, DefaultChatTransport, readUIMessageStream, validateUIMessages } from "ai";
import { EventEmitter, once } from "node:events";
import { createInterface } from "node:readline";
import { State } from "./state.mjs";
import { bodyViolations, eventsOf, partViolations } from "./stream_rules.mjs";

const DEADLINE_MS = 60_000; // longer than any stream of the tests
const jobs = new Map();

class Stream {
  changes = new EventEmitter();
  leaving = new AbortController();
  deadline = setTimeout(() => this.leaving.abort(), DEADLINE_MS).unref();
  parts = [];
  ended = false;
  errors = []; // of readUIMessageStream
  body = "";
  tapped = Promise.resolve();

  transport({ api, token }) {
    return new DefaultChatTransport({ api, headers: { authorization: `Bearer ${token}` }, fetch: this.fetch });
  }

  // Node's fetch, with a copy of the body.
  fetch = async (url, init) => {
    const response = await fetch(url, init);
    this.status = response.status;
    this.headers = Object.fromEntries(response.headers);
    if (!response.ok || !response.body) return response;
    const [copy, original] = response.body.tee();
    this.tapped = this.tap(copy);
    return new Response(original, { status: response.status, headers: response.headers });
  };

  async tap(body) {
    try {
      for await (const piece of body.pipeThrough(new TextDecoderStream())) this.body += piece;
    } catch (error) {
      this.interrupted = error.name;
    }
  }

  async read(opening) {
    try {
      const stream = await opening;
      this.was_empty = stream === null;
      if (stream) await Promise.all(stream.tee().map((branch, at) => (at ? this.build(branch) : this.collect(branch))));
    } catch (error) {
      this.thrown = { name: error.name, status: error.statusCode, body: error.responseBody };
    }
    await this.tapped;
    this.ended = true;
    this.changes.emit("part");
  }

  async collect(stream) {
    for await (const part of stream) {
      this.parts.push(part);
      this.changes.emit("part");
    }
  }

  async build(stream) {
    const onError = (error) => this.errors.push(error.message);
    for await (this.message of readUIMessageStream({ stream, onError }));
  }

  async until({ type, parts }) {
    const enough = () => this.parts.filter((part) => part.type === type).length >= parts;
    while (!enough() && !this.ended) await once(this.changes, "part");
  }

  async result() {
    const { status, headers, was_empty, parts, message, errors, thrown } = this;
    const violations = parts.length && !thrown ? await bodyViolations(this.body, parts) : [];
    const { comments } = eventsOf(this.body);
    return { status, headers, was_empty, parts, comments, violations, message, errors, thrown };
  }
}

class Page extends AbstractChat {
  act({ send, regenerate, edit, messageId, resume, reload }, body) {
    const id = (named) => (named === "question" ? this.messages[0].id : named);
    if (send) return this.sendMessage({ text: send }, { body });
    if (edit) return this.sendMessage({ text: edit, messageId: id(messageId) }, { body });
    if (resume) return this.resumeStream();
    if (reload) return this.reload();
    return this.regenerate({ messageId: id(regenerate.messageId), body });
  }
}

// Starts a concurrent job. `end` returns its result.
function start(name, job, run) {
  const running = run();
  running.catch(() => {}); // `end` reports it
  jobs.set(name, { ...job, running });
  return {};
}

const commands = {
  ask({ name, body: { id, messages, trigger, messageId, ...body }, ...where }) {
    const stream = new Stream();
    const send = { chatId: id, messages, trigger, messageId, body, abortSignal: stream.leaving.signal };
    return start(name, { stream }, async () => {
      await stream.read(stream.transport(where).sendMessages(send));
      return stream.result();
    });
  },
  resume({ name, chat, ...where }) {
    const stream = new Stream();
    return start(name, { stream }, async () => {
      await stream.read(stream.transport(where).reconnectToStream({ chatId: chat, abortSignal: stream.leaving.signal }));
      return stream.result();
    });
  },
  stop({ name, api, token, chat, when }) {
    return start(name, {}, async () => {
      if (when) await jobs.get(when.name).stream.until(when);
      const headers = { authorization: `Bearer ${token}` };
      const response = await fetch(`${api}/${encodeURIComponent(chat)}/stop`, { method: "POST", headers });
      return { status: response.status, body: await response.json() };
    });
  },
  use({ name, chat, acts, body, ...where }) {
    const page = new Page({ id: chat, transport: new Stream().transport(where), state: new State() });
    page.reload = async () => {
      const headers = { authorization: `Bearer ${where.token}` };
      const response = await fetch(`${where.api}/${encodeURIComponent(chat)}/messages`, { headers });
      page.messages = await validateUIMessages({ messages: (await response.json()).messages });
    };
    return start(name, {}, async () => {
      const seen = [];
      for (const act of acts) {
        await page.act(act, body);
        seen.push({ messages: page.messages, status: page.status, error: page.error?.message });
      }
      return { seen };
    });
  },
  async until({ name, ...what }) {
    const { stream } = jobs.get(name);
    await stream.until(what);
    return { parts: stream.parts };
  },
  peek: ({ name }) => eventsOf(jobs.get(name).stream.body),
  disconnect({ name }) {
    jobs.get(name).stream.leaving.abort();
    return {};
  },
  end: ({ name }) => jobs.get(name).running,
  check: async ({ parts, body }) => ({
    violations: body === undefined ? await partViolations(parts) : await bodyViolations(body, parts),
  }),
};

const lines = createInterface({ input: process.stdin });
lines.on("close", () => process.exit()); // even if jobs are running
for await (const line of lines) {
  const { command, ...job } = JSON.parse(line);
  let result;
  try {
    result = await commands[command](job);
  } catch (error) {
    result = { failed: error.stack };
  }
  process.stdout.write(`${JSON.stringify(result)}\n`);
}
