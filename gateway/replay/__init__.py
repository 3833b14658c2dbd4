"""The `Idempotency-Key` header: one generation a key, and one answer for all."""
