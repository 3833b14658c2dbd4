"""
OpenAI to LLMTune and back: pure functions and small state machines, no I/O, no clock.

One file per direction. `Translator` is what the path needs of each route's dialect.
"""
