"""
The shared ledger while its store may be away: exact as long as it answers, a share of
each plan while it does not, and nothing forgotten when it returns.
"""
