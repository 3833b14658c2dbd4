"""OpenAI's fine-tuning jobs on LLMTune's, and whose LLMTune's own jobs are."""
