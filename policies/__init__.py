"""The part that decides: plans, limits and the ledger that enforces them. No HTTP."""
