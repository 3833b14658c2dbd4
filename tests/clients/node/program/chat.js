// Models, whole chat completions, legacy completions, and their headers.

import assert from "node:assert/strict";
import OpenAI, { NotFoundError } from "openai";
import {
  BASE_URL,
  HELLO,
  MODEL,
  ask,
  caught,
  checkUsage,
  collect,
  connect,
  scenario,
} from "./scenario.js";

const DURATION = /^(\d+h)?(\d+m)?\d+(\.\d+)?m?s$/;

scenario("models_list", async () => {
  const models = await collect(connect().models.list());

  const model = models.find((each) => each.id === MODEL);
  assert.equal(model.object, "model");
  assert.equal(model.owned_by, "meta-llama");
  assert.ok(models.some((each) => each.id === "llmtune-mini"));
});

scenario("models_retrieve", async () => {
  const model = await connect().models.retrieve(MODEL);

  assert.equal(model.id, MODEL);
});

scenario("models_retrieve_unknown", async () => {
  const error = await caught(NotFoundError, connect().models.retrieve("acme/nothing"));

  assert.equal(error.code, "model_not_found");
  assert.match(error.message, /`acme\/nothing`/);
});

scenario("chat", async () => {
  const answer = await ask(connect());

  assert.match(answer.id, /^chatcmpl-/);
  assert.equal(answer.object, "chat.completion");
  assert.equal(answer.model, MODEL);
  const [choice] = answer.choices;
  assert.equal(choice.finish_reason, "stop");
  assert.equal(choice.message.role, "assistant");
  assert.equal(choice.message.refusal, null);
  assert.ok(choice.message.content);
  checkUsage(answer.usage);
  assert.match(answer._request_id, /^req_/);
});

scenario("chat_environment_only", async () => {
  const answer = await ask(new OpenAI());

  assert.ok(answer.choices[0].message.content);
});

scenario("chat_without_v1", async () => {
  const client = connect("open", { baseURL: BASE_URL.replace(/\/v1$/, "") });

  assert.ok((await ask(client)).choices[0].message.content);
  assert.ok((await client.models.list()).data.some((model) => model.id === MODEL));
  assert.equal((await client.models.retrieve(MODEL)).id, MODEL);
});

scenario("chat_cut_by_max_tokens", async () => {
  const client = connect();

  for (const limit of ["max_tokens", "max_completion_tokens"]) {
    // A seed takes the native chat route, which says exactly why it ended; the
    // inference route says so only in streams.
    const whole = await ask(client, { seed: 1, [limit]: 3 });
    assert.equal(whole.choices[0].finish_reason, "length");
    assert.equal(whole.usage.completion_tokens, 3);
    const chunks = await collect(ask(client, { stream: true, [limit]: 3 }));
    assert.equal(chunks.at(-1).choices[0].finish_reason, "length");
  }
});

scenario("chat_n", async () => {
  const [first, second] = (await ask(connect(), { n: 2 })).choices;

  assert.deepEqual([first.index, second.index], [0, 1]);
  assert.ok(first.message.content);
  assert.ok(second.message.content);
  assert.notEqual(first.message.content, second.message.content);
});

scenario("chat_developer_role", async () => {
  const client = connect();
  const url = "data:image/png;base64,iVBORw0KGgo=";
  const question = [
    { type: "text", text: "What is" },
    { type: "text", text: "this?" },
  ];
  const before = [
    { role: "developer", content: "Be brief." },
    { role: "user", content: question },
    { role: "assistant", content: "What?" },
  ];
  // A picture is what the inference route cannot carry.
  const picture = [...question, { type: "image_url", image_url: { url } }];

  for (const content of [question, picture]) {
    const messages = [...before, { role: "user", content, name: "ada" }];
    const answer = await ask(client, { messages });
    assert.ok(answer.choices[0].message.content);
  }
});

scenario("chat_every_parameter", async () => {
  const answer = await ask(connect(), {
    frequency_penalty: 0.5,
    logit_bias: { 50256: -100 },
    max_completion_tokens: 50,
    metadata: { team: "edge" },
    parallel_tool_calls: true,
    presence_penalty: -0.5,
    prompt_cache_key: "cache",
    reasoning_effort: "low",
    response_format: { type: "text" },
    safety_identifier: "user-1",
    seed: 7,
    service_tier: "auto",
    stop: ["###", "\n\n"],
    store: false,
    temperature: 0.2,
    top_p: 0.9,
    user: "user-1",
    verbosity: "low",
    top_k: 5,
    min_p: 0.1,
    provider: { order: ["a"] },
  });

  assert.ok(answer.choices[0].message.content);
});

scenario("chat_logprobs", async () => {
  const answer = await ask(connect(), { logprobs: true, top_logprobs: 2 });

  const [choice] = answer.choices;
  const tokens = choice.logprobs.content.map((entry) => entry.token);
  assert.equal(tokens.join(""), choice.message.content);
  assert.ok(choice.logprobs.content.every((entry) => entry.top_logprobs.length === 2));
});

scenario("completion", async () => {
  const answer = await connect().completions.create({ model: MODEL, prompt: "Say" });

  assert.equal(answer.object, "text_completion");
  assert.match(answer.id, /^cmpl-/);
  assert.equal(answer.choices[0].index, 0);
  assert.ok(answer.choices[0].text);
  assert.ok(["stop", "length"].includes(answer.choices[0].finish_reason));
  checkUsage(answer.usage);
});

scenario("completion_streamed", async () => {
  const client = connect();
  const request = { model: MODEL, prompt: "Say", max_tokens: 60 };
  const options = { stream: true, stream_options: { include_usage: true } };

  const chunks = await collect(client.completions.create({ ...request, ...options }));

  const whole = await client.completions.create(request);
  const choices = chunks.flatMap((chunk) => chunk.choices);
  const text = choices.map((choice) => choice.text).join("");
  assert.equal(text, whole.choices[0].text);
  assert.equal(choices.at(-1).finish_reason, whole.choices[0].finish_reason);
  assert.deepEqual(chunks.at(-1).choices, []);
  checkUsage(chunks.at(-1).usage);
});

scenario("raw_response_headers", async () => {
  const client = connect("metered");

  for (const stream of [false, true]) {
    const { data, response, request_id } = await ask(client, { stream }).withResponse();

    const { headers } = response;
    assert.match(headers.get("x-request-id"), /^req_/);
    assert.equal(request_id, headers.get("x-request-id"));
    for (const [unit, limit] of [
      ["requests", 6000],
      ["tokens", 9_000_000],
    ]) {
      assert.equal(headers.get(`x-ratelimit-limit-${unit}`), String(limit));
      assert.ok(Number(headers.get(`x-ratelimit-remaining-${unit}`)) < limit);
      assert.match(headers.get(`x-ratelimit-reset-${unit}`), DURATION);
    }
    if (stream) assert.ok((await collect(data)).length);
  }
});

scenario("request_id_of_caller", async () => {
  const headers = { "X-Request-Id": "trace-42", "X-Client-Request-Id": "client-42" };

  const answer = await ask(connect(), { messages: HELLO }, { headers });

  assert.equal(answer._request_id, "trace-42");
});
