// Requests that are sent again: by the program under a key, and by the client itself.

import assert from "node:assert/strict";
import { HELLO, MODEL, SLOW_URL, connect, scenario } from "./scenario.js";

// Below what the slow LLMTune takes for an answer, above what the gateway does.
const TOO_SHORT_MS = 100;

// The header that the clients have no parameter for.
function under(key) {
  return { headers: { "idempotency-key": key } };
}

scenario("key_replayed", async () => {
  const responses = [];
  for (let n = 0; n < 2; n += 1) {
    const body = { model: MODEL, messages: HELLO };
    const asked = connect().chat.completions.create(body, under("order-1"));
    responses.push(await asked.withResponse());
  }

  const [first, again] = responses;
  assert.equal(first.response.headers.get("idempotent-replayed"), null);
  assert.equal(again.response.headers.get("idempotent-replayed"), "true");
  assert.equal(first.data.id, again.data.id);
  assert.deepEqual(first.data.choices, again.data.choices);
});

scenario("key_stream_cut", async () => {
  const client = connect("open", { baseURL: SLOW_URL });
  const body = { model: MODEL, messages: HELLO, stream: true };
  const seen = [];
  for await (const chunk of await client.chat.completions.create(body, under("order-2"))) {
    seen.push(chunk);
    if (seen.length === 2) break;
  }
  const chunks = [];
  for await (const chunk of await client.chat.completions.create(body, under("order-2"))) {
    chunks.push(chunk);
  }

  assert.deepEqual(chunks.slice(0, 2), seen);
  assert.ok(chunks.length > 4);
  assert.equal(chunks.at(-1).choices[0].finish_reason, "stop");
});

scenario("retry_joined", async () => {
  const client = connect("joins", {
    baseURL: SLOW_URL,
    maxRetries: 2,
    timeout: TOO_SHORT_MS,
  });

  const body = { model: MODEL, messages: HELLO };
  const { data, response } = await client.chat.completions.create(body).withResponse();

  assert.ok(data.choices[0].message.content);
  assert.equal(response.headers.get("idempotent-replayed"), "true");
});
