// Files and batches.

import assert from "node:assert/strict";
import { setTimeout as pause } from "node:timers/promises";
import { NotFoundError, toFile } from "openai";

import { HELLO, MODEL, connect, scenario } from "./scenario.js";

const ENDPOINT = "/v1/chat/completions";
// A fault for the asking, as documented in docs/simulator.md.
const PENNILESS = "simulator/credits";
const LINES = 1000;
const ENDS_WITHIN_MS = 30_000;
const LAST = new Set(["completed", "failed", "expired", "cancelled"]);

function line(customId, fields = {}) {
  const body = { model: MODEL, messages: HELLO, ...fields };
  return { custom_id: customId, method: "POST", url: ENDPOINT, body };
}

async function start(client, lines) {
  const content = Buffer.from(lines.map((each) => JSON.stringify(each)).join("\n"));
  const file = await client.files.create({
    file: await toFile(content, "lines.jsonl"),
    purpose: "batch",
  });
  return client.batches.create({
    input_file_id: file.id,
    endpoint: ENDPOINT,
    completion_window: "24h",
    metadata: { suite: "clients" },
  });
}

async function ended(client, id) {
  const until = Date.now() + ENDS_WITHIN_MS;
  while (Date.now() < until) {
    const batch = await client.batches.retrieve(id);
    if (LAST.has(batch.status)) return batch;
    await pause(100);
  }
  throw new Error(`${id} did not end`);
}

scenario("files", async () => {
  const client = connect();
  const content = Buffer.from(Array.from({ length: 256_000 }, (_, n) => n % 256));

  const made = await client.files.create({
    file: await toFile(content, "a.bin"),
    purpose: "batch",
  });

  assert.equal(made.bytes, content.length);
  assert.equal((await client.files.retrieve(made.id)).filename, "a.bin");
  const back = await (await client.files.content(made.id)).arrayBuffer();
  assert.deepEqual(Buffer.from(back), content);
  const listed = [];
  for await (const file of client.files.list({ limit: 1 })) listed.push(file.id);
  assert.ok(listed.includes(made.id));
  assert.ok((await client.files.delete(made.id)).deleted);
  await assert.rejects(client.files.retrieve(made.id), NotFoundError);
});

scenario("batch", async () => {
  const client = connect();
  const names = Array.from({ length: LINES }, (_, n) => `line-${n}`);
  // One in fifty says what LLMTune's batch route does not carry.
  const lines = names.map((name, n) => line(name, n % 50 ? {} : { max_tokens: 9 }));

  const done = await ended(client, (await start(client, lines)).id);

  assert.equal(done.status, "completed");
  assert.deepEqual(done.request_counts, { total: LINES, completed: LINES, failed: 0 });
  const text = await (await client.files.content(done.output_file_id)).text();
  const results = text.trim().split("\n").map((each) => JSON.parse(each));
  assert.deepEqual(results.map((each) => each.custom_id).sort(), [...names].sort());
  for (const each of results) {
    assert.ok(each.response.body.choices[0].message.content);
  }
});

scenario("batch_error_file", async () => {
  const client = connect();
  const lines = [
    line("good", { max_tokens: 9 }),
    line("poor", { model: PENNILESS, max_tokens: 9 }),
  ];

  const done = await ended(client, (await start(client, lines)).id);

  assert.equal(done.status, "completed");
  assert.deepEqual(done.request_counts, { total: 2, completed: 1, failed: 1 });
  const good = await (await client.files.content(done.output_file_id)).json();
  assert.equal(good.custom_id, "good");
  const errors = await client.files.retrieve(done.error_file_id);
  const text = await (await client.files.content(errors.id)).text();
  assert.equal(errors.bytes, Buffer.byteLength(text));
  const poor = JSON.parse(text);
  assert.deepEqual([poor.custom_id, poor.response.status_code], ["poor", 402]);
  assert.equal(poor.response.body.error.code, "insufficient_credits");
});

scenario("batch_wrong_line", async () => {
  const client = connect();

  const failed = await ended(client, (await start(client, [line("a"), line("a")])).id);

  assert.equal(failed.status, "failed");
  const [error] = failed.errors.data;
  assert.deepEqual([error.code, error.line], ["duplicate_custom_id", 2]);
});

scenario("batch_cancel", async () => {
  const client = connect();
  const lines = Array.from({ length: 200 }, (_, n) => line(String(n), { n: 2 }));
  const made = [];
  for (let n = 0; n < 3; n += 1) made.push((await start(client, lines)).id);

  for (const id of made) await client.batches.cancel(id);

  for (const id of made) {
    assert.ok(["cancelled", "completed"].includes((await ended(client, id)).status));
  }
  const listed = [];
  for await (const batch of client.batches.list({ limit: 2 })) listed.push(batch.id);
  for (const id of made) assert.ok(listed.includes(id));
});
