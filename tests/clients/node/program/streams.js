// Streamed chat completions, raw and by the helper.

import assert from "node:assert/strict";
import {
  HELLO,
  MODEL,
  SLOW_URL,
  ask,
  checkForm,
  checkUsage,
  collect,
  connect,
  scenario,
  textOf,
} from "./scenario.js";

scenario("stream", async () => {
  const client = connect();

  const chunks = await collect(ask(client, { stream: true }));

  checkForm(chunks);
  assert.equal(textOf(chunks), (await ask(client)).choices[0].message.content);
  assert.equal(chunks.at(-1).choices[0].finish_reason, "stop");
  assert.ok(chunks.every((chunk) => chunk.usage === undefined));
});

scenario("stream_with_usage", async () => {
  const stream_options = { include_usage: true };

  const chunks = await collect(ask(connect(), { stream: true, stream_options }));

  checkForm(chunks);
  const last = chunks.pop();
  assert.ok(chunks.every((chunk) => chunk.usage === null));
  assert.deepEqual(last.choices, []);
  checkUsage(last.usage);
});

scenario("stream_helper", async () => {
  const client = connect();
  const request = { model: MODEL, messages: HELLO };
  const stream_options = { include_usage: true };
  let heard = "";

  const stream = client.chat.completions
    .stream({ ...request, stream_options })
    .on("content", (delta) => (heard += delta));
  const final = await stream.finalChatCompletion();

  const [choice] = final.choices;
  assert.equal(choice.message.content, heard);
  assert.equal(heard, (await ask(client)).choices[0].message.content);
  assert.equal(await stream.finalContent(), heard);
  assert.equal(choice.finish_reason, "stop");
  assert.equal(choice.message.role, "assistant");
  checkUsage(final.usage);
  checkUsage(await stream.totalUsage());
});

scenario("stream_helper_n", async () => {
  const client = connect();
  const request = { model: MODEL, messages: HELLO, n: 2 };

  const final = await client.chat.completions.stream(request).finalChatCompletion();

  const contents = (answer) => answer.choices.map((choice) => choice.message.content);
  assert.deepEqual(contents(final), contents(await ask(client, { n: 2 })));
});

scenario("stream_through_pings", async () => {
  const client = connect("open", { baseURL: SLOW_URL });
  const raw = await ask(client, { stream: true }).asResponse();
  // Without them this scenario would prove nothing.
  assert.match(await raw.text(), /^:/m);

  const chunks = await collect(ask(client, { stream: true }));

  checkForm(chunks);
  assert.equal(textOf(chunks), (await ask(client)).choices[0].message.content);
});
