"""OpenAI's batches, on LLMTune's batch route, or line by line where that lacks much."""
