// Tool calls, which LLMTune takes by its chat dialect.

import assert from "node:assert/strict";
import { HELLO, MODEL, ask, checkForm, collect, connect, scenario } from "./scenario.js";

const WEATHER = {
  type: "function",
  function: {
    name: "get_weather",
    description: "The weather of a city.",
    parameters: {
      type: "object",
      properties: { city: { type: "string" }, days: { type: "integer" } },
      required: ["city", "days"],
    },
  },
};
const CLOCK = {
  type: "function",
  function: {
    name: "get_time",
    parameters: {
      type: "object",
      properties: { zone: { type: "string" } },
      required: ["zone"],
    },
  },
};
const QUERY = {
  type: "custom",
  custom: { name: "run_query", description: "Runs a query, as plain text." },
};
const PARALLEL = { tools: [WEATHER, CLOCK], parallel_tool_calls: true };

function checkWeather(call) {
  assert.equal(call.type, "function");
  assert.equal(call.function.name, "get_weather");
  const given = Object.keys(JSON.parse(call.function.arguments)).sort();
  assert.deepEqual(given, ["city", "days"]);
  assert.ok(call.id);
}

async function callsOf(fields) {
  const answer = await ask(connect(), fields);
  return answer.choices[0].message.tool_calls;
}

scenario("tool_call", async () => {
  const answer = await ask(connect(), { tools: [WEATHER] });

  assert.equal(answer.choices[0].finish_reason, "tool_calls");
  const calls = answer.choices[0].message.tool_calls;
  assert.equal(calls.length, 1);
  checkWeather(calls[0]);
});

scenario("tool_call_streamed", async () => {
  const [whole] = await callsOf({ tools: [WEATHER] });

  const chunks = await collect(ask(connect(), { tools: [WEATHER], stream: true }));

  checkForm(chunks);
  assert.equal(chunks.at(-1).choices[0].finish_reason, "tool_calls");
  const deltas = chunks.flatMap((chunk) => chunk.choices[0].delta.tool_calls ?? []);
  assert.ok(deltas.every((delta) => delta.index === 0));
  // Named once, or clients that join the pieces read "get_weatherget_weather".
  const once = (values) => values.filter(Boolean);
  assert.deepEqual(once(deltas.map((delta) => delta.id)), [whole.id]);
  assert.deepEqual(once(deltas.map((delta) => delta.type)), ["function"]);
  assert.deepEqual(once(deltas.map((d) => d.function.name)), ["get_weather"]);
  const pieces = deltas.map((delta) => delta.function.arguments);
  assert.equal(pieces.join(""), whole.function.arguments);
});

scenario("tool_calls_parallel", async () => {
  const [first, second] = await callsOf(PARALLEL);

  checkWeather(first);
  assert.equal(second.function.name, "get_time");
  assert.notEqual(first.id, second.id);
});

scenario("tool_calls_parallel_streamed", async () => {
  const whole = await callsOf(PARALLEL);
  const request = { model: MODEL, messages: HELLO, ...PARALLEL };
  const done = [];

  const final = await connect()
    .chat.completions.stream(request)
    .on("tool_calls.function.arguments.done", (call) => done.push(call.name))
    .finalChatCompletion();

  const built = final.choices[0].message.tool_calls;
  assert.deepEqual(done, ["get_weather", "get_time"]);
  for (const [index, call] of whole.entries()) {
    assert.equal(built[index].id, call.id);
    assert.equal(built[index].function.arguments, call.function.arguments);
  }
  assert.equal(final.choices[0].finish_reason, "tool_calls");
});

scenario("tool_choice_named", async () => {
  const tool_choice = { type: "function", function: { name: "get_time" } };

  const calls = await callsOf({ tools: [WEATHER, CLOCK], tool_choice });

  assert.deepEqual(
    calls.map((call) => call.function.name),
    ["get_time"],
  );
});

scenario("tool_call_custom", async () => {
  const answer = await ask(connect(), { tools: [QUERY] });

  const [choice] = answer.choices;
  assert.equal(choice.finish_reason, "tool_calls");
  const [call] = choice.message.tool_calls;
  assert.deepEqual([call.type, call.custom.name], ["custom", "run_query"]);
  assert.ok(call.custom.input);
  assert.ok(call.id);
});

scenario("tool_round_trip", async () => {
  const client = connect();
  const first = (await ask(client, { tools: [WEATHER] })).choices[0].message;
  const result = {
    role: "tool",
    tool_call_id: first.tool_calls[0].id,
    content: '{"sky": "clear"}',
  };

  // The message object itself goes back, its content null, as in OpenAI's own guide.
  const messages = [...HELLO, first, result];
  const last = (await ask(client, { messages, tools: [WEATHER] })).choices[0];

  assert.equal(last.finish_reason, "stop");
  assert.ok(last.message.content);
});

scenario("run_tools", async () => {
  const asked = [];
  const get_weather = (given) => {
    asked.push(given);
    return { sky: "clear" };
  };
  const described = { ...WEATHER.function, parse: JSON.parse, function: get_weather };
  const tools = [{ type: "function", function: described }];

  for (const stream of [false, true]) {
    const request = { model: MODEL, messages: HELLO, tools, stream };
    const runner = connect().chat.completions.runTools(request);
    assert.ok(await runner.finalContent());
  }

  assert.equal(asked.length, 2);
  assert.ok(asked.every((given) => "city" in given));
});
