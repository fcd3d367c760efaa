// What a stream of the chat may say: the AI SDK's own schema, and beyond it exactly the keys and the order that this
// backend promises. The SDK passes over keys that it does not know and parts that come too early, so both are looked
// for here.
import { asSchema, uiMessageChunkSchema } from "ai";
import { isDeepStrictEqual } from "node:util";

// Every key that a part has, beside `type`: it has to have all of them, and no other.
const KEYS = {
  "start": ["messageId"],
  "start-step": [],
  "finish-step": [],
  "text-start": ["id"],
  "text-delta": ["id", "delta"],
  "text-end": ["id"],
  "tool-input-start": ["toolCallId", "toolName"],
  "tool-input-available": ["toolCallId", "toolName", "input"],
  "tool-input-error": ["toolCallId", "toolName", "input", "errorText"],
  "tool-output-available": ["toolCallId", "output"],
  "tool-output-error": ["toolCallId", "errorText"],
  "source-url": ["sourceId", "url", "title"],
  "message-metadata": ["messageMetadata"],
  "finish": ["finishReason", "messageMetadata"],
  "error": ["errorText"],
  "abort": ["reason"],
};
const METADATA = [
  "request_id", "provider", "model", "funding", "usage", "cost_usd", "charged_usd", "remaining", "resets_at", "persisted",
];
const USAGE = ["input_tokens", "output_tokens", "cache_read_tokens", "cache_write_tokens"];
const WITHIN_A_STEP = /^(text|tool|source)-/;
const SCHEMA = asSchema(uiMessageChunkSchema);

// What is wrong with an object's keys.
function* keysThatAreWrong(what, value, allowed) {
  const keys = Object.keys(value ?? {});
  for (const key of allowed) if (!keys.includes(key)) yield `${what} has no ${key}`;
  for (const key of keys) if (!allowed.includes(key)) yield `${what} has ${key}`;
}

// The state of a message while it is told.
class Message {
  started = false;
  inStep = false;
  failed = false;
  closed = null; // by which part
  previous = null; // part's type
  texts = new Map(); // id: whether it is open
  calls = new Map(); // id: {name, state: begun, called or answered, step}
  sources = new Set();
  urls = new Set();
  step = 0;

  * take(part) {
    const type = part.type;
    if (this.closed) yield `${type} after ${this.closed}`;
    else if (this.failed && type !== "finish") yield `${type} after error`;
    if (!this.started && type !== "start" && type !== "error") yield `${type} before start`;
    if (WITHIN_A_STEP.test(type) && !this.inStep) yield `${type} outside of a step`;
    yield* this[type]?.(part) ?? [];
    this.previous = type;
  }

  * "start"() {
    if (this.started) yield "a second start";
    this.started = true;
  }

  * "start-step"() {
    if (this.inStep) yield "a step within a step";
    this.inStep = true;
    this.step += 1;
  }

  * "finish-step"() {
    if (!this.inStep) yield "the end of a step that was not begun";
    yield* this.open("at the end of the step");
    this.inStep = false;
  }

  * "text-start"({ id }) {
    if (this.texts.has(id)) yield `a second text ${id}`;
    this.texts.set(id, true);
  }

  * "text-delta"({ id }) {
    if (!this.texts.get(id)) yield `text for ${id}, which is not open`;
  }

  * "text-end"({ id }) {
    if (!this.texts.get(id)) yield `the end of text ${id}, which is not open`;
    this.texts.set(id, false);
  }

  * "tool-input-start"({ toolCallId, toolName }) {
    if (this.calls.has(toolCallId)) yield `a second call ${toolCallId}`;
    this.calls.set(toolCallId, { name: toolName, state: "begun", step: this.step });
  }

  * "tool-input-available"({ toolCallId, toolName }) {
    yield* this.moves(toolCallId, "begun", "called", toolName);
  }

  * "tool-input-error"({ toolCallId, toolName }) {
    yield* this.moves(toolCallId, "begun", "answered", toolName);
  }

  * "tool-output-available"({ toolCallId }) {
    yield* this.moves(toolCallId, "called", "answered");
  }

  * "tool-output-error"({ toolCallId }) {
    yield* this.moves(toolCallId, "called", "answered");
  }

  * "source-url"({ sourceId, url }) {
    if (!["tool-output-available", "source-url"].includes(this.previous)) yield `a source after ${this.previous}`;
    if (this.sources.has(sourceId)) yield `a second source ${sourceId}`;
    if (this.urls.has(url)) yield `${url} is told twice`;
    this.sources.add(sourceId);
    this.urls.add(url);
  }

  * "message-metadata"({ messageMetadata }) {
    yield* this.left("at the metadata");
    yield* metadataThatIsWrong(messageMetadata);
  }

  * "error"() {
    yield* this.left("at the error");
    this.failed = true;
  }

  * "finish"({ finishReason, messageMetadata }) {
    yield* this.left("at the finish");
    yield* metadataThatIsWrong(messageMetadata);
    if ((finishReason === "error") !== this.failed) yield `finishReason ${finishReason}, error: ${this.failed}`;
    this.closed = "finish";
  }

  * "abort"() {
    yield* this.left("at the abort");
    if (this.previous !== "message-metadata") yield "an abort that does not say what it cost";
    this.closed = "abort";
  }

  * end() {
    if (!this.closed && !this.failed) yield "no end";
    yield* this.left("at the end");
  }

  // What was opened and not closed: told once.
  * left(where) {
    yield* this.open(where);
    if (this.inStep) yield `a step is open ${where}`;
    this.inStep = false;
  }

  * open(where) {
    for (const [id, isOpen] of this.texts) if (isOpen) yield `text ${id} is open ${where}`;
    for (const [id, { state }] of this.calls) if (state !== "answered") yield `call ${id} is only ${state} ${where}`;
    for (const id of this.texts.keys()) this.texts.set(id, false);
    for (const call of this.calls.values()) call.state = "answered";
  }

  * moves(id, from, to, name) {
    const call = this.calls.get(id);
    if (call?.state !== from) yield `call ${id} is ${to}, but was ${call?.state ?? "not begun"}`;
    if (call && name && call.name !== name) yield `call ${id} is of ${call.name} and of ${name}`;
    if (call && call.step !== this.step) yield `call ${id} is ${to} in another step`;
    this.calls.set(id, { name, step: this.step, ...call, state: to });
  }
}

function* metadataThatIsWrong(metadata) {
  yield* keysThatAreWrong("the metadata", metadata, METADATA);
  yield* keysThatAreWrong("the usage", metadata?.usage, USAGE);
}

// What is wrong with the parts of a whole message, as sentences; none where all is well.
export async function partsThatAreWrong(parts) {
  const wrong = [];
  const message = new Message();
  for (const part of parts) {
    const keys = KEYS[part.type];
    if (!keys) {
      wrong.push(`a part ${part.type}`);
      continue;
    }
    wrong.push(...keysThatAreWrong(part.type, part, ["type", ...keys]));
    const read = await SCHEMA.validate(part);
    if (!read.success) wrong.push(`the AI SDK refuses ${part.type}`);
    wrong.push(...message.take(part));
  }
  return [...wrong, ...message.end()];
}

// What a body of server-sent events says: {parts, comments, done, wrong}.
export function eventsOf(body) {
  const told = { parts: [], comments: [], done: false, wrong: [] };
  const blocks = body.split("\n\n");
  if (blocks.pop() !== "") told.wrong.push("the last event is cut off");
  for (const block of blocks) {
    if (told.done) told.wrong.push(`${block.slice(0, 40)} after [DONE]`);
    if (block === "data: [DONE]") told.done = true;
    else if (block.startsWith(":") && !block.includes("\n")) told.comments.push(block);
    else if (block.startsWith("data: {") && !block.includes("\n")) told.parts.push(JSON.parse(block.slice(6)));
    else told.wrong.push(`no event: ${block.slice(0, 40)}`);
  }
  return told;
}

// What is wrong with a body: on the wire, and with the parts, which have to be those that the AI SDK made of it.
export async function bodyThatIsWrong(body, parts) {
  const told = eventsOf(body);
  if (!told.done) told.wrong.push("no [DONE]");
  for (const comment of told.comments) if (comment !== ": keep-alive") told.wrong.push(`a comment ${comment}`);
  if (!isDeepStrictEqual(told.parts, parts)) told.wrong.push("the AI SDK read something else");
  return [...told.wrong, ...(await partsThatAreWrong(told.parts))];
}
