"""What goes on when nobody waits: the worker, on whose account, and signed tokens."""
