// The rules of the chat's streams: the AI SDK's own schema, and the exact keys and order that this backend promises. The
// SDK ignores keys that it does not know and parts that are too early, so both are checked here.
import { asSchema, uiMessageChunkSchema } from "ai";
import { isDeepStrictEqual } from "node:util";

// The keys of each part beside `type`: all of them are required, and no others are allowed.
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
  "finish_reason",
];
const ERROR = ["code", "reason_code", "action"];
const USAGE = ["input_tokens", "output_tokens", "cache_read_tokens", "cache_write_tokens"];
const WITHIN_A_STEP = /^(text|tool|source)-/;
const SCHEMA = asSchema(uiMessageChunkSchema);

// Missing and unknown keys of an object.
function* keyViolations(what, value, allowed) {
  const keys = Object.keys(value ?? {});
  for (const key of allowed) if (!keys.includes(key)) yield `${what} has no ${key}`;
  for (const key of keys) if (!allowed.includes(key)) yield `${what} has ${key}`;
}

// The state of a message while its parts arrive.
class Message {
  started = false;
  inStep = false;
  failed = false;
  explained = false; // the metadata have the code of the error
  closed = null; // the type of the part that closed it
  previous = null; // the type of the previous part
  texts = new Map(); // id: whether it is open
  calls = new Map(); // id: {name, state: started, called or answered, step}
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

  * "start"({ messageMetadata }) {
    if (messageMetadata) yield* this.metadata(messageMetadata); // of a refusal
    if (this.started) yield "a second start";
    this.started = true;
  }

  * "start-step"() {
    if (this.inStep) yield "a step within a step";
    this.inStep = true;
    this.step += 1;
  }

  * "finish-step"() {
    if (!this.inStep) yield "the end of a step that was not started";
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
    this.calls.set(toolCallId, { name: toolName, state: "started", step: this.step });
  }

  * "tool-input-available"({ toolCallId, toolName }) {
    yield* this.moves(toolCallId, "started", "called", toolName);
  }

  * "tool-input-error"({ toolCallId, toolName }) {
    yield* this.moves(toolCallId, "started", "answered", toolName);
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
    if (this.urls.has(url)) yield `${url} is sent twice`;
    this.sources.add(sourceId);
    this.urls.add(url);
  }

  * "message-metadata"({ messageMetadata }) {
    yield* this.unclosed("at the metadata");
    yield* this.metadata(messageMetadata);
  }

  * "error"() {
    yield* this.unclosed("at the error");
    this.failed = true;
  }

  * "finish"({ finishReason, messageMetadata }) {
    yield* this.unclosed("at the finish");
    yield* this.metadata(messageMetadata);
    if ((finishReason === "error") !== this.failed) yield `finishReason ${finishReason}, error: ${this.failed}`;
    this.closed = "finish";
  }

  * "abort"() {
    yield* this.unclosed("at the abort");
    if (this.previous !== "message-metadata") yield "an abort without metadata before it";
    this.closed = "abort";
  }

  * end() {
    if (!this.closed && !this.failed) yield "no end";
    if (this.failed !== this.explained) yield `error: ${this.failed}, in the metadata: ${this.explained}`;
    yield* this.unclosed("at the end");
  }

  * metadata(metadata) {
    this.explained ||= Boolean(metadata?.error);
    yield* metadataViolations(metadata);
  }

  // What was opened and not closed, reported once.
  * unclosed(where) {
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
    if (call?.state !== from) yield `call ${id} is ${to}, but was ${call?.state ?? "not started"}`;
    if (call && name && call.name !== name) yield `call ${id} has the names ${call.name} and ${name}`;
    if (call && call.step !== this.step) yield `call ${id} is ${to} in another step`;
    this.calls.set(id, { name, step: this.step, ...call, state: to });
  }
}

function* metadataViolations(metadata) {
  const { outcome = "lost", error, ...always } = metadata ?? {}; // the outcome is there only for a lost answer
  if (error) yield* keyViolations("the error", error, ERROR);
  if (error && !Object.keys(always).length) return; // nothing else is known of the turn
  if (outcome !== "lost") yield `the metadata have the outcome ${outcome}`;
  yield* keyViolations("the metadata", always, METADATA);
  yield* keyViolations("the usage", metadata?.usage, USAGE);
}

// The violations in the parts of a whole message, as sentences.
export async function partViolations(parts) {
  const violations = [];
  const message = new Message();
  for (const part of parts) {
    const keys = part.type === "start" && part.messageMetadata ? ["messageMetadata"] : KEYS[part.type];
    if (!keys) {
      violations.push(`a part ${part.type}`);
      continue;
    }
    violations.push(...keyViolations(part.type, part, ["type", ...keys]));
    const read = await SCHEMA.validate(part);
    if (!read.success) violations.push(`the AI SDK refuses ${part.type}`);
    violations.push(...message.take(part));
  }
  return [...violations, ...message.end()];
}

// The contents of a body of server-sent events: {parts, comments, done, violations}.
export function eventsOf(body) {
  const read = { parts: [], comments: [], done: false, violations: [] };
  const blocks = body.split("\n\n");
  if (blocks.pop() !== "") read.violations.push("the last event is cut off");
  for (const block of blocks) {
    if (read.done) read.violations.push(`${block.slice(0, 40)} after [DONE]`);
    if (block === "data: [DONE]") read.done = true;
    else if (block.startsWith(":") && !block.includes("\n")) read.comments.push(block);
    else if (block.startsWith("data: {") && !block.includes("\n")) read.parts.push(JSON.parse(block.slice(6)));
    else read.violations.push(`no event: ${block.slice(0, 40)}`);
  }
  return read;
}

// The violations in a body and in its parts, which have to equal those that the AI SDK read from it.
export async function bodyViolations(body, parts) {
  const read = eventsOf(body);
  if (!read.done) read.violations.push("no [DONE]");
  for (const comment of read.comments) if (comment !== ": keep-alive") read.violations.push(`a comment ${comment}`);
  if (!isDeepStrictEqual(read.parts, parts)) read.violations.push("the AI SDK read something else");
  return [...read.violations, ...(await partViolations(read.parts))];
}
