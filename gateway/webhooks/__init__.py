"""
Webhooks: what LLMTune posts to us, and what we post to workspaces.

The relay and its outbox keep what is on its way. Everything else is told what it needs
and remembers nothing: routes and what was seen already are its callers' business.
"""
