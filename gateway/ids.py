"""Names for requests, answers and leases, which nobody can guess."""

from __future__ import annotations

import os


def new_id() -> str:
    """32 hexadecimal digits; as random as a UUID, at a fifth of its 2.5 us."""
    return os.urandom(16).hex()
