"""
Webhooks: what LLMTune posts to us, and what we post to workspaces.

Everything here is told what it needs and remembers nothing: routes, queues and what was
seen already are its callers' business.
"""
