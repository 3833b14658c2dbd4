// Clients that leave before their answer is complete, on a plan with one lease.
// The upstream says a few words and then nothing for ten minutes, so the lease is free
// again only because the gateway noticed. The client's own retries wait for that.

import assert from "node:assert/strict";
import { APIConnectionTimeoutError, RateLimitError } from "openai";
import { STALLED, STALLED_STREAM, ask, caught, connect, scenario } from "./scenario.js";

// Above what the request needs to be admitted, below what a person waits.
const SHORT_TIMEOUT_MS = 500;

async function checkTaken(plan) {
  const error = await caught(RateLimitError, ask(connect(plan)));
  assert.equal(error.code, "concurrency_limit_exceeded");
}

async function checkFree(plan) {
  assert.ok((await ask(connect(plan, { maxRetries: 3 }))).choices.length);
}

function begin(plan, options = {}) {
  return ask(connect(plan), { model: STALLED_STREAM, stream: true }, options);
}

scenario("leave_by_close", async () => {
  const plan = "alone-close";
  const stream = await begin(plan);
  await stream[Symbol.asyncIterator]().next();
  await checkTaken(plan);

  stream.controller.abort();

  await checkFree(plan);
});

scenario("leave_by_break", async () => {
  const plan = "alone-break";
  for await (const _ of await begin(plan)) {
    await checkTaken(plan);
    break;
  }

  await checkFree(plan);
});

scenario("leave_by_abort", async () => {
  const plan = "alone-abort";
  const controller = new AbortController();
  const stream = await begin(plan, { signal: controller.signal });
  await checkTaken(plan);

  controller.abort();

  // The client swallows its own abort and ends the loop.
  for await (const _ of stream) continue;
  await checkFree(plan);
});

scenario("leave_by_timeout", async () => {
  const plan = "alone-timeout";
  const client = connect(plan, { timeout: SHORT_TIMEOUT_MS });

  await caught(APIConnectionTimeoutError, ask(client, { model: STALLED }));

  await checkFree(plan);
});
