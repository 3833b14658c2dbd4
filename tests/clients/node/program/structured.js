// Structured output: schemas in, values out.

import assert from "node:assert/strict";
import { LengthFinishReasonError } from "openai/core/error";
import { zodFunction, zodResponseFormat } from "openai/helpers/zod";
import { z } from "zod";
import { HELLO, MODEL, ask, caught, connect, scenario } from "./scenario.js";

const Forecast = z.object({
  city: z.string(),
  days: z.array(z.object({ sky: z.string(), degrees: z.number() })),
});
const FORMATTED = {
  model: MODEL,
  messages: HELLO,
  response_format: zodResponseFormat(Forecast, "forecast"),
};

scenario("json_object", async () => {
  const answer = await ask(connect(), { response_format: { type: "json_object" } });

  assert.equal(typeof JSON.parse(answer.choices[0].message.content), "object");
});

scenario("parse", async () => {
  const answer = await connect().chat.completions.parse(FORMATTED);

  const { content, parsed } = answer.choices[0].message;
  assert.deepEqual(parsed, Forecast.parse(JSON.parse(content)));
});

scenario("parse_streamed", async () => {
  const stream = connect().chat.completions.stream(FORMATTED);

  const final = await stream.finalChatCompletion();

  assert.ok(Forecast.safeParse(final.choices[0].message.parsed).success);
});

scenario("parse_tool_arguments", async () => {
  const tools = [zodFunction({ name: "forecast", parameters: Forecast })];

  const answer = await connect().chat.completions.parse({
    model: MODEL,
    messages: HELLO,
    tools,
  });

  const [call] = answer.choices[0].message.tool_calls;
  assert.ok(Forecast.safeParse(call.function.parsed_arguments).success);
});

scenario("parse_cut_off", async () => {
  const request = { ...FORMATTED, max_tokens: 2 };

  await caught(LengthFinishReasonError, connect().chat.completions.parse(request));
});
