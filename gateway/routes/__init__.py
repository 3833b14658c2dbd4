"""Our handlers: HTTP in, HTTP out. What a request means is decided elsewhere."""
