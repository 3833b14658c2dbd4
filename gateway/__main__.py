"""`python -m gateway` is `llmtune-gateway`."""

from gateway.cli import main

if __name__ == "__main__":
    raise SystemExit(main())
