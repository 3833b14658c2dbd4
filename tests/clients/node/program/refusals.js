// What the gateway refuses, and which exception that becomes.

import assert from "node:assert/strict";
import {
  AuthenticationError,
  BadRequestError,
  NotFoundError,
  RateLimitError,
} from "openai";
import { HELLO, ask, caught, connect, connectCounted, scenario } from "./scenario.js";

const statuses = (responses) => responses.map((response) => response.status);

scenario("wrong_key", async () => {
  const { client, responses } = connectCounted("open", { apiKey: "llmtune_gw_wrong" });

  const error = await caught(AuthenticationError, ask(client));

  assert.equal(error.status, 401);
  assert.equal(error.code, "invalid_api_key");
  assert.equal(error.param, null);
  assert.equal(error.type, "invalid_request_error");
  assert.equal(error.requestID, responses[0].headers.get("x-request-id"));
  assert.doesNotMatch(error.message, /llmtune_gw_wrong/);
  assert.deepEqual(statuses(responses), [401]);
  await caught(AuthenticationError, client.models.list());
});

scenario("unknown_model", async () => {
  const client = connect();

  for (const fields of [{}, { stream: true }, { n: 2 }]) {
    const question = ask(client, { model: "acme/none", ...fields });
    const error = await caught(NotFoundError, question);
    assert.equal(error.code, "model_not_found");
    assert.match(error.message, /`acme\/none`/);
  }
});

scenario("bad_parameter", async () => {
  const client = connect();
  const wrong = {
    temperature: 3,
    n: 0,
    max_tokens: -1,
    messages: [],
    stop: ["a", "b", "c", "d", "e"],
  };

  for (const [param, value] of Object.entries(wrong)) {
    const error = await caught(BadRequestError, ask(client, { [param]: value }));
    assert.equal(error.param, param);
    assert.equal(error.type, "invalid_request_error");
  }
});

scenario("prompt_too_long", async () => {
  const messages = [{ role: "user", content: "word ".repeat(500) }];

  const question = ask(connect("short-prompts"), { messages });

  const error = await caught(BadRequestError, question);
  assert.equal(error.code, "context_length_exceeded");
  assert.equal(error.param, "messages");
});

scenario("unknown_route", async () => {
  const question = connect().moderations.create({ input: "Is this fine?" });

  const error = await caught(NotFoundError, question);
  assert.equal(error.code, "route_not_found");
  assert.doesNotMatch(error.message, /no body/);
});

scenario("rate_limit", async () => {
  const client = connect("rate-of-one");
  await ask(client);

  const error = await caught(RateLimitError, ask(client));

  assert.equal(error.code, "rate_limit_exceeded");
  assert.equal(error.type, "rate_limit_error");
  assert.match(error.message, /Rate limit reached/);
  assert.equal(error.error.details.whose, "gateway");
  const retryAfter = Number(error.headers.get("retry-after"));
  assert.ok(retryAfter >= 1 && retryAfter <= 60);
  const retryAfterMs = Number(error.headers.get("retry-after-ms"));
  assert.ok(retryAfterMs > 0 && retryAfterMs <= 60_000);
  assert.equal(error.headers.get("x-ratelimit-remaining-requests"), "0");
  assert.notEqual(error.headers.get("x-should-retry"), "false");
});

scenario("rate_limit_retried", async () => {
  const { client, responses } = connectCounted("one-a-second");
  await ask(client);

  // No other wait than the one it was told is so short and yet enough.
  const messages = [{ role: "user", content: "Again" }];
  const answer = await ask(client, { model: "llmtune-mini", messages });

  assert.ok(answer.choices[0].message.content);
  assert.deepEqual(statuses(responses), [200, 429, 200]);
  const waitMs = Number(responses[1].headers.get("retry-after-ms"));
  assert.ok(waitMs > 0 && waitMs <= 1000);
});

scenario("quota_not_retried", async () => {
  const { client, responses } = connectCounted("quota-of-one");
  await ask(client);

  const error = await caught(RateLimitError, ask(client));

  assert.equal(error.code, "insufficient_quota");
  assert.equal(error.type, "insufficient_quota");
  assert.equal(error.headers.get("x-should-retry"), "false");
  assert.deepEqual(statuses(responses), [200, 429]);
});

scenario("too_large_not_retried", async () => {
  const { client, responses } = connectCounted("few-tokens");

  const question = ask(client, { messages: HELLO, max_tokens: 500 });

  const error = await caught(RateLimitError, question);
  assert.equal(error.code, "request_exceeds_limit");
  assert.deepEqual(statuses(responses), [429]);
});
