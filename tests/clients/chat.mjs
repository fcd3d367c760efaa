// A browser, as far as the chat needs one: the AI SDK's client. Standard input: one job a line, as JSON. Standard
// output: one answer a line, in the same order. Jobs that take a while get a name, run beside the others, and are
// asked for with `end`.
//   ask    {name, api, token, body}      POST; `body` as the client makes it: {id, messages, trigger, messageId, …}
//   resume {name, api, token, chat}      reconnectToStream
//   stop   {name, api, token, chat, when?: {name, type, parts}}   ... once that stream has so many parts of the type
//   until  {name, type, parts}           waits until a stream has them, or has ended
//   peek   {name}                        what is on the wire so far
//   leave  {name}                        the client goes
//   talk   {name, api, token, chat, acts, body}   what a page does, one after the other: {send: text}, {regenerate:
//                                        {messageId?}}, {edit: text, messageId}, {resume: {}}; "question" is the
//                                        first message's id
//   end    {name}                        waits for the end; gives what there was, for the test to judge
//   check  {parts, body?}                what is wrong with them
import { AbstractChat, DefaultChatTransport, readUIMessageStream } from "ai";
import { EventEmitter, once } from "node:events";
import { createInterface } from "node:readline";
import { bodyThatIsWrong, eventsOf, partsThatAreWrong } from "./stream_rules.mjs";

const DEADLINE_MS = 60_000; // no stream of the tests takes that long
const jobs = new Map();

class Stream {
  news = new EventEmitter();
  leaving = new AbortController();
  deadline = setTimeout(() => this.leaving.abort(), DEADLINE_MS).unref();
  parts = [];
  ended = false;
  errors = []; // what readUIMessageStream reports
  body = "";
  wire = Promise.resolve();

  transport({ api, token }) {
    return new DefaultChatTransport({ api, headers: { authorization: `Bearer ${token}` }, fetch: this.fetch });
  }

  // The platform's, with an ear on the wire.
  fetch = async (url, init) => {
    const response = await fetch(url, init);
    this.status = response.status;
    this.headers = Object.fromEntries(response.headers);
    if (!response.ok || !response.body) return response;
    const [heard, read] = response.body.tee();
    this.wire = this.tap(heard);
    return new Response(read, { status: response.status, headers: response.headers });
  };

  async tap(heard) {
    try {
      for await (const piece of heard.pipeThrough(new TextDecoderStream())) this.body += piece;
    } catch (error) {
      this.broke_off = error.name;
    }
  }

  async listen(opening) {
    try {
      const stream = await opening;
      this.nothing = stream === null;
      if (stream) await Promise.all(stream.tee().map((branch, at) => (at ? this.build(branch) : this.hear(branch))));
    } catch (error) {
      this.thrown = { name: error.name, status: error.statusCode, body: error.responseBody };
    }
    await this.wire;
    this.ended = true;
    this.news.emit("part");
  }

  async hear(stream) {
    for await (const part of stream) {
      this.parts.push(part);
      this.news.emit("part");
    }
  }

  async build(stream) {
    const onError = (error) => this.errors.push(error.message);
    for await (this.message of readUIMessageStream({ stream, onError }));
  }

  async until({ type, parts }) {
    const enough = () => this.parts.filter((part) => part.type === type).length >= parts;
    while (!enough() && !this.ended) await once(this.news, "part");
  }

  async told() {
    const { status, headers, nothing, parts, message, errors, thrown } = this;
    const wrong = parts.length && !thrown ? await bodyThatIsWrong(this.body, parts) : [];
    const { comments } = eventsOf(this.body);
    return { status, headers, nothing, parts, comments, wrong, message, errors, thrown };
  }
}

// What a frontend's framework keeps of a chat, without a framework.
class State {
  status = "ready";
  error = undefined;
  messages = [];
  pushMessage = (message) => (this.messages = [...this.messages, message]);
  popMessage = () => (this.messages = this.messages.slice(0, -1));
  replaceMessage = (at, message) => (this.messages = this.messages.with(at, message));
  snapshot = structuredClone;
}

class Page extends AbstractChat {
  act({ send, regenerate, edit, messageId, resume }, body) {
    const id = (named) => (named === "question" ? this.messages[0].id : named);
    if (send) return this.sendMessage({ text: send }, { body });
    if (edit) return this.sendMessage({ text: edit, messageId: id(messageId) }, { body });
    if (resume) return this.resumeStream();
    return this.regenerate({ messageId: id(regenerate.messageId), body });
  }
}

// Runs beside the others until `end` asks for it.
function begin(name, job, run) {
  const running = run();
  running.catch(() => {}); // told by `end`
  jobs.set(name, { ...job, running });
  return {};
}

const does = {
  ask({ name, body: { id, messages, trigger, messageId, ...body }, ...where }) {
    const stream = new Stream();
    const send = { chatId: id, messages, trigger, messageId, body, abortSignal: stream.leaving.signal };
    return begin(name, { stream }, async () => {
      await stream.listen(stream.transport(where).sendMessages(send));
      return stream.told();
    });
  },
  resume({ name, chat, ...where }) {
    const stream = new Stream();
    return begin(name, { stream }, async () => {
      await stream.listen(stream.transport(where).reconnectToStream({ chatId: chat, abortSignal: stream.leaving.signal }));
      return stream.told();
    });
  },
  stop({ name, api, token, chat, when }) {
    return begin(name, {}, async () => {
      if (when) await jobs.get(when.name).stream.until(when);
      const headers = { authorization: `Bearer ${token}` };
      const response = await fetch(`${api}/${encodeURIComponent(chat)}/stop`, { method: "POST", headers });
      return { status: response.status, body: await response.json() };
    });
  },
  talk({ name, chat, acts, body, ...where }) {
    const page = new Page({ id: chat, transport: new Stream().transport(where), state: new State() });
    return begin(name, {}, async () => {
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
  leave({ name }) {
    jobs.get(name).stream.leaving.abort();
    return {};
  },
  end: ({ name }) => jobs.get(name).running,
  check: async ({ parts, body }) => ({
    wrong: body === undefined ? await partsThatAreWrong(parts) : await bodyThatIsWrong(body, parts),
  }),
};

const lines = createInterface({ input: process.stdin });
lines.on("close", () => process.exit()); // whatever still runs
for await (const line of lines) {
  const { do: what, ...job } = JSON.parse(line);
  let told;
  try {
    told = await does[what](job);
  } catch (error) {
    told = { failed: error.stack };
  }
  process.stdout.write(`${JSON.stringify(told)}\n`);
}
