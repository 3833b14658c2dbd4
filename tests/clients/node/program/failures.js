// What goes wrong upstream, and which exception that becomes.

import assert from "node:assert/strict";
import { APIError, InternalServerError, RateLimitError } from "openai";
import { ask, caught, connect, connectCounted, scenario } from "./scenario.js";

scenario("upstream_credits", async () => {
  const { client, responses } = connectCounted("open");

  const error = await caught(APIError, ask(client, { model: "simulator/credits" }));

  assert.equal(error.status, 402);
  assert.equal(error.code, "insufficient_credits");
  assert.equal(responses.length, 1);
});

scenario("upstream_failure", async () => {
  const statuses = {
    error: 502,
    unavailable: 503,
    malformed: 502,
    "content-type": 502,
    redirect: 502,
  };

  for (const [kind, status] of Object.entries(statuses)) {
    const question = ask(connect(), { model: `simulator/${kind}` });
    const error = await caught(InternalServerError, question);
    assert.deepEqual([kind, error.status], [kind, status]);
    assert.ok(error.code);
    assert.doesNotMatch(error.message, /no body/);
  }
});

scenario("upstream_rate_limit", async () => {
  const question = ask(connect(), { model: "simulator/rate-limit" });

  const error = await caught(RateLimitError, question);
  assert.equal(error.code, "rate_limit_exceeded");
  assert.equal(error.error.details.whose, "upstream");
  assert.equal(error.headers.get("retry-after"), "2");
});

scenario("stream_refused", async () => {
  const begin = (model) => ask(connect(), { model, stream: true });

  const unpaid = await caught(APIError, begin("simulator/credits"));
  assert.equal(unpaid.status, 402);
  const failed = await caught(InternalServerError, begin("simulator/error"));
  assert.equal(failed.status, 502);
});

// Read a stream until it breaks: the error, and the chunks before it.
async function brokenStream(model) {
  const chunks = [];
  const stream = await ask(connect(), { model, stream: true });
  const read = async () => {
    for await (const chunk of stream) chunks.push(chunk);
  };
  const error = await caught(APIError, read());
  // A status would say that the answer never began.
  assert.equal(error.status, undefined);
  assert.ok(chunks.length);
  return { error, chunks };
}

scenario("stream_error_event", async () => {
  const { error } = await brokenStream("simulator/stream-error");

  assert.equal(error.code, "upstream_error");
  assert.ok(error.message);
});

scenario("stream_cut", async () => {
  const { error, chunks } = await brokenStream("simulator/cut");

  assert.equal(error.code, "upstream_error");
  assert.ok(chunks.every((chunk) => !chunk.choices[0]?.finish_reason));
});
