// Fine-tuning, from a training file to a chat with the new model.

import assert from "node:assert/strict";
import { setTimeout as pause } from "node:timers/promises";
import { BadRequestError, toFile } from "openai";

import { HELLO, MODEL, ask, caught, connect, scenario } from "./scenario.js";

const ENDS_WITHIN_MS = 20_000;

scenario("fine_tune", async () => {
  const client = connect();
  const example = { messages: [...HELLO, { role: "assistant", content: "Hello." }] };
  const content = Array(10).fill(JSON.stringify(example)).join("\n");
  const file = await client.files.create({
    file: await toFile(Buffer.from(content), "train.jsonl"),
    purpose: "fine-tune",
  });
  let job = await client.fineTuning.jobs.create({
    model: MODEL,
    training_file: file.id,
    suffix: "mine",
    method: { type: "supervised", supervised: { hyperparameters: { n_epochs: 2 } } },
  });

  const until = Date.now() + ENDS_WITHIN_MS;
  while (!["succeeded", "failed"].includes(job.status) && Date.now() < until) {
    await pause(100);
    job = await client.fineTuning.jobs.retrieve(job.id);
  }

  assert.equal(job.status, "succeeded");
  const listed = [];
  for await (const model of client.models.list()) listed.push(model.id);
  assert.ok(listed.includes(job.fine_tuned_model));
  const answer = await ask(client, { model: job.fine_tuned_model });
  assert.equal(answer.model, job.fine_tuned_model);
  const jobs = [];
  for await (const each of client.fineTuning.jobs.list({ limit: 1 })) jobs.push(each.id);
  assert.ok(jobs.includes(job.id));
});

scenario("fine_tune_refused", async () => {
  const asked = connect().fineTuning.jobs.create({
    model: MODEL,
    training_file: "file-none",
  });
  const error = await caught(BadRequestError, asked);

  assert.equal(error.param, "training_file");
});
