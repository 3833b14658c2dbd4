// What the scenarios share: the registry, clients for a plan, and the questions they ask.
// The counterpart of ../../python/scenario.py; base URL and key come from the environment.

import assert from "node:assert/strict";
import { setTimeout } from "node:timers/promises";
import OpenAI from "openai";

export const MODEL = "meta-llama/Llama-3.3-70B-Instruct";
export const HELLO = [{ role: "user", content: "Say hello in one sentence." }];

// A fault for the asking, as documented in docs/simulator.md.
export const STALLED = "simulator/stall";
export const STALLED_STREAM = "simulator/stall-stream";

export const BASE_URL = process.env.OPENAI_BASE_URL;
// Another LLMTune behind another gateway: slow tokens, many keep-alive comments.
export const SLOW_URL = process.env.CLIENT_SLOW_URL;
const KEYS = JSON.parse(process.env.CLIENT_KEYS);

// So that a hang is one failed scenario and not a failed run; this client also sleeps
// for as long as a retry-after says, which no request's own timeout ends.
const TIMEOUT_MS = 10_000;

const scenarios = new Map();

export function scenario(name, check) {
  scenarios.set(name, check);
}

// A client with this plan's key; it retries only where a scenario wants it to.
export function connect(plan = "open", options = {}) {
  return new OpenAI({
    apiKey: KEYS[plan],
    maxRetries: 0,
    timeout: TIMEOUT_MS,
    ...options,
  });
}

// A client with the SDK's own retries, and the responses it gets.
export function connectCounted(plan, options = {}) {
  const responses = [];
  const counting = async (...request) => {
    const response = await fetch(...request);
    responses.push(response);
    return response;
  };
  const client = connect(plan, { maxRetries: 2, fetch: counting, ...options });
  return { client, responses };
}

// A chat completion of the usual question.
export function ask(client, fields = {}, options = {}) {
  const request = { model: MODEL, messages: HELLO, ...fields };
  return client.chat.completions.create(request, options);
}

export async function collect(stream) {
  const chunks = [];
  for await (const chunk of await stream) chunks.push(chunk);
  return chunks;
}

export function checkUsage(usage) {
  assert.ok(usage.prompt_tokens > 0);
  assert.ok(usage.completion_tokens > 0);
  assert.equal(usage.total_tokens, usage.prompt_tokens + usage.completion_tokens);
}

// The content of one choice of a stream.
export function textOf(chunks, index = 0) {
  return chunks
    .flatMap((chunk) => chunk.choices)
    .filter((choice) => choice.index === index)
    .map((choice) => choice.delta.content ?? "")
    .join("");
}

// The form that every client needs: one identity, one role, one end a choice.
export function checkForm(chunks) {
  const identities = chunks.map((c) => `${c.id} ${c.created} ${c.model} ${c.object}`);
  assert.equal(new Set(identities).size, 1);
  assert.equal(chunks[0].object, "chat.completion.chunk");
  const choices = chunks.flatMap((chunk) => chunk.choices);
  for (const index of new Set(choices.map((choice) => choice.index))) {
    const mine = choices.filter((choice) => choice.index === index);
    const roles = mine.map((choice) => choice.delta.role).filter(Boolean);
    assert.deepEqual(roles, ["assistant"]);
    assert.equal(mine[0].delta.role, "assistant");
    assert.equal(mine.filter((choice) => choice.finish_reason).length, 1);
    assert.ok(mine.at(-1).finish_reason);
  }
}

// The exception of exactly this class that the promise is rejected with.
export async function caught(kind, promise) {
  let value;
  try {
    value = await promise;
  } catch (error) {
    if (error?.constructor !== kind) throw error;
    return error;
  }
  throw new Error(`no ${kind.name}, but ${JSON.stringify(value)}`);
}

async function overdue() {
  await setTimeout(TIMEOUT_MS, undefined, { ref: false });
  throw new Error(`not done within ${TIMEOUT_MS} ms`);
}

// Run everything that is registered; a failure is a line like any other.
export async function runAll() {
  for (const [name, check] of scenarios) {
    let outcome = { ok: true, detail: "" };
    try {
      await Promise.race([check(), overdue()]);
    } catch (error) {
      outcome = { ok: false, detail: String(error?.stack ?? error).slice(0, 3000) };
    }
    process.stdout.write(`${JSON.stringify({ name, ...outcome })}\n`);
  }
}
