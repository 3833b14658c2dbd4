"""OpenAI's files: what callers upload and what batches leave."""
