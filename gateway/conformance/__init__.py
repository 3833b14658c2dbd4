"""
`llmtune-gateway conformance`: proves the limiter of a running deployment from outside.

A stranger to the gateway, like the simulator: it speaks HTTP with an API key and knows
nothing that a user could not know. What it sees (`observations`), what follows from it
(`judgement`, pure), how load is driven (`run`) and how it is told (`report`) are apart.
"""
