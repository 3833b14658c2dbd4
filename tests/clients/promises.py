"""
What the official clients must be able to do here: each scenario's name and its promise.

The programs in `python/` and `node/` run one scenario for every name. Only the standard
library is imported, because the clients' own environments read this too.
"""

from __future__ import annotations

from typing import Final

# Shared by every client.
COMMON: Final = {
    "models_list": "The model list can be walked, and holds the upstream's models.",
    "models_retrieve": "A model is found by an id with a slash, raw or escaped.",
    "models_retrieve_unknown": "An unknown model is a NotFoundError.",
    "chat": "A whole answer has text, an end, honest usage and a request id.",
    "chat_environment_only": "Two environment variables are all a program needs.",
    "chat_without_v1": "A base_url without /v1 works.",
    "chat_cut_by_max_tokens": "An answer cut off by either limit says so.",
    "chat_n": "Two choices are two different choices.",
    "chat_developer_role": "Developer messages and content parts are understood.",
    "chat_every_parameter": "No parameter, known or not, makes a request fail.",
    "chat_logprobs": "Log probabilities come with the answer.",
    "stream": "A stream has the text of the whole answer, in the form clients need.",
    "stream_with_usage": "Usage comes last, once, and only because it was asked for.",
    "stream_helper": "The .stream() helper builds the whole answer.",
    "stream_helper_n": "The helper keeps two interleaved choices apart.",
    "stream_through_pings": "Keep-alive comments between events disturb nobody.",
    "tool_call": "A tool is called with arguments that are JSON.",
    "tool_call_streamed": "A streamed tool call is put together from its pieces.",
    "tool_calls_parallel": "Two tools are called in one answer.",
    "tool_calls_parallel_streamed": "The helper keeps two streamed calls apart.",
    "tool_choice_named": "The tool that was demanded is the one that is called.",
    "tool_call_custom": "A custom tool is called with its input, as plain text.",
    "tool_round_trip": "A tool's result goes back, and the answer ends in text.",
    "files": "A file comes back as it was uploaded, is listed, and can be deleted.",
    "batch": "A thousand lines are run to completed, each with its result once.",
    "batch_error_file": "What a line failed with is in the error file, by its name.",
    "batch_wrong_line": "A wrong line fails the batch, and is named by its number.",
    "batch_cancel": "A batch is listed, and can be cancelled.",
    "fine_tune": "A training file becomes a model that is listed and answers a chat.",
    "fine_tune_refused": "A fine-tune of no file is refused, and names its parameter.",
    "json_object": "response_format json_object gives a JSON object.",
    "parse": "A schema given to .parse() comes back as its own type.",
    "parse_streamed": "The same, streamed.",
    "parse_tool_arguments": "Tool arguments come back parsed by their schema.",
    "parse_cut_off": "Half a JSON document is an error, never a value.",
    "completion": "The legacy completion works whole.",
    "completion_streamed": "The legacy completion works streamed, with usage.",
    "raw_response_headers": "Request id and rate limits can be read from the headers.",
    "request_id_of_caller": "A request id given by extra headers comes back.",
    "wrong_key": "A wrong key is an AuthenticationError, not retried.",
    "unknown_model": "A chat with an unknown model is a NotFoundError.",
    "bad_parameter": "A bad value is a BadRequestError that names the parameter.",
    "prompt_too_long": "A prompt beyond the plan is context_length_exceeded.",
    "unknown_route": "A resource the gateway lacks is a NotFoundError with a message.",
    "rate_limit": "A full rate limit is a RateLimitError with a code and a wait.",
    "rate_limit_retried": "The client waits as long as it is told, then succeeds.",
    "quota_not_retried": "A spent quota is said once: the client does not retry.",
    "too_large_not_retried": "What can never fit is said once, too.",
    "upstream_credits": "LLMTune's 402 arrives as 402, not retried.",
    "upstream_failure": "A failing upstream is an InternalServerError.",
    "upstream_rate_limit": "LLMTune's own rate limit is told from the plan's.",
    "stream_refused": "A stream refused before its start fails with its status.",
    "stream_error_event": "An error in mid-stream reaches the reader as an error.",
    "stream_cut": "A stream cut by the upstream is never taken for a whole one.",
    "leave_by_close": "A stream that is closed early gives its lease back.",
    "leave_by_break": "So does one whose loop is left.",
    "leave_by_timeout": "So does a whole answer the client no longer waits for.",
    "key_replayed": "A request sent again under its key gets the first answer.",
    "key_stream_cut": "A stream that was left in the middle is whole when asked again.",
    "retry_joined": "The client's own retry after its time-out gets its first answer.",
}

PYTHON_ONLY: Final = {
    "strict_models": "The models pass strict validation.",
    "strict_chat": "Whole answers by both upstream routes pass strict validation.",
    "strict_stream": "So does every chunk, with and without usage.",
    "strict_tools": "So do tool calls, whole and streamed.",
    "strict_completion": "So do whole legacy completions.",
    "streaming_response": "A stream can be opened by with_streaming_response.",
    "async_chat": "The asynchronous client gets a whole answer.",
    "async_stream": "It streams, and keeps the connection for the next request.",
    "async_stream_helper": "Its .stream() helper builds the whole answer.",
    "async_many": "Twenty requests at once get their own answers.",
    "async_error": "Its errors are the same classes.",
    "leave_by_cancel": "A cancelled task gives its lease back.",
}

NODE_ONLY: Final = {
    "run_tools": "runTools calls the functions and ends with a text.",
    "leave_by_abort": "An AbortController ends the stream and frees its lease.",
}

# Promises the gateway does not keep yet, and why. A test here must fail: whoever mends
# the gateway takes the line out.
BROKEN: Final[dict[str, str]] = {}

PYTHON: Final = COMMON | PYTHON_ONLY
NODE: Final = COMMON | NODE_ONLY
