"""`/openapi.json`: the API described, for client generators and fuzzers."""
