"""
A caller's baggage, read once and in time that grows with its length.

The SDK's own reader looks at the first header of several, tries a run of spaces anew
from each of them (a tenth of a second for 8 KiB, for anybody and before any key is
looked at), and writes a member's properties into its value. So it is given members that
are known to be good, and what goes upstream is what came.
"""

from __future__ import annotations

import re
from typing import Final

# As W3C's first edition and OpenTelemetry have it: a hundred times what is in use.
MOST_MEMBERS: Final = 180

# https://www.w3.org/TR/baggage/#definition; possessive, since no part of it begins with
# what may end the one before.
_KEY: Final = rb"[!#$%&'*+\-.^_`|~0-9A-Za-z]++"
_EQUALS_VALUE: Final = rb"=[ \t]*+[\x21\x23-\x2b\x2d-\x3a\x3c-\x5b\x5d-\x7e]*+[ \t]*+"
_MEMBER: Final = re.compile(
    rb"[ \t]*+%b[ \t]*+%b(?:;[ \t]*+%b[ \t]*+(?:%b)?)*+"
    % (_KEY, _EQUALS_VALUE, _KEY, _EQUALS_VALUE)
)


def good_members(baggage: bytes) -> bytes:
    """Its members that are some, without the spaces between them; too many are none."""
    members = baggage.split(b",", MOST_MEMBERS)
    if len(members) > MOST_MEMBERS:
        return b""
    good = b",".join(member for member in members if _MEMBER.fullmatch(member))
    # Within a member that is one they mean nothing, wherever they are.
    return good.translate(None, b" \t")
