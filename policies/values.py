"""
What values derive from in modules that mypyc compiles.

A compiled class statement drops its keywords: `frozen=True` would hold in the
interpreter alone. What a base says in a module that is not compiled, as this one, holds
in both; the keywords stay for the type checker. `kw_only` is not inherited, so that a
compiled module must have its fields in an order that would do without.
"""

from __future__ import annotations

import msgspec


class Value(msgspec.Struct, frozen=True):
    """A value that does not change once it is made."""
